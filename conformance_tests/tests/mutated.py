"""Runs the suite on a mutant as its author would: installed for one run of pytest, in a process of its own."""

from __future__ import annotations

import importlib
import json
import os
import pkgutil
import subprocess
import sys
from pathlib import Path
from typing import Any, NamedTuple

from conformance_tests import mutants
from conformance_tests.mutants.mutant import MUTANTS

ROOT = Path(__file__).parents[2]
SCALE = "0.2"
SECONDS = 150


class Verdict(NamedTuple):
    """What a run said: its exit code, the clauses by outcome, and why they failed."""

    code: int
    failed: frozenset[str]
    passed: frozenset[str]
    reasons: str


def load_all() -> None:
    """Import every module of mutants, so that ``MUTANTS`` is complete."""
    for module in pkgutil.iter_modules(mutants.__path__, f"{mutants.__name__}."):
        importlib.import_module(module.name)


class Laboratory:
    """A folder in which all mutants are installed."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._site = folder / "site"
        load_all()
        info = self._site / "mutants-1.0.dist-info"
        info.mkdir(parents=True)
        (info / "METADATA").write_text("Metadata-Version: 2.1\nName: mutants\nVersion: 1.0\n")
        places = {name: f"{kind.__module__}:{kind.__qualname__}" for name, kind in MUTANTS.items()}
        lines = ["[eventbus.backends]", *(f"{name} = {place}" for name, place in places.items())]
        lines += ["[eventbus.conformance]", *(f"{name} = {place}.harness" for name, place in places.items())]
        (info / "entry_points.txt").write_text("\n".join(lines) + "\n")

    def judge(self, backend: str, *arguments: str) -> Verdict:
        """Run the suite on a mutant."""
        report = self._folder / f"{backend}.json"
        work = self._folder / "work" / backend
        work.mkdir(parents=True)
        command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--pyargs"]
        command += [f"eventbus_conformance.{each}" for each in MUTANTS[backend].runs] or ["eventbus_conformance"]
        command += ["--eventbus-backend", backend, "--eventbus-scale", SCALE, "--eventbus-seed", "1"]
        command += ["--eventbus-faults-seconds", "2"]
        command += ["--eventbus-report", str(report), "--basetemp", str(work / "tmp"), *arguments]
        path = os.pathsep.join([str(self._site), str(ROOT)])
        # stevedore's cache in the user's home would remember these backends.
        environment = {**os.environ, "PYTHONPATH": path, "XDG_CACHE_HOME": str(self._folder / "cache")}
        done = subprocess.run(
            command, cwd=work, env=environment, capture_output=True, text=True, timeout=SECONDS, check=False
        )
        assert report.exists(), done.stdout + done.stderr
        return _verdict(done.returncode, json.loads(report.read_text()))


def _verdict(code: int, report: dict[str, Any]) -> Verdict:
    clauses = report["clauses"]
    bad = [each for each in clauses if each["outcome"] in {"fail", "unknown"}]
    return Verdict(
        code,
        frozenset(each["id"] for each in bad),
        frozenset(each["id"] for each in clauses if each["outcome"] in {"pass", "refused as declared"}),
        "\n".join(f"{each['id']}: {each['reason']}" for each in bad),
    )

"""What a run says: a table for people, and JSON from which tables of many backends are made."""

from __future__ import annotations

import dataclasses
import json
import platform
import time
from collections import Counter
from datetime import UTC, datetime
from enum import Enum
from importlib.metadata import version
from pathlib import Path
from typing import Any, Final

import pytest

from eventbus_conformance.outcomes import WORST_FIRST
from eventbus_conformance.run import Run
from eventbus_core import loading
from eventbus_core.capabilities import Capabilities

FORMAT: Final = 1
_MOST_NAMES: Final = 5


def document(run: Run) -> dict[str, Any]:
    """The whole report, as plain values."""
    options = run.options
    clauses = run.clauses()
    return {
        "format": FORMAT,
        "backend": run.harness.backend,
        "profile": run.harness.profile,
        "profile_is": run.harness.profiles[run.harness.profile],
        "ended": datetime.now(UTC).isoformat(timespec="seconds"),
        "levels": list(options.levels),
        "complete": not run.left_out,
        "left_out": run.left_out,
        "seed": options.seed,
        "scale": options.scale,
        "seconds": round(time.monotonic() - run.started, 1),
        "versions": _versions(run),
        "capabilities": _plain(run.capabilities) if run.capabilities else None,
        "bounds": dataclasses.asdict(run.bounds),
        "outcomes": dict(Counter(each.outcome for each in clauses)),
        "clauses": [
            {
                "id": each.clause.id,
                "level": each.clause.level,
                "gate": each.clause.gate,
                "text": each.clause.text,
                "outcome": each.outcome,
                "reason": each.reason,
            }
            for each in clauses
        ],
        "tests": [each._asdict() for each in run.results.values()],
        "known_failures": [each._asdict() for each in run.harness.expected_failures],
        "counts": dict(sorted(run.measured.counts.items())),
        "worst_seconds": {name: round(worst, 3) for name, worst in sorted(run.measured.worst.items())},
    }


def write(run: Run, path: Path) -> None:
    """Write the report as JSON. Raises ``OSError``."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(document(run), indent=1) + "\n", "utf-8")


def print_table(run: Run, terminal: pytest.TerminalReporter) -> None:
    """Clause by clause: the outcome, and why where it is no pass."""
    clauses = run.clauses()
    harness = run.harness
    terminal.section(f"conformance of {harness.backend} ({harness.profile}: {harness.broker_version})")
    for each in clauses:
        good = each.outcome in {"pass", "refused as declared"}
        bad = each.outcome in {"fail", "unknown"}
        terminal.write(f"{each.clause.id:>4} {each.clause.level:<9} ")
        terminal.write(f"{each.outcome:<19}", green=good, red=bad, yellow=not good and not bad, bold=bad)
        terminal.line(f" {_short(each.clause.text if each.outcome == 'pass' else each.reason)}")
    totals = Counter(each.outcome for each in clauses)
    said = ", ".join(f"{totals[outcome]} {outcome}" for outcome in reversed(WORST_FIRST) if totals[outcome])
    terminal.line(f"{len(clauses)} clauses: {said}")
    if run.left_out:
        some = ", ".join(run.left_out[:_MOST_NAMES])
        more = f" and {len(run.left_out) - _MOST_NAMES} more" if len(run.left_out) > _MOST_NAMES else ""
        terminal.line(f"INCOMPLETE, no verdict: {some}{more} did not run", red=True, bold=True)


def _short(text: str) -> str:
    one_line = " ".join(text.split())
    return one_line if len(one_line) <= 110 else f"{one_line[:107]}…"


def _versions(run: Run) -> dict[str, str]:
    found = {"suite": version("eventbus-conformance"), "core": version("eventbus-core")}
    for each in loading.installed():
        if each.name == run.harness.backend:
            found["backend"] = f"{each.distribution} {each.version}"
    if run.harness.client:
        found["client"] = f"{run.harness.client} {version(run.harness.client)}"
    return found | {"broker": run.harness.broker_version, "python": platform.python_version()}


def _plain(capabilities: Capabilities) -> dict[str, Any]:
    values = {field.name: getattr(capabilities, field.name) for field in dataclasses.fields(capabilities)}
    sources = values.pop("sources")
    return {
        name: {"value": value.value if isinstance(value, Enum) else value, "source": sources[name]}
        for name, value in values.items()
    }

"""What `eventbus-conformance new` writes installs, and fails honestly: as a whole suite, clause by clause."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tomllib
import venv
from pathlib import Path

import pytest

from eventbus_conformance.skeleton import main

REPOSITORY = Path(__file__).parents[2]
WITHOUT_A_BROKER = {"P2"}
"""What can be shown of a backend that does nothing: that its capabilities have reasons."""


def test_it_is_a_plugin_of_that_name(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "plugin"
    assert main(["acme", str(folder)]) == 0
    assert "--eventbus-backend acme" in capsys.readouterr().out
    entry_points = tomllib.loads((folder / "pyproject.toml").read_text())["project"]["entry-points"]
    assert entry_points == {
        "eventbus.backends": {"acme": "eventbus_acme.backend:AcmeBackend"},
        "eventbus.conformance": {"acme": "eventbus_acme.conformance:AcmeHarness"},
    }


def test_it_goes_into_a_folder_of_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["acme"]) == 0
    assert (tmp_path / "eventbus-acme/eventbus_acme/backend.py").exists()


@pytest.mark.parametrize(
    ("name", "message"),
    [("Acme", "no name"), ("ac-me", "no name"), ("7up", "no name"), ("memory", "installed already")],
)
def test_a_name_that_cannot_be_is_refused(
    name: str, message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([name, str(tmp_path / "plugin")]) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "plugin").exists()


def test_nothing_is_overwritten(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "README.md").write_text("mine")
    assert main(["acme", str(tmp_path)]) == 2
    assert "not an empty folder" in capsys.readouterr().err
    assert [each.name for each in tmp_path.iterdir()] == ["README.md"]


def test_it_is_clean(tmp_path: Path) -> None:
    main(["acme", str(tmp_path / "plugin")])
    for command in (
        ["ruff", "check", "--isolated", "--extend-select", "I"],
        ["ruff", "format", "--isolated", "--check", "--line-length", "120"],
        ["mypy", "--strict", "--config-file", ""],
    ):
        done = subprocess.run(
            [sys.executable, "-m", *command, "."],
            cwd=tmp_path / "plugin",
            env={"MYPYPATH": f"{REPOSITORY}:{REPOSITORY / 'conformance_tests'}", "PATH": ""},
            capture_output=True,
            text=True,
            timeout=110,
            check=False,
        )
        assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.timeout(600)
def test_it_installs_and_the_suite_fails_it_clause_by_clause(tmp_path: Path) -> None:
    """In an environment of its own, with what an author has: distributions, and the commands they install."""
    venv.create(tmp_path / "venv", with_pip=True)
    commands = tmp_path / "venv/bin"
    run(tmp_path, commands / "pip", "install", "-q", str(REPOSITORY), str(REPOSITORY / "conformance_tests"))
    run(tmp_path, commands / "eventbus-conformance", "new", "acme", "plugin")
    run(tmp_path, commands / "pip", "install", "-q", "-e", "plugin[test]")
    run(tmp_path / "plugin", commands / "pytest", "-q")
    done = run(
        tmp_path,
        commands / "pytest",
        *("-q", "--tb=short", "--pyargs", "eventbus_conformance", "--eventbus-backend", "acme"),
        *("--eventbus-level", "core", "--eventbus-report", "acme.json"),
        code=1,
    )
    assert "INTERNALERROR" not in done.stdout + done.stderr
    report = json.loads((tmp_path / "acme.json").read_text())
    assert report["complete"], report["left_out"]
    outcomes = {each["id"]: each["outcome"] for each in report["clauses"]}
    assert {name for name, outcome in outcomes.items() if outcome != "fail"} == WITHOUT_A_BROKER
    assert any("AcmeAdmin.create_topic is not written yet" in each["reason"] for each in report["clauses"])


def run(folder: Path, *command: Path | str, code: int = 0) -> subprocess.CompletedProcess[str]:
    # What this checkout and the brokers of a developer would add is left out; how to reach a package index stays.
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "EVENTBUS_"))}
    # stevedore's cache in the user's home would remember this backend.
    environment |= {"XDG_CACHE_HOME": str(folder / "cache")}
    done = subprocess.run(
        list(map(str, command)), cwd=folder, env=environment, capture_output=True, text=True, timeout=500, check=False
    )
    assert done.returncode == code, done.stdout + done.stderr
    return done

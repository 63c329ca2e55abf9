"""The command `eventbus-conformance`."""

from __future__ import annotations

import tomllib
from pathlib import Path

import pytest

from conformance_tests.tests.made import Made
from conformance_tests.tests.made_reports import report, written
from eventbus_conformance.cli import COMMANDS, main


def test_the_distribution_installs_it() -> None:
    project = tomllib.loads((Path(__file__).parents[1] / "pyproject.toml").read_text())["project"]
    assert project["scripts"] == {"eventbus-conformance": f"{main.__module__}:{main.__name__}"}


def test_every_command_runs_with_its_own_options(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    history = Made().sent("a/0").join("m1", 0).took("m1", "a/0").drained(2).written(tmp_path)
    assert main(["check", str(history), "--lines"]) == 1
    assert '"lag": 2' in capsys.readouterr().out
    assert main(["matrix", *written(tmp_path, report()), "--markdown", str(tmp_path / "made.md"), "--check"]) == 1
    assert main(["new", "acme", str(tmp_path / "plugin")]) == 0
    assert (tmp_path / "plugin/pyproject.toml").exists()


def test_help_tells_every_command(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="0"):
        main(["--help"])
    said = capsys.readouterr().out
    assert all(f"\n{command} " in said for command in COMMANDS)


@pytest.mark.parametrize("arguments", [[], ["other"], ["new"], ["matrix", "--check"]])
def test_a_wrong_command_line_is_told(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        main(arguments)
    assert "usage: eventbus-conformance" in capsys.readouterr().err

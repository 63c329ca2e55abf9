"""The command that judges a kept history again."""

import subprocess
import sys
from pathlib import Path

import pytest

from conformance_tests.tests.made import Made
from eventbus_conformance.check import main


def one_record() -> Made:
    return Made().sent("a/0").join("m1", 0).took("m1", "a/0")


@pytest.mark.parametrize(
    ("made", "expected", "code", "said"),
    [
        (one_record().drained(), {}, 0, "valid"),
        (one_record().drained(2), {}, 1, "stuck: group g: 2 records unsettled"),
        (one_record().drained(), {"min_events": 2}, 3, "not shown: 1 records handled, at least 2 wanted"),
    ],
)
def test_the_exit_code_says_the_outcome(
    made: Made, expected: dict[str, int], code: int, said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = made.written(tmp_path, **expected)
    assert main([str(path)]) == code
    assert said in capsys.readouterr().out


def test_an_invalid_history_among_others_counts(tmp_path: Path) -> None:
    files = []
    for number, expected in enumerate(({}, {"min_events": 2}, {})):
        folder = tmp_path / str(number)
        folder.mkdir()
        files.append(str(one_record().drained(1 if number == 2 else 0).written(folder, **expected)))
    assert main(files[:1]) == 0
    assert main(files[:2]) == 3
    assert main(files) == 1


def test_the_lines_that_show_a_finding_are_printed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = one_record().drained(2).written(tmp_path)
    main([str(path)])
    assert '"lag": 2' not in capsys.readouterr().out
    main([str(path), "--lines"])
    assert '"lag": 2' in capsys.readouterr().out


def test_what_is_no_history_is_told_apart(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "text"
    path.write_text("hello\n")
    assert main([str(path)]) == 2
    assert main([str(tmp_path / "missing")]) == 2
    assert "text" in capsys.readouterr().err


def test_it_runs_as_a_module(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "eventbus_conformance.check", str(one_record().drained().written(tmp_path))]
    done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
    assert (done.returncode, done.stderr) == (0, "")

"""The tables that compare backends say what the reports say, and nothing else."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from conformance_tests.tests.made_reports import report, written
from eventbus_conformance.contract import contract
from eventbus_conformance.matrix import main
from eventbus_conformance.needs import NEEDS, met
from eventbus_conformance.rendering import NONE
from eventbus_conformance.reports import Report

DOCS = Path(__file__).parents[2] / "docs"


def markdown(folder: Path, *reports: dict[str, Any]) -> str:
    target = folder / "made.md"
    assert main([*written(folder, *reports), "--markdown", str(target)]) == 0
    return target.read_text()


def cells(text: str, first: str) -> list[str]:
    """The row of a table that begins so, without what it begins with."""
    row = next(line for line in text.splitlines() if line.startswith(f"| {first} |"))
    return [each.strip() for each in row.strip("|").split("|")][1:]


def test_the_tables_of_the_docs_are_what_their_reports_say() -> None:
    reports = [str(path) for path in sorted((DOCS / "reports").glob("*.json"))]
    assert reports
    made = ["--markdown", str(DOCS / "backends.md"), "--html", str(DOCS / "backends.html")]
    assert main([*reports, *made, "--check"]) == 0


def test_a_clause_has_the_outcome_of_every_report(tmp_path: Path) -> None:
    text = markdown(
        tmp_path,
        report("acme-sync"),
        report("acme-lazy", outcomes={"F2": ("known failure", "it forgets (https://example.org/1)")}),
        report("acme-old", levels=("core", "semantics")),
    )
    assert "\n| | acme-lazy | acme-old | acme-sync |\n" in text
    assert cells(text, "F2") == [contract()["F2"].text, "known failure", "not run", "pass"]
    assert "- F2, known failure: it forgets (https://example.org/1)" in text
    assert {f"| {each} |" for each in contract()} <= {line[: line.find("|", 1) + 1] for line in text.splitlines()}


def test_capabilities_versions_and_numbers_are_told(tmp_path: Path) -> None:
    text = markdown(tmp_path, report(capabilities={"max_record_bytes": 1_044_480, "max_takeover_seconds": 12.5}))
    assert cells(text, "durability") == ["process"]
    assert cells(text, "reach") == ["network"]
    assert cells(text, "max record") == ["1020 KiB"]
    assert cells(text, "max takeover") == ["12.5 s"]
    assert cells(text, "takeover, longest measured") == ["4.25 s"]
    assert cells(text, "client") == ["acme-client 2.5"]
    assert cells(text, "broker") == ["acme/acme:3.1 (sha256:abc)"]
    assert cells(text, "day") == ["2026-01-02"]
    assert cells(text, "records sent") == ["1200"]
    assert cells(text, "duplicates: handled again") == ["3"]
    assert cells(text, "faults") == ["5"]


def test_what_was_measured_by_some_only_is_left_open_for_the_others(tmp_path: Path) -> None:
    text = markdown(tmp_path, report("acme-a"), report("acme-b", counts={}, worst_seconds={}))
    assert cells(text, "records sent") == ["1200", NONE]
    assert cells(text, "longest: takeover") == ["2.5 s", NONE]


def test_texts_of_reports_are_no_markup(tmp_path: Path) -> None:
    text = markdown(tmp_path, report(outcomes={"R1": ("fail", "a | b\n<script>")}))
    assert "a \\| b \\<script\\>" in text


@pytest.mark.parametrize(
    ("outcomes", "capabilities", "answer", "reason"),
    [
        ({}, {}, "yes", ""),
        ({"F2": ("fail", "faults/test_broker.py::test_x[a b]: lost: 3 records")}, {}, "no", "F2 fail: lost: 3 records"),
        ({"F2": ("known failure", "why")}, {}, "no", "F2 known failure: why"),
        ({"F2": ("refused as declared", "why")}, {}, "no", "F2 refused as declared: why"),
        ({"F2": ("not proven", "why")}, {}, "not shown", "F2 not proven: why"),
        ({"F2": ("unknown", "why")}, {}, "not shown", "F2 unknown: why"),
        ({"F2": ("not proven", "")}, {"durability": "none"}, "no", "durability is none"),
    ],
)
def test_a_need_is_met_only_where_its_clauses_were_shown(
    outcomes: dict[str, tuple[str, str]], capabilities: dict[str, object], answer: str, reason: str
) -> None:
    need = next(each for each in NEEDS if each.id == "sigkill")
    made = Report(report(outcomes=outcomes, capabilities=capabilities), "made")
    assert met(need, made) == (answer, reason)


def test_a_need_that_was_not_run_is_not_shown() -> None:
    need = next(each for each in NEEDS if each.id == "sigkill")
    assert met(need, Report(report(levels=("core",)), "made")).answer == "not shown"


def test_one_clause_that_fails_decides_over_one_that_was_not_shown() -> None:
    need = next(each for each in NEEDS if each.clauses == ("F3", "O5"))
    made = report(outcomes={"F3": ("not proven", "why"), "O5": ("fail", "why")})
    assert met(need, Report(made, "made")).answer == "no"


def test_needs_name_clauses_that_exist() -> None:
    assert {clause for need in NEEDS for clause in need.clauses} <= contract().keys()
    assert len({need.id for need in NEEDS}) == len(NEEDS)


@pytest.mark.parametrize(
    ("reports", "message"),
    [
        ([report(complete=False)], "incomplete run"),
        ([{**report(), "capabilities": None}], "never came up"),
        ([report(format=2)], "no report of format 1"),
        ([report(), report()], "a second report of acme, acme"),
        (
            [report(outcomes={"R1": ("perfect", "")})],
            "outcomes that the suite does not give: perfect",
        ),
        ([["no", "report"]], "is no report"),
    ],
)
def test_what_gives_no_verdict_is_refused(
    reports: list[Any], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    target = tmp_path / "made.md"
    assert main([*written(tmp_path, *reports), "--markdown", str(target)]) == 2
    assert message in capsys.readouterr().err
    assert not target.exists()


def test_reports_of_different_contracts_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    other = report("acme-other")
    other["clauses"][0]["text"] = "Something else."
    assert main([*written(tmp_path, report(), other), "--html", str(tmp_path / "made.html")]) == 2
    assert "another clause R1" in capsys.readouterr().err


def test_a_missing_report_and_no_target_are_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(tmp_path / "none.json"), "--markdown", str(tmp_path / "made.md")]) == 2
    assert "none.json" in capsys.readouterr().err
    with pytest.raises(SystemExit, match="2"):
        main(written(tmp_path, report()))


def test_stale_files_are_noticed_and_left_as_they_are(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    reports = written(tmp_path, report("acme-a"), report("acme-b"))
    text, page = tmp_path / "made.md", tmp_path / "made.html"
    command = [*reports, "--markdown", str(text), "--html", str(page)]
    assert main([*command, "--check"]) == 1
    assert not text.exists()
    assert main(command) == 0
    assert main([*command, "--check"]) == 0
    assert main([*reversed(reports), *command[2:], "--check"]) == 0
    document = json.loads(Path(reports[0]).read_text())
    Path(reports[0]).write_text(json.dumps(document | {"seed": 8}))
    before = text.read_text()
    assert main([*command, "--check"]) == 1
    assert "made.md" in capsys.readouterr().err
    assert text.read_text() == before

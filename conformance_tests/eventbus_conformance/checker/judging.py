"""The judgement of a whole history."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from eventbus_conformance.checker.expectations import Expectations
from eventbus_conformance.checker.order import overlapping, reordered, reordered_log
from eventbus_conformance.checker.records import stored_twice, unsettled, wrong_records
from eventbus_conformance.checker.repeats import duplicates, unstuck_acks
from eventbus_conformance.checker.run import Run
from eventbus_conformance.checker.showing import counts, doubts
from eventbus_conformance.checker.verdict import Finding, Verdict
from eventbus_conformance.history import History, Line


def judge(history: History | Path, expectations: Expectations | None = None) -> Verdict:
    """Judge a history, by default by the expectations in its first line.

    Raises ``ValueError`` for a file that is no history, or has no expectations though none are given; ``OSError`` when
    it cannot be read.
    """
    if isinstance(history, Path):
        history = History(history)
        history.path.stat()
    lines = history.lines()
    if expectations is None:
        if not lines:
            raise ValueError(f"{history.path} is empty")
        expectations = Expectations.read(lines[0])
    return judge_lines(lines, expectations, history.torn)


def judge_lines(lines: Sequence[Line], expectations: Expectations, torn: int = 0) -> Verdict:
    """Judge lines; ``torn``: how many more were torn by the death of their writer."""
    run = Run(lines)
    findings: list[Finding] = [*wrong_records(run), *unsettled(run), *unstuck_acks(run)]
    findings += [
        *reordered_log(run),
        *reordered(run, expectations),
        *overlapping(run, expectations),
        *duplicates(run, expectations),
    ]
    if expectations.stored_once:
        findings += stored_twice(run)
    return Verdict(findings, list(doubts(run, expectations, torn)), counts(run))

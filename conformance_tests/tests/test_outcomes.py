"""From results of tests to outcomes of clauses."""

from __future__ import annotations

import dataclasses

import pytest

from eventbus_conformance.contract import contract
from eventbus_conformance.memory_harness import MemoryHarness
from eventbus_conformance.outcomes import Outcome, Result, of_clauses
from eventbus_core.capabilities import Durability
from eventbus_core.memory import MemoryBackend

CAPABILITIES = MemoryBackend.capabilities


def result(outcome: Outcome, *clauses: str, denials: tuple[str, ...] = (), gated: bool = False) -> Result:
    return Result("core/test_x.py::test_x", clauses, denials, outcome, "why", 0.1, gated)


def outcome_of(clause: str, *results: Result, **capabilities: object) -> Outcome:
    declared = dataclasses.replace(CAPABILITIES, **capabilities)  # type: ignore[arg-type]
    found = of_clauses(["core", "semantics", "faults"], results, declared, MemoryHarness())
    return next(each.outcome for each in found if each.clause.id == clause)


@pytest.mark.parametrize(
    ("outcomes", "expected"),
    [
        (["pass", "pass"], "pass"),
        (["pass", "not proven"], "not proven"),
        (["not proven", "known failure"], "known failure"),
        (["known failure", "unknown"], "unknown"),
        (["unknown", "fail", "pass"], "fail"),
        ([], "not proven"),
    ],
)
def test_a_clause_is_as_good_as_its_worst_test(outcomes: list[Outcome], expected: Outcome) -> None:
    assert outcome_of("R1", *(result(each, "R1") for each in outcomes), result("fail", "R2")) == expected


def test_a_test_that_another_clause_s_gate_kept_from_running_says_nothing() -> None:
    assert outcome_of("R1", result("pass", "R1"), result("not proven", "R1", "P3", gated=True)) == "pass"
    assert outcome_of("R1", result("not proven", "R1", "P3", gated=True)) == "not proven"


def test_what_is_denied_needs_a_probe_that_passed() -> None:
    probe = ("stored_position",)
    assert outcome_of("P3", stored_position=False) == "not proven"
    assert outcome_of("P3", result("pass", "P1", denials=probe), stored_position=False) == "refused as declared"
    assert outcome_of("P3", result("fail", "P1", denials=probe), stored_position=False) == "fail"
    gated = result("not proven", "P1", denials=probe, gated=True)
    assert outcome_of("P3", gated, stored_position=False) == "not proven"


def test_what_needs_a_control_that_is_not_there_is_not_proven() -> None:
    assert contract()["F2"].control == "kill"
    assert outcome_of("F2", result("pass", "F2"), durability=Durability.PROCESS) == "not proven"


def test_without_a_broker_nothing_is_proven() -> None:
    found = of_clauses(["core"], [result("pass", "R1")], None, MemoryHarness())
    assert {each.outcome for each in found} == {"not proven"}
    assert {each.clause.level for each in found} == {"core"}

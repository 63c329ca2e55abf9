"""From the results of tests to the outcome of each clause."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from typing import Final, Literal, NamedTuple, TypeAlias, get_args

from eventbus_conformance.clauses import declares
from eventbus_conformance.contract import Clause, Level, contract
from eventbus_conformance.harness import Harness
from eventbus_core.capabilities import Capabilities

Outcome: TypeAlias = Literal["fail", "unknown", "known failure", "not proven", "refused as declared", "pass"]
WORST_FIRST: Final[tuple[Outcome, ...]] = get_args(Outcome)


class Result(NamedTuple):
    """How one test ended. ``gated``: it did not run, because of a capability; then ``outcome`` is "not proven"."""

    name: str
    clauses: tuple[str, ...]
    denials: tuple[str, ...]
    outcome: Outcome
    reason: str
    seconds: float
    gated: bool = False


class ClauseResult(NamedTuple):
    """The outcome of a clause, and why where it is no pass."""

    clause: Clause
    outcome: Outcome
    reason: str


def of_clauses(
    levels: Collection[Level], results: Sequence[Result], capabilities: Capabilities | None, harness: Harness
) -> list[ClauseResult]:
    """The outcome of every clause of these levels. ``capabilities`` None: the broker never came up."""
    found = []
    for clause in contract().values():
        if clause.level in levels:
            if capabilities is None:
                outcome: Outcome = "not proven"
                reason = "no broker"
            else:
                outcome, reason = _of_clause(clause, results, capabilities, harness)
            found.append(ClauseResult(clause, outcome, reason))
    return found


def _of_clause(
    clause: Clause, results: Sequence[Result], capabilities: Capabilities, harness: Harness
) -> tuple[Outcome, str]:
    if clause.capability and not declares(capabilities, clause.capability):
        return _of_denial(clause.capability, results)
    if clause.control and not harness.has(clause.control):
        return "not proven", f"the harness has no control {clause.control!r} here"
    return _worst((each for each in results if clause.id in each.clauses and not each.gated), "no test of it ran")


def _of_denial(capability: str, results: Sequence[Result]) -> tuple[Outcome, str]:
    probes = [each for each in results if capability in each.denials and not each.gated]
    outcome, reason = _worst(probes, f"{capability} is not declared, which was not probed")
    return ("refused as declared", f"{capability} is not declared") if outcome == "pass" else (outcome, reason)


def _worst(results: Iterable[Result], none: str) -> tuple[Outcome, str]:
    by_outcome = sorted(results, key=lambda each: WORST_FIRST.index(each.outcome))
    if not by_outcome:
        return "not proven", none
    worst = by_outcome[0]
    return worst.outcome, "" if worst.outcome == "pass" else f"{worst.name}: {worst.reason}"

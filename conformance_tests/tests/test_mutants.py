"""The suite, tested: each mutant breaks one thing, and exactly the clauses named here fail for it."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor

import pytest

from conformance_tests.mutants.mutant import MUTANTS
from conformance_tests.tests.mutated import Laboratory, Verdict, load_all
from eventbus_conformance.contract import contract

load_all()

HEALTHY = ("away", "counts-deliveries", "lost-replies", "unbroken")
"""Backends without a defect, some in trouble: nothing fails for them."""

FAILS = {
    # What they carry.
    "text-bodies": "R1 R4 R6",
    "text-keys": "R1",
    "empty-becomes-none": "R1 R6",
    "lowercase-headers": "R2",
    "headers-reordered": "R2",
    "headers-in-atable": "R2",
    "coarse-timestamps": "R3",
    "own-timestamps": "R3",
    "cuts-large-values": "P4 R4",
    "traces-anew": "R7",
    "wraps-values": "R8",
}

UNBROKEN_HERE = {
    "D9": "a member in a thread cannot be frozen",
    "F2": "a bus in this process cannot be killed without the test",
}
"""Clauses that no mutant of the memory backend can break, and why."""

AT_ONCE = 3
"""Runs at a time. They wait most of the time: together they keep less than two processors busy."""


@pytest.fixture(scope="module")
def verdicts(
    tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest
) -> Iterator[dict[str, Future[Verdict]]]:
    """What the suite says of each mutant that is asked for, in the order of the tests."""
    laboratory = Laboratory(tmp_path_factory.mktemp("laboratory"))
    wanted = [item.callspec.params["name"] for item in request.session.items if _asks(item)]  # type: ignore[attr-defined]
    with ThreadPoolExecutor(AT_ONCE) as runs:
        yield {name: runs.submit(laboratory.judge, name) for name in wanted}
        runs.shutdown(wait=False, cancel_futures=True)


def _asks(item: pytest.Item) -> bool:
    return item.path.samefile(__file__) and "name" in getattr(getattr(item, "callspec", None), "params", {})


@pytest.mark.timeout(300)
@pytest.mark.parametrize("name", HEALTHY)
def test_nothing_fails_for_a_backend_without_defect(name: str, verdicts: dict[str, Future[Verdict]]) -> None:
    verdict = verdicts[name].result()
    assert verdict.failed == set(), verdict.reasons
    assert verdict.passed
    assert verdict.code == 0 or MUTANTS[name].runs, "a whole run of the suite passes"


@pytest.mark.timeout(300)
@pytest.mark.parametrize("name", FAILS)
def test_exactly_these_clauses_fail(name: str, verdicts: dict[str, Future[Verdict]]) -> None:
    verdict = verdicts[name].result()
    assert verdict.code == 1
    assert verdict.failed == set(FAILS[name].split()), verdict.reasons


def test_every_mutant_is_judged() -> None:
    assert FAILS.keys() | set(HEALTHY) == MUTANTS.keys()


def test_every_clause_fails_for_some_mutant() -> None:
    broken = {clause for clauses in FAILS.values() for clause in clauses.split()}
    assert broken <= contract().keys()
    assert contract().keys() - broken == UNBROKEN_HERE.keys()

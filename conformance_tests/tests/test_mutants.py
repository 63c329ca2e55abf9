"""The suite, tested: each mutant breaks one thing, and exactly the clauses named here fail for it."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import pytest

from conformance_tests.mutants.mutant import MUTANTS
from conformance_tests.mutants.sending import NotesWhatItStores
from conformance_tests.tests.mutated import Laboratory, Verdict, load_all
from eventbus_conformance.contract import contract

pytestmark = pytest.mark.mutants

load_all()

HEALTHY = ("away", "counts-deliveries", "lost-replies", "notes-what-it-stores", "unbroken")
"""Backends without a defect, some in trouble: nothing fails for them."""

FAILS = {
    # What they carry.
    "text-bodies": "R1 R4 R6",
    "text-keys": "R1",
    "empty-becomes-none": "R1 R6",
    "lowercase-headers": "R2",
    "headers-reordered": "R2",
    "headers-as-table": "R2",
    "coarse-timestamps": "R3",
    "own-timestamps": "R3",
    "cuts-large-values": "P4 R4",
    "traces-anew": "R7",
    "wraps-values": "R8",
    # What receipts and logs say.
    "loses-some": "D1 O1 O2 P3 R1 R6 R8 S2 S5 S8 S9",
    "stores-some-twice": "D1 O1 O2 P3 R1 R6 R8 S2 S5 S8 S9",
    "phantoms": "D1 O1 O2 P3 R1 R2 R3 R4 R5 R6 R8 S1 S2 S5 S8 S9",
    "cross-topic": "G1",
    "receipt-before-stored": "R1 R2 R3 R4 S1 S8",
    "loses-on-close": "D1 O1 O2 P3 R1 R2 R3 R4 R5 R6 R8 S1 S2 S5 S8 S9",
    "drops-when-full": "O1 S5",
    "lost-reply-stored-twice": "D1 O1 O2 R1 R2 R3 R4 R5 R6 R8 S1 S2 S5 S8",
    "failed-though-stored": "D1 O1 O2 P3 R1 R2 R3 R4 R5 R6 R8 S1 S2 S5 S8 S9",
    "scattered-keys": "O1 S5 S8",
    "swaps-neighbours": "D1 O1 O2 S5 S8",
    "tells-wrong-partition": "D1 O2 R1 R2 R3 R8 S9",
    "tells-wrong-position": "D1 O2 P3 S9",
    "tells-wrong-time": "R3",
    # What is handed out, and to whom.
    "delivers-some-twice": "D1 D2 D3 D4 D5 D6 D7 D8 G4 G7 G8 O2 O3 R9",
    "duplicates-on-reconnect": "D2 D4 D5 D7 G4 G7 G8 O2 O3 R9",
    "newest-first": "D2 O2 R9",
    "unbounded-prefetch": "D6",
    "stops-at-foreign": "R9",
    "skips-foreign": "R9",
    "drops-while-paused": "D8 G9",
    "pauses-for-ever": "G9",
    "two-owners": "D1 G7 G8 G9 O2 O3 O4",
    "takes-over-too-early": "D1 G7 G8 O2 O3",
    "never-takes-over": "D3 D4 D5 F1 F5 G4",
    "renews-by-acks": "F7",
    "moves-without-announcement": "D1 G7 G8 O2 O3",
    "loses-what-the-dead-had": "D3 D4 D5 F1 F5",
    "redelivers-to-tail": "D2 G7 G8 O2 O3",
    # What is settled.
    "ack-on-receive": "A3 D2 D3 D4 D5 D7 G1 G2 O2",
    "ack-highest": "D2 D4 D5 D7 O2",
    "acks-one-less": "A3 A4 D2 D4 D5 D7 G1 G2 O2",
    "acks-at-leaving-only": "A3 A4 D4 G1",
    "acks-late": "A3 A4 D4 G1",
    "acks-all-at-leaving": "D2 D5 D7 G2 O2",
    # Where groups begin, go on and move.
    "shared-groups": "G1",
    "start-ignored": "G2 G3 G4 G6",
    "start-always": "G2 G6",
    "latest-ignores-ready": "G3",
    "place-dies-with-member": "G2 G4 G6",
    "forgets-empty-groups": "G2",
    "seeks-behind": "G5",
    "seeks-behind-time": "G6",
    "seeks-in-seconds": "G6",
    # What operators see and do.
    "conflict-ignored": "A1 E3",
    "creating-empties": "A1",
    "deleting-keeps-records": "A2",
    "topics-unsorted": "A2",
    "wrong-ends": "A1 A2 A3 O1 P3 S2 S5 S8 S9",
    "wrong-lag": "A3 A4",
    "lag-in-one-place": "A3",
    "moves-busy-groups": "A4 E3",
    "keeps-deleted-groups": "A4",
    # What goes wrong, and what is given back.
    "missing-topic-swallowed": "E1 E3",
    "missing-topic-ends-producer": "E1 E3 O6",
    "missing-topic-is-an-outage": "E1 E3",
    "nameless-errors": "E1 E3",
    "conflict-as-outage": "E3",
    "leaks-thread": "S4",
    "leaks-descriptor": "S4",
    "polls-too-long": "S3",
    # What is claimed.
    "claims-positions": "P3",
    "hides-positions": "P1 P3",
    "claims-counts": "P5",
    "counts-per-member": "P5",
    "hides-counts": "P1 P5",
    "claims-time": "G6",
    "claims-quick-takeover": "D3",
    "claims-large-records": "P4",
    "claims-reach": "P6 S7",
    "gives-no-source": "P2",
    # While the broker is away.
    "away-without-cause": "E2",
    "away-for-good": "E2 S6 S10",
    "away-too-long": "E2",
    "takes-what-it-cannot-send": "S6",
    "waits-for-room-for-ever": "S10",
    # Defects of core.
    "takes-bad-records": "R5",
    "closes-at-once": "O1 R1 R6 S2 S5",
    "leaves-receipts-open": "O1 R1 R6 S2 S5",
    "works-after-close": "D10 S3",
    "drops-oldest": "O1 S5",
    "cancel-is-an-outcome": "S8",
    "any-thread": "D10",
    "pause-ignored": "D8",
    "acks-what-raised": "D7",
    # What workers do.
    "never-tries-again": "W1 W2 W3 W4 W6 W7",
    "counts-no-attempts": "W1 W7",
    "acks-without-dead-letter": "W2 W5",
    "bare-dead-letters": "W2 W5",
    "stop-acks": "W3",
    "drops-in-silence": "W4",
    "stops-at-garbage": "W5",
    "acks-before-the-retry": "W2 W3 W6",
    "retries-at-the-tail": "W3 W7",
    "one-at-atime": "W8 W9 W11",
    "ignores-concurrency": "W11",
    "acks-all-at-the-end": "W3 W6 W9 W12",
    "stops-at-once": "W9",
    "claims-transactions": "W10",
}

_THREADS = "members are threads of this process, and a thread cannot be frozen"
_NETWORK = "there is no connection that could break"
_STORE = "nothing removes anything from the store behind its back"
_BROKER = "the store ends with this process, so it cannot be killed alone"

UNBROKEN_HERE = {
    "D9": _THREADS,
    "F6": _THREADS,
    "O5": _NETWORK,
    "D11": _NETWORK,
    "F3": _NETWORK,
    "F4": _NETWORK,
    "D12": _STORE,
    "D13": _STORE,
    "F8": _STORE,
    "F2": _BROKER,
    "F9": _BROKER,
    "F10": _BROKER,
}
"""Clauses that no mutant of the memory backend can break, and why."""

AT_ONCE = 4
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


@pytest.mark.timeout(300)
def test_a_run_with_the_same_seed_stores_the_same(tmp_path: Path) -> None:
    def stored(run: str, seed: int) -> list[str]:
        name = NotesWhatItStores.name
        # How many bursts the one left out sends depends on time.
        chosen = ["--eventbus-seed", str(seed), "-k", "not test_close_settles_every_receipt"]
        Laboratory(tmp_path / run).judge(name, *chosen)
        return sorted((tmp_path / run / "work" / name / NotesWhatItStores.notes).read_text().splitlines())

    first, again, other = stored("first", 7), stored("again", 7), stored("other", 8)
    assert len(first) > 1000
    assert first == again, "a defect that befalls some records would befall others each time"
    assert len(first) == len(other) and first != other


def test_every_mutant_is_judged() -> None:
    assert FAILS.keys() | set(HEALTHY) == MUTANTS.keys()


def test_every_clause_fails_for_some_mutant() -> None:
    broken = {clause for clauses in FAILS.values() for clause in clauses.split()}
    assert broken <= contract().keys()
    assert contract().keys() - broken == UNBROKEN_HERE.keys()

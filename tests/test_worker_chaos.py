"""Many keys, handlers that fail at random, members that come, go and are killed."""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path

import pytest

from eventbus_core import Event
from tests.waiting import wait_until
from tests.worker_fixtures import World, world
from tests.worker_journal import Entry, Job, Journal, overlaps, reordered

__all__ = ["world"]

KEYS, EVENTS = 64, 200


def wrong_attempts(entries: list[Entry]) -> list[str]:
    """Attempts that do not count up from 1 within the tries of one event by one member."""
    tries: dict[tuple[str | None, int, str], list[int]] = defaultdict(list)
    for each in entries:
        if each.what == "begin":
            tries[each.key, each.seq, each.member].append(each.attempt)
    found = []
    for which, attempts in tries.items():
        expected = 0
        for attempt in attempts:
            # Handled again after its partition went away and came back: from 1.
            expected = 1 if attempt == 1 else expected + 1
            if attempt != expected:
                found.append(f"{which}: {attempts}")
                break
    return found


@pytest.mark.timeout(240)
def test_members_come_and_go_and_one_is_killed(world: World) -> None:
    """0 lost, 0 reordered per key, no two of a key at once but beside the killed one, attempts exact."""
    fields = {"fail_rate": 0.1, "attempts": 50, "pace_seconds": 0.04, "first_delay_seconds": 0.01}
    jobs = [Job(key=f"k{number % KEYS}", seq=number // KEYS) for number in range(KEYS * EVENTS)]
    world.publish(*jobs[: len(jobs) // 2])
    first = world.process(name="first", **fields)
    world.wait_handled(500, 60)
    others = [world.process(name=f"other{number}", **fields) for number in range(3)]
    world.publish(*jobs[len(jobs) // 2 :])

    def at_work() -> set[str]:
        return {each.member for each in world.journal.entries("end")[-200:]}

    wait_until(lambda: all("has joined" in each.output for each in (first, *others)), 60, what="all four to join")
    wait_until(lambda: len(at_work()) == 4, 60, every=0.2, what="the partitions to be shared")
    victim = next(each for each in others if each.name in at_work())
    victim.kill()
    wait_until(lambda: len(world.journal.handled()) > len(jobs) * 2 // 3, 120, every=0.2, what="two thirds")
    for leaving in others:
        if leaving is not victim:
            assert leaving.terminate() == 0, leaving.output
    world.wait_handled(len(jobs), 120)
    world.wait_settled()
    entries = world.journal.entries()
    assert world.journal.handled() == {(job.key, job.seq) for job in jobs}
    assert reordered(entries) == []
    assert overlaps(entries, killed=frozenset({victim.name})) == []
    assert wrong_attempts(entries) == []
    assert world.dead_letters() == []
    repeats = len(world.journal.entries("end")) - len(jobs)
    assert repeats < 1100, "more than the killed one can have had unacked"


def test_what_is_wrong_is_found() -> None:
    def entry(what: str, seq: int, attempt: int = 1, member: str = "a") -> Entry:
        return Entry(what, member, "k", seq, attempt, "", 0.0)

    assert wrong_attempts([entry("begin", 0), entry("begin", 0, 3)])
    assert not wrong_attempts([entry("begin", 0), entry("begin", 0, 2), entry("begin", 0, 1)])
    assert overlaps([entry("begin", 0), entry("begin", 1, member="b")])
    assert not overlaps([entry("begin", 0), entry("begin", 1, member="b")], killed=frozenset({"a"}))
    assert reordered([entry("end", 1), entry("end", 0)])
    assert not reordered([entry("end", 0), entry("end", 1), entry("end", 0)])


def test_a_handler_that_outlives_its_test_does_not_write_into_the_next_journal(tmp_path: Path) -> None:
    ended = Journal(tmp_path / "ended")
    ended.close()
    following = Journal(tmp_path / "following")
    with pytest.raises(ValueError, match="closed"):
        ended.note("end", "m0", Event(Job(key="k", seq=0)))
    assert following.entries() == []
    following.close()

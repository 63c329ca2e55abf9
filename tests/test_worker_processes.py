"""Workers as processes that are killed, told to stop, frozen out and joined by others."""

from __future__ import annotations

import os
import signal
import time
from collections import Counter

import pytest

from tests.waiting import wait_until
from tests.worker_fixtures import World, quick_world, world
from tests.worker_journal import Job, overlaps, reordered

__all__ = ["quick_world", "world"]


@pytest.mark.parametrize("name", ["same", "new"])
def test_what_a_killed_worker_was_handling_is_handled_by_the_next_one(quick_world: World, name: str) -> None:
    first = quick_world.process(name="same", pace_seconds=0.5, concurrency=2)
    quick_world.publish(*quick_world.jobs(60))
    quick_world.wait_handled(5)
    first.kill()
    before = quick_world.journal.handled()
    assert len(before) < 60
    quick_world.process(name=name)
    quick_world.wait_handled(60, 40)
    assert reordered(quick_world.journal.entries()) == []
    again = len(quick_world.journal.seqs()) - 60
    assert again <= len(before), "more repeats than it had handled"
    quick_world.wait_settled()


def test_a_backlog_of_a_thousand_survives_a_kill(quick_world: World) -> None:
    quick_world.publish(*quick_world.jobs(1000, keys=16))
    first = quick_world.process(pace_seconds=0.01)
    quick_world.wait_handled(100)
    first.kill()
    quick_world.process()
    quick_world.wait_handled(1000, 60)
    assert reordered(quick_world.journal.entries()) == []
    quick_world.wait_settled()


def test_a_replica_that_runs_already_takes_over_from_a_killed_one(world: World) -> None:
    workers = [world.process(pace_seconds=0.02) for _ in range(2)]

    def both_work() -> bool:
        return {each.member for each in world.journal.entries("end")[-40:]} == {each.name for each in workers}

    total = world.publish_until(both_work, keys=20)
    workers[0].kill()
    world.wait_handled(total, 40)
    assert reordered(world.journal.entries()) == []
    assert overlaps(world.journal.entries(), killed=frozenset({workers[0].name})) == []


def test_stopping_with_a_hundred_slow_events_waiting_repeats_only_what_overtook(world: World) -> None:
    world.publish(*world.jobs(100, keys=10))
    first = world.member(pace_seconds=0.2, concurrency=4)
    world.wait_handled(4)
    began = time.monotonic()
    assert first.terminate() == 0, first.output
    assert time.monotonic() - began < 8
    done = world.journal.seqs()
    assert len(done) < 60
    assert sorted(world.journal.seqs("begin")) == sorted(done)  # what ran was let finish
    began = time.monotonic()
    world.member()
    world.wait_handled(100)
    assert time.monotonic() - began < 15  # it had left in good order: nobody waits for a lease
    assert set(world.journal.seqs()) == set(range(100))
    assert reordered(world.journal.entries()) == []
    world.wait_settled()
    # Acks are of everything up to a position: what overtook an event that was left could not be acked.
    partition = {world.bus.decode(each, Job).data.seq: each.partition for each in world.bus.read(world.topic)}
    oldest_left = {partition[seq]: seq for seq in reversed(range(100)) if seq not in done}
    repeated = {seq for seq, times in Counter(world.journal.seqs()).items() if times > 1}
    assert all(seq > oldest_left[partition[seq]] for seq in repeated)


def test_a_second_signal_stops_at_once(world: World) -> None:
    worker = world.process()
    world.publish(Job(key="k", seq=0, do="sleep 60"))
    wait_until(lambda: world.journal.entries("begin"), 30, what="the handler to begin")
    worker.popen.send_signal(signal.SIGINT)
    wait_until(lambda: "stopping" in worker.output, 5, what="the first signal's effect")
    began = time.monotonic()
    worker.popen.send_signal(signal.SIGINT)
    assert worker.wait(10) == 1
    assert "second signal" in worker.output
    assert time.monotonic() - began < 5


def test_a_fatal_error_ends_the_process_with_one_line(world: World) -> None:
    worker = world.process(options={"on_failure": "stop"}, attempts=1)
    world.publish(Job(key="k", seq=0, do="raise"))
    assert worker.wait(30) == 1
    last = worker.output.splitlines()[-1]
    assert "HandlerFailed" in last
    assert f"{world.topic}[" in last
    assert "job 0 cannot be done" in last


def test_a_second_replica_shares_the_backlog_and_skips_nothing(world: World) -> None:
    world.publish(*world.jobs(400, keys=16))
    world.member(pace_seconds=0.06, concurrency=4)
    world.wait_handled(10)
    world.member(pace_seconds=0.06, concurrency=4)

    def both_work() -> bool:
        return len({each.member for each in world.journal.entries()}) == 2

    # The backlog may be gone before the second has joined, so there is always more.
    total = world.publish_until(both_work, keys=16, begin=400)
    world.wait_handled(total, 60)
    entries = world.journal.entries()
    assert reordered(entries) == []
    assert overlaps(entries) == []
    assert sorted(world.journal.seqs()) == list(range(total))  # the move repeated nothing
    world.wait_settled()


@pytest.mark.alone
def test_a_handler_that_is_slower_than_every_lease_is_called_once(quick_world: World) -> None:
    quick_world.publish(*[Job(key=f"k{seq}", seq=seq, do="sleep 8") for seq in range(4)])
    worker = quick_world.worker()
    wait_until(lambda: len(quick_world.journal.entries("begin")) == 4, 20, what="all to begin")
    quick_world.wait_handled(4, 30)
    assert len(quick_world.journal.entries("begin")) == 4
    assert worker.ready
    quick_world.wait_settled()


@pytest.mark.alone
def test_handlers_that_keep_the_interpreter_busy_cost_no_partition(quick_world: World) -> None:
    quick_world.publish(*[Job(key=f"k{seq}", seq=seq, do="spin 6") for seq in range(16)])
    worker = quick_world.process()
    quick_world.wait_handled(16, 100)
    assert len(quick_world.journal.entries("begin")) == 16, worker.output
    assert "lost" not in worker.output


def test_fifteen_thousand_events_are_kept_until_there_is_a_worker(world: World) -> None:
    world.publish(*world.jobs(15_000, keys=100))
    world.worker()
    world.wait_handled(15_000, 90)
    assert len(world.journal.seqs()) == 15_000
    world.wait_settled()


def test_a_restarted_worker_sees_what_comes_and_nothing_twice(world: World) -> None:
    for begin in (0, 5, 10):
        worker = world.member()
        world.publish(*world.jobs(5, begin=begin))
        world.wait_handled(begin + 5)
        assert worker.terminate() == 0
    assert sorted(world.journal.seqs()) == list(range(15))


def test_a_move_does_not_wait_for_what_has_not_begun(world: World) -> None:
    """One event runs for two seconds, a thousand wait behind it; the other member has its share soon after."""
    world.publish(*[Job(key=f"k{seq}", seq=seq, do="sleep 1") for seq in range(300)])
    world.member(concurrency=4)
    wait_until(lambda: len(world.journal.entries("begin")) >= 4, 30, what="the first to work")
    joined = time.monotonic()
    world.member(concurrency=100, name="second")
    wait_until(lambda: world.journal.entries("end", "second"), 20, what="the second to work")
    took = time.monotonic() - joined
    assert took < 15, f"{took:.1f} s; {os.getloadavg()}"
    entries = world.journal.entries()
    assert overlaps(entries) == []
    begun = Counter(each.seq for each in entries if each.what == "begin")
    assert [seq for seq, times in begun.items() if times > 1] == []

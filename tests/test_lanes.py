"""The lanes of the worker: what may be handled next, whatever happens in whatever order."""

from __future__ import annotations

from datetime import timedelta

import pytest
from pydantic import BaseModel

from eventbus_core import Batch, Delivery, Position, Record, event_type
from eventbus_core.records import Assignment
from eventbus_core.subscriptions import Subscription
from eventbus_core.worker.lanes import Lanes
from eventbus_core.worker.tasks import Hold, Queue, Task


@event_type("test.lanes.v1", topic="t")
class Thing(BaseModel):
    n: int


class Rig:
    """Lanes over one topic; ``grown`` counts the calls of the queue."""

    def __init__(self, batch: Batch | None = None) -> None:
        self.lanes = Lanes()
        self.grown = 0
        self.queue = self.new_queue(batch)
        self.hold = Hold(Assignment("t", 0, 1))
        self._orders: dict[Hold, int] = {}

    def new_queue(self, batch: Batch | None = None) -> Queue:
        return Queue(Subscription(handler=lambda _: None, types=(Thing,), group="g", batch=batch), self._grew)

    def _grew(self) -> None:
        self.grown += 1

    def put(self, *keys: str | None, hold: Hold | None = None, queue: Queue | None = None) -> list[Task]:
        made = []
        for key in keys:
            where = hold or self.hold
            order = self._orders[where] = self._orders.get(where, -1) + 1
            delivery = Delivery(Record("t", b"v", None if key is None else key.encode()), 0, Position(order))
            delivery.assignment, delivery.order = where.assignment, order
            made.append(Task(delivery, where, queue or self.queue, Thing, 10))
            self.lanes.put(made[-1], key)
        return made

    def take(self) -> Task | None:
        return self.lanes.take(self.queue)

    def take_all(self) -> list[Task]:
        taken = []
        while (task := self.take()) is not None:
            taken.append(task)
        return taken

    def settled(self) -> list[int]:
        return [each.order for each in self.lanes.take_settled()]


@pytest.fixture
def rig() -> Rig:
    return Rig()


def test_one_of_a_key_runs_and_the_next_follows_when_it_is_done(rig: Rig) -> None:
    first, second, other = rig.put("a", "a", "b")
    assert rig.take_all() == [first, other]
    assert (rig.lanes.waiting, rig.lanes.running, rig.lanes.bytes) == (1, 2, 30)
    rig.lanes.done(first)
    assert rig.take_all() == [second]
    rig.lanes.done(second)
    rig.lanes.done(other)
    assert rig.settled() == [0, 1, 2]
    assert (rig.lanes.waiting, rig.lanes.running, rig.lanes.bytes, list(rig.lanes.tasks())) == (0, 0, 0, [])


def test_records_without_a_name_run_at_once(rig: Rig) -> None:
    tasks = rig.put(None, None, None)
    assert rig.take_all() == tasks
    for task in reversed(tasks):
        rig.lanes.done(task)
    assert rig.settled() == [2, 1, 0]
    assert list(rig.lanes.tasks()) == []


def test_a_retry_keeps_its_lane_and_no_other(rig: Rig) -> None:
    first, second, other = rig.put("a", "a", "b")
    rig.take_all()
    rig.lanes.again(first, 5.0)
    rig.lanes.done(other)
    assert rig.take_all() == []
    assert rig.lanes.wake(4.9) == 5.0
    assert rig.take_all() == []
    assert rig.lanes.wake(5.0) is None
    assert rig.take_all() == [first]
    rig.lanes.done(first)
    assert rig.take_all() == [second]


def test_an_outage_holds_its_partition_until_its_probe_comes_through(rig: Rig) -> None:
    elsewhere = Hold(Assignment("t", 1, 1))
    first, second, third = rig.put("a", "b", "c")
    rig.take()
    rig.lanes.outage(first, 5.0)
    (free,) = rig.put("x", hold=elsewhere)
    assert rig.take_all() == [free]
    rig.put("d")
    assert rig.take_all() == []
    rig.lanes.wake(5.0)
    assert rig.take_all() == [first]
    rig.lanes.outage(first, 6.0)
    rig.lanes.wake(6.0)
    assert rig.take_all() == [first]
    rig.lanes.done(first)
    assert [each.lane.name for each in rig.take_all()] == ["b", "c", "d"]
    assert second.attempt == third.attempt == 1


def test_others_that_run_into_an_outage_wait_for_the_first_ones_probe(rig: Rig) -> None:
    first, second = rig.put("a", "b")
    rig.take_all()
    rig.lanes.outage(first, 5.0)
    rig.lanes.outage(second, 1.0)
    rig.lanes.wake(4.0)
    assert rig.take_all() == []
    rig.lanes.wake(5.0)
    assert rig.take_all() == [first]
    rig.lanes.again(first, 9.0)  # another failure: what was away is back
    assert rig.take_all() == [second]


def test_the_end_of_an_assignment_ends_its_outage_and_its_retries(rig: Rig) -> None:
    first, _, _ = rig.put("a", "a", "b")
    rig.take()
    rig.lanes.outage(first, 5.0)
    anew = Hold(Assignment("t", 0, 2))
    after, other = rig.put("a", "b", hold=anew)
    rig.lanes.forget(rig.hold.assignment)
    assert rig.take_all() == [after, other]
    assert rig.lanes.wake(5.0) is None
    assert rig.take_all() == []
    assert rig.lanes.waiting == 0


def test_a_new_assignment_waits_for_what_still_runs_of_the_old_one(rig: Rig) -> None:
    first, _ = rig.put("a", "a")
    rig.take()
    rig.lanes.forget(rig.hold.assignment)
    anew = Hold(Assignment("t", 0, 2))
    (after,) = rig.put("a", hold=anew)
    assert rig.take_all() == []
    rig.lanes.done(first)
    assert rig.take_all() == [after]


def test_what_lies_behind_all_that_runs_or_is_done_is_given_back(rig: Rig) -> None:
    a0, b1, c2, a3, _ = rig.put("a", "b", "c", "a", "d")
    assert [rig.take(), rig.take(), rig.take()] == [a0, b1, c2]
    rig.lanes.done(c2)
    rig.lanes.again(b1, 5.0)
    assert rig.lanes.give_back(rig.hold) == 2
    assert [each.delivery.order for each in rig.lanes.tasks()] == [0, 1]
    rig.lanes.done(a0)
    assert a3.lane.tasks == type(a3.lane.tasks)()
    rig.lanes.wake(5.0)
    assert rig.take_all() == [b1]  # a hole: without it nothing behind it could be acked


def test_a_retry_with_nothing_done_behind_it_is_given_back(rig: Rig) -> None:
    a0, b1 = rig.put("a", "b")
    rig.take_all()
    rig.lanes.done(a0)
    rig.lanes.again(b1, 5.0)
    assert rig.lanes.give_back(rig.hold) == 0
    assert list(rig.lanes.tasks()) == []


def test_what_is_no_longer_ours_is_dropped_without_an_ack(rig: Rig) -> None:
    first, second = rig.put("a", "a")
    rig.take()
    rig.lanes.drop(first)
    assert rig.take_all() == [second]
    assert rig.settled() == []


def test_what_nobody_handles_is_settled_as_it_is(rig: Rig) -> None:
    (first,) = rig.put("a")
    rig.lanes.skip(first.delivery, rig.hold)
    assert rig.settled() == [0]
    assert rig.hold.settled == 0


def test_the_handlers_of_a_group_share_the_lane_of_a_key(rig: Rig) -> None:
    other = rig.new_queue()
    (first,) = rig.put("a")
    (second,) = rig.put("a", queue=other)
    assert rig.lanes.take(other) is None
    assert rig.take() is first
    rig.lanes.done(first)
    assert rig.lanes.take(other) is second


def test_a_batch_takes_what_follows_in_a_lane_and_stops_at_another_handler(rig: Rig) -> None:
    rig = Rig(Batch(size=4))
    a0, b1, a2 = rig.put("a", "b", "a")
    rig.put("a", queue=rig.new_queue())
    assert rig.lanes.available(rig.queue, 4) == 3
    assert rig.lanes.take_batch(rig.queue, 4) == [a0, a2, b1]
    assert rig.lanes.take_batch(rig.queue, 4) == []


def test_a_batch_is_no_larger_than_its_size() -> None:
    rig = Rig(Batch(size=2))
    a0, a1, a2, b3 = rig.put("a", "a", "a", "b")
    assert rig.lanes.available(rig.queue, 2) == 2
    assert rig.lanes.take_batch(rig.queue, 2) == [a0, a1]
    assert rig.lanes.take_batch(rig.queue, 2) == [b3]
    rig.lanes.done(a0)
    rig.lanes.done(a1)
    assert rig.lanes.take_batch(rig.queue, 2) == [a2]


def test_of_a_batch_the_failed_one_and_those_behind_it_stay_in_their_lane() -> None:
    rig = Rig(Batch(size=10))
    a0, a1, a2, b3 = rig.put("a", "a", "a", "b")
    rig.lanes.take_batch(rig.queue, 10)
    rig.lanes.done(a0)
    rig.lanes.alone(a1)
    assert (rig.lanes.running, rig.lanes.waiting) == (2, 1)
    rig.lanes.again(a1, 5.0)
    rig.lanes.done(b3)
    assert rig.lanes.take_batch(rig.queue, 10) == []
    rig.lanes.wake(5.0)
    assert rig.lanes.take_batch(rig.queue, 10) == [a1, a2]
    assert rig.settled() == [0, 3]


def test_one_that_is_to_be_tried_alone_is_alone() -> None:
    rig = Rig(Batch(size=10, wait=timedelta(seconds=9)))
    a0, a1, b2 = rig.put("a", "a", "b")
    a0.alone = True
    assert rig.lanes.available(rig.queue, 10) == 10
    assert rig.lanes.take_batch(rig.queue, 10) == [a0]
    assert rig.lanes.take_batch(rig.queue, 10) == [b2]
    rig.lanes.done(a0)
    assert rig.lanes.take_batch(rig.queue, 10) == [a1]


def test_what_was_not_handled_after_all_is_taken_again(rig: Rig) -> None:
    first, second = rig.put("a", "a")
    rig.take()
    rig.lanes.back(first)
    assert rig.take_all() == [first]
    rig.lanes.done(first)
    assert rig.take_all() == [second]


def test_a_halted_lane_starts_nothing_more(rig: Rig) -> None:
    first, _, other = rig.put("a", "a", "b")
    rig.take()
    rig.lanes.halt(first)
    assert rig.take_all() == [other]
    assert rig.lanes.wake(1e9) is None
    assert (rig.lanes.running, rig.lanes.waiting) == (1, 2)


def test_queues_are_told_when_they_grow(rig: Rig) -> None:
    first, _ = rig.put("a", "a")
    assert rig.grown == 1
    rig.take()
    rig.lanes.done(first)
    assert rig.grown == 2

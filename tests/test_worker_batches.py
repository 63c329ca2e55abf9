"""Handlers that take lists: sizes, waits, and failures of some or of all."""

from __future__ import annotations

import threading
from collections import Counter, defaultdict
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest

from eventbus_core import Batch, BatchFailed, Event, Retry, Worker
from eventbus_core.subscriptions import Options
from tests.waiting import wait_until
from tests.worker_fixtures import World, world
from tests.worker_journal import Job

__all__ = ["world"]

QUICK = Retry(attempts=3, first_delay=timedelta(seconds=0.05), max_delay=timedelta(seconds=0.1), outage=(OSError,))


class Seen:
    """What a batch handler was called with, and did."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.calls: list[list[Event[Job]]] = []
        self.done: dict[str | None, list[int]] = defaultdict(list)

    def call(self, events: list[Event[Job]]) -> None:
        with self.lock:
            self.calls.append(events)

    def finish(self, *events: Event[Job]) -> None:
        with self.lock:
            for event in events:
                self.done[event.data.key].append(event.data.seq)

    @property
    def count(self) -> int:
        with self.lock:
            return sum(map(len, self.done.values()))

    @property
    def attempts(self) -> Counter[int]:
        return Counter(event.data.seq for call in self.calls for event in call)


def _run(world: World, handler: Callable[[list[Event[Job]]], Any], batch: Batch, **options: Any) -> Worker:
    bus = world.open_bus()
    chosen: Options = {"topics": [world.topic], "retry": QUICK, **options}  # type: ignore[typeddict-item]
    bus.subscribe(Job, group=world.group, batch=batch, **chosen)(handler)
    return Worker(bus)


@pytest.mark.parametrize("asynchronous", [False, True], ids=["plain", "async"])
def test_lists_are_as_large_as_allowed_and_in_order(world: World, asynchronous: bool) -> None:
    world.publish(*world.jobs(200, keys=5))
    seen = Seen()

    def handle(events: list[Event[Job]]) -> None:
        seen.call(events)
        seen.finish(*events)

    async def handle_async(events: list[Event[Job]]) -> None:
        handle(events)

    with _run(world, handle_async if asynchronous else handle, Batch(size=30)):
        wait_until(lambda: seen.count == 200, 20, what="all")
        world.wait_settled()
    assert max(map(len, seen.calls)) <= 30
    assert len(seen.calls) < 60
    assert all(done == sorted(done) for done in seen.done.values())


def test_few_events_wait_no_longer_than_stated(world: World) -> None:
    seen = Seen()

    def handle(events: list[Event[Job]]) -> None:
        seen.finish(*events)

    with _run(world, handle, Batch(size=1000, wait=timedelta(seconds=0.3))):
        world.publish(*world.jobs(3))
        wait_until(lambda: seen.count == 3, 20, what="the three")


def test_a_failed_event_and_the_later_ones_of_its_key_are_not_done(world: World) -> None:
    world.publish(*world.jobs(60, keys=3))
    seen = Seen()
    failed: set[int] = set()

    def handle(events: list[Event[Job]]) -> None:
        seen.call(events)
        bad = {event: ValueError("no") for event in events if event.data.seq % 10 == 4 and event.attempt == 1}
        failed.update(event.data.seq for event in bad)
        held: set[str | None] = set()
        for event in events:
            if event in bad:
                held.add(event.data.key)
            if event.data.key not in held:
                seen.finish(event)
        if bad:
            raise BatchFailed(bad)

    with _run(world, handle, Batch(size=20)):
        wait_until(lambda: seen.count == 60, 20, what="all")
        world.wait_settled()
    assert failed == {4, 14, 24, 34, 44, 54}
    assert seen.done == {f"k{key}": list(range(key, 60, 3)) for key in range(3)}


def test_a_poisonous_event_of_a_list_costs_only_itself(world: World) -> None:
    world.publish(*world.jobs(30, keys=3))
    seen = Seen()

    def handle(events: list[Event[Job]]) -> None:
        seen.call(events)
        if any(event.data.seq == 7 for event in events):
            raise ValueError("something in here")
        seen.finish(*events)

    with _run(world, handle, Batch(size=10)):
        wait_until(lambda: seen.count == 29, 30, what="all but one")
        world.wait_settled()
    assert [job.seq for job in world.dead_letters()] == [7]
    assert seen.done["k1"] == [seq for seq in range(1, 30, 3) if seq != 7]
    assert seen.attempts[7] == 3


def test_an_outage_costs_a_list_no_attempts(world: World) -> None:
    world.publish(*world.jobs(20, keys=3))
    seen = Seen()
    database = threading.Event()

    def handle(events: list[Event[Job]]) -> None:
        seen.call(events)
        if not database.is_set():
            raise ConnectionError("away")
        seen.finish(*events)

    with _run(world, handle, Batch(size=10)):
        wait_until(lambda: len(seen.calls) > 12, 30, what="some tries")
        database.set()
        wait_until(lambda: seen.count == 20, 30, what="all")
    assert {event.attempt for call in seen.calls for event in call} == {1}


def test_what_is_no_event_is_sorted_out_of_a_list(world: World) -> None:
    world.publish(*world.jobs(3, keys=1))
    with world.bus.producer() as producer:
        producer.send(world.topic, b"?", key=b"k0").result(20)
    world.publish(*world.jobs(3, keys=1, begin=3))
    seen = Seen()

    def handle(events: list[Event[Job]]) -> None:
        seen.finish(*events)

    with _run(world, handle, Batch(size=10)):
        wait_until(lambda: seen.count == 6, 20, what="the six")
        world.wait_settled()
    assert seen.done["k0"] == [0, 1, 2, 3, 4, 5]
    assert [each.record.value for each in world.bus.read(f"{world.topic}.{world.group}.dlq")] == [b"?"]

"""How a worker ends when something in it breaks, and that its end does not wait for what nothing becomes of."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest

from eventbus_core import Batch, Delivery, Event, Hooks, Retry, Unavailable, UsageError, Worker
from eventbus_core.dead_letters.parking import ParkedKeys
from eventbus_core.memory import MemoryBackend
from eventbus_core.worker.group import GroupRunner
from eventbus_core.worker.intakes import Intakes
from tests.waiting import wait_until
from tests.worker_fixtures import World, world
from tests.worker_journal import Job

__all__ = ["world"]

in_memory = pytest.mark.parametrize("world", ["memory"], indirect=True)
ONCE = Retry(attempts=1)


def _worker(world: World, handler: Callable[..., Any], *hooks: Hooks, **options: Any) -> Worker:
    bus = world.open_bus(*hooks)
    bus.subscribe(Job, group=world.group, topics=[world.topic], **options)(handler)
    worker = Worker(bus)
    worker.start()
    return worker


def _leave(_: object) -> None:
    sys.exit("enough")


async def _leave_async(_: object) -> None:
    sys.exit("enough")


@in_memory
@pytest.mark.parametrize("handler", [_leave, _leave_async], ids=["plain", "async"])
@pytest.mark.parametrize("batch", [None, Batch(size=3)], ids=["events", "lists"])
@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_handler_that_leaves_ends_the_worker_at_once(
    world: World, handler: Callable[..., Any], batch: Batch | None
) -> None:
    worker = _worker(world, handler, batch=batch)
    world.publish(*world.jobs(5))
    wait_until(lambda: not worker.healthy, 10, what="the worker to fail")
    began = time.monotonic()
    with pytest.raises(SystemExit, match="enough"):
        worker.stop()
    assert time.monotonic() - began < 5  # not drain_seconds
    assert world.lag() == 5


@in_memory
def test_a_handler_that_says_stop_at_most_once_ends_the_worker_at_once(world: World) -> None:
    def fail(_: object) -> None:
        raise ValueError("no")

    world.publish(*world.jobs(5, keys=1))
    worker = _worker(world, fail, delivery="at_most_once", on_failure="stop")
    wait_until(lambda: not worker.healthy, 10, what="the worker to fail")
    began = time.monotonic()
    with pytest.raises(Exception, match="ValueError: no"):
        worker.stop()
    assert time.monotonic() - began < 5


class _Raises(Hooks):
    def dead_lettered(self, delivery: Delivery, error: Exception | None) -> None:
        raise RuntimeError("a hook that raises")


@in_memory
@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_hook_that_raises_beside_a_dead_letter_ends_the_worker(world: World) -> None:
    """It runs in the producer's thread, where what is raised would only be logged, and the key wait for ever."""

    def fail(_: object) -> None:
        raise ValueError("no")

    worker = _worker(world, fail, _Raises(), retry=ONCE)
    world.publish(*world.jobs(1))
    wait_until(lambda: not worker.healthy, 10, what="the worker to fail")
    with pytest.raises(RuntimeError, match="a hook that raises"):
        worker.stop(1.0)


@in_memory
@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_dead_letters_are_stored_by_another_producer_when_theirs_breaks(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(_: object) -> None:
        raise ValueError("no")

    opened: list[object] = []
    open_producer = MemoryBackend.producer

    class Broken:
        def send(self, _: object) -> None:
            raise RuntimeError("a defect of the backend")

        def close(self) -> None: ...

    def broken_once(self: Any, **options: Any) -> Any:
        opened.append(self)
        return Broken() if len(opened) == 1 else open_producer(self, **options)

    world.publish(*world.jobs(3, keys=1))
    monkeypatch.setattr(MemoryBackend, "producer", broken_once)
    retry = Retry(attempts=1, first_delay=timedelta(milliseconds=10))
    with _worker_context(world, fail, retry=retry):
        wait_until(lambda: len(world.dead_letters()) == 3, 15, what="the dead letters")
        world.wait_settled()


def _worker_context(world: World, handler: Callable[..., Any], **options: Any) -> Worker:
    bus = world.open_bus()
    bus.subscribe(Job, group=world.group, topics=[world.topic], **options)(handler)
    return Worker(bus)


@in_memory
def test_nothing_is_handled_while_it_is_not_known_which_keys_are_parked(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    tried: list[object] = []

    def away(*_: object) -> None:
        tried.append(None)
        raise Unavailable("the broker is away")

    finish = GroupRunner._finish

    def finish_late(runner: GroupRunner) -> None:
        time.sleep(0.5)  # so that what was offered begins
        finish(runner)

    monkeypatch.setattr(ParkedKeys, "load", away)
    monkeypatch.setattr(GroupRunner, "_finish", finish_late)
    world.publish(*world.jobs(20))
    handled: list[object] = []
    worker = _worker(world, handled.append, on_failure="park_key")
    wait_until(lambda: tried, 10, what="the worker to ask")
    assert worker.stop(5.0) == 0
    assert handled == []
    assert world.lag() == 20


@in_memory
def test_at_most_once_loses_nothing_while_the_broker_is_away(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    flush = Intakes.flush
    refused: list[object] = []

    def away_twice(self: Intakes, timeout: float) -> int:
        if len(refused) < 2:
            refused.append(None)
            raise Unavailable("no broker for 30 s (still trying)")
        return flush(self, timeout)

    monkeypatch.setattr(Intakes, "flush", away_twice)
    world.publish(*world.jobs(20))
    world.worker(options={"delivery": "at_most_once"}, retry_is_stated=False)
    world.wait_handled(20)


@in_memory
def test_only_a_worker_that_runs_can_drain(world: World) -> None:
    bus = world.open_bus()
    bus.subscribe(Job, group=world.group, topics=[world.topic])(lambda _: None)
    with pytest.raises(UsageError, match="start it before"):
        Worker(bus).drain(1.0)


@in_memory
def test_draining_takes_parked_events_for_handled(world: World) -> None:
    def fail(event: Event[Job]) -> None:
        raise ValueError(event.data.seq)

    world.publish(*world.jobs(20, keys=2))
    worker = _worker(world, fail, retry=ONCE, on_failure="park_key")
    worker.drain(20)
    assert len(world.dead_letters()) == 20


@in_memory
def test_a_lone_event_is_settled_soon_after_its_handler(world: World) -> None:
    """Redriving waits for it after each event of a key."""
    world.worker()
    took: list[float] = []
    for job in world.jobs(9):
        world.publish(job)
        world.wait_handled(job.seq + 1)
        began = time.monotonic()
        wait_until(lambda: world.lag() == 0, 10, every=0.005, what="lag 0")
        took.append(time.monotonic() - began)
    assert sorted(took)[len(took) // 2] < 0.15, took


@in_memory
def test_redriven_events_that_cannot_be_read_do_not_stop_the_others(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A broker may be away for one topic's partitions only."""

    def away(*_: object) -> None:
        raise Unavailable("no broker for 31 s (still trying)")

    worker = world.worker()
    (runner,) = worker._runners
    assert runner._intake is not None
    monkeypatch.setattr(runner._intake._redrive, "receive", away)
    world.publish(*world.jobs(5))
    world.wait_handled(5)
    world.wait_settled()

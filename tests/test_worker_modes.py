"""At most once, parked keys, keyless order, hooks, draining, bytes."""

from __future__ import annotations

import logging
import threading
from collections import Counter, defaultdict
from collections.abc import Callable
from contextvars import ContextVar
from typing import Any

import pytest

from eventbus_core import Delivery, Event, EventBus, Hooks, UsageError, Worker
from eventbus_core.subscriptions import Keyless, Options
from tests.waiting import wait_until
from tests.worker_fixtures import World, world
from tests.worker_journal import Job, overlaps, reordered

__all__ = ["world"]


def _worker(world: World, handler: Callable[[Event[Job]], Any], bus: EventBus | None = None, **options: Any) -> Worker:
    bus = bus or world.open_bus()
    chosen: Options = {"topics": [world.topic], **options}  # type: ignore[typeddict-item]
    bus.subscribe(Job, group=world.group, **chosen)(handler)
    return Worker(bus)


def test_at_most_once_acks_before_it_handles(world: World) -> None:
    world.publish(*world.jobs(40))
    unsettled: list[int] = []

    def handle(event: Event[Job]) -> None:
        if event.data.seq % 10 == 0:
            done = len(world.journal.seqs())
            unsettled.append(world.lag() + done)
        world.journal.note("end", "m", event)

    with _worker(world, handle, delivery="at_most_once", concurrency=4):
        world.wait_handled(40)
    # Neither what was done nor what was being handled was in the group's lag.
    assert max(unsettled) < 40
    assert sorted(world.journal.seqs()) == list(range(40))
    assert reordered(world.journal.entries()) == []


def test_at_most_once_a_killed_worker_loses_what_it_had_begun_and_no_more(world: World) -> None:
    world.publish(*world.jobs(60, keys=12))
    options = {"delivery": "at_most_once"}
    first = world.process(pace_seconds=0.2, concurrency=4, max_unacked=10, options=options, retry_is_stated=False)
    world.wait_handled(8)
    first.kill()
    begun = {each.seq for each in world.journal.entries("begin")}
    second = world.process(options=options, retry_is_stated=False)
    wait_until(lambda: world.lag() == 0, 40, every=0.2, what="lag 0")
    wait_until(lambda: len(world.journal.handled()) >= 60 - 10, 20, what="nearly all")
    assert second.terminate() == 0, second.output  # it finishes all that it has acked
    counts = Counter(each.seq for each in world.journal.entries("begin"))
    assert max(counts.values()) == 1
    unseen = set(range(60)) - set(counts)
    assert len(unseen) <= 10, "acked and waiting to begin"
    assert set(range(60)) - {seq for _, seq in world.journal.handled()} <= begun | unseen


def test_at_most_once_a_failed_event_is_not_tried_again(world: World) -> None:
    world.publish(Job(key="k", seq=0, do="raise"), Job(key="k", seq=1))
    world.worker(options={"delivery": "at_most_once"}, retry_is_stated=False)
    world.wait_handled(1)
    wait_until(world.dead_letters, 10, what="the dead letter")
    assert [each.seq for each in world.dead_letters()] == [0]
    assert world.journal.seqs("begin") == [0, 1]


def test_later_events_of_a_parked_key_follow_it_in_order(world: World) -> None:
    world.publish(Job(key="bad", seq=0, do="raise"), *[Job(key="bad", seq=seq) for seq in range(1, 5)])
    world.publish(*[Job(key="good", seq=seq) for seq in range(5, 10)])
    first = world.worker(attempts=1, options={"on_failure": "park_key"})
    world.wait_handled(5)
    world.wait_settled()
    first.stop()
    world.worker(attempts=1, options={"on_failure": "park_key"})  # it learns what is parked
    world.publish(Job(key="bad", seq=10), Job(key="good", seq=11))
    world.wait_handled(6)
    world.wait_settled()
    assert [each.seq for each in world.dead_letters()] == [0, 1, 2, 3, 4, 10]
    assert sorted(world.journal.seqs()) == [5, 6, 7, 8, 9, 11]


def test_what_is_sent_back_is_handled_by_this_group_in_the_lane_of_its_key(world: World) -> None:
    world.worker(pace_seconds=0.01)
    back = f"{world.topic}.{world.group}.redrive"
    for job in world.jobs(40, keys=2):
        world.bus.publish(job, topic=back if job.seq % 4 < 2 else world.topic)
    world.wait_handled(40)
    assert overlaps(world.journal.entries()) == []


def test_records_without_a_key_run_at_once_or_in_the_order_of_their_partition(world: World) -> None:
    running: Counter[tuple[str, int]] = Counter()
    most: Counter[str] = Counter()
    seen: dict[tuple[str, int], list[Any]] = defaultdict(list)
    lock = threading.Lock()

    def handler(mode: str) -> Callable[[Event[Job]], None]:
        def handle(event: Event[Job]) -> None:
            assert event.delivery is not None
            place = mode, event.delivery.partition
            with lock:
                running[place] += 1
                most[mode] = max(most[mode], running[place])
                seen[place].append(event.delivery.position)
            threading.Event().wait(0.01)
            with lock:
                running[place] -= 1

        return handle

    bus = world.open_bus()
    modes: tuple[Keyless, Keyless] = ("parallel", "partition")
    for mode in modes:
        bus.subscribe(Job, group=f"{world.group}-{mode}", topics=[world.topic], keyless=mode)(handler(mode))
    world.publish(*[Job(key=None, seq=seq) for seq in range(100)])
    with Worker(bus):
        wait_until(lambda: sum(map(len, seen.values())) >= 200, 30, what="all, twice")
    assert most["parallel"] > 1
    assert most["partition"] == 1
    assert all(places == sorted(places) for (mode, _), places in seen.items() if mode == "partition")


class Told(Hooks):
    def __init__(self) -> None:
        self.calls: Counter[str] = Counter()
        self.errors: list[str] = []
        for name in ("received", "started", "finished", "retried", "dead_lettered"):
            setattr(self, name, self._counting(name))

    def _counting(self, name: str) -> Callable[..., None]:
        def count(*_: Any) -> None:
            self.calls[name] += 1

        return count

    def acked(self, group: str, count: int) -> None:
        self.calls["acked"] += count

    def dropped(self, delivery: Delivery, error: Exception) -> None:
        raise AssertionError


def test_hooks_are_told_of_every_step_and_lines_carry_the_same_fields(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    told = Told()
    bus = world.open_bus(told)
    world.publish(Job(key="k", seq=0, do="raise"), *[Job(key="k", seq=seq) for seq in range(1, 6)])
    with caplog.at_level(logging.WARNING, "eventbus.worker"):
        world.worker(bus=bus, attempts=2)
        world.wait_handled(5)
        world.wait_settled()
        wait_until(lambda: told.calls["acked"] == 6, 5, what="all acked")
    assert told.calls == {
        "received": 6, "started": 7, "finished": 5, "retried": 1, "dead_lettered": 1, "acked": 6
    }  # fmt: skip
    retried, given_up = [each for each in caplog.records if getattr(each, "error_type", None) == "ValueError"]
    for line, attempt in ((retried, 1), (given_up, 2)):
        assert (line.group, line.topic, line.attempt) == (world.group, world.topic, attempt)  # type: ignore[attr-defined]
        assert (line.event_type, line.key, line.error_type) == ("test.worker.job.v1", "k", "ValueError")  # type: ignore[attr-defined]


def test_draining_handles_what_is_there_and_stops(world: World) -> None:
    world.publish(Job(key="k0", seq=0, do="raise"), *world.jobs(50, begin=1))
    bus = world.open_bus()
    world.service(attempts=2).declare(bus, world.journal)
    worker = Worker(bus)
    worker.start()
    worker.drain(30)
    assert len(world.journal.handled()) == 50
    assert world.lag() == 0
    assert not worker.healthy


def test_draining_says_so_when_the_time_is_too_short(world: World) -> None:
    world.publish(Job(key="k", seq=0, do="sleep 3"))
    worker = world.worker()
    with pytest.raises(TimeoutError, match=f"{world.topic} \\({world.group}\\)"):
        worker.drain(0.5)


def test_a_worker_is_started_once(world: World) -> None:
    worker = world.worker()
    with pytest.raises(UsageError, match="started before"):
        worker.start()
    assert worker.stop() == 0
    assert worker.stop() == 0
    assert not worker.healthy


def test_large_events_are_bounded_by_their_bytes(world: World) -> None:
    gate = world.folder / "gate"
    world.publish(*world.jobs(1, do=f"wait {gate}"))
    (first,) = (each.record for each in world.bus.read(world.topic))
    assert first.value is not None
    with world.bus.producer() as producer:
        for number in range(60):
            record = first._replace(key=b"k%d" % number, value=first.value + b" " * 500_000)
            producer.send_record(record, 500_000, 60.0)
        assert producer.flush(60) == 0
    bus = world.open_bus()
    world.service().declare(bus, world.journal)
    held: list[int] = []
    with Worker(bus, max_bytes=3_000_000) as worker:
        wait_until(lambda: len(world.journal.entries("begin")) > 3, 20, what="some to begin")
        (runner,) = worker._runners

        def look() -> bool:
            held.append(runner._lanes.bytes)
            return len(held) > 40

        wait_until(look, 20, what="looking at it")
        gate.touch()
        wait_until(lambda: len(world.journal.seqs()) >= 61, 60, every=0.2, what="all")
    assert max(held) < 6_000_000


def test_what_a_handler_puts_into_its_context_is_gone_with_the_event(world: World) -> None:
    tenant: ContextVar[str] = ContextVar("tenant", default="nobody")
    found: list[str] = []

    def handle(event: Event[Job]) -> None:
        found.append(tenant.get())
        tenant.set("somebody")

    world.publish(*world.jobs(20, keys=1))
    with _worker(world, handle):
        wait_until(lambda: len(found) == 20, 20, what="all")
    assert set(found) == {"nobody"}

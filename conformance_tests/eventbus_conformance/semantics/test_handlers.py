"""Workers under load of their own making: retries, slow handlers, and a clean end."""

from __future__ import annotations

import asyncio
import threading
import time
from datetime import timedelta
from itertools import accumulate

from eventbus_conformance.clauses import clause
from eventbus_conformance.copying import copier, die_copying
from eventbus_conformance.fixtures import NewTopic, OpenDesk
from eventbus_conformance.handlers import Call, Job
from eventbus_conformance.harness import Bounds
from eventbus_conformance.waiting import wait_until
from eventbus_core import Event, EventBus, Retry, Worker
from eventbus_core.capabilities import Capabilities, Reach

OTHERS = range(100, 140)
FOR_LONG = Retry(attempts=1000, first_delay=timedelta(seconds=0.02), max_delay=timedelta(seconds=0.1))


@clause("W7")
def test_a_retry_keeps_its_key_waiting_and_no_other(new_topic: NewTopic, open_desk: OpenDesk) -> None:
    desk = open_desk(new_topic(1))

    def act(event: Event[Job]) -> None:
        if event.data.number == 0 and not set(OTHERS) <= set(desk.handled()):
            raise ValueError("not before all others")

    desk.publish(("bad", 0), ("bad", 1), ("bad", 2), *((f"key-{number % 4}", number) for number in OTHERS))
    desk.start(act, retry=FOR_LONG)
    desk.wait_handled(0, 1, 2, *OTHERS)
    tries = desk.calls(0)
    assert [each.attempt for each in tries] == list(range(1, len(tries) + 1))
    assert len(tries) > 1, "it never failed: nothing shown"
    assert desk.handled("bad") == [0, 1, 2]
    assert min(each.began for each in desk.calls(1, 2)) >= tries[-1].ended
    for key in range(4):
        own = desk.handled(f"key-{key}")
        assert own == sorted(own)


@clause("W8")
def test_a_slow_handler_keeps_its_partition(
    topic: str, open_desk: OpenDesk, capabilities: Capabilities, bounds: Bounds
) -> None:
    desk = open_desk(topic)
    go_on, running = threading.Event(), threading.Event()

    def act(event: Event[Job]) -> None:
        if event.data.number == 0:
            running.set()
            assert go_on.wait(capabilities.max_takeover_seconds + bounds.recover)

    desk.publish(("slow", 0), ("slow", 1))
    worker = desk.start(act)
    assert running.wait(bounds.deliver)
    began = time.monotonic()
    others = range(2, 42)
    desk.publish(*((f"key-{number % 8}", number) for number in others))
    desk.wait_handled(*others)
    long = capabilities.max_takeover_seconds + 1
    wait_until(lambda: time.monotonic() - began > long, long + 5, every=0.1, what="longer than any lease")
    assert desk.handled("slow") == []
    go_on.set()
    desk.wait_handled(0, 1)
    desk.wait_settled()
    assert [each.number for each in desk.calls(0, 1)] == [0, 1], "handled twice"
    assert worker.healthy


@clause("W9")
def test_stopping_finishes_what_runs_and_leaves_the_rest_to_the_next(topic: str, open_desk: OpenDesk) -> None:
    desk = open_desk(topic)
    go_on, running = threading.Event(), threading.Semaphore(0)

    def act(_: Event[Job]) -> None:
        running.release()
        go_on.wait(30)
        threading.Event().wait(0.2)  # or all may be done before the worker is told to stop

    numbers = range(40)
    desk.publish(*((f"key-{number % 8}", number) for number in numbers))
    worker = desk.start(act, concurrency=4)
    assert all(running.acquire(timeout=30) for _ in range(4))
    threading.Timer(0.3, go_on.set).start()
    assert worker.stop(30) == 0
    finished = desk.handled()
    assert 4 <= len(finished) < len(numbers), "everything was done: nothing shown"
    assert desk.lag() == len(numbers) - len(finished)
    desk.start(lambda _: None)
    desk.wait_handled(*numbers)
    desk.wait_settled()
    assert sorted(desk.handled()) == list(numbers), "handled twice"


@clause("W11")
def test_no_more_run_at_once_than_concurrency_says(topic: str, open_desk: OpenDesk) -> None:
    desk, numbers = open_desk(topic), range(40)

    def act(_: Event[Job]) -> None:
        threading.Event().wait(0.05)

    desk.publish(*((f"key-{number}", number) for number in numbers))
    desk.start(act, concurrency=3)
    desk.wait_handled(*numbers)
    assert _most_at_once(desk.calls()) == 3


def _most_at_once(calls: list[Call]) -> int:
    """How many calls ran at the same time at most."""
    steps = sorted([(each.began, 1) for each in calls] + [(each.ended, -1) for each in calls])
    return max(accumulate(step for _, step in steps))


@clause("W12")
def test_a_handler_that_is_cancelled_acks_nothing(
    new_topic: NewTopic, open_desk: OpenDesk, bus_url: str, bounds: Bounds
) -> None:
    desk = open_desk(new_topic(1))
    running, cancelled = threading.Event(), threading.Event()
    desk.publish(("k", 0), ("k", 1))
    with EventBus(bus_url) as bus:

        @bus.subscribe(Job, group=desk.group, topics=[desk.topic])
        async def handle(event: Event[Job]) -> None:  # noqa: ARG001
            running.set()
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                cancelled.set()
                raise

        worker = Worker(bus)
        worker.start()
        assert running.wait(bounds.deliver)
        assert worker.stop(0.2) == 1
    assert cancelled.wait(bounds.close)
    assert desk.lag() == 2
    desk.start(lambda _: None)
    desk.wait_handled(0, 1)
    assert desk.handled() == [0, 1]


@clause("W10")
def test_what_a_handler_publishes_and_its_ack_are_stored_together_whatever_dies(
    new_topic: NewTopic, open_desk: OpenDesk, bus_url: str, capabilities: Capabilities, bounds: Bounds
) -> None:
    source, target = new_topic(2), new_topic(2)
    desk, numbers = open_desk(source), range(400)
    desk.publish(*((f"key-{number % 16}", number) for number in numbers))
    process = capabilities.reach is not Reach.PROCESS
    for _ in range(2):
        die_copying(bus_url, source, target, desk.group, 100, bounds, process=process)
    assert desk.lag() >= 200, "more was settled than was handled"
    with EventBus(bus_url) as bus, copier(bus, source, target, desk.group):
        desk.wait_settled()
    copied = [desk.bus.decode(each, Job).data for each in desk.bus.read(target)]
    assert sorted(job.number for job in copied) == list(numbers), "not each exactly once"
    for key in {job.key for job in copied}:
        own = [job.number for job in copied if job.key == key]
        assert own == sorted(own), f"{key} out of order"

"""Closing, from whatever state."""

from __future__ import annotations

import gc
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from eventbus_conformance.clauses import NotProven, clause
from eventbus_conformance.fixtures import OpenBus
from eventbus_conformance.harness import Bounds
from eventbus_conformance.receiving import take
from eventbus_conformance.waiting import wait_until
from eventbus_core import EventBus
from eventbus_core.errors import Closed
from eventbus_core.records import Stored


@clause("S3")
def test_what_is_closed_refuses_and_closing_again_does_nothing(
    open_bus: OpenBus, topic: str, group: str, bounds: Bounds
) -> None:
    bus = open_bus()
    producer, consumer, admin = bus.producer(), bus.consumer(topic, group=group), bus.admin()
    producer.send(topic, b"v", key=b"k").result(bounds.deliver)
    delivery = take(consumer, 1, bounds.deliver)[0]
    producer.close()
    consumer.close()
    bus.close(bounds.close)
    started = time.monotonic()
    for close in (producer.close, consumer.close, bus.close):
        close()
    assert time.monotonic() - started < 1
    refused: list[Callable[[], object]] = [
        lambda: producer.send(topic, b"late"),
        lambda: consumer.receive(timeout=0),
        lambda: consumer.ack(delivery),
        lambda: consumer.flush(0),
        admin.topics,
        bus.producer,
        lambda: bus.consumer(topic, group=group),
        bus.admin,
    ]
    for call in refused:
        with pytest.raises(Closed):
            call()


@clause("S3")
def test_closing_ends_a_waiting_receive(open_bus: OpenBus, topic: str, group: str, bounds: Bounds) -> None:
    consumer = open_bus().consumer(topic, group=group)
    ended = _in_thread(lambda: consumer.receive(timeout=bounds.deliver))
    assert not ended(0.3), "receive did not wait: nothing shown"
    started = time.monotonic()
    consumer.close()
    raised = ended(bounds.close)
    assert time.monotonic() - started < bounds.close
    assert isinstance(raised[0], Closed)


@clause("S10")
def test_closing_ends_a_send_that_waits_for_room(
    open_bus: OpenBus, unreachable_url: str, topic: str, bounds: Bounds
) -> None:
    producer = open_bus(unreachable_url, send_buffer_records=5).producer()
    for number in range(5):
        producer.send(topic, str(number).encode())
    ended = _in_thread(lambda: producer.send(topic, b"one too many", wait_seconds=bounds.deliver))
    assert not ended(0.3), "send did not wait: nothing shown"
    started = time.monotonic()
    producer.close(0.2)
    raised = ended(bounds.close)
    assert time.monotonic() - started < bounds.close
    assert isinstance(raised[0], Closed)


@clause("S4")
def test_closing_gives_everything_back(bus_url: str, topic: str, group: str, bounds: Bounds) -> None:
    proc = Path("/proc/self")
    if not proc.exists():
        raise NotProven("threads and descriptors are counted in /proc, which is not here")

    def counts() -> tuple[int, int]:
        gc.collect()
        return len(list((proc / "task").iterdir())), len(list((proc / "fd").iterdir()))

    def use(number: int) -> tuple[int, int]:
        with EventBus(bus_url) as bus, bus.producer() as producer, bus.consumer(topic, group=group) as consumer:
            producer.send(topic, str(number).encode(), key=b"k")
            take(consumer, 1, bounds.deliver, ack=True)
            return counts()

    use(0)  # what libraries keep for the whole process is opened now
    before = counts()
    at_work = [use(number) for number in (1, 2, 3)]
    assert max(at_work) > before, "nothing was open while the bus was: nothing shown"
    wait_until(
        lambda: all(now <= then for now, then in zip(counts(), before, strict=True)),
        bounds.close,
        every=0.2,
        what=f"threads and descriptors are back to {before}, from {max(at_work)}",
    )


@clause("S7")
def test_what_was_opened_before_a_fork_refuses_to_work_after(bus: EventBus, bus_url: str, topic: str) -> None:
    command = [sys.executable, "-m", "eventbus_conformance.forked", bus_url, topic]
    done = subprocess.run(command, capture_output=True, text=True, timeout=90, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    said = done.stdout.splitlines()
    assert said == ["send Forked", "flush Forked", "receive Forked", "own stored", "parent stored"]
    assert [each.record.value for each in bus.read(topic)] == [b"parent", b"child", b"parent again"]


@clause("S2")
def test_closing_the_bus_settles_what_its_producers_took(open_bus: OpenBus, topic: str, bounds: Bounds) -> None:
    bus = open_bus()
    receipts = [bus.producer().send(topic, str(number).encode(), key=b"k") for number in range(50)]
    bus.close(bounds.close)
    assert all(isinstance(receipt.result(0), Stored) for receipt in receipts)


def _in_thread(call: Callable[[], object]) -> Callable[[float], list[BaseException]]:
    """Make a call in a thread. What comes back waits so long for its end: what it raised, or nothing."""
    raised: list[BaseException] = []

    def make() -> None:
        try:
            call()
        except Exception as error:  # noqa: BLE001  (the test looks at it)
            raised.append(error)

    thread = threading.Thread(target=make, daemon=True)
    thread.start()

    def ended(timeout: float) -> list[BaseException]:
        thread.join(timeout)
        return raised

    return ended

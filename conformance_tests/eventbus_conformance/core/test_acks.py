"""Acks: what sticks, and what comes back."""

from __future__ import annotations

import threading
import time
import uuid
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import NamedTuple

import pytest

from eventbus_conformance.clauses import clause
from eventbus_conformance.crashing import Acks, Received, crash
from eventbus_conformance.fixtures import NewTopic
from eventbus_conformance.harness import Bounds, Harness
from eventbus_conformance.receiving import nothing_more, take, total_lag
from eventbus_conformance.run import Measurements
from eventbus_conformance.sending import send_all
from eventbus_core import EventBus
from eventbus_core.capabilities import Capabilities, Reach
from eventbus_core.errors import Closed, UsageError
from eventbus_core.records import Delivery

RECORDS = 100


def values(deliveries: Iterable[Delivery]) -> list[int]:
    """The records' numbers, in the order received."""
    return [int(each.record.value or b"-1") for each in deliveries]


class Crash:
    """One partition with a hundred records, of which members receive some, ack some, and are killed."""

    def __init__(self, url: str, capabilities: Capabilities, bounds: Bounds) -> None:
        self._url = url
        self._bounds = bounds
        self._process = capabilities.reach is not Reach.PROCESS
        self._takeover = capabilities.max_takeover_seconds
        self._topic = f"conformance-{uuid.uuid4().hex[:12]}"
        self._group = f"group-{uuid.uuid4().hex[:12]}"

    def run(self, left: int, *members: tuple[int, Acks]) -> Crashed:
        """One member after the other receives so many, acks, and dies; then an heir takes what is ``left``."""
        with EventBus(self._url) as bus:
            with bus.admin() as admin:
                admin.create_topic(self._topic, 1)
            send_all(bus, self._topic, RECORDS, keys=1)
            died = [
                crash(self._url, self._topic, self._group, records, acks, self._bounds, process=self._process)
                for records, acks in members
            ]
            return Crashed(died, *self._heir(bus, left))

    def _heir(self, bus: EventBus, expected: int) -> tuple[list[Delivery], float, bool]:
        began = time.monotonic()
        with bus.consumer(self._topic, group=self._group) as consumer:
            first = take(consumer, 1, self._takeover + self._bounds.deliver)
            took = time.monotonic() - began
            rest = take(consumer, expected - 1, self._bounds.deliver)
            quiet = nothing_more(consumer, self._bounds.quiet)
            consumer.ack(*first, *rest)
        return first + rest, took, quiet


class Crashed(NamedTuple):
    """What each member received before it died, and its heir after that: in which time, and whether that was all."""

    members: list[list[Received]]
    heir: list[Delivery]
    takeover_seconds: float
    no_more: bool


class Crashes(NamedTuple):
    """Three of them, under way at once, since each waits for the end of leases."""

    none_acked: Future[Crashed]
    twice: Future[Crashed]
    all_but_first: Future[Crashed]


@pytest.fixture(scope="module")
def crashes(harness: Harness, capabilities: Capabilities, bounds: Bounds) -> Iterator[Crashes]:
    url = harness.url()
    with ThreadPoolExecutor(3) as threads:

        def start(left: int, *members: tuple[int, Acks]) -> Future[Crashed]:
            return threads.submit(Crash(url, capabilities, bounds).run, left, *members)

        yield Crashes(
            none_acked=start(RECORDS, (60, "none")),
            twice=start(RECORDS - 30 - 40, (60, "first half"), (40, "all")),
            all_but_first=start(RECORDS, (RECORDS, "all but first")),
        )


@clause("D2", "D5")
def test_what_was_not_acked_is_delivered_again_after_leaving(
    bus: EventBus, new_topic: NewTopic, group: str, bounds: Bounds
) -> None:
    topic = new_topic(2)
    with bus.producer() as producer:
        for number in range(20):
            producer.send(topic, str(number).encode(), key=b"one")
    with bus.consumer(topic, group=group) as consumer:
        received = take(consumer, 20, bounds.deliver)
        # An ack behind an unacked record must not settle that record.
        consumer.ack(*received[:5], *received[6:])
        assert consumer.flush(bounds.close) == 0
    with bus.consumer(topic, group=group) as consumer:
        again = take(consumer, 15, bounds.deliver)
        assert nothing_more(consumer, bounds.quiet)
        consumer.ack(*again)
    assert [int(each.record.value or b"") for each in again] == list(range(5, 20))
    assert total_lag(bus, group, topic) == 0


@clause("D3")
def test_what_a_killed_member_had_not_acked_is_delivered_again(
    crashes: Crashes, capabilities: Capabilities, bounds: Bounds, measured: Measurements
) -> None:
    crashed = crashes.none_acked.result()
    (received,) = crashed.members
    assert [int(each.value) for each in received] == list(range(60))
    assert values(crashed.heir) == list(range(RECORDS))
    assert crashed.no_more
    assert [str(each.position) for each in crashed.heir[:60]] == [each.position for each in received]
    measured.took("takeover", crashed.takeover_seconds)
    # Joining and receiving are not part of the takeover.
    assert crashed.takeover_seconds < capabilities.max_takeover_seconds + bounds.close


@clause("D4")
def test_acks_stick_though_member_after_member_is_killed(crashes: Crashes) -> None:
    crashed = crashes.twice.result()
    first, second = crashed.members
    acked = {each.position for each in first if each.acked}
    assert len(acked) == 30
    assert [int(each.value) for each in second] == list(range(30, 70)), "not from the first unacked one on"
    assert not {str(each.position) for each in crashed.heir} & (acked | {each.position for each in second})
    assert values(crashed.heir) == list(range(70, RECORDS))
    assert crashed.no_more


@clause("D5")
def test_an_unacked_record_before_acked_ones_comes_back(crashes: Crashes) -> None:
    crashed = crashes.all_but_first.result()
    (received,) = crashed.members
    assert [each.acked for each in received] == [False] + [True] * (RECORDS - 1)
    # Core settles gap-free prefixes, so all of them come back; the first must.
    assert str(crashed.heir[0].position) == received[0].position
    assert crashed.no_more


@clause("D7")
def test_a_failing_handler_acks_nothing_and_the_bus_stays_usable(
    bus: EventBus, topic: str, group: str, bounds: Bounds
) -> None:
    send_all(bus, topic, 30, keys=10)
    handled: list[Delivery] = []

    def handle(delivery: Delivery) -> None:
        if len(handled) == 10:
            raise KeyboardInterrupt
        handled.append(delivery)

    with pytest.raises(KeyboardInterrupt), bus.consumer(topic, group=group) as consumer:
        for delivery in consumer:
            handle(delivery)
            consumer.ack(delivery)
    with bus.consumer(topic, group=group) as consumer:
        again = take(consumer, 20, bounds.deliver, ack=True)
        assert nothing_more(consumer, bounds.quiet)
    places = {(each.partition, each.position) for each in handled}
    assert len(places) == 10
    assert not places & {(each.partition, each.position) for each in again}


@clause("D10")
def test_a_consumer_belongs_to_one_thread(bus: EventBus, topic: str, group: str, bounds: Bounds) -> None:
    raised: list[BaseException] = []
    with bus.consumer(topic, group=group) as consumer:
        consumer.receive(timeout=0.1)

        def use() -> None:
            try:
                consumer.receive(timeout=0.1)
            except UsageError as error:
                raised.append(error)

        thread = threading.Thread(target=use)
        thread.start()
        thread.join(bounds.close)
        assert not thread.is_alive()
        assert len(raised) == 1
        send_all(bus, topic, 1, keys=1)
        assert len(take(consumer, 1, bounds.deliver, ack=True)) == 1, "the owner can no longer use it"
    consumer.close()
    with pytest.raises(Closed):
        consumer.receive()

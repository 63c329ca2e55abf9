"""Redriving dead letters, on every backend."""

from __future__ import annotations

import uuid
from collections.abc import Callable
from datetime import timedelta

import pytest

from eventbus_core import Delivery, Event, EventBus, NotFound, Record, Retry, Unavailable, UsageError, Worker
from eventbus_core.dead_letters.letters import dlq_group, dlq_topic, redrive_topic, size_of
from eventbus_core.dead_letters.queue import DeadLetterQueue
from eventbus_core.dead_letters.redrive import drop, redrive
from tests.brokers import broker
from tests.bus_urls import bus_url
from tests.letting_fail import HEADERS, Member, Raw, send
from tests.waiting import wait_until

BACKENDS = ["memory", "redis", "kafka", "pulsar"]


@pytest.fixture(params=BACKENDS)
def url(request: pytest.FixtureRequest) -> str:
    return f"memory://{uuid.uuid4().hex}" if request.param == "memory" else bus_url(broker(request.param))


@pytest.fixture
def topic(url: str) -> str:
    name = f"redrive-{uuid.uuid4().hex[:10]}"
    with EventBus(url) as bus:
        bus.admin().create_topic(name, 2)
    return name


class Handler:
    """Keeps what it was given; fails for the values that ``bad`` names."""

    def __init__(self, *bad: bytes) -> None:
        self.bad = set(bad)
        self.got: list[Delivery] = []

    def __call__(self, delivery: Delivery) -> None:
        self.got.append(delivery)
        if delivery.record.value in self.bad:
            raise ValueError(f"cannot handle {delivery.record.value!r:.20}")

    @property
    def values(self) -> list[bytes | None]:
        return [each.record.value for each in self.got]


def publish(bus: EventBus, topic: str, *records: tuple[bytes | None, bytes]) -> None:
    with bus.producer() as producer:
        for key, value in records:
            send(producer, topic, [value], key=key)


def letters(bus: EventBus, topic: str, count: int, group: str = "billing") -> DeadLetterQueue:
    """The dead letters, once there are so many."""
    queue = DeadLetterQueue(bus, topic, group)

    def there() -> bool:
        queue.refresh()
        return len(queue.index.entries()) >= count

    wait_until(there, 30, every=0.1, what=f"{count} dead letters")
    return queue


def test_a_redriven_event_reaches_the_failed_group_only_and_is_the_same_event(url: str, topic: str) -> None:
    failing, other = Handler(b"bad"), Handler()
    with EventBus(url) as bus, Member(url, topic, "billing", failing), Member(url, topic, "mail", other):
        publish(bus, topic, (b"\xff\x00key", b"bad"), (None, b"good"))
        queue = letters(bus, topic, 1)
        wait_until(lambda: len(other.got) == 2, 30, what="the other group has both")
        failing.bad.clear()
        outcome = redrive(queue, timeout=20)
        assert (len(outcome.handled), outcome.failed) == (1, [])
        first, *_, again = [each.record for each in failing.got if each.record.value == b"bad"]
        assert again.topic == redrive_topic(topic, "billing")
        assert (again.key, again.value, again.headers[:-1]) == (first.key, first.value, first.headers)
        assert len(other.got) == 2
        assert DeadLetterQueue(bus, topic, "billing").index.entries() == []
        assert sum(lag.records for lag in bus.admin().lag(dlq_group("billing"), dlq_topic(topic, "billing"))) == 0


def test_a_redrive_stops_after_the_canary_that_fails_again(url: str, topic: str) -> None:
    handler = Handler(b"1", b"2", b"3")
    with EventBus(url) as bus, Member(url, topic, "billing", handler):
        publish(bus, topic, *((b"k%s" % value, value) for value in (b"1", b"2", b"3")))
        queue = letters(bus, topic, 3)
        oldest = queue.index.entries()[0]
        calls = len(handler.got)
        outcome = redrive(queue, canary=1, timeout=20)
        assert [entry.id for entry in outcome.failed] == [oldest.id]
        assert outcome.handled == []
        assert len(handler.got) == calls + 1
        left = DeadLetterQueue(bus, topic, "billing").index.entries()
        assert [len(entry.repeats) for entry in left] == [1, 0, 0]
        assert left[0].id == oldest.id
        assert left[0].latest.again == oldest.id


def test_events_of_a_key_are_redriven_in_order_and_none_after_one_that_fails(url: str, topic: str) -> None:
    values = [b"%d" % number for number in range(6)]
    handler = Handler(*values)
    with EventBus(url) as bus, Member(url, topic, "billing", handler):
        publish(bus, topic, *((b"one key", value) for value in values))
        queue = letters(bus, topic, 6)
        handler.bad = {b"3"}
        handler.got.clear()
        outcome = redrive(queue, canary=5, timeout=20)
        assert handler.values == values[:4]
        assert [len(outcome.handled), len(outcome.failed)] == [3, 1]
        handler.bad.clear()
        handler.got.clear()
        again = redrive(DeadLetterQueue(bus, topic, "billing"), timeout=20)
        assert handler.values == values[3:]
        assert len(again.handled) == 3


def test_what_succeeded_behind_a_failure_is_not_redriven_again(url: str, topic: str) -> None:
    values = [b"%d" % number for number in range(8)]
    handler = Handler(*values)
    with EventBus(url) as bus, Member(url, topic, "billing", handler):
        publish(bus, topic, *((b"key" + value, value) for value in values))
        queue = letters(bus, topic, 8)
        handler.bad = {entry.first.original.key[3:] for entry in queue.index.entries()[:1] if entry.first.original.key}
        outcome = redrive(queue, canary=8, timeout=20)
        assert [len(outcome.handled), len(outcome.failed)] == [7, 1]
        handler.bad.clear()
        handler.got.clear()
        again = DeadLetterQueue(bus, topic, "billing")
        assert len(again.index.entries()) == 1
        redrive(again, timeout=20)
        assert len(handler.got) == 1
        assert DeadLetterQueue(bus, topic, "billing").index.entries() == []


def test_a_dropped_dead_letter_is_gone_and_the_others_stay(url: str, topic: str) -> None:
    values = [b"%d" % number for number in range(4)]
    with EventBus(url) as bus, Member(url, topic, "billing", Handler(*values)):
        publish(bus, topic, *((None, value) for value in values))
        queue = letters(bus, topic, 4)
        entries = queue.index.entries()
        drop(queue, [entries[1], entries[3]])
        left = DeadLetterQueue(bus, topic, "billing")
        assert [entry.id for entry in left.index.entries()] == [entries[0].id, entries[2].id]
        with pytest.raises(NotFound, match="has no dead letter"):
            left.entry(entries[1].id)
        drop(left, left.index.entries())
        assert DeadLetterQueue(bus, topic, "billing").index.entries() == []


def test_a_redrive_without_a_worker_says_so_and_loses_nothing(url: str, topic: str) -> None:
    handler = Handler(b"bad")
    with EventBus(url) as bus:
        with Member(url, topic, "billing", handler):
            publish(bus, topic, (b"key", b"bad"))
            queue = letters(bus, topic, 1)
        with pytest.raises(Unavailable, match="does its worker run"):
            redrive(queue, timeout=1)
        handler.bad.clear()
        handler.got.clear()
        with Member(url, topic, "billing", handler):
            outcome = redrive(DeadLetterQueue(bus, topic, "billing"), timeout=20)
        assert len(outcome.handled) == 1
        # At least once: the one that was left in the redrive topic, and the one of this redrive.
        assert handler.values == [b"bad", b"bad"]


def test_the_largest_record_becomes_a_dead_letter_and_is_redriven(url: str, topic: str) -> None:
    with EventBus(url) as bus:
        key = b"\xff" * 100
        with_headers = Record(topic, None, key, (*HEADERS, ("ce_id", b"0")))
        largest = b"x" * (bus.capabilities.max_record_bytes - size_of(with_headers))
        handler = Handler(largest)
        with Member(url, topic, "billing", handler):
            publish(bus, topic, (key, largest))
            queue = letters(bus, topic, 1)
            handler.bad.clear()
            outcome = redrive(queue, timeout=30)
        assert len(outcome.handled) == 1
        assert [each.record.value == largest and each.record.key == key for each in handler.got] == [True, True]


def test_a_redriven_event_has_its_id_and_all_its_attempts_again(url: str, topic: str) -> None:
    calls: list[tuple[str, int]] = []
    with EventBus(url) as bus:
        retry = Retry(attempts=2, first_delay=timedelta(milliseconds=1))

        @bus.subscribe(Raw, group="billing", topics=(topic,), retry=retry)
        def handle(event: Event[Raw]) -> None:
            calls.append((event.id, event.attempt))
            if len(calls) < 4:
                raise ValueError

        with Worker(bus):
            bus.publish(Event(Raw(b"1"), id="mine"), topic=topic)
            assert len(redrive(letters(bus, topic, 1), timeout=20).handled) == 1
        assert calls == [("mine", 1), ("mine", 2), ("mine", 1), ("mine", 2)]


@pytest.mark.parametrize("wrong", [{"canary": 0}, {"count": 0}, {"rate": 0.0}, {"timeout": 0.0}])
def test_numbers_out_of_range_are_refused(wrong: dict[str, int | float]) -> None:
    with EventBus(f"memory://{uuid.uuid4().hex}") as bus:
        bus.admin().create_topic("orders", 1)
        call: Callable[..., object] = redrive
        with pytest.raises(UsageError, match="at least 1"):
            call(DeadLetterQueue(bus, "orders", "billing"), **wrong)

from __future__ import annotations

import subprocess
import sys
import threading
import uuid
from collections.abc import Callable, Iterator, Sequence
from functools import cache
from pathlib import Path
from typing import Literal

import pytest

from eventbus_core.backend import Assigned, BackendConsumer, Change, Group, Outgoing, Revoking
from eventbus_core.records import Assignment, Delivery, Record, Start, Stored
from eventbus_kafka import KafkaBackend, KafkaSettings
from tests.brokers import Broker, own_kafka
from tests.waiting import wait_until


class Bus:
    """A backend on the real broker and one fresh topic, and short ways to use them."""

    def __init__(
        self, url: str, group_protocol: Literal["classic", "consumer"] = "classic", session_seconds: float = 6.0
    ) -> None:
        self.url = url
        self.topic = f"t-{uuid.uuid4().hex[:12]}"
        self.group = f"g-{self.topic}"
        self.settings = KafkaSettings(
            bootstrap_servers=url, session_timeout_seconds=session_seconds, group_protocol=group_protocol
        )
        self.backend = KafkaBackend(self.settings)
        self.admin = self.backend.admin()

    def consumer(self, member: str = "m1", start: Start = "earliest", drain: float = 10.0) -> BackendConsumer:
        return self.backend.consumer(Group(self.group, (self.topic,), start, member, drain))

    def send(self, records: Sequence[Record]) -> list[Stored]:
        producer = self.backend.producer(max_records=10_000, max_bytes=1 << 24)
        outcomes: dict[int, object] = {}
        producer.send([Outgoing(token, record) for token, record in enumerate(records)])

        def all_settled() -> bool:
            outcomes.update({each.token: each.outcome for each in producer.poll(0.05)})
            return len(outcomes) == len(records)

        wait_until(all_settled, 20, what="all sends settled")
        producer.close()
        stored = [outcomes[token] for token in range(len(records))]
        assert all(isinstance(each, Stored) for each in stored), stored
        return stored  # type: ignore[return-value]

    def numbered(self, first: int, count: int, keys: int = 8) -> list[Record]:
        return [Record(self.topic, b"%d" % n, b"k%d" % (n % keys)) for n in range(first, first + count)]


class Pump:
    """What core does with a consumer, by hand: polls, and remembers."""

    def __init__(self, consumer: BackendConsumer) -> None:
        self.consumer = consumer
        self.changes: list[Change] = []
        self._released: set[Assignment] = set()
        self.deliveries: list[Delivery] = []

    def turn(self, paused: Sequence[Assignment] = (), *, ack: bool = True) -> None:
        polled = self.consumer.poll(500, 0.05, paused)
        self.changes.extend(polled.changes)
        self.deliveries.extend(polled.deliveries)
        if ack and polled.deliveries:
            self.consumer.ack(list({each.assignment: each for each in polled.deliveries}.values()))

    def until(self, predicate: Callable[[], object], timeout: float, what: str, *, ack: bool = True) -> None:
        def turned() -> object:
            self.turn(ack=ack)
            return predicate()

        wait_until(turned, timeout, every=0.001, what=what)

    def release_wanted(self) -> None:
        """Give up what is wanted back, once."""
        for assignment in self.revoking():
            if assignment not in self._released:
                self._released.add(assignment)
                self.consumer.release(assignment)

    def assigned(self) -> list[Assignment]:
        return [each.assignment for each in self.changes if isinstance(each, Assigned)]

    def revoking(self) -> list[Assignment]:
        return [each.assignment for each in self.changes if isinstance(each, Revoking)]

    def values(self) -> list[int]:
        return [int(each.record.value or b"") for each in self.deliveries]


def open_aside(bus: Bus, member: str) -> tuple[threading.Thread, list[BackendConsumer]]:
    """Open a consumer in a thread, as that may have to wait for the test to drain another one."""
    opened: list[BackendConsumer] = []
    thread = threading.Thread(target=lambda: opened.append(bus.consumer(member)))
    thread.start()
    return thread, opened


def victim(bus: Bus, start: str) -> subprocess.Popen[str]:
    """A member in another process, to be killed."""
    arguments = [sys.executable, str(Path(__file__).with_name("member.py")), bus.url, bus.topic, bus.group, start]
    arguments += [bus.settings.group_protocol, str(bus.settings.session_timeout_seconds)]
    process = subprocess.Popen(arguments, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "joined\n"
    process.stdout.close()
    return process


@cache
def quick_groups() -> str:
    """The address of a broker whose groups of the consumer protocol have a session of 6 s: it is the broker's to say.

    The default, 45 s, is also the least that a broker allows by default; so it takes a container of its own.
    """
    return own_kafka(
        KAFKA_GROUP_CONSUMER_MIN_SESSION_TIMEOUT_MS="1000",
        KAFKA_GROUP_CONSUMER_SESSION_TIMEOUT_MS="6000",
        KAFKA_GROUP_CONSUMER_MIN_HEARTBEAT_INTERVAL_MS="500",
        KAFKA_GROUP_CONSUMER_HEARTBEAT_INTERVAL_MS="500",
    )


@pytest.fixture(params=["classic", "consumer"])
def any_bus(request: pytest.FixtureRequest) -> Iterator[Bus]:
    """A bus of each of Kafka's two group protocols."""
    url = request.getfixturevalue("kafka_broker").url if request.param == "classic" else quick_groups()
    bus = Bus(url, request.param)
    bus.admin.create_topic(bus.topic, 4)
    yield bus
    bus.admin.close()


@pytest.fixture
def bus(kafka_broker: Broker) -> Iterator[Bus]:
    bus = Bus(kafka_broker.url)
    bus.admin.create_topic(bus.topic, 4)
    yield bus
    bus.admin.close()

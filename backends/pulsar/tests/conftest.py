from __future__ import annotations

import uuid
from collections.abc import Callable, Iterator, Sequence

import pytest

from eventbus_core.backend import Group, Outgoing, Revoking, Settled
from eventbus_core.records import Delivery, Record
from eventbus_pulsar.admin import PulsarAdmin
from eventbus_pulsar.backend import PulsarBackend
from eventbus_pulsar.consumer import PulsarConsumer
from eventbus_pulsar.producer import PulsarProducer
from eventbus_pulsar.settings import PulsarSettings
from tests.brokers import Broker
from tests.lossy_proxy import LossyProxy
from tests.waiting import wait_until


class Bus:
    """A backend on the real broker and one fresh topic, and short ways to use them."""

    def __init__(self, broker: Broker, partitions: int) -> None:
        self.broker = broker
        self.topic = f"t-{uuid.uuid4().hex[:12]}"
        self.backend = self.at(broker.url)
        self.admin: PulsarAdmin = self.backend.admin()
        self.admin.create_topic(self.topic, partitions)
        self.opened: list[PulsarProducer | PulsarConsumer] = []

    def at(self, url: str, **settings: object) -> PulsarBackend:
        fields = {"url": url, "admin_url": self.broker.admin_url, **settings}
        return PulsarBackend(PulsarSettings.model_validate(fields))

    def producer(self, url: str | None = None) -> PulsarProducer:
        producer = (self.at(url) if url else self.backend).producer(max_records=10_000, max_bytes=1 << 24)
        self.opened.append(producer)
        return producer

    def consumer(
        self, group: str = "g", member: str = "m1", start: object = "earliest", url: str | None = None
    ) -> PulsarConsumer:
        backend = self.at(url) if url else self.backend
        consumer = backend.consumer(Group(group, (self.topic,), start, member, 5.0))  # type: ignore[arg-type]
        self.opened.append(consumer)
        return consumer

    def send(self, producer: PulsarProducer, records: Sequence[Record | str], timeout: float = 20) -> list[Settled]:
        wanted = [each if isinstance(each, Record) else Record(self.topic, each.encode(), b"k") for each in records]
        producer.send([Outgoing(at, record) for at, record in enumerate(wanted)])
        settled: list[Settled] = []

        def all_settled() -> bool:
            settled.extend(producer.poll(0.2))
            return len(settled) >= len(wanted)

        wait_until(all_settled, timeout, what="all sends settled")
        return sorted(settled)

    def receive(self, consumer: PulsarConsumer, count: int, timeout: float = 10.0) -> list[Delivery]:
        found: list[Delivery] = []

        def enough() -> bool:
            polled = consumer.poll(count - len(found), 0.2, ())
            for change in polled.changes:
                if isinstance(change, Revoking):
                    consumer.release(change.assignment)
            found.extend(polled.deliveries)
            return len(found) >= count

        wait_until(enough, timeout, what=f"{count} deliveries")
        return found

    def values(self, deliveries: Sequence[Delivery]) -> list[str]:
        return [(each.record.value or b"").decode() for each in deliveries]

    def close(self) -> None:
        for each in self.opened:
            each.close()
        try:
            self.admin.delete_topic(self.topic)
        finally:
            self.admin.close()


@pytest.fixture
def make_bus(pulsar_broker: Broker) -> Iterator[Callable[..., Bus]]:
    made: list[Bus] = []

    def make(partitions: int = 1) -> Bus:
        made.append(Bus(pulsar_broker, partitions))
        return made[-1]

    yield make
    for each in made:
        each.close()


@pytest.fixture
def bus(make_bus: Callable[..., Bus]) -> Bus:
    return make_bus()


@pytest.fixture
def proxy(pulsar_broker: Broker) -> Iterator[LossyProxy]:
    made = LossyProxy(pulsar_broker.url)
    yield made
    made.close()

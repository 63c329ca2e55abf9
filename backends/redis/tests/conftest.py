from __future__ import annotations

import uuid
from collections.abc import Callable, Iterator, Sequence

import pytest
from redis import Redis

from eventbus_core.backend import Group, Outgoing, Settled
from eventbus_core.records import Delivery, Record
from eventbus_redis.admin import RedisAdmin
from eventbus_redis.backend import RedisBackend
from eventbus_redis.consumer import RedisConsumer
from eventbus_redis.producer import RedisProducer
from eventbus_redis.settings import RedisSettings
from tests.brokers import broker as find_broker
from tests.lossy_proxy import LossyProxy
from tests.waiting import wait_until


class Bus:
    """A backend on one real server and one fresh topic, and short ways to use them."""

    def __init__(self, url: str, partitions: int = 2, **settings: object) -> None:
        self.url = url
        self.topic = f"t-{uuid.uuid4().hex[:12]}"
        self.settings = {"lease_seconds": 10.0, "request_timeout_seconds": 5.0, **settings}
        self.backend = self.at(url)
        self.admin: RedisAdmin = self.backend.admin()
        self.raw = Redis.from_url(url)
        self.admin.create_topic(self.topic, partitions)
        self.opened: list[RedisProducer | RedisConsumer | RedisAdmin] = [self.admin]

    def at(self, url: str) -> RedisBackend:
        fields = RedisSettings.fields_of_url(url)
        return RedisBackend(RedisSettings.model_validate({**self.settings, **fields}))

    def producer(self, url: str | None = None) -> RedisProducer:
        producer = (self.at(url) if url else self.backend).producer(max_records=10_000, max_bytes=1 << 24)
        self.opened.append(producer)
        return producer

    def consumer(self, group: str = "g", member: str = "m1", start: str = "earliest") -> RedisConsumer:
        consumer = self.backend.consumer(Group(group, (self.topic,), start, member, 5.0))  # type: ignore[arg-type]
        self.opened.append(consumer)
        return consumer

    def send(self, producer: RedisProducer, values: Sequence[str], key: bytes | None = b"k") -> list[Settled]:
        producer.send([Outgoing(at, Record(self.topic, value.encode(), key)) for at, value in enumerate(values)])
        settled: list[Settled] = []

        def all_settled() -> bool:
            settled.extend(producer.poll(0.2))
            return len(settled) >= len(values)

        wait_until(all_settled, 15, what="all sends settled")
        return sorted(settled)

    def receive(self, consumer: RedisConsumer, count: int, timeout: float = 10.0) -> list[Delivery]:
        found: list[Delivery] = []

        def enough() -> bool:
            found.extend(consumer.poll(500, 0.2, ()).deliveries)
            return len(found) >= count

        wait_until(enough, timeout, what=f"{count} deliveries")
        return found

    def stored(self) -> list[str]:
        """Every value in the log, partition by partition."""
        info = self.admin.describe_topic(self.topic)
        return [
            (each.record.value or b"").decode()
            for partition in range(info.partitions)
            for each in self.admin.read(self.topic, partition, "earliest", 100_000, 0)
        ]

    def close(self) -> None:
        for each in self.opened[1:]:
            each.close()
        try:
            self.admin.delete_topic(self.topic)
        finally:
            self.admin.close()
            self.raw.close()


@pytest.fixture(scope="session", params=["redis7", "redis"])
def server_url(request: pytest.FixtureRequest) -> str:
    return find_broker(request.param).url


@pytest.fixture
def make_bus(server_url: str) -> Iterator[Callable[..., Bus]]:
    made: list[Bus] = []

    def make(*, url: str | None = None, partitions: int = 2, **settings: object) -> Bus:
        made.append(Bus(url or server_url, partitions, **settings))
        return made[-1]

    yield make
    for each in made:
        each.close()


@pytest.fixture
def bus(make_bus: Callable[..., Bus]) -> Bus:
    return make_bus()


@pytest.fixture
def proxy(server_url: str) -> Iterator[LossyProxy]:
    made = LossyProxy(server_url)
    yield made
    made.close()

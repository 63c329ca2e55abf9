"""The client libraries' usual loops, to measure the bus against, with the guarantees people switch on.

Every receiving loop reads what an application reads of a message: key, value, headers and timestamp. Headers are
CloudEvents attributes as text, where events are sent.
"""

# ruff: noqa: PLC0415  (only the client that is measured must be installed)

from __future__ import annotations

import itertools
import json
import time
import urllib.request
import zlib
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple, Protocol
from urllib.parse import parse_qs, urlsplit

Event = Callable[[bytes, Mapping[str, str]], object]
"""What makes an event of value and headers."""


class Message(NamedTuple):
    """What is sent."""

    key: bytes
    value: bytes
    headers: dict[str, Any]


class Clock:
    """Wall and processor time from the first ``start`` to ``stop``."""

    def __init__(self) -> None:
        self._began: tuple[float, float] | None = None
        self.wall_seconds = self.cpu_seconds = 0.0

    def start(self) -> None:
        """Begin, if it does not run yet."""
        if self._began is None:
            self._began = time.perf_counter(), time.process_time()

    def stop(self) -> None:
        """Take the times."""
        assert self._began is not None, "never started"
        self.wall_seconds = time.perf_counter() - self._began[0]
        self.cpu_seconds = time.process_time() - self._began[1]


class RawClient(Protocol):
    """One broker's client, used directly."""

    def create(self, topic: str) -> None:
        """Make the topic."""

    def publish(self, topic: str, messages: Iterable[Message]) -> int:
        """Send all and wait until all are stored; how many that were."""

    def consume(self, topic: str, count: int, clock: Clock, *, event: Event | None) -> None:
        """Receive and acknowledge ``count`` records from the beginning; the clock runs from the first to the last."""

    def delete(self, topic: str) -> None:
        """Remove the topic."""


class RawKafka:
    """Idempotent producer, delivery callbacks counted; poll one by one, commit asynchronously for every 500.

    ``consume(500)`` instead of ``poll`` receives twice as fast.
    """

    def __init__(self, url: str, partitions: int) -> None:
        self._servers = urlsplit(url).netloc
        self._partitions = partitions

    def publish(self, topic: str, messages: Iterable[Message]) -> int:
        from confluent_kafka import Producer

        stored = 0

        def count(error: Any, _: Any) -> None:
            nonlocal stored
            if error is not None:
                raise RuntimeError(str(error))
            stored += 1

        producer = Producer(
            {
                "bootstrap.servers": self._servers,
                "enable.idempotence": True,
                "linger.ms": 5,
                "queue.buffering.max.messages": 200_000,
            }
        )
        for key, value, headers in messages:
            producer.produce(topic, value, key, on_delivery=count, headers=headers)
            producer.poll(0)
        producer.flush(60)
        return stored

    def create(self, topic: str) -> None:
        from confluent_kafka.admin import AdminClient, NewTopic  # type: ignore[attr-defined]

        admin = AdminClient({"bootstrap.servers": self._servers})
        created = admin.create_topics([NewTopic(topic, self._partitions, 1)])
        created[topic].result(30)

    def consume(self, topic: str, count: int, clock: Clock, *, event: Event | None) -> None:
        from confluent_kafka import Consumer

        consumer = Consumer(
            {
                "bootstrap.servers": self._servers,
                "group.id": topic,
                "auto.offset.reset": "earliest",
                "enable.auto.commit": False,
            }
        )
        consumer.subscribe([topic])
        received = 0
        while received < count:
            message: Any = consumer.poll(1.0)
            if message is None or message.error() is not None:
                continue
            clock.start()
            received += 1
            _key, value, headers = message.key(), message.value(), message.headers()
            _kind, _timestamp = message.timestamp()
            if event is not None:
                event(value, {name: text.decode() for name, text in headers})
            if received % 500 == 0:
                consumer.commit(asynchronous=True)
        clock.stop()
        consumer.close()

    def delete(self, topic: str) -> None:
        from confluent_kafka.admin import AdminClient

        admin = AdminClient({"bootstrap.servers": self._servers})
        admin.delete_topics([topic])[topic].result(30)


class RawPulsar:
    """send_async with a callback on a partitioned topic; receive and acknowledge one by one."""

    def __init__(self, url: str, partitions: int) -> None:
        parts = urlsplit(url)
        self._url = f"pulsar://{parts.netloc}"
        self._admin = parse_qs(parts.query).get("admin_url", [f"http://{parts.hostname}:8080"])[0]
        self._partitions = partitions

    def create(self, topic: str) -> None:
        self._ask("PUT", topic, json.dumps(self._partitions).encode())

    def delete(self, topic: str) -> None:
        self._ask("DELETE", topic, None)

    def _ask(self, method: str, topic: str, body: bytes | None) -> None:
        request = urllib.request.Request(
            f"{self._admin}/admin/v2/persistent/public/default/{topic}/partitions",
            data=body,
            headers={"Content-Type": "application/json"},
            method=method,
        )
        urllib.request.urlopen(request, timeout=30).close()

    def publish(self, topic: str, messages: Iterable[Message]) -> int:
        import pulsar

        stored = 0

        def count(result: Any, _: Any) -> None:
            nonlocal stored
            stored += result == pulsar.Result.Ok

        client = _pulsar_client(self._url)
        producer = client.create_producer(
            topic, batching_enabled=True, block_if_queue_full=True, max_pending_messages=20_000
        )
        for key, value, headers in messages:
            producer.send_async(value, count, partition_key=key.decode(), properties=headers)
        producer.flush()
        client.close()
        return stored

    def consume(self, topic: str, count: int, clock: Clock, *, event: Event | None) -> None:
        import pulsar

        client = _pulsar_client(self._url)
        consumer = client.subscribe(topic, "raw", initial_position=pulsar.InitialPosition.Earliest)
        for _ in range(count):
            message = consumer.receive(30_000)
            clock.start()
            _key, value, headers = message.partition_key(), message.data(), message.properties()
            _timestamp = message.publish_timestamp()
            if event is not None:
                event(value, headers)
            consumer.acknowledge(message)
        clock.stop()
        client.close()


class RawRedis:
    """Pipelines of 500 XADD; XREADGROUP of 500 and one XACK for each stream's batch."""

    def __init__(self, url: str, partitions: int) -> None:
        self._url = url
        self._partitions = partitions

    def create(self, topic: str) -> None:
        """Streams come with the first XADD."""

    def publish(self, topic: str, messages: Iterable[Message]) -> int:
        import redis

        stored = 0
        with redis.Redis.from_url(self._url) as client:
            waiting = iter(messages)
            while batch := list(itertools.islice(waiting, 500)):
                pipeline = client.pipeline(transaction=False)
                for key, value, headers in batch:
                    fields = {"k": key, "v": value, **headers}
                    pipeline.xadd(f"{topic}:{zlib.crc32(key) % self._partitions}", fields)
                stored += len(pipeline.execute())
        return stored

    def consume(self, topic: str, count: int, clock: Clock, *, event: Event | None) -> None:
        import redis

        with redis.Redis.from_url(self._url) as client:
            streams = [f"{topic}:{partition}" for partition in range(self._partitions)]
            for stream in streams:
                client.xgroup_create(stream, "raw", id="0", mkstream=True)
            received = 0
            while received < count:
                for stream, entries in client.xreadgroup(
                    "raw", "me", dict.fromkeys(streams, ">"), count=500, block=1000
                ):
                    clock.start()
                    for entry, fields in entries:
                        _key, value = fields.pop(b"k"), fields.pop(b"v")
                        _timestamp = int(entry.partition(b"-")[0])
                        if event is not None:
                            event(value, {name.decode(): text.decode() for name, text in fields.items()})
                    client.xack(stream, "raw", *(entry for entry, _ in entries))
                    received += len(entries)
            clock.stop()

    def delete(self, topic: str) -> None:
        import redis

        with redis.Redis.from_url(self._url) as client:
            client.delete(*(f"{topic}:{partition}" for partition in range(self._partitions)))


def raw_client(url: str, partitions: int) -> RawClient | None:
    """The raw client for a bus URL; None for memory, which has none."""
    kinds: dict[str, Callable[[str, int], RawClient]] = {"kafka": RawKafka, "pulsar": RawPulsar, "redis": RawRedis}
    kind = kinds.get(urlsplit(url).scheme)
    return None if kind is None else kind(url, partitions)


def _pulsar_client(url: str) -> Any:
    import pulsar

    quiet = pulsar.ConsoleLogger(pulsar.LoggerLevel.Error)
    return pulsar.Client(url, logger=quiet)

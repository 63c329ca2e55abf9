"""Redis for the conformance suite: `pytest --pyargs eventbus_conformance --eventbus-backend redis`."""

from __future__ import annotations

import os
import struct
from collections.abc import Mapping, Sequence
from typing import ClassVar, Final, NamedTuple

import redis

from eventbus_conformance.containers import DockerBroker, free_port
from eventbus_conformance.harness import Bounds, Harness, KnownFailure, Raw, Route
from eventbus_conformance.waiting import wait_until
from eventbus_redis.connection import Link
from eventbus_redis.keys import Keys
from eventbus_redis.settings import RedisSettings
from eventbus_redis.topics import topic_shape
from eventbus_redis.trimming import Trimming

IMAGES: Final = ("redis:8.0", "redis:7.0")
_AOF: Final = ("--appendonly", "yes", "--appendfsync", "everysec", "--save", "")
_AWAY: Final = "connect_timeout_seconds=2&request_timeout_seconds=2&send_timeout_seconds=2"
_READY_SECONDS: Final = 30.0
_LEASES: Final = "lease_seconds=5"
_PREFIX: Final = struct.Struct(">BqiII")


class _Profile(NamedTuple):
    variable: str | None
    """What holds the address of a running server, and with `_IMAGE` behind it another image; None: containers only."""
    image: str
    command: tuple[str, ...]


class RedisHarness(Harness):
    """One server: the one that `EVENTBUS_TEST_REDIS` (or `…_REDIS7`) names, or a container."""

    backend: ClassVar[str] = "redis"
    client: ClassVar[str | None] = "redis"
    profiles: ClassVar[Mapping[str, str]] = {
        "redis-aof": "one server, append-only file synced every second",
        "redis-7-aof": "one server of Redis 7.0, append-only file synced every second",
        "redis-none": "one server that writes nothing to disk",
    }
    bounds: ClassVar[Bounds] = Bounds(quiet=0.5)
    known_failures: ClassVar[Sequence[KnownFailure]] = (
        KnownFailure(
            "test_a_broker_that_is_killed_and_started_loses_nothing",
            "Redis without persistence begins empty when it was killed",
            "https://redis.io/docs/latest/operate/oss_and_stack/management/persistence/",
            profile="redis-none",
        ),
    )

    def up(self) -> None:
        profile = _PROFILES[self.profile]
        given = os.environ.get(profile.variable) if profile.variable else None
        if given:
            self.address = given.removeprefix("redis://")
            wait_until(self.answers, _READY_SECONDS, what=f"Redis at {given} answers")
            self.broker_version = f"redis {self._client().info('server')['redis_version']} (given by address)"
            return
        port = free_port()
        self.address = f"127.0.0.1:{port}"
        image = os.environ.get(f"{profile.variable or 'EVENTBUS_TEST_REDIS'}_IMAGE", profile.image)
        self.controls = broker = DockerBroker(image, ports={6379: port}, command=profile.command, answers=self.answers)
        broker.up()
        self.broker_version = broker.version

    def down(self) -> None:
        if isinstance(self.controls, DockerBroker):
            self.controls.remove()

    def url(self) -> str:
        return f"redis://{self.address}?{_LEASES}"

    def unreachable_url(self) -> str:
        return f"redis://127.0.0.1:1?{_AWAY}"

    def route(self) -> Route:
        listen = f"127.0.0.1:{free_port()}"
        return Route(listen, self.address, f"redis://{listen}?{_LEASES}")

    def raw_send(self, topic: str, partition: int, raw: Raw) -> None:
        fields = {
            b"value": raw.value or b"",
            b"key": raw.key or b"",
            **{name.encode(): each for name, each in raw.headers},
        }
        with self._client() as client:
            client.xadd(_stream(topic, partition), fields)

    def raw_read(self, topic: str, partition: int) -> Sequence[Raw]:
        with self._client() as client:
            entries: list[tuple[bytes, dict[bytes, bytes]]] = client.xrange(_stream(topic, partition))
        return [_raw(fields[b"r"]) if b"r" in fields else _foreign(fields) for _, fields in entries]

    def drop_group(self, group: str, topic: str) -> None:
        with self._client() as client:
            for partition in range(4):
                client.delete(f"{_stream(topic, partition)[:-1]}g:{group}")

    def expire(self, topic: str) -> None:
        settings = RedisSettings(url=f"redis://{self.address}", retention_records=1)
        keys, link = Keys(settings.prefix), Link(settings)
        try:
            shape = topic_shape(link, keys, topic)
            Trimming(settings, keys).trim(link, topic, shape.incarnation, range(shape.partitions))
        finally:
            link.close()

    def remove_records(self, topic: str) -> None:
        with self._client() as client:
            for stream in client.keys(_stream(topic, 0).replace(".0}", ".*}")):
                client.xtrim(stream, maxlen=0, approximate=False)

    def _client(self) -> redis.Redis:
        return redis.Redis.from_url(f"redis://{self.address}", socket_timeout=2, socket_connect_timeout=2)

    def answers(self) -> bool:
        """Whether the server answers a request."""
        try:
            with self._client() as client:
                return bool(client.ping())
        except redis.RedisError:
            return False


_PROFILES: Final = {
    "redis-aof": _Profile("EVENTBUS_TEST_REDIS", IMAGES[0], _AOF),
    "redis-7-aof": _Profile("EVENTBUS_TEST_REDIS7", IMAGES[1], _AOF),
    "redis-none": _Profile(None, IMAGES[0], ("--appendonly", "no", "--save", "")),
}


def _stream(topic: str, partition: int) -> str:
    return f"eb:{{{topic}.{partition}}}:s"


def _raw(blob: bytes) -> Raw:
    """Read the layout of docs/decisions/0005 as another program would."""
    flags, _, key_size, count, names_size = _PREFIX.unpack_from(blob)
    numbers = struct.Struct(f">{count}I")
    name_at, sizes_at = _PREFIX.size + (numbers.size if count else 0), _PREFIX.size + names_size
    at = sizes_at + numbers.size
    headers: list[tuple[str, bytes]] = []
    for name_size, size in zip(
        numbers.unpack_from(blob, _PREFIX.size), numbers.unpack_from(blob, sizes_at), strict=True
    ):
        headers.append((blob[name_at : name_at + name_size].decode(), blob[at : at + size]))
        name_at, at = name_at + name_size, at + size
    key = blob[at : at + key_size] if key_size >= 0 else None
    at += max(key_size, 0)
    return Raw(None if flags & 1 else blob[at:], key, tuple(headers))


def _foreign(fields: dict[bytes, bytes]) -> Raw:
    headers = tuple((name.decode(), each) for name, each in fields.items() if name not in {b"value", b"key"})
    return Raw(fields.get(b"value"), fields.get(b"key"), headers)

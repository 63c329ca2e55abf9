"""NATS for the conformance suite: `pytest --pyargs eventbus_conformance --eventbus-backend nats`."""

from __future__ import annotations

import asyncio
import json
import os
import time
from collections.abc import Callable, Coroutine, Mapping, Sequence
from typing import Any, ClassVar, Final, TypeVar

import msgspec
from nats.aio.client import Client
from nats.errors import Error
from nats.js import JetStreamContext
from nats.js.errors import NotFoundError

from eventbus_conformance.containers import DockerBroker, free_port
from eventbus_conformance.harness import Bounds, Harness, Raw, Route

_IMAGE: Final = "nats:2.10-alpine"
_CONFIG: Final = "jetstream { store_dir: /data, sync_interval: always }"
_COMMAND: Final = ("sh", "-c", f"echo '{_CONFIG}' >/tmp/nats.conf && exec nats-server -c /tmp/nats.conf")
_LEASES: Final = "lease_seconds=5"
_AWAY: Final = "connect_timeout_seconds=2&request_timeout_seconds=2&send_timeout_seconds=2"
T = TypeVar("T")


class NatsHarness(Harness):
    """One server in a container, which syncs every write."""

    backend: ClassVar[str] = "nats"
    client: ClassVar[str | None] = "nats-py"
    profiles: ClassVar[Mapping[str, str]] = {"nats-sync-always": "one server that syncs every write to disk"}
    bounds: ClassVar[Bounds] = Bounds(quiet=1.5)

    def up(self) -> None:
        port = free_port()
        self.address = f"127.0.0.1:{port}"
        image = os.environ.get("EVENTBUS_TEST_NATS_IMAGE", _IMAGE)
        self.controls = broker = DockerBroker(image, ports={4222: port}, command=_COMMAND, answers=self.answers)
        broker.up()
        self.broker_version = broker.version

    def down(self) -> None:
        if isinstance(self.controls, DockerBroker):
            self.controls.remove()

    def url(self) -> str:
        return f"nats://{self.address}?{_LEASES}"

    def unreachable_url(self) -> str:
        return f"nats://127.0.0.1:1?{_AWAY}"

    def route(self) -> Route:
        listen = f"127.0.0.1:{free_port()}"
        return Route(listen, self.address, f"nats://{listen}?{_LEASES}")

    def raw_send(self, topic: str, partition: int, raw: Raw) -> None:
        _run(self.address, lambda js: _send(js, topic, partition, raw))

    def raw_read(self, topic: str, partition: int) -> Sequence[Raw]:
        batches = _run(self.address, lambda js: _batches(js, topic, partition))
        return [
            Raw(value, key, tuple((name, each) for name, each in headers))
            for *_, records in batches
            for value, key, headers, _ in records
        ]

    def drop_group(self, group: str, topic: str) -> None:
        _run(self.address, lambda js: _drop(js, group, topic))

    def remove_records(self, topic: str) -> None:
        _run(self.address, lambda js: _empty(js, topic))

    def answers(self) -> bool:
        """Whether JetStream answers a request."""
        try:
            _run(self.address, lambda js: js.account_info())
        except (Error, OSError):
            return False
        return True


def _run(address: str, work: Callable[[JetStreamContext], Coroutine[Any, Any, T]]) -> T:
    async def connected() -> T:
        client = Client()
        try:
            await client.connect(f"nats://{address}", allow_reconnect=False, connect_timeout=2, error_cb=_told)
            return await work(client.jetstream(timeout=2))
        finally:
            await client.close()

    return asyncio.run(connected())


async def _told(error: Exception) -> None:
    """The call that meets a connection error raises it."""


async def _topic(js: JetStreamContext, topic: str) -> tuple[str, int]:
    """Its incarnation, and how many partitions it has."""
    cell = await js.get_last_msg("KV_eventbus", f"$KV.eventbus.topics.{topic.replace('.', '=')}")
    incarnation, partitions = json.loads(cell.data or b"")
    return incarnation, partitions


async def _send(js: JetStreamContext, topic: str, partition: int, raw: Raw) -> None:
    before = sum(len(records) for *_, records in await _batches(js, topic, partition))
    now = int(time.time() * 1000)
    batch = ["another program", 0, before, now, [(raw.value, raw.key, raw.headers, now)]]
    incarnation, _ = await _topic(js, topic)
    await js.publish(f"eventbus.log.{incarnation}.{partition}", msgspec.msgpack.encode(batch))


async def _batches(js: JetStreamContext, topic: str, partition: int) -> list[list[Any]]:
    incarnation, _ = await _topic(js, topic)
    stream = f"eventbus_{incarnation}_{partition}"
    found: list[list[Any]] = []
    while True:
        try:
            found.append(msgspec.msgpack.decode((await js.get_msg(stream, seq=len(found) + 1)).data or b""))
        except NotFoundError:
            return found


async def _drop(js: JetStreamContext, group: str, topic: str) -> None:
    incarnation, _ = await _topic(js, topic)
    subject = f"$KV.eventbus.of.{incarnation}.{group.replace('.', '=')}.>"
    await js.purge_stream("KV_eventbus", subject=subject)


async def _empty(js: JetStreamContext, topic: str) -> None:
    incarnation, partitions = await _topic(js, topic)
    for partition in range(partitions):
        # Purging is refused; an operator may still change the limits.
        config = (await js.stream_info(f"eventbus_{incarnation}_{partition}")).config
        await js.update_stream(config, max_bytes=1)
        await js.update_stream(config, max_bytes=-1)

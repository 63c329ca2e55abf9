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
T = TypeVar("T")
_LEASES: Final = "lease_seconds=5"
_AWAY: Final = "connect_timeout_seconds=2&request_timeout_seconds=2&send_timeout_seconds=2"


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
        async def work(js: JetStreamContext) -> None:
            subject = await _subject(js, topic, partition)
            before = await _messages(js, subject)
            count = sum(len(entries) for entries in before)
            now = int(time.time() * 1000)
            batch = msgspec.msgpack.encode([(raw.value, raw.key, raw.headers, now)])
            await js.publish(subject, batch, headers={"Eventbus-Batch": f"{count} {count + 1} {now}"})

        self._run(work)

    def raw_read(self, topic: str, partition: int) -> Sequence[Raw]:
        async def work(js: JetStreamContext) -> list[Raw]:
            found = await _messages(js, await _subject(js, topic, partition))
            return [
                Raw(value, key, tuple((name, each) for name, each in headers))
                for entries in found
                for value, key, headers, _ in entries
            ]

        return self._run(work)

    def drop_group(self, group: str, topic: str) -> None:
        async def work(js: JetStreamContext) -> None:
            incarnation = (await _subject(js, topic, 0)).split(".")[2]
            await js.purge_stream("KV_eventbus", subject=f"$KV.eventbus.of.{incarnation}.{group.replace('.', '=')}.>")

        self._run(work)

    def remove_records(self, topic: str) -> None:
        async def work(js: JetStreamContext) -> None:
            partition = 0
            while True:
                try:
                    stream = await js.find_stream_name_by_subject(await _subject(js, topic, partition))
                except NotFoundError:
                    return
                # Purging is refused; an operator may still change the limits.
                config = (await js.stream_info(stream)).config
                await js.update_stream(config, max_bytes=1)
                await js.update_stream(config, max_bytes=-1)
                partition += 1

        self._run(work)

    def answers(self) -> bool:
        """Whether JetStream answers a request."""

        async def work(js: JetStreamContext) -> bool:
            await js.account_info()
            return True

        try:
            return self._run(work)
        except (Error, OSError):
            return False

    def _run(self, work: Callable[[JetStreamContext], Coroutine[Any, Any, T]]) -> T:
        async def connected() -> T:
            client = Client()
            try:
                await client.connect(f"nats://{self.address}", allow_reconnect=False, connect_timeout=2, error_cb=_told)
                return await work(client.jetstream(timeout=2))
            finally:
                await client.close()

        return asyncio.run(connected())


async def _told(error: Exception) -> None:
    """The call that meets a connection error raises it."""


async def _subject(js: JetStreamContext, topic: str, partition: int) -> str:
    cell = await js.get_last_msg("KV_eventbus", f"$KV.eventbus.topics.{topic.replace('.', '=')}")
    return f"eventbus.log.{json.loads(cell.data or b'')[0]}.{partition}"


async def _messages(js: JetStreamContext, subject: str) -> list[list[Any]]:
    stream = await js.find_stream_name_by_subject(subject)
    found: list[list[Any]] = []
    while True:
        try:
            found.append(msgspec.msgpack.decode((await js.get_msg(stream, seq=len(found) + 1)).data or b""))
        except NotFoundError:
            return found

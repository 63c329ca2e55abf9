"""The store: one JetStream stream for each log, one message for each batch, and a key-value bucket for the cells."""

from __future__ import annotations

import asyncio
from typing import ClassVar, Final

import msgspec
from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.errors import MaxPayloadError
from nats.js import JetStreamContext
from nats.js.api import RawStreamMsg, RePublish, StreamConfig
from nats.js.errors import APIError, NotFoundError

from eventbus_core.backend.store import Append, Batch, Cell, End, Entry, Key, Log, Put
from eventbus_core.backend.store.asynchronous import AsyncStore
from eventbus_core.errors import BrokerError, EventBusError, SendFailed
from eventbus_nats.connection import FAILURES, connected, mapped
from eventbus_nats.settings import NatsSettings

_BUCKET: Final = "eventbus"
_CELLS: Final = f"KV_{_BUCKET}"
_NO_MESSAGE: Final = 10037
_WRONG_SEQUENCE: Final = (10071, 10164)
_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(Batch).decode


class NatsStore(AsyncStore):
    """Conditions are the server's: a message is stored if it comes behind the expected one."""

    backend: ClassVar[str] = "nats"
    failures: ClassVar[tuple[type[Exception], ...]] = FAILURES

    def __init__(self, settings: NatsSettings) -> None:
        super().__init__(settings)
        self._nats = settings
        self._client = Client()
        self._js: JetStreamContext

    async def connect(self, gone: asyncio.Future[None]) -> None:
        async def ended() -> None:
            self.ended(gone)

        self._client = Client()
        await connected(self._nats, self._client, ended)
        self._js = self._client.jetstream(timeout=self._nats.request_timeout_seconds)

    @property
    def connected(self) -> bool:
        return self._client.is_connected

    async def disconnect(self) -> None:
        await self._client.close()

    def mapped(self, error: Exception) -> EventBusError:
        return mapped(error, self._nats)

    async def watch(self, log: Log) -> None:
        async def wake(_: Msg) -> None:
            self.heard(log)

        await self._client.subscribe(_announced(log), cb=wake)

    async def prepare(self) -> None:
        try:
            await self._js.stream_info(_CELLS)
        except NotFoundError:
            await self._js.create_key_value(bucket=_BUCKET)

    async def create_log(self, log: Log) -> None:
        # Nothing can be removed from it, and each message is announced to who watches.
        config = StreamConfig(
            name=_stream(log),
            description=str(log),
            subjects=[_messages(log)],
            allow_direct=True,
            deny_delete=True,
            deny_purge=True,
            republish=RePublish(src=_messages(log), dest=_announced(log), headers_only=True),
        )
        await self._js.add_stream(config)

    async def drop_log(self, log: Log) -> None:
        try:
            await self._js.delete_stream(_stream(log))
        except NotFoundError:
            return

    async def append_batch(self, append: Append) -> int | None:
        try:
            return await self._publish(
                _messages(append.log), _encode(append.batch), "Nats-Expected-Last-Sequence", append.behind
            )
        except MaxPayloadError as error:
            message = f"nats: not written, {append.log} takes messages up to the server's max_payload"
            raise SendFailed(message, topic=append.log.topic, backend="nats") from error

    async def read_entry(self, wanted: tuple[Log, int]) -> Entry | None:
        log, number = wanted
        try:
            raw = await self._js.get_msg(
                _stream(log), seq=max(number, 1), subject=_messages(log), next=True, direct=False
            )
        except NotFoundError:
            return None
        return _entry(log, raw)

    async def end_of_log(self, log: Log) -> End:
        try:
            return End(*_entry(log, await self._js.get_msg(_stream(log), subject=_messages(log))))
        except NotFoundError as error:
            if error.err_code != _NO_MESSAGE:
                raise
        return End((await self._js.stream_info(_stream(log))).state.last_seq, None)

    async def get_cell(self, key: Key) -> Cell | None:
        # From the stream's leader, not from a replica that may lag.
        try:
            raw = await self._js.get_msg(_CELLS, subject=_subject(key))
        except NotFoundError:
            return None
        assert raw.seq is not None
        assert raw.time is not None
        return Cell((raw.data or b"").decode(), raw.seq, raw.time.timestamp())

    async def put_cell(self, put: Put) -> int | None:
        header = "Nats-Expected-Last-Subject-Sequence"
        return await self._publish(_subject(put.key), put.value.encode(), header, put.revision)

    async def delete_cell(self, key: Key, revision: int | None) -> None:
        await self._js.purge_stream(_CELLS, subject=_subject(key), seq=None if revision is None else revision + 1)

    async def delete_cells_below(self, prefix: Key) -> None:
        await self._js.purge_stream(_CELLS, subject=_subject(prefix) + ".>")

    async def keys_below(self, prefix: Key) -> list[Key]:
        info = await self._js.stream_info(_CELLS, subjects_filter=_subject(prefix) + ".>")
        found = sorted(info.state.subjects or ())
        return [tuple(part.replace("=", ".") for part in subject.split(".")[2:]) for subject in found]

    async def _publish(self, subject: str, payload: bytes, expecting: str, expected: int | None) -> int | None:
        headers = {} if expected is None else {expecting: str(expected)}
        try:
            return (await self._js.publish(subject, payload, headers=headers)).seq
        except APIError as error:
            if error.err_code in _WRONG_SEQUENCE:
                return None
            raise


def _stream(log: Log) -> str:
    return f"eventbus_{log.incarnation}_{log.number}"


def _messages(log: Log) -> str:
    """Where its messages are published."""
    return f"eventbus.log.{log.incarnation}.{log.number}"


def _announced(log: Log) -> str:
    """Where the server tells of every new message."""
    return f"eventbus.new.{log.incarnation}.{log.number}"


def _subject(key: Key) -> str:
    """The subject of a cell. Names have dots, which separate parts of a subject, and never ``=``."""
    return ".".join(("$KV", _BUCKET, *(part.replace(".", "=") for part in key)))


def _entry(log: Log, raw: RawStreamMsg) -> Entry:
    assert raw.seq is not None
    try:
        return Entry(raw.seq, _decode(raw.data or b""))
    except msgspec.DecodeError as error:
        message = f"nats: message {raw.seq} of stream {_stream(log)} ({log}) was not written by eventbus"
        raise BrokerError(message, topic=log.topic, backend="nats") from error

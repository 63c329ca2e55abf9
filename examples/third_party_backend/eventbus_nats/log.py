"""The log: one JetStream stream for each partition, one message for each batch of records.

A message is appended only behind the one its writer has seen, so its header can go on counting records: that makes
lag exact, and places can be found by time.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Final, NamedTuple

import msgspec
from nats.js import JetStreamContext
from nats.js.api import RePublish, StreamConfig
from nats.js.errors import APIError, NotFoundError

from eventbus_core.errors import BrokerError
from eventbus_core.records import Assignment, Delivery, Headers, Position, Record, Where
from eventbus_nats.connection import NAME

REPEAT_SECONDS: Final = 600.0
"""For how long the server recognises a batch that comes again."""
_NO_MESSAGE: Final = 10037
_HEADER: Final = "Eventbus-Batch"
"""Ordinals of its first record and of the one after its last; the highest time in the partition so far."""

Entry = tuple[bytes | None, bytes | None, Headers, int]
_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(list[Entry]).decode


class Place(NamedTuple):
    """Before a record: the number of its message, and its index in there."""

    seq: int
    at: int

    @property
    def position(self) -> Position:
        """What users see of it."""
        return Position(self.seq, self.at)


class Batch(NamedTuple):
    """A message of the log. ``latest_ms``: the highest time in it and before it; ``payload``: empty if just written."""

    seq: int
    first: int
    next: int
    latest_ms: int
    payload: bytes


class Partition(NamedTuple):
    """One partition of one incarnation of a topic."""

    topic: str
    incarnation: str
    number: int

    @property
    def stream(self) -> str:
        """The stream's name."""
        return f"eventbus_{self.incarnation}_{self.number}"

    @property
    def subject(self) -> str:
        """Where its messages are published."""
        return f"eventbus.log.{self.incarnation}.{self.number}"

    async def create(self, js: JetStreamContext) -> None:
        """Make the stream. Nothing can be removed from it, and each message is announced to who watches."""
        await js.add_stream(
            StreamConfig(
                name=self.stream,
                description=f"{self.topic}[{self.number}]",
                subjects=[self.subject],
                duplicate_window=REPEAT_SECONDS,
                allow_direct=True,
                deny_delete=True,
                deny_purge=True,
                republish=RePublish(src=self.subject, dest=announced(self.incarnation, self.number), headers_only=True),
            )
        )

    async def append(self, js: JetStreamContext, behind: Batch, name: str, records: Sequence[Record]) -> Batch | None:
        """Append a batch once, however often it comes under this name; None: ``behind`` is not the end any more."""
        payload = _encode([(each.value, each.key, each.headers, each.timestamp_ms) for each in records])
        latest_ms = max(behind.latest_ms, *(each.timestamp_ms or 0 for each in records))
        numbers = behind.next, behind.next + len(records), latest_ms
        headers = {
            "Nats-Msg-Id": name,
            "Nats-Expected-Last-Sequence": str(behind.seq),
            _HEADER: " ".join(map(str, numbers)),
        }
        try:
            stored = await js.publish(self.subject, payload, stream=self.stream, headers=headers)
        except APIError as error:
            if wrong_sequence(error):
                return None
            raise
        if stored.duplicate:
            found = await self.at_or_after(js, stored.seq)
            assert found is not None
            return found
        return Batch(stored.seq, *numbers, b"")

    async def at_or_after(self, js: JetStreamContext, seq: int) -> Batch | None:
        """The message with this number, or the next that is there; None: behind the end."""
        try:
            raw = await js.get_msg(self.stream, seq=max(seq, 1), subject=self.subject, next=True, direct=True)
        except NotFoundError:
            return None
        return self._batch(raw.seq, raw.headers, raw.data)

    async def last(self, js: JetStreamContext) -> Batch:
        """The last message; of an empty log only its number, 0 at first."""
        try:
            raw = await js.get_msg(self.stream, subject=self.subject)
        except NotFoundError as error:
            if error.err_code != _NO_MESSAGE:
                raise
            info = await js.stream_info(self.stream)
            return Batch(info.state.last_seq, 0, 0, 0, b"")
        return self._batch(raw.seq, raw.headers, raw.data)

    async def end(self, js: JetStreamContext) -> Place:
        """Behind the last record."""
        return Place((await self.last(js)).seq + 1, 0)

    async def locate(self, js: JetStreamContext, where: Where) -> Place:
        """The place before the first record at or after ``where``."""
        if where == "earliest":
            return Place(1, 0)
        if where == "latest":
            return await self.end(js)
        wanted_ms = where.timestamp() * 1000 if isinstance(where, datetime) else None
        if wanted_ms is not None:
            seq, index = await self._first_since(js, wanted_ms), 0
        else:
            assert isinstance(where, Position)
            seq, index = (*where, 0, 0)[:2]
        batch = await self.at_or_after(js, seq)
        if batch is None:
            return await self.end(js)
        if wanted_ms is not None:
            times = [each[3] for each in self._entries(batch)]
            index = next(at for at, time_ms in enumerate(times) if time_ms >= wanted_ms)
        index = index if batch.seq == seq else 0
        if batch.first + index >= batch.next:
            return Place(batch.seq + 1, 0)
        return Place(batch.seq, index)

    async def behind(self, js: JetStreamContext, place: Place) -> int:
        """How many records there are from a place on."""
        batch = await self.at_or_after(js, place.seq)
        if batch is None:
            return 0
        first = batch.first + (place.at if batch.seq == place.seq else 0)
        return (await self.last(js)).next - first

    def deliveries(self, batch: Batch, index: int, hold: Assignment | None = None) -> list[Delivery]:
        """The records of a message from an index on; the token of each is the place behind it."""
        found = []
        entries = self._entries(batch)
        for at in range(index, len(entries)):
            value, key, headers, time_ms = entries[at]
            behind = Place(batch.seq, at + 1) if at + 1 < len(entries) else Place(batch.seq + 1, 0)
            record = Record(self.topic, value, key, headers, time_ms)
            found.append(Delivery(record, self.number, Position(batch.seq, at), hold, token=behind))
        return found

    async def _first_since(self, js: JetStreamContext, wanted_ms: float) -> int:
        """The number of the first message that ends at a time or later; or behind the end."""
        low, high = 1, (await self.last(js)).seq + 1
        while low < high:
            middle = (low + high) // 2
            batch = await self.at_or_after(js, middle)
            if batch is not None and batch.latest_ms < wanted_ms:
                low = middle + 1
            else:
                high = middle
        return low

    def _entries(self, batch: Batch) -> list[Entry]:
        try:
            return _decode(batch.payload)
        except msgspec.DecodeError as error:
            raise self._foreign(batch.seq) from error

    def _batch(self, seq: int | None, headers: dict[str, str] | None, data: bytes | None) -> Batch:
        assert seq is not None
        try:
            first, following, latest_ms = map(int, (headers or {})[_HEADER].split())
        except (KeyError, ValueError) as error:
            raise self._foreign(seq) from error
        return Batch(seq, first, following, latest_ms, data or b"")

    def _foreign(self, seq: int) -> BrokerError:
        message = f"nats: message {seq} of stream {self.stream} ({self.topic}) was not written by eventbus"
        return BrokerError(message, topic=self.topic, backend=NAME)


def announced(incarnation: str, number: int | str) -> str:
    """The subject on which the server tells of every new message of a partition (``*``: of any)."""
    return f"eventbus.new.{incarnation}.{number}"


def wrong_sequence(error: APIError) -> bool:
    """Whether a compare-and-set lost."""
    return error.err_code in (10071, 10164)

"""Producing: one script per partition and batch, all partitions in one write to the socket."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any, TypeAlias

from redis import exceptions as client

from eventbus_core.backend.batching import BatchProducer, WriteBatch
from eventbus_core.errors import BrokerError, EventBusError, NotFound, SendFailed, Unavailable
from eventbus_core.records import Position, Stored
from eventbus_redis.connection import Call, Link
from eventbus_redis.encoding import encode
from eventbus_redis.errors import NAME, class_of, gone, mapped, unexpected
from eventbus_redis.keys import Keys
from eventbus_redis.scripts import WRITE
from eventbus_redis.settings import RedisSettings
from eventbus_redis.topics import topic_shape

_log = logging.getLogger(__name__)

Outcome: TypeAlias = Sequence[Stored] | EventBusError

MAX_BATCH_RECORDS = 500
MAX_BATCH_BYTES = 1 << 20


class RedisProducer(BatchProducer):
    """A batch is written whole or not at all, once, however often it is sent.

    The write script keeps the writer's last batch beside the log: the same one again is answered with its places.
    ``SendFailed`` is only reported for a batch of which no earlier attempt is unaccounted for.
    """

    def __init__(self, settings: RedisSettings) -> None:
        super().__init__(max_batch_records=MAX_BATCH_RECORDS, max_batch_bytes=MAX_BATCH_BYTES)
        self._link = Link(settings)
        self._keys = Keys(settings.prefix)
        self._shapes: dict[str, tuple[str, int]] = {}
        # Encoded batches under way, and whether an earlier attempt may have been written.
        self._blobs: dict[tuple[str, int], tuple[int, list[bytes]]] = {}
        self._doubtful: set[tuple[str, int]] = set()
        self._link.open()

    def partition_count(self, topic: str) -> int:
        shape = self._shapes.get(topic)
        if shape is None:
            shape = self._shapes[topic] = topic_shape(self._link, self._keys, topic)
        return shape[1]

    def write(self, batches: Sequence[WriteBatch]) -> Sequence[Outcome]:
        outcomes = self._attempt(batches, rebase=False)
        behind = [at for at, outcome in enumerate(outcomes) if isinstance(outcome, _Behind)]
        if behind:
            again = self._attempt([batches[at] for at in behind], rebase=True)
            for at, outcome in zip(behind, again, strict=True):
                outcomes[at] = outcome
        for batch, outcome in zip(batches, outcomes, strict=True):
            place = batch.topic, batch.partition
            if isinstance(outcome, Unavailable):
                continue
            self._blobs.pop(place, None)
            self._doubtful.discard(place)
        return outcomes

    def close(self) -> None:
        super().close()
        self._blobs.clear()
        self._link.close()

    def _attempt(self, batches: Sequence[WriteBatch], *, rebase: bool) -> list[Outcome]:
        calls: list[Call] = []
        known: list[int] = []
        outcomes: list[Outcome] = [_MISSING] * len(batches)
        for at, batch in enumerate(batches):
            shape = self._shapes.get(batch.topic)
            if shape is None:
                try:
                    self.partition_count(batch.topic)
                except NotFound as error:
                    outcomes[at] = _failed(error, batch.topic)
                    continue
                except Unavailable as error:
                    outcomes[at] = error
                    continue
                shape = self._shapes[batch.topic]
            keys = (self._keys.stream(batch.topic, batch.partition), self._keys.meta(batch.topic, batch.partition))
            args: tuple[bytes | str | int, ...] = (
                shape[0],
                batch.writer,
                batch.first,
                int(rebase),
                " ".join([str(record.timestamp_ms or 0) for record in batch.records]),
                *self._encoded(batch),
            )
            calls.append(Call(WRITE, keys, args))
            known.append(at)
        if not calls:
            return outcomes
        try:
            replies = self._link.call_once(calls, doing="writing records")
        except Unavailable as error:
            for at in known:
                self._doubtful.add((batches[at].topic, batches[at].partition))
                outcomes[at] = error
            return outcomes
        for at, reply in zip(known, replies, strict=True):
            outcomes[at] = self._outcome(batches[at], reply)
        return outcomes

    def _encoded(self, batch: WriteBatch) -> list[bytes]:
        place = batch.topic, batch.partition
        cached = self._blobs.get(place)
        if cached is None or cached[0] != batch.first:
            cached = self._blobs[place] = batch.first, [encode(record) for record in batch.records]
        return cached[1]

    def _outcome(self, batch: WriteBatch, reply: Any) -> Outcome:
        topic, partition = batch.topic, batch.partition
        if isinstance(reply, client.ResponseError):
            return self._refused(batch, reply)
        match reply:
            case [b"OK" | b"DUP", ms, first, now]:
                return _places(batch, ms, first, now)
            case [b"GAP", known]:
                if known:
                    _log.error(
                        "redis lost records that it had confirmed (a failover or a restore?): topic %s partition %d, "
                        "writer %s, its records %d to %d; later records are written behind what is left",
                        topic, partition, batch.writer, known, batch.first - 1,
                    )  # fmt: skip
                return _BEHIND
            case [b"GONE"]:
                self._shapes.pop(topic, None)
                return _failed(gone(topic), topic)
        return unexpected("write", reply, topic)

    def _refused(self, batch: WriteBatch, error: client.ResponseError) -> EventBusError:
        """The server answered an error, so this attempt wrote nothing; an earlier one may have."""
        found = mapped(error, "writing records", topic=batch.topic)
        full = isinstance(error, client.OutOfMemoryError)
        if (batch.topic, batch.partition) in self._doubtful or (class_of(error) is Unavailable and not full):
            return found
        return _failed(found, batch.topic)


def _places(batch: WriteBatch, ms: int, first: int, now: int) -> list[Stored]:
    """Where the script put the batch: an entry's id has the highest time so far, ``ms`` before the batch."""
    places = []
    for ordinal, record in enumerate(batch.records, first):
        time = record.timestamp_ms or now
        ms = max(ms, time)
        places.append(Stored(batch.topic, batch.partition, Position(ms, ordinal), time))
    return places


class _Behind(EventBusError):
    """The server does not know the writer's previous batch; nothing was written."""


_BEHIND = _Behind("the server is behind the writer")
_MISSING = BrokerError("no outcome", backend=NAME)


def _failed(cause: EventBusError, topic: str) -> SendFailed:
    failed = SendFailed(f"not stored: {cause}", topic=topic, backend=NAME)
    failed.__cause__ = cause
    return failed

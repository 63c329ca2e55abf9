"""Producing: a batch is one message, appended once and whole."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence

from nats.errors import MaxPayloadError

from eventbus_core.backend.batching import BatchProducer, WriteBatch
from eventbus_core.errors import EventBusError, NotFound, SendFailed, Unavailable
from eventbus_core.records import Position, Record, Stored
from eventbus_nats.cells import Cells, Topic
from eventbus_nats.connection import FAILURES, NAME, Link, mapped
from eventbus_nats.log import Batch
from eventbus_nats.settings import NatsSettings

_MAX_BATCH_RECORDS = 500
_MAX_BATCH_BYTES = 256 << 10
_ATTEMPTS = 5


class NatsProducer(BatchProducer):
    """Writers of one partition meet at its end; who comes second looks again and goes behind."""

    def __init__(self, settings: NatsSettings) -> None:
        super().__init__(max_batch_records=_MAX_BATCH_RECORDS, max_batch_bytes=_MAX_BATCH_BYTES)
        self._seconds = 0.9 * settings.request_timeout_seconds  # so that what the others did can still be told
        self._link = Link(settings)
        self._cells = Cells(self._link, settings)
        self._topics: dict[str, Topic] = {}
        self._ends: dict[tuple[str, int], Batch] = {}
        self._stamped: dict[tuple[str, int], tuple[int, Sequence[Record]]] = {}
        try:
            self._link.call("connecting", self._cells.open)
        except EventBusError:
            self._link.close()
            raise

    def partition_count(self, topic: str) -> int:
        return self._link.call("finding", lambda: self._topic(topic), topic).partitions

    def write(self, batches: Sequence[WriteBatch]) -> Sequence[Sequence[Stored] | EventBusError]:
        async def work() -> list[Sequence[Stored] | EventBusError]:
            return await asyncio.gather(*map(self._write, batches))

        return self._link.call("writing", work)

    def close(self) -> None:
        super().close()
        self._link.close()

    async def _write(self, batch: WriteBatch) -> Sequence[Stored] | EventBusError:
        try:
            async with asyncio.timeout(self._seconds):
                written = await self._append(batch)
        except NotFound as error:
            return _failed(batch, error)
        except EventBusError as error:
            return error
        except MaxPayloadError as error:
            return _failed(batch, error)
        except FAILURES as error:
            # The stream may be missing because its topic was deleted: that is looked up when it comes again.
            self._ends.pop((batch.topic, batch.partition), None)
            self._topics.pop(batch.topic, None)
            return mapped(error, "writing", batch.topic)
        return [
            Stored(batch.topic, batch.partition, Position(written.seq, index), record.timestamp_ms or 0)
            for index, record in enumerate(self._stamp(batch))
        ]

    async def _append(self, batch: WriteBatch) -> Batch:
        place = batch.topic, batch.partition
        partition = (await self._topic(batch.topic)).partition(batch.partition)
        for _ in range(_ATTEMPTS):
            end = self._ends.get(place) or await partition.last(self._link.js)
            written = await partition.append(self._link.js, end, f"{batch.writer}-{batch.first}", self._stamp(batch))
            if written is not None:
                self._ends[place] = written
                return written
            self._ends.pop(place, None)
        raise Unavailable(f"nats: {_ATTEMPTS} other writers came first", topic=batch.topic, backend=NAME)

    def _stamp(self, batch: WriteBatch) -> Sequence[Record]:
        """The records with their times: the same ones when the batch comes again."""
        place = batch.topic, batch.partition
        first, records = self._stamped.get(place, (-1, ()))
        if first != batch.first:
            now = int(time.time() * 1000)
            records = [each._replace(timestamp_ms=now) if each.timestamp_ms is None else each for each in batch.records]
            self._stamped[place] = batch.first, records
        return records

    async def _topic(self, name: str) -> Topic:
        if name not in self._topics:
            self._topics[name] = await self._cells.topic(name)
        return self._topics[name]


def _failed(batch: WriteBatch, error: Exception) -> SendFailed:
    failed = SendFailed(f"nats: not written: {error}", topic=batch.topic, backend=NAME)
    failed.__cause__ = error
    return failed

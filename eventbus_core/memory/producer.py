"""Sending into memory."""

from __future__ import annotations

import time
from collections.abc import Sequence

from eventbus_core.backend.batching import BatchProducer, WriteBatch
from eventbus_core.errors import EventBusError, NotFound, SendFailed
from eventbus_core.memory.store import Store
from eventbus_core.records import Position, Stored

MAX_RECORD_BYTES = 16 * 1024 * 1024


class MemoryProducer(BatchProducer):
    """A batch that comes again is told its old places."""

    def __init__(self, store: Store) -> None:
        super().__init__(max_batch_records=1000, max_batch_bytes=MAX_RECORD_BYTES)
        self._store = store

    def partition_count(self, topic: str) -> int:
        with self._store.changed:
            return len(self._store.topic(topic))

    def write(self, batches: Sequence[WriteBatch]) -> Sequence[Sequence[Stored] | EventBusError]:
        with self._store.changed:
            results = [self._write(batch) for batch in batches]
            self._store.changed.notify_all()
        return results

    def _write(self, batch: WriteBatch) -> Sequence[Stored] | EventBusError:
        topic, number, writer, first, records = batch
        try:
            partition = self._store.partition(topic, number)
        except NotFound as error:
            failed = SendFailed(str(error), topic=topic, backend="memory")
            failed.__cause__ = error
            return failed
        last = partition.writers.get(writer)
        if last is not None and last[0] == first:
            return last[1]
        begin = len(partition.records)
        now = int(time.time() * 1000)
        latest = partition.times[-1] if partition.times else 0
        places = []
        for offset, record in enumerate(records, begin):
            timestamp = record.timestamp_ms
            if timestamp is None:
                timestamp = now
                record = record._replace(timestamp_ms=now)  # noqa: PLW2901
            latest = max(latest, timestamp)
            partition.records.append(record)
            partition.times.append(latest)
            places.append(Stored(topic, number, Position(offset), timestamp))
        partition.writers[writer] = (first, places)
        return places

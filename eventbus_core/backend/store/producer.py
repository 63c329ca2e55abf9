"""Producing: a batch is one entry, appended behind the end that its writer has seen, once and whole."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Final

from eventbus_core.backend.batching import BatchProducer, WriteBatch
from eventbus_core.backend.store import Append, Batch, End, Log, LogRecord, Store
from eventbus_core.backend.store.topics import Topic, topic_to_use
from eventbus_core.errors import EventBusError, NotFound, SendFailed, Unavailable
from eventbus_core.records import Position, Stored

_MAX_BATCH_RECORDS: Final = 500
_MAX_BATCH_BYTES: Final = 256 << 10
_ATTEMPTS: Final = 5


class _Tail:
    """The end of a log as its writer sees it (None: to be read), and the batch that is to go behind it.

    ``end`` stays what it is while it is not known whether the batch was appended there. If it was, it is the next
    entry: that is how it is recognised, so the store need not know batches again.
    """

    def __init__(self, log: Log) -> None:
        self.log = log
        self.end: End | None = None
        self.asked: WriteBatch | None = None
        self.records: tuple[LogRecord, ...] = ()
        self.outcome: Sequence[Stored] | EventBusError | None = None

    def take(self, batch: WriteBatch) -> None:
        """Go about a batch, or go on with it: then its times stay, and if it is known to be stored it is."""
        if self.asked != batch:
            self.asked = batch
            now = int(time.time() * 1000)
            self.records = tuple(
                LogRecord(each.value, each.key, each.headers, now if each.timestamp_ms is None else each.timestamp_ms)
                for each in batch.records
            )
            self.outcome = None
        elif isinstance(self.outcome, EventBusError):
            self.outcome = None

    def append(self) -> Append:
        """What to ask the store for: the numbers go on from the end."""
        assert self.end is not None
        assert self.asked is not None
        last = self.end.batch
        latest_ms = max(last.latest_ms if last else 0, *(each.timestamp_ms for each in self.records))
        batch = Batch(self.asked.writer, self.asked.first, last.next if last else 0, latest_ms, self.records)
        return Append(self.log, self.end.number, batch)

    def written(self, number: int, batch: Batch) -> None:
        """It is entry ``number``, and the end."""
        self.end = End(number, batch)
        self.outcome = [
            Stored(self.log.topic, self.log.number, Position(number, offset), record.timestamp_ms)
            for offset, record in enumerate(self.records)
        ]


class StoreProducer(BatchProducer):
    """Writers of one partition meet at its end; who comes second looks again and goes behind."""

    def __init__(self, store: Store) -> None:
        super().__init__(max_batch_records=_MAX_BATCH_RECORDS, max_batch_bytes=_MAX_BATCH_BYTES)
        self._store = store
        self._topics: dict[str, Topic] = {}
        self._tails: dict[tuple[str, int], _Tail] = {}

    def partition_count(self, topic: str) -> int:
        self._store.begin()
        return self._topic(topic).partitions

    def write(self, batches: Sequence[WriteBatch]) -> Sequence[Sequence[Stored] | EventBusError]:
        self._store.begin()
        found = [self._tail(batch) for batch in batches]
        tails = [tail for tail in found if isinstance(tail, _Tail)]
        for _ in range(_ATTEMPTS):
            open_ = [tail for tail in tails if tail.outcome is None]
            if not open_:
                break
            self._attempt(open_)
        for tail in tails:
            if isinstance(tail.outcome, Unavailable):
                # The log may be missing because its topic was deleted: that is looked up when the batch comes again.
                self._topics.pop(tail.log.topic, None)
        beaten = Unavailable(f"{_ATTEMPTS} other writers came first", backend=self._store.backend)
        return [(tail.outcome or beaten) if isinstance(tail, _Tail) else tail for tail in found]

    def close(self) -> None:
        super().close()
        self._store.close()

    def _attempt(self, tails: Sequence[_Tail]) -> None:
        """Try to append in each. Those without an outcome then were beaten by another writer."""
        unseen = [tail for tail in tails if tail.end is None]
        for tail, end in zip(unseen, self._store.last([tail.log for tail in unseen]), strict=True):
            if isinstance(end, EventBusError):
                tail.outcome = end
            else:
                tail.end = end
        going = [(tail, tail.append()) for tail in tails if tail.end is not None]
        beaten = []
        for (tail, append), number in zip(going, self._store.append([each for _, each in going]), strict=True):
            if number is None:
                beaten.append((tail, append))
            elif isinstance(number, EventBusError):
                tail.outcome = number
            else:
                tail.written(number, append.batch)
        following = self._store.read([(append.log, append.behind + 1) for _, append in beaten])
        for (tail, append), entry in zip(beaten, following, strict=True):
            if isinstance(entry, EventBusError):
                tail.outcome = entry
            elif entry is not None and entry.batch[:2] == append.batch[:2]:
                tail.written(entry.number, entry.batch)  # the reply of an earlier attempt was lost
            else:
                tail.end = None

    def _tail(self, batch: WriteBatch) -> _Tail | EventBusError:
        try:
            log = self._topic(batch.topic).log(batch.partition)
        except NotFound as error:
            failed = SendFailed(f"not written: {error}", topic=batch.topic, backend=self._store.backend)
            failed.__cause__ = error
            return failed
        except Unavailable as error:
            return error
        tail = self._tails.get(batch[:2])
        if tail is None or tail.log != log:
            tail = self._tails[batch[:2]] = _Tail(log)
        tail.take(batch)
        return tail

    def _topic(self, name: str) -> Topic:
        if name not in self._topics:
            self._topics[name] = topic_to_use(self._store, name)
        return self._topics[name]

"""Producing for brokers that take batches: placing, order and retry; the broker's part is one ``write``."""

from __future__ import annotations

import random
import time
import uuid
from abc import abstractmethod
from collections import deque
from collections.abc import Sequence
from typing import NamedTuple

from eventbus_core.backend import BackendProducer, Outgoing, Settled
from eventbus_core.errors import BrokerError, EventBusError, NotFound, SendFailed, Unavailable
from eventbus_core.partitioning import partition_of
from eventbus_core.records import Record, Stored


class WriteBatch(NamedTuple):
    """Records of one partition, in order. ``first`` counts the writer's records in the partition, from 0.

    The same ``writer`` and ``first`` always come with the same records until the batch is settled.
    """

    topic: str
    partition: int
    writer: str
    first: int
    records: Sequence[Record]


class _Backoff:
    """When to try again what failed: sooner at first, then about once a second."""

    __slots__ = ("due", "failures", "first", "most")

    def __init__(self, first: float, most: float) -> None:
        self.first = first
        self.most = most
        self.failures = 0
        self.due = 0.0  # time.monotonic()

    def failed(self) -> None:
        pause = min(self.most, self.first * 2**self.failures)
        self.due = time.monotonic() + pause * random.uniform(0.5, 1.0)
        self.failures = min(self.failures + 1, 16)

    def worked(self) -> None:
        self.failures = 0
        self.due = 0.0


class _Lane:
    """What waits for one partition, and the batch that is under way."""

    __slots__ = ("backoff", "batch", "next", "tokens", "waiting")

    def __init__(self, backoff: _Backoff) -> None:
        self.backoff = backoff
        self.waiting: deque[Outgoing] = deque()
        self.tokens: list[int] = []
        self.batch: WriteBatch | None = None
        self.next = 0


class BatchProducer(BackendProducer):
    """One batch per partition under way; it is repeated unchanged until the broker's answer is known.

    Records without a key go to one partition per batch, in turn. ``max_batch_bytes`` bounds a batch that has more than
    one record.
    """

    #: The pause before a repetition: of the first, and the longest. It outlasts polls, and holds up neither what can
    #: be settled meanwhile nor partitions that work.
    _RETRY_SECONDS = (0.02, 1.0)

    def __init__(self, *, max_batch_records: int, max_batch_bytes: int) -> None:
        self._max_batch_records = max_batch_records
        self._max_batch_bytes = max_batch_bytes
        self._writer = uuid.uuid4().hex
        self._arrived: deque[Outgoing] = deque()
        self._lanes: dict[tuple[str, int], _Lane] = {}
        self._turn = random.randrange(1 << 16)
        self._placing = _Backoff(*self._RETRY_SECONDS)
        self._failure: EventBusError | None = None

    @abstractmethod
    def partition_count(self, topic: str) -> int:
        """How many partitions a topic has. Called once per topic and poll: cache it. NotFound, Unavailable."""

    @abstractmethod
    def write(self, batches: Sequence[WriteBatch]) -> Sequence[Sequence[Stored] | EventBusError]:
        """Write batches of distinct partitions, all in one exchange; one result for each.

        The places in order; or ``SendFailed``: nothing of it is written; or ``Unavailable``: unknown, the same batch
        comes again and must not be stored twice. Any other error ends the producer.
        """

    def send(self, outgoing: Sequence[Outgoing]) -> None:
        self._arrived.extend(outgoing)

    def poll(self, timeout: float) -> Sequence[Settled]:
        if self._failure is not None:
            raise self._failure
        settled: list[Settled] = []
        began = time.monotonic()
        if self._arrived and began >= self._placing.due:
            self._place(settled)
        busy = [(key, lane) for key, lane in self._lanes.items() if lane.batch or lane.waiting]
        ready = [(key, lane) for key, lane in busy if began >= lane.backoff.due]
        if ready:
            self._exchange(ready, settled)
        if not settled:
            waiting_for = [lane.backoff.due for _, lane in busy]
            if self._arrived:
                waiting_for.append(self._placing.due)
            if waiting_for:
                time.sleep(max(0.0, min(timeout, min(waiting_for) - time.monotonic())))
        return settled

    def close(self) -> None:
        self._arrived.clear()
        self._lanes.clear()

    def _exchange(self, ready: list[tuple[tuple[str, int], _Lane]], settled: list[Settled]) -> None:
        try:
            results = self.write([lane.batch or self._freeze(key, lane) for key, lane in ready])
            for (_, lane), result in zip(ready, results, strict=True):
                self._settle(lane, result, settled)
        except EventBusError as error:
            for _, lane in ready:
                lane.backoff.failed()
            if not settled:
                raise
            if not error.retryable:
                self._failure = error  # for the next poll: what is settled is told first

    def _place(self, settled: list[Settled]) -> None:
        """Give every arrival its partition, in order; an outage leaves the rest for later."""
        counts: dict[str, int | NotFound] = {}
        self._turn += 1
        while self._arrived:
            token, record = self._arrived[0]
            count = counts.get(record.topic)
            if count is None:
                try:
                    count = self.partition_count(record.topic)
                except NotFound as error:
                    count = error
                except Unavailable:
                    self._placing.failed()
                    return
                counts[record.topic] = count
            outgoing = self._arrived.popleft()
            if isinstance(count, NotFound):
                failed = SendFailed(str(count), topic=record.topic, backend=count.backend)
                failed.__cause__ = count
                settled.append(Settled(token, failed))
                continue
            partition = self._turn % count if record.key is None else partition_of(record.key, count)
            lane = self._lanes.get((record.topic, partition))
            if lane is None:
                lane = self._lanes[record.topic, partition] = _Lane(_Backoff(*self._RETRY_SECONDS))
            lane.waiting.append(outgoing)
        self._placing.worked()

    def _freeze(self, key: tuple[str, int], lane: _Lane) -> WriteBatch:
        records: list[Record] = []
        tokens: list[int] = []
        room = self._max_batch_bytes
        while lane.waiting and len(records) < self._max_batch_records:
            token, record = lane.waiting[0]
            room -= len(record.value or b"") + len(record.key or b"") + 64
            if record.headers:
                room -= sum(len(name) + len(value) + 16 for name, value in record.headers)
            if room < 0 and records:
                break
            lane.waiting.popleft()
            records.append(record)
            tokens.append(token)
        lane.tokens = tokens
        lane.batch = WriteBatch(*key, self._writer, lane.next, records)
        return lane.batch

    def _settle(self, lane: _Lane, result: Sequence[Stored] | EventBusError, settled: list[Settled]) -> None:
        """Take one batch's result; after an outage the batch stays."""
        if isinstance(result, Unavailable):
            lane.backoff.failed()
            return
        if isinstance(result, SendFailed):
            settled.extend(Settled(token, result) for token in lane.tokens)
        elif isinstance(result, EventBusError):
            raise result
        else:
            if len(result) != len(lane.tokens):
                raise BrokerError(f"the backend reported {len(result)} places for a batch of {len(lane.tokens)}")
            lane.next += len(lane.tokens)
            settled.extend(map(Settled, lane.tokens, result))
        lane.batch = None
        lane.tokens = []
        lane.backoff.worked()

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


class _Lane:
    """What waits for one partition, and the batch that is under way."""

    __slots__ = ("batch", "next", "tokens", "waiting")

    def __init__(self) -> None:
        self.waiting: deque[Outgoing] = deque()
        self.tokens: list[int] = []
        self.batch: WriteBatch | None = None
        self.next = 0


class BatchProducer(BackendProducer):
    """One batch per partition under way; it is repeated unchanged until the broker's answer is known.

    Records without a key go to one partition per batch, in turn. ``max_batch_bytes`` bounds a batch that has more than
    one record.
    """

    _RETRY_SECONDS = (0.02, 1.0)

    def __init__(self, *, max_batch_records: int, max_batch_bytes: int) -> None:
        self._max_batch_records = max_batch_records
        self._max_batch_bytes = max_batch_bytes
        self._writer = uuid.uuid4().hex
        self._arrived: deque[Outgoing] = deque()
        self._lanes: dict[tuple[str, int], _Lane] = {}
        self._turn = random.randrange(1 << 16)
        self._failures = 0

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
        settled: list[Settled] = []
        deadline = time.monotonic() + timeout
        outage: EventBusError | None = self._place(settled)
        lanes = [lane for lane in self._lanes.values() if lane.batch or lane.waiting]
        if lanes:
            batches = [lane.batch or self._freeze(key, lane) for key, lane in self._lanes.items() if lane in lanes]
            for lane, result in zip(lanes, self.write(batches), strict=True):
                outage = self._settle(lane, result, settled) or outage
        if outage is None:
            self._failures = 0
        elif not settled:
            self._pause(deadline - time.monotonic())
        return settled

    def close(self) -> None:
        self._arrived.clear()
        self._lanes.clear()

    def _place(self, settled: list[Settled]) -> Unavailable | None:
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
                except Unavailable as error:
                    return error
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
                lane = self._lanes[record.topic, partition] = _Lane()
            lane.waiting.append(outgoing)
        return None

    def _freeze(self, key: tuple[str, int], lane: _Lane) -> WriteBatch:
        records: list[Record] = []
        tokens: list[int] = []
        room = self._max_batch_bytes
        while lane.waiting and len(records) < self._max_batch_records:
            token, record = lane.waiting[0]
            room -= len(record.value or b"") + len(record.key or b"") + 64
            if room < 0 and records:
                break
            lane.waiting.popleft()
            records.append(record)
            tokens.append(token)
        lane.tokens = tokens
        lane.batch = WriteBatch(*key, self._writer, lane.next, records)
        return lane.batch

    def _settle(
        self, lane: _Lane, result: Sequence[Stored] | EventBusError, settled: list[Settled]
    ) -> EventBusError | None:
        """Take one batch's result; an outage is returned and the batch kept."""
        if isinstance(result, Unavailable):
            return result
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
        return None

    def _pause(self, remaining: float) -> None:
        first, most = self._RETRY_SECONDS
        backoff = min(most, first * 2**self._failures) * random.uniform(0.5, 1.0)
        self._failures = min(self._failures + 1, 16)
        time.sleep(max(0.0, min(remaining, backoff)))

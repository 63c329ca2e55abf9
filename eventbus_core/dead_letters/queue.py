"""The dead letters of one group in one topic, as an operator has them: to look at, and to discharge."""

from __future__ import annotations

import time
from collections.abc import Iterable
from functools import lru_cache
from itertools import count
from typing import Self

from eventbus_core.bus import EventBus
from eventbus_core.dead_letters.index import DeadLetterIndex, Entry
from eventbus_core.dead_letters.letters import DeadLetter, DeadLetterId, dlq_group, dlq_topic, mark, parse, size_of
from eventbus_core.dead_letters.log import DeadLetterLog
from eventbus_core.errors import Conflict, NotFound
from eventbus_core.partitioning import partition_of
from eventbus_core.records import Delivery, Position

_MAX_UNACKED = 200
_JOIN_SECONDS = 15.0
_ACK_SECONDS = 10.0


class DeadLetterQueue:
    """What one group could not handle of one topic. Not thread-safe; opening it and ``refresh`` block for reading.

    Raises ``BrokerError``. A dead letter is discharged when the position of the group ``<group>.dlq`` lies behind it,
    or a mark, itself a record among the dead letters, names it.
    """

    def __init__(self, bus: EventBus, topic: str, group: str) -> None:
        self.bus = bus
        self.topic = topic
        self.group = group
        self.index = DeadLetterIndex()
        self.foreign = 0
        """How many records there are no dead letters, or are of another topic and group; they are passed over."""
        self._log = DeadLetterLog(bus.admin(), topic, group)
        self.refresh()

    def refresh(self) -> None:
        """Read what was stored since."""
        for found, record in self._log.new():
            parsed = parse(record, self.topic, self.group)
            self.foreign += parsed is None
            self.index.add(found, parsed, record.timestamp_ms or 0)

    def entry(self, identity: DeadLetterId) -> Entry:
        """``NotFound``: there is no such dead letter, or it is discharged."""
        entry = self.index.get(identity)
        if entry is None:
            raise NotFound(
                f"group {self.group!r} has no dead letter {identity} of {self.topic!r}: see `eventbus dlq list`",
                topic=self.topic,
            )
        return entry

    def letter(self, entry: Entry) -> DeadLetter:
        """Its first dead letter with the original's bytes, read from the broker. ``NotFound``: it is gone there."""
        parsed = parse(self._log.record(entry.id), self.topic, self.group)
        assert isinstance(parsed, DeadLetter)  # as it was when it became an entry
        return parsed

    @property
    def partitions(self) -> int:
        """How many partitions the dead letters have; 0 while there is no topic of them."""
        return len(self._log.lags)


class Discharge:
    """Discharging dead letters, as the only one: a context manager that joins the group of the positions.

    The position moves as far as nothing undischarged is in its way; what is discharged behind that gets a mark when
    the block ends. Then all of it is durable; if the process dies before, it may be redriven again.
    """

    def __init__(self, queue: DeadLetterQueue) -> None:
        self._queue = queue
        self._unacked: dict[DeadLetterId, Delivery] = {}
        self._acked: set[DeadLetterId] = set()
        self._discharged: set[DeadLetterId] = set()

    def __enter__(self) -> Self:
        """Join. ``Conflict``: somebody else discharges dead letters of this topic and group now."""
        queue = self._queue
        letters = dlq_topic(queue.topic, queue.group)
        self._consumer = queue.bus.consumer(letters, group=dlq_group(queue.group), max_unacked=_MAX_UNACKED)
        deadline = time.monotonic() + _JOIN_SECONDS
        while len(self._consumer.assignments) < queue.partitions:
            if time.monotonic() > deadline:
                self._consumer.close()
                raise Conflict(
                    f"somebody else redrives or drops dead letters of group {queue.group!r} in {queue.topic!r} now",
                    topic=queue.topic,
                )
            self._ack(0.05)
        return self

    def __exit__(self, *_: object) -> None:
        with self._consumer:
            behind = set(self._queue.index.behind())
            deadline = time.monotonic() + _ACK_SECONDS
            while not behind <= self._acked and time.monotonic() < deadline:
                self._ack(0.1)
            self._consumer.flush(_ACK_SECONDS)
            self._mark()

    def discharge(self, entries: Iterable[Entry]) -> None:
        """These are dead no more; members that parked their keys see it soon, at the latest when the block ends."""
        for entry in entries:
            self._discharged.update((entry.id, *entry.repeats))
            self._queue.index.discharge(entry.id)
        self._ack(0.0)

    def letter(self, entry: Entry) -> DeadLetter:
        """Like ``DeadLetterQueue.letter``, without asking the broker for what is here already."""
        delivery = self._unacked.get(entry.id)
        parsed = delivery and parse(delivery.record, self._queue.topic, self._queue.group)
        return parsed if isinstance(parsed, DeadLetter) else self._queue.letter(entry)

    def _ack(self, timeout: float) -> None:
        for delivery in self._consumer.receive(timeout=timeout):
            self._unacked[DeadLetterId(delivery.partition, delivery.position)] = delivery
        done = [each for each in self._unacked if self._queue.index.is_discharged(each)]
        self._consumer.ack(*(self._unacked.pop(each) for each in done))
        self._acked.update(done)

    def _mark(self) -> None:
        """Mark what is discharged and not behind the position, whatever kept that from moving."""
        queue = self._queue
        lags = queue.bus.admin().lag(dlq_group(queue.group), dlq_topic(queue.topic, queue.group))
        settled = {lag.partition: lag.settled or Position() for lag in lags}
        marks = [
            mark(each, queue.topic, queue.group, _key_of(each.partition, len(lags)))
            for each in sorted(self._discharged)
            if each.position >= settled[each.partition]
        ]
        if marks:
            with queue.bus.producer() as producer:
                receipts = [producer.send_record(each, size_of(each), None) for each in marks]
                for receipt in receipts:
                    receipt.result()


@lru_cache
def _key_of(partition: int, partitions: int) -> bytes:
    """A key that leads to the partition: so a mark lies behind what it is about, and is never passed before it."""
    return next(key for key in map(b"%d".__mod__, count()) if partition_of(key, partitions) == partition)

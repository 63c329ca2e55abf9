"""Reading the dead letters of one group in one topic, from where they are discharged to their end."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence

from eventbus_core.admin import Admin
from eventbus_core.backend import PartitionLag
from eventbus_core.dead_letters.letters import DeadLetterId, dlq_group, dlq_topic, redrive_topic
from eventbus_core.errors import Conflict, NotFound
from eventbus_core.records import Position, Record, Where

_MEETING_SECONDS = 5.0


def create_topics(admin: Admin, topic: str, group: str) -> None:
    """Create what dead letters of this topic and group need; what is there already stays as it is.

    Blocks for I/O. Call it before the group's workers join, and before the first dead letter is stored: the group of
    positions keeps the broker from removing dead letters before anyone looked, where ``keeps_unsettled``. The topics
    get as many partitions as ``topic`` has. Raises ``NotFound``: no such topic.
    """
    there = set(admin.topics())
    wanted = [dlq_topic(topic, group), redrive_topic(topic, group)]
    if missing := [name for name in wanted if name not in there]:
        partitions = admin.describe_topic(topic).partitions
        for name in missing:
            admin.create_topic(name, partitions)
    letters, positions = dlq_topic(topic, group), dlq_group(group)
    deadline = time.monotonic() + _MEETING_SECONDS
    while True:
        try:
            admin.lag(positions, letters)
        except NotFound:
            try:
                admin.set_position(positions, letters, "earliest")
            except Conflict:  # another worker makes them at this moment
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.05)
        else:
            return


class DeadLetterLog:
    """Reads each dead letter once. Not thread-safe; every call may block for I/O and raise ``BrokerError``."""

    def __init__(self, admin: Admin, topic: str, group: str) -> None:
        self._admin = admin
        self._topic = topic
        self._group = group
        self._letters = dlq_topic(topic, group)
        self._read: dict[int, Position] = {}  # the last record read, per partition
        self._seen_to: dict[int, Position] = {}  # the end up to which all was read
        self.lags: Sequence[PartitionLag] = ()
        """As they were when ``new`` was called last."""

    def new(self) -> Iterator[tuple[DeadLetterId, Record]]:
        """What was stored before this call and not read by an earlier one, in order per partition."""
        self.lags = self._look()
        for lag in self.lags:
            yield from self._new_in(lag)

    @property
    def settled(self) -> dict[int, Position | None]:
        """Per partition the position behind which all is discharged, as it was when ``new`` was called last."""
        return {lag.partition: lag.settled for lag in self.lags}

    def record(self, letter: DeadLetterId) -> Record:
        """One dead letter again. ``NotFound``: the broker has removed it."""
        delivery = self._admin.read_one(self._letters, letter.partition, letter.position)
        if delivery is None:
            raise NotFound(f"{self._letters!r} holds no dead letter {letter} any more", topic=self._letters)
        return delivery.record

    def _look(self) -> Sequence[PartitionLag]:
        """Nothing: there never was a dead letter. Without positions, which a broker may forget, all is unsettled."""
        try:
            return self._admin.lag(dlq_group(self._group), self._letters)
        except NotFound:
            try:
                info = self._admin.describe_topic(self._letters)
            except NotFound:
                return ()
        return [
            PartitionLag(self._letters, number, None, end, int(first is not None and first != end))
            for number, (first, end) in enumerate(zip(info.firsts, info.ends, strict=True))
        ]

    def _new_in(self, lag: PartitionLag) -> Iterator[tuple[DeadLetterId, Record]]:
        partition, end = lag.partition, lag.end
        if end is None or not lag.records or self._seen_to.get(partition) == end:
            return
        last = self._read.get(partition)
        start: Where = "earliest" if lag.settled is None else lag.settled
        if last is not None and (lag.settled is None or last >= lag.settled):
            start = last
        for delivery in self._admin.read_partition(self._letters, partition, start, end):
            if last is None or delivery.position > last:
                last = self._read[partition] = delivery.position
                yield DeadLetterId(partition, delivery.position), delivery.record
        self._seen_to[partition] = end

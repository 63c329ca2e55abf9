"""The memory backend: the reference implementation of the interface, in one process.

Every guarantee but durability. Buses of one process that use the same URL (``memory://name``) share topics and groups.
Members share partitions by leases as on a real broker, so a member that stops without leaving is replaced after
``lease_seconds``.
"""

from __future__ import annotations

import bisect
import os
import threading
import time
from collections.abc import Collection, Sequence
from datetime import datetime
from typing import Any, ClassVar, NamedTuple
from urllib.parse import urlsplit

from pydantic import Field

from eventbus_core.backend import (
    Backend,
    BackendAdmin,
    BackendProducer,
    BackendSettings,
    Gap,
    Group,
    GroupInfo,
    PartitionLag,
    TopicInfo,
)
from eventbus_core.backend.batching import BatchProducer, WriteBatch
from eventbus_core.backend.leases import Beat, LeasedConsumer
from eventbus_core.capabilities import Capabilities, Durability, Reach
from eventbus_core.errors import Conflict, EventBusError, NotFound, SendFailed, Unavailable
from eventbus_core.records import Assignment, Delivery, Position, Record, Stored, Where, lease_clock

_MAX_RECORD_BYTES = 16 * 1024 * 1024


class MemorySettings(BackendSettings):
    """Settings of the memory backend."""

    name: str = "default"
    """Buses with the same name share their topics."""
    create_topics: bool = True
    lease_seconds: float = Field(default=3.0, gt=0)
    """A member that stops without leaving is replaced after this time."""

    @classmethod
    def fields_of_url(cls, url: str) -> dict[str, Any]:
        name = urlsplit(url).netloc
        return {"name": name} if name else {}


class _Lease(NamedTuple):
    member: str
    epoch: int
    until: float


class _Partition:
    """A log, and what groups and writers have of it."""

    def __init__(self) -> None:
        self.records: list[Record] = []
        self.times: list[int] = []  # the highest timestamp so far, for each record
        self.writers: dict[str, tuple[int, list[Stored]]] = {}  # the last batch of each: its first, its places
        self.settled: dict[str, int] = {}
        self.leases: dict[str, _Lease] = {}
        self.epochs: dict[str, int] = {}


class _Store:
    """Topics and groups. Every method of the other classes works under ``changed``."""

    def __init__(self) -> None:
        self.changed = threading.Condition()
        self.topics: dict[str, list[_Partition]] = {}
        self.members: dict[tuple[str, str], dict[str, float]] = {}  # (group, topic) -> member -> expiry

    def topic(self, name: str) -> list[_Partition]:
        """The partitions of a topic."""
        try:
            return self.topics[name]
        except KeyError:
            raise NotFound(f"no topic {name!r}; create it first", topic=name, backend="memory") from None

    def partition(self, topic: str, number: int) -> _Partition:
        """One partition."""
        partitions = self.topic(topic)
        if not 0 <= number < len(partitions):
            raise NotFound(f"topic {topic!r} has no partition {number}", topic=topic, backend="memory")
        return partitions[number]

    def live(self, group: str, topic: str) -> dict[str, float]:
        """The members whose heartbeat has not lapsed."""
        now = lease_clock()
        members = {name: until for name, until in self.members.get((group, topic), {}).items() if until > now}
        self.members[group, topic] = members
        return members


_stores: dict[str, _Store] = {}
_stores_lock = threading.Lock()


def _forget_stores() -> None:
    """A forked child is another process: it starts empty, and without locks that threads of the parent hold."""
    global _stores_lock
    _stores_lock = threading.Lock()
    _stores.clear()


os.register_at_fork(after_in_child=_forget_stores)


def _store(name: str) -> _Store:
    with _stores_lock:
        return _stores.setdefault(name, _Store())


def _index(partition: _Partition, where: Where) -> int:
    """The index of the first record at or after ``where``."""
    if where == "earliest":
        return 0
    if where == "latest":
        return len(partition.records)
    if isinstance(where, datetime):
        return bisect.bisect_left(partition.times, where.timestamp() * 1000)
    if isinstance(where, Position):
        return min(max(where[0], 0), len(partition.records))
    raise AssertionError(where)


class _Producer(BatchProducer):
    def __init__(self, store: _Store) -> None:
        super().__init__(max_batch_records=1000, max_batch_bytes=_MAX_RECORD_BYTES)
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


class _Hold(Assignment):
    """A hold, and where reading goes on."""

    __slots__ = ("next", "source")

    def __init__(self, topic: str, partition: int, epoch: int, source: _Partition, next_: int) -> None:
        super().__init__(topic, partition, epoch)
        self.source = source
        self.next = next_


class _Consumer(LeasedConsumer):
    def __init__(self, store: _Store, group: Group, lease_seconds: float) -> None:
        super().__init__(group, lease_seconds=lease_seconds, beat_seconds=0.1)
        self._store = store
        self._lease = lease_seconds
        with store.changed:
            topics = [store.topic(name) for name in group.topics]
            for partitions in topics:
                known = any(group.name in each.settled for each in partitions)
                for each in partitions:
                    each.settled.setdefault(group.name, 0 if known else _index(each, group.start))

    def beat(self, topic: str, held: Sequence[Assignment]) -> Beat:
        name, member = self.group.name, self.group.member
        with self._store.changed:
            partitions = self._store.topic(topic)
            now = lease_clock()
            members = self._store.live(name, topic)
            members[member] = now + self._lease
            mine = set()
            for each in held:
                lease = partitions[each.partition].leases.get(name) if each.partition < len(partitions) else None
                if lease is not None and lease[:2] == (member, each.epoch):
                    partitions[each.partition].leases[name] = lease._replace(until=now + self._lease)
                    mine.add(each.partition)
            free = [
                number
                for number, each in enumerate(partitions)
                if name not in each.leases or each.leases[name].until <= now
            ]
            return Beat(list(members), len(partitions), free, mine)

    def acquire(self, topic: str, partition: int) -> Assignment | None:
        name = self.group.name
        with self._store.changed:
            source = self._store.partition(topic, partition)
            now = lease_clock()
            lease = source.leases.get(name)
            if lease is not None and lease.until > now:
                return None
            epoch = source.epochs[name] = source.epochs.get(name, 0) + 1
            source.leases[name] = _Lease(self.group.member, epoch, now + self._lease)
            return _Hold(topic, partition, epoch, source, source.settled.setdefault(name, 0))

    def fetch(self, assignments: Sequence[Assignment], max_records: int, timeout: float) -> Sequence[Delivery | Gap]:
        holds = [each for each in assignments if isinstance(each, _Hold)]
        deadline = time.monotonic() + timeout
        with self._store.changed:
            while not any(each.next < len(each.source.records) for each in holds):
                remaining = deadline - time.monotonic()
                if remaining <= 0:
                    return []
                self._store.changed.wait(remaining)
            ready = [each for each in holds if each.next < len(each.source.records)]
            share = max(1, max_records // len(ready))
            taken = [(each, each.next, each.source.records[each.next : each.next + share]) for each in ready]
        fetched: list[Delivery | Gap] = []
        for hold, begin, records in taken:
            records = records[: max_records - len(fetched)]  # noqa: PLW2901
            hold.next = begin + len(records)
            fetched.extend(
                Delivery(record, hold.partition, Position(offset), hold) for offset, record in enumerate(records, begin)
            )
        return fetched

    def ack(self, settled: Sequence[Delivery]) -> None:
        with self._store.changed:
            for delivery in settled:
                assignment = delivery.assignment
                if not isinstance(assignment, _Hold):
                    continue
                if self._is_mine(assignment):
                    settled_to = assignment.source.settled
                    settled_to[self.group.name] = max(settled_to[self.group.name], delivery.position[0] + 1)
                else:
                    self.lose(assignment, "another member has taken the partition over")

    def give_back(self, assignment: Assignment) -> None:
        with self._store.changed:
            if isinstance(assignment, _Hold) and self._is_mine(assignment):
                del assignment.source.leases[self.group.name]

    def reposition(self, assignment: Assignment, to: Where) -> Assignment:
        name = self.group.name
        with self._store.changed:
            source = self._store.partition(assignment.topic, assignment.partition)
            if not isinstance(assignment, _Hold) or not self._is_mine(assignment):
                self.lose(assignment, "another member has taken the partition over")
                raise Unavailable(
                    f"{assignment!r} is held no more; seek again", topic=assignment.topic, backend="memory"
                )
            epoch = source.epochs[name] = source.epochs[name] + 1
            source.leases[name] = source.leases[name]._replace(epoch=epoch)
            source.settled[name] = _index(source, to)
            return _Hold(assignment.topic, assignment.partition, epoch, source, source.settled[name])

    def leave(self) -> None:
        with self._store.changed:
            for topic in self.group.topics:
                self._store.live(self.group.name, topic).pop(self.group.member, None)

    def _is_mine(self, hold: _Hold) -> bool:
        lease = hold.source.leases.get(self.group.name)
        return lease is not None and lease[:2] == (self.group.member, hold.epoch)


class _Admin(BackendAdmin):
    def __init__(self, store: _Store) -> None:
        self._store = store

    def create_topic(self, topic: str, partitions: int) -> None:
        with self._store.changed:
            existing = self._store.topics.setdefault(topic, [_Partition() for _ in range(partitions)])
            if len(existing) != partitions:
                raise Conflict(
                    f"topic {topic!r} exists with {len(existing)} partitions, not {partitions}",
                    topic=topic,
                    backend="memory",
                )

    def delete_topic(self, topic: str) -> None:
        with self._store.changed:
            self._store.topic(topic)
            del self._store.topics[topic]

    def topics(self) -> Sequence[str]:
        with self._store.changed:
            return sorted(self._store.topics)

    def describe_topic(self, topic: str) -> TopicInfo:
        with self._store.changed:
            partitions = self._store.topic(topic)
            firsts = tuple(Position(0) if each.records else None for each in partitions)
            ends = tuple(Position(len(each.records)) for each in partitions)
            return TopicInfo(topic, len(partitions), firsts, ends, None)

    def groups(self) -> Sequence[GroupInfo]:
        with self._store.changed:
            topics: dict[str, list[str]] = {}
            for topic, partitions in sorted(self._store.topics.items()):
                for group in {name for each in partitions for name in each.settled}:
                    topics.setdefault(group, []).append(topic)
            return [GroupInfo(name, tuple(of), len(self._members(name))) for name, of in sorted(topics.items())]

    def lag(self, group: str, topic: str) -> Sequence[PartitionLag]:
        with self._store.changed:
            partitions = self._store.topic(topic)
            if not any(group in each.settled for each in partitions):
                raise NotFound(f"group {group!r} has no position in topic {topic!r}", topic=topic, backend="memory")
            return [
                PartitionLag(topic, number, Position(settled), Position(end), end - settled)
                for number, each in enumerate(partitions)
                for settled, end in [(each.settled.get(group, 0), len(each.records))]
            ]

    def set_position(self, group: str, topic: str, partition: int, to: Where) -> None:
        with self._store.changed:
            source = self._store.partition(topic, partition)
            self._refuse_members(group)
            source.settled[group] = _index(source, to)

    def delete_group(self, group: str) -> None:
        with self._store.changed:
            self._refuse_members(group)
            found = False
            for partitions in self._store.topics.values():
                for each in partitions:
                    found |= each.settled.pop(group, None) is not None
            if not found:
                raise NotFound(f"no group {group!r}", backend="memory")

    def read(self, topic: str, partition: int, start: Where, limit: int, timeout: float) -> Sequence[Delivery]:
        deadline = time.monotonic() + timeout
        with self._store.changed:
            source = self._store.partition(topic, partition)
            begin = _index(source, start)
            while begin >= len(source.records) and (remaining := deadline - time.monotonic()) > 0:
                self._store.changed.wait(remaining)
            records = source.records[begin : begin + limit]
        return [Delivery(record, partition, Position(offset)) for offset, record in enumerate(records, begin)]

    def close(self) -> None:
        pass

    def _members(self, group: str) -> Collection[str]:
        return {
            name for each, topic in list(self._store.members) if each == group for name in self._store.live(each, topic)
        }

    def _refuse_members(self, group: str) -> None:
        members = self._members(group)
        if members:
            raise Conflict(f"group {group!r} has {len(members)} members; stop them, or let one seek", backend="memory")


class MemoryBackend(Backend[MemorySettings]):
    """Topics in this process; gone with it."""

    name: ClassVar[str] = "memory"
    api_version: ClassVar[int] = 1
    settings_type: ClassVar[type[BackendSettings]] = MemorySettings
    capabilities = Capabilities(
        ack_delay_seconds=0.0,
        fenced_ack=True,
        announced_moves=True,
        idempotent_send=True,
        stored_position=True,
        counted_deliveries=False,
        seek_by_time=True,
        keeps_unsettled=True,
        durability=Durability.NONE,
        reach=Reach.PROCESS,
        max_record_bytes=_MAX_RECORD_BYTES,
        max_takeover_seconds=5.0,
        sources={
            "ack_delay_seconds": "an ack is a store in this process's memory",
            "fenced_ack": "the epoch is compared under the store's lock",
            "announced_moves": "leases are shared by core's LeasedConsumer, which announces",
            "idempotent_send": "a writer's batch is stored once, by its first sequence number",
            "stored_position": "the index in the log",
            "counted_deliveries": "nothing is kept per delivery",
            "seek_by_time": "bisection over the timestamps",
            "keeps_unsettled": "nothing is ever removed but with its topic",
            "durability": "a list in this process",
            "reach": "a list in this process",
            "max_record_bytes": "chosen: far above every broker's limit, below what a mistake would send",
            "max_takeover_seconds": "lease_seconds (3 by default), a beat, and the wait of a poll",
            "transactions": "not implemented",
            "delayed_send": "not implemented",
        },
    )

    def __init__(self, settings: MemorySettings) -> None:
        super().__init__(settings)
        self._store = _store(settings.name)

    def producer(self, *, max_records: int, max_bytes: int) -> BackendProducer:  # noqa: ARG002  (nothing to size)
        return _Producer(self._store)

    def consumer(self, group: Group) -> LeasedConsumer:
        return _Consumer(self._store, group, self.settings.lease_seconds)

    def admin(self) -> BackendAdmin:
        return _Admin(self._store)

    def close(self) -> None:
        pass

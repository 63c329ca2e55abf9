"""A member of a group, whose leases are in memory."""

from __future__ import annotations

import time
from collections.abc import Sequence

from eventbus_core.backend import Gap, Group
from eventbus_core.backend.leases import Beat, LeasedConsumer
from eventbus_core.errors import Unavailable
from eventbus_core.memory.store import Lease, Partition, Store, index_of
from eventbus_core.records import Assignment, Delivery, Position, Where, lease_clock


class MemoryHold(Assignment):
    """A hold, and where reading goes on."""

    __slots__ = ("next", "source")

    def __init__(self, topic: str, partition: int, epoch: int, source: Partition, next_: int) -> None:
        super().__init__(topic, partition, epoch)
        self.source = source
        self.next = next_


class MemoryConsumer(LeasedConsumer):
    """Members hold partitions by leases in the store, as on a real broker."""

    def __init__(self, store: Store, group: Group, lease_seconds: float) -> None:
        super().__init__(group, lease_seconds=lease_seconds, beat_seconds=0.1)
        self._store = store
        self._lease = lease_seconds
        with store.changed:
            topics = [store.topic(name) for name in group.topics]
            for partitions in topics:
                known = any(group.name in each.settled for each in partitions)
                for each in partitions:
                    each.settled.setdefault(group.name, 0 if known else index_of(each, group.start))

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
            source.leases[name] = Lease(self.group.member, epoch, now + self._lease)
            return MemoryHold(topic, partition, epoch, source, source.settled.setdefault(name, 0))

    def fetch(self, assignments: Sequence[Assignment], max_records: int, timeout: float) -> Sequence[Delivery | Gap]:
        holds = [each for each in assignments if isinstance(each, MemoryHold)]
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
                if not isinstance(assignment, MemoryHold):
                    continue
                if self._is_mine(assignment):
                    settled_to = assignment.source.settled
                    settled_to[self.group.name] = max(settled_to[self.group.name], delivery.position[0] + 1)
                else:
                    self.lose(assignment, "another member has taken the partition over")

    def give_back(self, assignment: Assignment) -> None:
        with self._store.changed:
            if isinstance(assignment, MemoryHold) and self._is_mine(assignment):
                del assignment.source.leases[self.group.name]

    def reposition(self, assignment: Assignment, to: Where) -> Assignment:
        name = self.group.name
        with self._store.changed:
            source = self._store.partition(assignment.topic, assignment.partition)
            if not isinstance(assignment, MemoryHold) or not self._is_mine(assignment):
                self.lose(assignment, "another member has taken the partition over")
                raise Unavailable(
                    f"{assignment!r} is held no more; seek again", topic=assignment.topic, backend="memory"
                )
            epoch = source.epochs[name] = source.epochs[name] + 1
            source.leases[name] = source.leases[name]._replace(epoch=epoch)
            source.settled[name] = index_of(source, to)
            return MemoryHold(assignment.topic, assignment.partition, epoch, source, source.settled[name])

    def leave(self) -> None:
        with self._store.changed:
            for topic in self.group.topics:
                self._store.live(self.group.name, topic).pop(self.group.member, None)

    def _is_mine(self, hold: MemoryHold) -> bool:
        lease = hold.source.leases.get(self.group.name)
        return lease is not None and lease[:2] == (self.group.member, hold.epoch)

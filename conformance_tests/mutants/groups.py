"""Mutants that begin, go on or move at the wrong place."""

from __future__ import annotations

import bisect
from collections.abc import Sequence
from datetime import datetime
from typing import ClassVar

from conformance_tests.mutants.mutant import Mutant
from eventbus_core.backend import Group
from eventbus_core.memory.consumer import MemoryConsumer, MemoryHold
from eventbus_core.memory.store import Partition, Store
from eventbus_core.records import Assignment, Delivery, Position, Where, lease_clock


class _Judged(Mutant):
    runs: ClassVar[tuple[str, ...]] = ("core.test_groups", "semantics.test_moves", "semantics.test_seeking")


class SharedGroups(_Judged):
    """An ack moves all groups of the topic."""

    class consumer_type(MemoryConsumer):
        def ack(self, settled: Sequence[Delivery]) -> None:
            super().ack(settled)
            with self._store.changed:
                for each in settled:
                    if isinstance(each.assignment, MemoryHold):
                        positions = each.assignment.source.settled
                        own = positions[self.group.name]
                        positions.update({name: max(at, own) for name, at in positions.items()})


class StartIgnored(_Judged):
    """Every new group begins at the earliest record."""

    class consumer_type(MemoryConsumer):
        def __init__(self, store: Store, group: Group, lease_seconds: float) -> None:
            super().__init__(store, group._replace(start="earliest"), lease_seconds)


class StartAlways(_Judged):
    """The start of whoever joins first moves a group that has a position."""

    class consumer_type(MemoryConsumer):
        def __init__(self, store: Store, group: Group, lease_seconds: float) -> None:
            with store.changed:
                for name in group.topics:
                    if name in store.topics and not store.live(group.name, name):
                        for each in store.topics[name]:
                            each.settled.pop(group.name, None)
            super().__init__(store, group, lease_seconds)


class LatestIgnoresReady(_Judged):
    """A group at the latest record begins where its member first fetches, some time after it joined."""

    class consumer_type(MemoryConsumer):
        def __init__(self, store: Store, group: Group, lease_seconds: float) -> None:
            super().__init__(store, group, lease_seconds)
            self._next_beat = lease_clock() + 0.1  # joining takes a while
            self.is_new = group.start == "latest" and not any(
                name == group.name for each, name in _joined(store) if each in group.topics
            )
            _joined(store).update((each, group.name) for each in group.topics)

        def acquire(self, topic: str, partition: int) -> Assignment | None:
            if self.is_new:
                source = self._store.partition(topic, partition)
                source.settled[self.group.name] = len(source.records)
            return super().acquire(topic, partition)


def _joined(store: Store) -> set[tuple[str, str]]:
    """Topics and groups that ever had a member."""
    joined: set[tuple[str, str]] = store.__dict__.setdefault("joined", set())
    return joined


class PlaceDiesWithMember(_Judged):
    """The place of a new group is kept by its first member until the first ack."""

    class consumer_type(MemoryConsumer):
        def __init__(self, store: Store, group: Group, lease_seconds: float) -> None:
            with store.changed:
                for name in group.topics:
                    partitions = store.topics.get(name, [])
                    if (name, group.name) not in _acked(store):
                        for each in partitions:
                            each.settled.pop(group.name, None)
            super().__init__(store, group, lease_seconds)

        def ack(self, settled: Sequence[Delivery]) -> None:
            super().ack(settled)
            _acked(self._store).update((each.record.topic, self.group.name) for each in settled)


def _acked(store: Store) -> set[tuple[str, str]]:
    """Topics and groups in which something was acked."""
    acked: set[tuple[str, str]] = store.__dict__.setdefault("acked", set())
    return acked


class ForgetsEmptyGroups(_Judged):
    """A group's positions go with its last member."""

    class consumer_type(MemoryConsumer):
        def leave(self) -> None:
            super().leave()
            with self._store.changed:
                for topic in self.group.topics:
                    if not self._store.live(self.group.name, topic):
                        for each in self._store.topics.get(topic, []):
                            each.settled.pop(self.group.name, None)


class _Moving(MemoryConsumer):
    """Seeks to somewhere near."""

    def place(self, source: Partition, to: Where) -> Where:
        raise NotImplementedError

    def reposition(self, assignment: Assignment, to: Where) -> Assignment:
        source = self._store.partition(assignment.topic, assignment.partition)
        return super().reposition(assignment, self.place(source, to))


class SeeksBehind(_Judged):
    """Seeking to a record begins with the next one."""

    class consumer_type(_Moving):
        def place(self, source: Partition, to: Where) -> Where:  # noqa: ARG002
            return Position(to[0] + 1) if isinstance(to, Position) else to


class SeeksBehindTime(_Judged):
    """Seeking to a time leaves records of exactly that time out."""

    class consumer_type(_Moving):
        def place(self, source: Partition, to: Where) -> Where:
            if not isinstance(to, datetime):
                return to
            return Position(bisect.bisect_right(source.times, to.timestamp() * 1000))


class SeeksInSeconds(_Judged):
    """Seeking to a time begins at its whole second."""

    class consumer_type(_Moving):
        def place(self, source: Partition, to: Where) -> Where:  # noqa: ARG002
            return to.replace(microsecond=0) if isinstance(to, datetime) else to

"""Operators' verbs on topics and groups in memory."""

from __future__ import annotations

import time
from collections.abc import Collection, Sequence

from eventbus_core.backend import BackendAdmin, GroupInfo, PartitionLag, TopicInfo
from eventbus_core.errors import Conflict, NotFound
from eventbus_core.memory.store import Partition, Store, index_of
from eventbus_core.records import Delivery, Position, Where


class MemoryAdmin(BackendAdmin):
    """Topics and groups of one store."""

    def __init__(self, store: Store) -> None:
        self._store = store

    def create_topic(self, topic: str, partitions: int) -> None:
        with self._store.changed:
            existing = self._store.topics.setdefault(topic, [Partition() for _ in range(partitions)])
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
            source.settled[group] = index_of(source, to)

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
            begin = index_of(source, start)
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

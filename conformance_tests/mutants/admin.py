"""Mutants that administrate wrongly."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from conformance_tests.mutants.mutant import Mutant
from eventbus_core.backend import GroupInfo, PartitionLag, TopicInfo
from eventbus_core.memory.admin import MemoryAdmin
from eventbus_core.records import Position


class _Judged(Mutant):
    runs: ClassVar[tuple[str, ...]] = ("core.test_errors", "semantics.test_admin")


class ConflictIgnored(_Judged):
    """A topic that exists is fine, however many partitions it has."""

    class admin_type(MemoryAdmin):
        def create_topic(self, topic: str, partitions: int) -> None:
            if topic not in self._store.topics:
                super().create_topic(topic, partitions)


class CreatingEmpties(_Judged):
    """Creating a topic that exists begins it anew."""

    class admin_type(MemoryAdmin):
        def create_topic(self, topic: str, partitions: int) -> None:
            super().create_topic(topic, partitions)
            for each in self._store.topics[topic]:
                del each.records[:], each.times[:]


class DeletingKeepsRecords(_Judged):
    """A topic made anew has the records of the old one."""

    class admin_type(MemoryAdmin):
        def delete_topic(self, topic: str) -> None:
            with self._store.changed:
                deleted = self._store.topic(topic)
                super().delete_topic(topic)
                self._store.__dict__.setdefault("deleted", {})[topic] = deleted

        def create_topic(self, topic: str, partitions: int) -> None:
            super().create_topic(topic, partitions)
            old = self._store.__dict__.get("deleted", {}).pop(topic, [])
            for each, deleted in zip(self._store.topics[topic], old, strict=False):
                each.records, each.times = deleted.records, deleted.times


class TopicsUnsorted(_Judged):
    """Lists topics as it finds them."""

    class admin_type(MemoryAdmin):
        def topics(self) -> Sequence[str]:
            return list(reversed(super().topics()))


class WrongEnds(_Judged):
    """Takes the last record for the end."""

    runs: ClassVar[tuple[str, ...]] = (
        "semantics.test_admin",
        "core.test_sending",
    )

    class admin_type(MemoryAdmin):
        def describe_topic(self, topic: str) -> TopicInfo:
            info = super().describe_topic(topic)
            return info._replace(ends=tuple(each and Position(max(0, each[0] - 1)) for each in info.ends))


class WrongLag(_Judged):
    """Counts one record too many where there is any."""

    class admin_type(MemoryAdmin):
        def lag(self, group: str, topic: str) -> Sequence[PartitionLag]:
            return [each._replace(records=each.records + (each.records > 0)) for each in super().lag(group, topic)]


class LagInOnePlace(_Judged):
    """Tells the right sum, and all of it in the first partition."""

    class admin_type(MemoryAdmin):
        def lag(self, group: str, topic: str) -> Sequence[PartitionLag]:
            lag = super().lag(group, topic)
            return [lag[0]._replace(records=sum(each.records for each in lag))] + [
                each._replace(records=0) for each in lag[1:]
            ]


class MovesBusyGroups(_Judged):
    """Moves a group under its members."""

    class admin_type(MemoryAdmin):
        def _refuse_members(self, group: str) -> None:
            pass


class KeepsDeletedGroups(_Judged):
    """A group that was deleted is not listed any more, and has its position still."""

    class admin_type(MemoryAdmin):
        def delete_group(self, group: str) -> None:
            kept = {
                (topic, number): each.settled[group]
                for topic, partitions in self._store.topics.items()
                for number, each in enumerate(partitions)
                if group in each.settled
            }
            super().delete_group(group)
            for (topic, number), settled in kept.items():
                self._store.topics[topic][number].settled[group] = settled
            self.deleted.add(group)

        @property
        def deleted(self) -> set[str]:
            deleted: set[str] = self._store.__dict__.setdefault("deleted_groups", set())
            return deleted

        def groups(self) -> Sequence[GroupInfo]:
            return [each for each in super().groups() if each.name not in self.deleted]

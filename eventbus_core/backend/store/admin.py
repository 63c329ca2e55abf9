"""Operators' verbs: topics and groups are cells, and everything is read from them when it is asked for."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Final

from eventbus_core.backend import BackendAdmin, GroupInfo, PartitionLag, TopicInfo
from eventbus_core.backend.store import Put, Store, whole
from eventbus_core.backend.store.groups import GroupCells, Hold, groups_of
from eventbus_core.backend.store.reading import behind, deliveries, end_of, entry_from, locate
from eventbus_core.backend.store.topics import (
    create_topic,
    delete_topic,
    existing_topic,
    find_topic,
    topic_names,
)
from eventbus_core.errors import Conflict, NotFound, Unavailable
from eventbus_core.records import Delivery, Position, Where

_LOOK_SECONDS: Final = 1.0


class StoreAdmin(BackendAdmin):
    """An operator's look makes no topic, whatever the settings say."""

    def __init__(self, store: Store) -> None:
        self._store = store

    def create_topic(self, topic: str, partitions: int) -> None:
        self._store.begin()
        found = find_topic(self._store, topic) or create_topic(self._store, topic, partitions)
        if found.partitions != partitions:
            message = f"topic {topic} exists with {found.partitions} partitions, not {partitions}"
            raise Conflict(message, topic=topic, backend=self._store.backend)

    def delete_topic(self, topic: str) -> None:
        self._store.begin()
        delete_topic(self._store, existing_topic(self._store, topic))

    def topics(self) -> Sequence[str]:
        self._store.begin()
        return topic_names(self._store)

    def describe_topic(self, topic: str) -> TopicInfo:
        self._store.begin()
        logs = existing_topic(self._store, topic).logs()
        firsts = whole(self._store.read([(log, 1) for log in logs]))
        ends = whole(self._store.last(logs))
        begins = tuple(Position(first.number, 0) if first else None for first in firsts)
        return TopicInfo(topic, len(logs), begins, tuple(Position(end.number + 1, 0) for end in ends), None)

    def groups(self) -> Sequence[GroupInfo]:
        self._store.begin()
        topics: dict[str, list[str]] = {}
        members: dict[str, set[str]] = {}
        for name in topic_names(self._store):
            topic = find_topic(self._store, name)
            for group in groups_of(self._store, topic) if topic else ():
                assert topic is not None
                topics.setdefault(group, []).append(name)
                members.setdefault(group, set()).update(GroupCells(self._store, topic, group).living())
        return [GroupInfo(name, tuple(topics[name]), len(members[name])) for name in sorted(topics)]

    def lag(self, group: str, topic: str) -> Sequence[PartitionLag]:
        self._store.begin()
        found = existing_topic(self._store, topic)
        holds = GroupCells(self._store, found, group).holds()
        return [
            PartitionLag(
                topic,
                log.number,
                hold.place.position,
                end_of(self._store, log).position,
                behind(self._store, log, hold.place),
            )
            for log, hold in zip(found.logs(), holds, strict=True)
        ]

    def set_position(self, group: str, topic: str, partition: int, to: Where) -> None:
        self._store.begin()
        found = existing_topic(self._store, topic)
        place = locate(self._store, found.log(partition), to)
        cells = GroupCells(self._store, found, group)
        cells.refuse_members()
        cells.begin("earliest")
        seen = cells.holds()[partition]
        moved = Hold(seen.epoch + 1, "", place)
        (revision,) = whole(self._store.put([Put(cells.hold_key(partition), moved.value, seen.revision)]))
        if revision is None:
            message = f"group {group} was taken up by a member meanwhile"
            raise Conflict(message, topic=topic, backend=self._store.backend)

    def delete_group(self, group: str) -> None:
        self._store.begin()
        topics = [find_topic(self._store, name) for name in topic_names(self._store)]
        having = [
            GroupCells(self._store, each, group) for each in topics if each and group in groups_of(self._store, each)
        ]
        if not having:
            raise NotFound(f"there is no group {group}", backend=self._store.backend)
        for cells in having:
            cells.refuse_members()
        for cells in having:
            cells.forget()

    def read(self, topic: str, partition: int, start: Where, limit: int, timeout: float) -> Sequence[Delivery]:
        self._store.begin(timeout)
        deadline = time.monotonic() + timeout
        log = existing_topic(self._store, topic).log(partition)
        at = locate(self._store, log, start)
        found: list[Delivery] = []
        while len(found) < limit:
            try:
                entry = entry_from(self._store, log, at.number)
            except Unavailable:
                if found:  # time is up: what was read is told
                    break
                raise
            left = deadline - time.monotonic()
            if entry is not None:
                found += deliveries(log, entry, at.offset if entry.number == at.number else 0)
                at = at._replace(number=entry.number + 1, offset=0)
            elif found or left <= 0:
                break
            else:
                self._store.appended([log], min(left, _LOOK_SECONDS))
        return found[:limit]

    def close(self) -> None:
        self._store.close()

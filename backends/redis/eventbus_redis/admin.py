"""Operators' verbs on Redis."""

from __future__ import annotations

import logging
import time
import uuid
from collections.abc import Sequence

from eventbus_core.backend import BackendAdmin, GroupInfo, PartitionLag, TopicInfo
from eventbus_core.errors import BrokerError, NotFound
from eventbus_core.records import Delivery, Position, Where
from eventbus_redis.connection import Call, Command, Link
from eventbus_redis.cursors import Cursors, Stale, open_group
from eventbus_redis.errors import NAME
from eventbus_redis.keys import Keys
from eventbus_redis.members import Members
from eventbus_redis.reading import Entry, delivery_of
from eventbus_redis.settings import RedisSettings
from eventbus_redis.topics import before, create, from_id, topic_shape

_log = logging.getLogger(__name__)


class RedisAdmin(BackendAdmin):
    """Positions are entry ids, ``<ms>-<ordinal>``; lag is a difference of ordinals, so it is exact."""

    def __init__(self, settings: RedisSettings) -> None:
        self._settings = settings
        self._keys = Keys(settings.prefix)
        self._link = Link(settings)
        self._link.open()

    def create_topic(self, topic: str, partitions: int) -> None:
        create(self._link, self._keys, topic, partitions)

    def delete_topic(self, topic: str) -> None:
        incarnation, partitions = topic_shape(self._link, self._keys, topic)
        groups = self._groups_of(topic)
        commands: list[Command] = []
        for each in range(partitions):
            cursors = (self._keys.cursor(topic, each, group) for group in groups)
            commands.append(("UNLINK", self._keys.meta(topic, each), self._keys.stream(topic, each), *cursors))
        leases = [Members.of(self._link, self._keys, topic, group, incarnation) for group in groups]
        commands += [("UNLINK", *each.keys) for each in leases]
        commands.append(("SREM", self._keys.topics(), topic))
        # Last, so that an interrupted deletion can be repeated.
        commands.append(("UNLINK", self._keys.topic(topic), self._keys.groups(topic)))
        self._link.exchange(commands, doing="deleting the topic", topic=topic)

    def topics(self) -> Sequence[str]:
        raw = self._link.command("SMEMBERS", self._keys.topics(), doing="listing topics")
        return sorted(name.decode() for name in raw)

    def describe_topic(self, topic: str) -> TopicInfo:
        _, partitions = topic_shape(self._link, self._keys, topic)
        commands: list[Command] = []
        for each in range(partitions):
            commands.append(("XRANGE", self._keys.stream(topic, each), "-", "+", "COUNT", 1))
            commands.append(("HMGET", self._keys.meta(topic, each), "ms", "n"))
        replies = self._link.exchange(commands, doing="describing the topic", topic=topic)
        firsts = tuple(Position.parse(found[0][0].decode()) if found else None for found in replies[::2])
        ends = tuple(_after(ms, n) for ms, n in replies[1::2])
        return TopicInfo(topic, partitions, firsts, ends, self._settings.retention_seconds)

    def groups(self) -> Sequence[GroupInfo]:
        topics: dict[str, list[str]] = {}
        members: dict[str, set[bytes]] = {}
        for topic in self.topics():
            try:
                incarnation, _ = topic_shape(self._link, self._keys, topic)
            except NotFound:
                continue  # deleted since
            for group in self._groups_of(topic):
                topics.setdefault(group, []).append(topic)
                living = Members.of(self._link, self._keys, topic, group, incarnation).living()
                members.setdefault(group, set()).update(living)
        return [GroupInfo(name, tuple(topics[name]), len(members[name])) for name in sorted(topics)]

    def lag(self, group: str, topic: str) -> Sequence[PartitionLag]:
        incarnation, partitions = topic_shape(self._link, self._keys, topic)
        commands: list[Command] = []
        for each in range(partitions):
            # The cursor before the end: so the lag is never negative.
            commands.append(("HMGET", self._keys.cursor(topic, each, group), "inc", "ms", "o"))
            commands.append(("XRANGE", self._keys.stream(topic, each), "-", "+", "COUNT", 1))
            commands.append(("HMGET", self._keys.meta(topic, each), "ms", "n"))
        replies = self._link.exchange(commands, doing="reading the lag", topic=topic)
        found = []
        for each in range(partitions):
            (known, ms, settled), first, end = replies[3 * each : 3 * each + 3]
            if known != incarnation.encode():
                raise self._no_group(group, topic)
            last = int(end[1] or 0)
            oldest = int(first[0][0].partition(b"-")[2]) if first else last + 1
            records = last - min(last, max(int(settled), oldest - 1))
            found.append(PartitionLag(topic, each, _after(ms, settled), _after(*end), records))
        return found

    def set_position(self, group: str, topic: str, partition: int, to: Where) -> None:
        entry = from_id(to)
        incarnation, partitions = topic_shape(self._link, self._keys, topic)
        self._check_partition(topic, partition, partitions)
        members = Members.of(self._link, self._keys, topic, group, incarnation)
        members.refuse()
        open_group(self._link, self._keys, topic, group, "-")
        cursors = Cursors(self._link, self._keys, topic, group, incarnation)
        holder = f"operator#{uuid.uuid4().hex}"
        floor = 0
        while isinstance(refused := cursors.seek(partition, holder, members.operate(floor), entry), Stale):
            floor = refused.epoch

    def delete_group(self, group: str) -> None:
        topics = [topic for topic in self.topics() if group in self._groups_of(topic)]
        if not topics:
            raise NotFound(f"redis: there is no group {group}", backend=NAME)
        shapes = {topic: topic_shape(self._link, self._keys, topic) for topic in topics}
        for topic, shape in shapes.items():
            Members.of(self._link, self._keys, topic, group, shape.incarnation).refuse()
        for topic, (incarnation, partitions) in shapes.items():
            cursors = Cursors(self._link, self._keys, topic, group, incarnation)
            requests: list[Call | Command] = [
                *(cursors.forget(each) for each in range(partitions)),
                ("UNLINK", *Members.of(self._link, self._keys, topic, group, incarnation).keys),
                ("SREM", self._keys.groups(topic), group),
            ]
            self._link.exchange(requests, doing="deleting the group", topic=topic)

    def read(self, topic: str, partition: int, start: Where, limit: int, timeout: float) -> Sequence[Delivery]:
        _, partitions = topic_shape(self._link, self._keys, topic)
        self._check_partition(topic, partition, partitions)
        stream = self._keys.stream(topic, partition)
        entry = from_id(start)
        if entry == "$":
            ms, n = self._link.command(
                "HMGET", self._keys.meta(topic, partition), "ms", "n", doing="reading", topic=topic
            )
            behind = f"{int(ms or 0)}-{int(n or 0)}"
        else:
            behind = before(entry)
        deadline = time.monotonic() + timeout
        while True:
            entries = self._entries(topic, stream, behind, limit, deadline)
            own = []
            for each in entries:
                try:
                    own.append(delivery_of(topic, partition, each))
                except BrokerError as error:
                    _log.warning("passed over, as it is no record: %s", error)
            if own or not entries:
                return own
            behind = entries[-1][0].decode()

    def close(self) -> None:
        self._link.close()

    def _entries(self, topic: str, stream: str, behind: str, limit: int, deadline: float) -> Sequence[Entry]:
        """What lies behind an id; waits for it until the deadline."""
        source = ("STREAMS", stream, behind)
        reply = self._link.command("XREAD", "COUNT", limit, *source, doing="reading", topic=topic)
        milliseconds = int((deadline - time.monotonic()) * 1000)
        if not reply and milliseconds > 0:
            command = ("XREAD", "COUNT", limit, "BLOCK", milliseconds, *source)
            reply = self._link.command(*command, doing="reading", topic=topic, wait=milliseconds / 1000)
        return reply[0][1] if reply else ()

    def _groups_of(self, topic: str) -> list[str]:
        raw = self._link.command("SMEMBERS", self._keys.groups(topic), doing="listing groups", topic=topic)
        return sorted(name.decode() for name in raw)

    @staticmethod
    def _no_group(group: str, topic: str) -> NotFound:
        return NotFound(f"redis: group {group} has no position in topic {topic}", topic=topic, backend=NAME)

    @staticmethod
    def _check_partition(topic: str, partition: int, partitions: int) -> None:
        if not 0 <= partition < partitions:
            raise NotFound(
                f"redis: topic {topic} has partitions 0 to {partitions - 1}, not {partition}", topic=topic, backend=NAME
            )


def _after(ms: bytes | None, ordinal: bytes | None) -> Position | None:
    """The position behind a record; None at the beginning of a log."""
    return Position(int(ms), int(ordinal) + 1) if ms and ordinal and int(ordinal) else None

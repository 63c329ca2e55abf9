"""Operators' verbs on Redis."""

from __future__ import annotations

import time
import uuid
from collections.abc import Sequence

from eventbus_core.backend import BackendAdmin, GroupInfo, PartitionLag, TopicInfo
from eventbus_core.errors import Conflict, NotFound
from eventbus_core.records import Delivery, Position, Where
from eventbus_redis.connection import Call, Command, Link
from eventbus_redis.consumer import open_group
from eventbus_redis.encoding import decode
from eventbus_redis.errors import NAME, gone, unexpected
from eventbus_redis.keys import Keys
from eventbus_redis.scripts import CREATE, DECLARE, FORGET, MEMBERS, OPERATE, SEEK
from eventbus_redis.settings import RedisSettings
from eventbus_redis.topics import before, from_id, topic_shape


class RedisAdmin(BackendAdmin):
    """Positions are entry ids, ``<ms>-<ordinal>``; lag is a difference of ordinals, so it is exact."""

    def __init__(self, settings: RedisSettings) -> None:
        self._settings = settings
        self._keys = Keys(settings.prefix)
        self._link = Link(settings)
        self._link.open()

    def create_topic(self, topic: str, partitions: int) -> None:
        declared = self._link.call(DECLARE, (self._keys.topic(topic),), (uuid.uuid4().hex, partitions), topic=topic)
        _, incarnation, count, state = declared
        if count != partitions:
            raise Conflict(
                f"redis: topic {topic} has {count} partitions, not {partitions}; the number cannot be changed",
                topic=topic,
                backend=NAME,
            )
        if state == b"ready":
            return
        self._link.calls(
            [
                Call(CREATE, (self._keys.stream(topic, each), self._keys.meta(topic, each)), (incarnation,))
                for each in range(partitions)
            ],
            topic=topic,
        )
        self._link.command("SADD", self._keys.topics(), topic, doing="creating the topic", topic=topic)
        self._link.command("HSET", self._keys.topic(topic), "state", "ready", doing="creating the topic", topic=topic)

    def delete_topic(self, topic: str) -> None:
        incarnation, partitions = topic_shape(self._link, self._keys, topic)
        groups = self._groups_of(topic)
        commands: list[Command] = []
        for each in range(partitions):
            cursors = (self._keys.cursor(topic, each, group) for group in groups)
            commands.append(("UNLINK", self._keys.meta(topic, each), self._keys.stream(topic, each), *cursors))
        for group in groups:
            leases = self._keys.leases(topic, group, incarnation)
            commands.append(("UNLINK", leases, self._keys.members(topic, group, incarnation)))
        commands.append(("SREM", self._keys.topics(), topic))
        # Last, so that an interrupted deletion can be repeated.
        commands.append(("UNLINK", self._keys.topic(topic), self._keys.groups(topic)))
        self._link.commands(commands, doing="deleting the topic", topic=topic)

    def topics(self) -> Sequence[str]:
        raw = self._link.command("SMEMBERS", self._keys.topics(), doing="listing topics")
        return sorted(name.decode() for name in raw)

    def describe_topic(self, topic: str) -> TopicInfo:
        _, partitions = topic_shape(self._link, self._keys, topic)
        commands: list[Command] = []
        for each in range(partitions):
            commands.append(("XRANGE", self._keys.stream(topic, each), "-", "+", "COUNT", 1))
            commands.append(("HMGET", self._keys.meta(topic, each), "ms", "n"))
        replies = self._link.commands(commands, doing="describing the topic", topic=topic)
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
                members.setdefault(group, set()).update(self._members_of(topic, group, incarnation))
        return [GroupInfo(name, tuple(topics[name]), len(members[name])) for name in sorted(topics)]

    def lag(self, group: str, topic: str) -> Sequence[PartitionLag]:
        incarnation, partitions = topic_shape(self._link, self._keys, topic)
        commands: list[Command] = []
        for each in range(partitions):
            # The cursor before the end: so the lag is never negative.
            commands.append(("HMGET", self._keys.cursor(topic, each, group), "inc", "ms", "o"))
            commands.append(("XRANGE", self._keys.stream(topic, each), "-", "+", "COUNT", 1))
            commands.append(("HMGET", self._keys.meta(topic, each), "ms", "n"))
        replies = self._link.commands(commands, doing="reading the lag", topic=topic)
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
        shared = self._keys.members(topic, group, incarnation), self._keys.leases(topic, group, incarnation)
        partition_keys = (
            self._keys.cursor(topic, partition, group),
            self._keys.stream(topic, partition),
            self._keys.meta(topic, partition),
        )
        self._refuse_members(topic, group, incarnation)
        open_group(self._link, self._keys, topic, group, "-")
        floor = 0
        holder = f"operator#{uuid.uuid4().hex}"
        while True:
            verdict, token = self._link.call(OPERATE, shared, (floor,), topic=topic)
            if verdict == b"BUSY":
                raise self._in_use(group, topic, token)
            match self._link.call(SEEK, partition_keys, (incarnation, group, holder, token, entry), topic=topic):
                case [b"OK", *_]:
                    return
                case [b"STALE", epoch]:
                    floor = epoch
                case [b"GONE"] | [b"NOGROUP"]:
                    raise gone(topic)
                case reply:
                    raise unexpected("seek", reply, topic)

    def delete_group(self, group: str) -> None:
        topics = [topic for topic in self.topics() if group in self._groups_of(topic)]
        if not topics:
            raise NotFound(f"redis: there is no group {group}", backend=NAME)
        shapes = {topic: topic_shape(self._link, self._keys, topic) for topic in topics}
        for topic, (incarnation, _) in shapes.items():
            self._refuse_members(topic, group, incarnation)
        for topic, (incarnation, partitions) in shapes.items():
            self._link.calls(
                [
                    Call(FORGET, (self._keys.cursor(topic, each, group), self._keys.stream(topic, each)), (group,))
                    for each in range(partitions)
                ],
                topic=topic,
            )
            leases = self._keys.leases(topic, group, incarnation)
            self._link.commands(
                [
                    ("UNLINK", leases, self._keys.members(topic, group, incarnation)),
                    ("SREM", self._keys.groups(topic), group),
                ],
                doing="deleting the group",
                topic=topic,
            )

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
        source = ("STREAMS", stream, behind)
        reply = self._link.command("XREAD", "COUNT", limit, *source, doing="reading", topic=topic)
        milliseconds = int((deadline - time.monotonic()) * 1000)
        if not reply and milliseconds > 0:
            command = ("XREAD", "COUNT", limit, "BLOCK", milliseconds, *source)
            reply = self._link.command(*command, doing="reading", topic=topic, wait=milliseconds / 1000)
        found = []
        for identity, fields in reply[0][1] if reply else ():
            position = Position.parse(identity.decode())
            found.append(Delivery(decode(topic, fields[1], position[0]), partition, position))
        return found

    def close(self) -> None:
        self._link.close()

    def _groups_of(self, topic: str) -> list[str]:
        raw = self._link.command("SMEMBERS", self._keys.groups(topic), doing="listing groups", topic=topic)
        return sorted(name.decode() for name in raw)

    def _members_of(self, topic: str, group: str, incarnation: str) -> list[bytes]:
        members: list[bytes] = self._link.call(
            MEMBERS, (self._keys.members(topic, group, incarnation),), (), topic=topic
        )[1]
        return members

    def _refuse_members(self, topic: str, group: str, incarnation: str) -> None:
        members = self._members_of(topic, group, incarnation)
        if members:
            raise self._in_use(group, topic, len(members))

    @staticmethod
    def _in_use(group: str, topic: str, members: int) -> Conflict:
        return Conflict(
            f"redis: group {group} has {members} members in topic {topic}; stop them first (a killed one leaves when "
            "its lease ends)",
            topic=topic,
            backend=NAME,
        )

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

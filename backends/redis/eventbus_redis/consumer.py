"""Consuming: plain reads of the log, and a cursor per group and partition that only the newest token moves.

Reading has no effect on the server, so nothing needs undoing when a reply is lost or a member dies; all that has to be
right is the cursor, and that is one fenced script.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from typing import Any

from eventbus_core.backend import Gap, Group
from eventbus_core.backend.leases import Beat, LeasedConsumer
from eventbus_core.errors import BrokerError, NotFound, Unavailable
from eventbus_core.records import Assignment, Delivery, Position, Where
from eventbus_redis.connection import Call, Link
from eventbus_redis.encoding import FIELD, decode
from eventbus_redis.errors import NAME, gone, unexpected
from eventbus_redis.keys import Keys
from eventbus_redis.scripts import ACK, ACQUIRE, BEAT, CHECK, CLAIM, LEAVE, OPEN, RELEASE, RENEW, SEEK
from eventbus_redis.settings import RedisSettings
from eventbus_redis.topics import from_id, shape_of, topic_shape
from eventbus_redis.trimming import Trimming

_FETCH_BYTES = 8 << 20
"""What one read may bring, as far as the sizes of earlier records tell."""
_FIRST_COUNT = 32
_OWN_TOKEN_ATTEMPTS = 3


class RedisAssignment(Assignment):
    """A hold with its read cursor and what was read ahead."""

    __slots__ = ("ahead", "ms", "ordinal", "stream")

    def __init__(self, topic: str, partition: int, epoch: int, stream: str, ms: int, ordinal: int) -> None:
        super().__init__(topic, partition, epoch)
        self.stream = stream
        self.ms = ms
        self.ordinal = ordinal
        self.ahead: deque[tuple[int, int, bytes]] = deque()

    def behind(self) -> str:
        """The id to read behind: of the last entry that was read ahead or delivered."""
        return f"{self.ahead[-1][0]}-{self.ahead[-1][1]}" if self.ahead else f"{self.ms}-{self.ordinal}"


class RedisConsumer(LeasedConsumer):
    """A member of a group. Acks are durable (as durable as Redis is) when ``ack`` returns."""

    def __init__(self, settings: RedisSettings, group: Group) -> None:
        super().__init__(group, lease_seconds=settings.lease_seconds, beat_seconds=1.0)
        self._keys = Keys(settings.prefix)
        self._lease_ms = int(settings.lease_seconds * 1000)
        self._control = Link(settings)
        self._reader = Link(settings)
        self._shapes: dict[str, tuple[str, int]] = {}
        self._trimming = Trimming(settings, self._keys)
        self._count = _FIRST_COUNT
        self._turn = 0
        self._holds = 0
        self._control.open()
        for topic in group.topics:
            self._shapes[topic] = open_group(self._control, self._keys, topic, group.name, from_id(group.start))

    def beat(self, topic: str, held: Sequence[Assignment]) -> Beat:
        incarnation, partitions = self._shapes[topic]
        mine = [each for each in held if isinstance(each, RedisAssignment)]
        pairs = [number for each in mine for number in (each.partition, each.epoch)]
        calls = [Call(BEAT, self._shared(topic), (self.group.member, self._lease_ms, partitions, *pairs))]
        calls += [Call(CHECK, self._partition(each), (incarnation, each.epoch)) for each in mine]
        try:
            fields = self._control.command(
                "HMGET", self._keys.topic(topic), "inc", "N", "state", doing="beat", topic=topic
            )
            if shape_of(topic, fields)[0] != incarnation:
                raise gone(topic)
        except NotFound as error:
            raise gone(topic) from error
        seen, *checks = self._control.calls(calls, topic=topic)
        _, members, free, kept = seen
        refused = {each.partition for each, reply in zip(mine, checks, strict=True) if not self._checked(each, reply)}
        self._trimming.run(self._control, topic, incarnation, [each.partition for each in mine])
        return Beat(
            [name.decode() for name in members], partitions, free, [each for each in kept if each not in refused]
        )

    def acquire(self, topic: str, partition: int) -> Assignment | None:
        incarnation, _ = self._shapes[topic]
        stream = self._keys.stream(topic, partition)
        keys = (self._keys.cursor(topic, partition, self.group.name), stream, self._keys.meta(topic, partition))
        floor = 0
        for _ in range(_OWN_TOKEN_ATTEMPTS):
            answer = self._control.call(
                ACQUIRE, self._shared(topic), (self.group.member, partition, floor), topic=topic
            )
            if answer[0] == b"BUSY":
                return None
            token = answer[1]
            args = (incarnation, self.group.name, self._holder(), token)
            match self._control.call(CLAIM, keys, args, topic=topic):
                case [b"OK", ms, ordinal]:
                    return RedisAssignment(topic, partition, token, stream, ms, ordinal)
                case [b"STALE", epoch]:
                    floor = epoch
                case [b"GONE"]:
                    raise gone(topic)
                case [b"NOGROUP"]:
                    raise self._forgotten(topic)
                case reply:
                    raise unexpected("claim", reply, topic)
        return None

    def fetch(self, assignments: Sequence[Assignment], max_records: int, timeout: float) -> Sequence[Delivery | Gap]:
        wanted = [each for each in assignments if isinstance(each, RedisAssignment)]
        if not any(each.ahead for each in wanted):
            self._read_ahead(wanted, min(max_records, self._count), timeout)
        self._turn += 1
        first = self._turn % len(wanted)
        found: list[Delivery | Gap] = []
        for each in wanted[first:] + wanted[:first]:
            if len(found) >= max_records:
                break
            found.extend(self._taken(each, max_records - len(found)))
        return found

    def ack(self, settled: Sequence[Delivery]) -> None:
        last: dict[RedisAssignment, Position] = {}
        for delivery in settled:
            held = delivery.assignment
            if isinstance(held, RedisAssignment) and self._held.get((held.topic, held.partition)) is held:
                last[held] = max(delivery.position, last.get(held, delivery.position))
        if not last:
            return
        calls = [
            Call(
                ACK,
                self._partition(each)[:2],
                (self._shapes[each.topic][0], self.group.name, each.epoch, position[0], position[1]),
            )
            for each, position in last.items()
        ]
        replies = self._control.calls(calls)
        for each, reply in zip(last, replies, strict=True):
            if reply[0] == b"FENCED":
                self.lose(each, f"another member has it, by token {reply[1]}")
        for each, reply in zip(last, replies, strict=True):
            if reply[0] == b"GONE":
                raise gone(each.topic)

    def give_back(self, assignment: Assignment) -> None:
        self._control.call(
            RELEASE,
            self._shared(assignment.topic)[1:],
            (self.group.member, assignment.partition, assignment.epoch),
            topic=assignment.topic,
        )

    def reposition(self, assignment: Assignment, to: Where) -> Assignment:
        topic, partition = assignment.topic, assignment.partition
        entry = from_id(to)
        renewed = self._control.call(RENEW, self._shared(topic)[1:], (self.group.member, partition), topic=topic)
        if renewed[0] == b"OK":
            token = renewed[1]
            args = (self._shapes[topic][0], self.group.name, self._holder(), token, entry)
            match self._control.call(SEEK, self._partition(assignment), args, topic=topic):
                case [b"OK", ms, ordinal]:
                    stream = self._keys.stream(topic, partition)
                    return RedisAssignment(topic, partition, token, stream, ms, ordinal)
                case [b"GONE"]:
                    raise gone(topic)
                case [b"NOGROUP"]:
                    raise self._forgotten(topic)
                case [b"STALE", *_]:
                    pass
                case reply:
                    raise unexpected("seek", reply, topic)
        self.lose(assignment, "another member has it")
        raise Unavailable(
            f"redis: {topic}[{partition}] went to another member before the seek; seek again where it is assigned",
            topic=topic,
            backend=NAME,
        )

    def leave(self) -> None:
        try:
            calls = [Call(LEAVE, self._shared(topic)[:1], (self.group.member,)) for topic in self._shapes]
            self._control.calls(calls)
        finally:
            self._control.close()
            self._reader.close()

    def forget(self, assignment: Assignment) -> None:
        if isinstance(assignment, RedisAssignment):
            assignment.ahead.clear()

    def _holder(self) -> str:
        """Names one hold: a repeated request has the same, the next hold another."""
        self._holds += 1
        return f"{self.group.member}#{self._holds}"

    def _shared(self, topic: str) -> tuple[str, str]:
        incarnation = self._shapes[topic][0]
        group = self.group.name
        return self._keys.members(topic, group, incarnation), self._keys.leases(topic, group, incarnation)

    def _partition(self, each: Assignment) -> tuple[str, str, str]:
        topic, partition = each.topic, each.partition
        cursor = self._keys.cursor(topic, partition, self.group.name)
        return cursor, self._keys.stream(topic, partition), self._keys.meta(topic, partition)

    def _checked(self, each: RedisAssignment, reply: Any) -> bool:
        """Whether the partition is still as this member knows it. A vanished or shortened log is silent to readers."""
        match reply:
            case [b"OK", last]:
                known = each.ahead[-1][1] if each.ahead else each.ordinal
                if last >= known:
                    return True
                self.lose(each, f"the server lost its newest records: it ends at {last}, {known} was read")
            case [b"FENCED", token]:
                self.lose(each, f"another member has it, by token {token}")
            case [b"GONE"]:
                raise gone(each.topic)
            case _:
                raise unexpected("check", reply, each.topic)
        return False

    def _read_ahead(self, wanted: Sequence[RedisAssignment], count: int, timeout: float) -> None:
        # BLOCK 0 would wait for ever.
        milliseconds = int(timeout * 1000)
        block = ("BLOCK", milliseconds) if milliseconds else ()
        streams = {each.stream.encode(): each for each in wanted}
        reply = self._reader.command(
            "XREAD", "COUNT", count, *block, "STREAMS", *streams, *(each.behind() for each in wanted),
            doing="reading", wait=timeout,
        )  # fmt: skip
        size = entries = most = 0
        for stream, found in reply or ():
            each = streams[stream]
            most = max(most, len(found))
            for entry, fields in found:
                ms, _, ordinal = entry.partition(b"-")
                if len(fields) != 2 or fields[0] != FIELD:
                    raise BrokerError(f"redis: entry {entry!r} in {stream!r} was not written by eventbus", backend=NAME)
                each.ahead.append((int(ms), int(ordinal), fields[1]))
                size += len(fields[1])
            entries += len(found)
        if entries:
            room = max(1, _FETCH_BYTES // (size // entries + 1) // len(wanted))
            self._count = min(room, max(_FIRST_COUNT, self._count * 2 if most == count else self._count))

    def _taken(self, each: RedisAssignment, room: int) -> Iterator[Delivery | Gap]:
        """Deliveries of what was read ahead, up to a hole; the hole itself only when nothing comes before it."""
        ahead = each.ahead
        first = True
        while ahead and room:
            ms, ordinal, blob = ahead[0]
            if ordinal <= each.ordinal:
                ahead.clear()
                self.lose(each, f"the log was rewritten: {ordinal} came after {each.ordinal}")
                return
            if ordinal != each.ordinal + 1:
                if first:
                    vanished = f"{ordinal - each.ordinal - 1} records are gone from the log: trimmed or deleted by hand"
                    after = Position(each.ms, each.ordinal) if each.ordinal else None
                    each.ms, each.ordinal = ms, ordinal - 1
                    yield Gap(each, after, Position(ms, ordinal), vanished)
                return
            record = decode(each.topic, blob, ms)
            ahead.popleft()
            each.ms, each.ordinal = ms, ordinal
            first = False
            room -= 1
            yield Delivery(record, each.partition, Position(ms, ordinal), each)

    def _forgotten(self, topic: str) -> NotFound:
        return NotFound(
            f"redis: group {self.group.name} was deleted in topic {topic}; open the consumer again to make it anew",
            topic=topic,
            backend=NAME,
        )


def open_group(link: Link, keys: Keys, topic: str, group: str, entry: str) -> tuple[str, int]:
    """Make the group's positions where there are none, at ``entry`` if the group is new. NotFound.

    Returns the topic's incarnation and number of partitions.
    """
    incarnation, partitions = topic_shape(link, keys, topic)
    known = link.command("SISMEMBER", keys.groups(topic), group, doing="opening the group", topic=topic)
    calls = [
        Call(
            OPEN,
            (keys.cursor(topic, partition, group), keys.stream(topic, partition), keys.meta(topic, partition)),
            (incarnation, group, "-" if known else entry),
        )
        for partition in range(partitions)
    ]
    if any(reply[0] == b"GONE" for reply in link.calls(calls, topic=topic)):
        raise gone(topic)
    if not known:
        link.command("SADD", keys.groups(topic), group, doing="opening the group", topic=topic)
    return incarnation, partitions

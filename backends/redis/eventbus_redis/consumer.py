"""Consuming: plain reads of the log, and a cursor per group and partition that only the newest token moves.

Reading has no effect on the server, so nothing needs undoing when a reply is lost or a member dies; all that has to be
right is the cursor, and that is one fenced script.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from eventbus_core.backend import Gap, Group
from eventbus_core.backend.leases import Beat, LeasedConsumer
from eventbus_core.errors import NotFound, Unavailable
from eventbus_core.records import Assignment, Delivery, Position, Where
from eventbus_redis.connection import Call, Command, Link, Reply
from eventbus_redis.cursors import Cursors, Stale, open_group
from eventbus_redis.errors import NAME, forgotten, gone, unexpected
from eventbus_redis.keys import Keys
from eventbus_redis.members import Members
from eventbus_redis.reading import LogReader, RedisAssignment, Rewritten
from eventbus_redis.settings import RedisSettings
from eventbus_redis.topics import Shape, from_id, topic_shape
from eventbus_redis.trimming import Trimming

_OWN_TOKEN_ATTEMPTS = 3


class _Topic(NamedTuple):
    """A topic as it was when the consumer was opened, and the group in it."""

    shape: Shape
    members: Members
    cursors: Cursors


class RedisConsumer(LeasedConsumer):
    """A member of a group. Acks are durable (as durable as Redis is) when ``ack`` returns."""

    def __init__(self, settings: RedisSettings, group: Group) -> None:
        super().__init__(group, lease_seconds=settings.lease_seconds, beat_seconds=1.0)
        self._keys = Keys(settings.prefix)
        self._lease_ms = int(settings.lease_seconds * 1000)
        self._control = Link(settings)
        # A connection of its own: an ack must not wait behind a read that waits.
        self._reader = LogReader(Link(settings))
        self._topics: dict[str, _Topic] = {}
        self._trimming = Trimming(settings, self._keys)
        self._turn = 0
        self._holds = 0
        self._control.open()
        for topic in group.topics:
            shape = open_group(self._control, self._keys, topic, group.name, from_id(group.start))
            place = self._control, self._keys, topic, group.name, shape.incarnation
            self._topics[topic] = _Topic(shape, Members.of(*place), Cursors(*place))

    def beat(self, topic: str, held: Sequence[Assignment]) -> Beat:
        shape, members, cursors = self._topics[topic]
        mine = [each for each in held if isinstance(each, RedisAssignment)]
        pairs = [(each.partition, each.epoch) for each in mine]
        # Asked first: a beat would leave keys behind for a topic that is no more.
        try:
            unchanged = topic_shape(self._control, self._keys, topic) == shape
        except NotFound as error:
            raise gone(topic) from error
        if not unchanged:
            raise gone(topic)
        beat = members.beat(self.group.member, self._lease_ms, shape.partitions, pairs)
        checks = (cursors.check(*pair) for pair in pairs)
        seen, *checked = self._control.exchange([beat, *checks], doing="beat", topic=topic)
        _, names, free, kept = seen
        refused = {each.partition for each, reply in zip(mine, checked, strict=True) if not self._checked(each, reply)}
        self._trimming.run(self._control, topic, shape.incarnation, [each.partition for each in mine])
        return Beat(
            [name.decode() for name in names], shape.partitions, free, [each for each in kept if each not in refused]
        )

    def acquire(self, topic: str, partition: int) -> Assignment | None:
        _, members, cursors = self._topics[topic]
        floor = 0
        for _ in range(_OWN_TOKEN_ATTEMPTS):
            token = members.acquire(self.group.member, partition, floor)
            if token is None:
                return None
            claimed = cursors.claim(partition, self._holder(), token)
            if not isinstance(claimed, Stale):
                return RedisAssignment(topic, partition, token, self._keys.stream(topic, partition), *claimed)
            floor = claimed.epoch
        return None

    def fetch(self, assignments: Sequence[Assignment], max_records: int, timeout: float) -> Sequence[Delivery | Gap]:
        wanted = [each for each in assignments if isinstance(each, RedisAssignment)]
        if not any(each.ahead for each in wanted):
            self._reader.read(wanted, max_records, timeout)
        self._turn += 1
        first = self._turn % len(wanted)
        found: list[Delivery | Gap] = []
        for each in wanted[first:] + wanted[:first]:
            if len(found) >= max_records:
                break
            try:
                taken = each.take(max_records - len(found))
            except Rewritten as error:
                self.lose(each, str(error))
            else:
                found.extend([taken] if isinstance(taken, Gap) else taken)
        return found

    def ack(self, settled: Sequence[Delivery]) -> None:
        last: dict[RedisAssignment, Position] = {}
        for delivery in settled:
            held = delivery.assignment
            if isinstance(held, RedisAssignment) and self._held.get((held.topic, held.partition)) is held:
                last[held] = max(delivery.position, last.get(held, delivery.position))
        calls = [
            self._topics[each.topic].cursors.ack(each.partition, each.epoch, position)
            for each, position in last.items()
        ]
        replies = self._control.exchange(calls, doing="acking") if calls else []
        for each, reply in zip(last, replies, strict=True):
            if reply[0] == b"FENCED":
                self.lose(each, f"another member has it, by token {reply[1]}")
        for each, reply in zip(last, replies, strict=True):
            if reply[0] == b"GONE":
                raise gone(each.topic)
            if reply[0] == b"NOGROUP":
                raise forgotten(self.group.name, each.topic)

    def give_back(self, assignment: Assignment) -> None:
        members = self._topics[assignment.topic].members
        members.release(self.group.member, assignment.partition, assignment.epoch)

    def reposition(self, assignment: Assignment, to: Where) -> Assignment:
        topic, partition = assignment.topic, assignment.partition
        _, members, cursors = self._topics[topic]
        entry = from_id(to)
        token = members.renew(self.group.member, partition)
        if token is not None:
            moved = cursors.seek(partition, self._holder(), token, entry)
            if not isinstance(moved, Stale):
                return RedisAssignment(topic, partition, token, self._keys.stream(topic, partition), *moved)
        self.lose(assignment, "another member has it")
        raise Unavailable(
            f"redis: {topic}[{partition}] went to another member before the seek; seek again where it is assigned",
            topic=topic,
            backend=NAME,
        )

    def leave(self) -> None:
        try:
            requests: list[Call | Command] = []
            for topic, each in self._topics.items():
                requests += [each.members.leave(self.group.member), ("HGET", self._keys.topic(topic), "inc")]
            incarnations = self._control.exchange(requests, doing="leaving the group")[1::2]
            # A beat that was under way when a topic went has left keys behind that bear its incarnation, which no
            # topic gets again. One that is only half deleted, or half made, still has it.
            dead: list[Command] = [
                ("UNLINK", *each.members.keys)
                for each, incarnation in zip(self._topics.values(), incarnations, strict=True)
                if incarnation != each.shape.incarnation.encode()
            ]
            self._control.exchange(dead, doing="leaving the group")
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

    def _checked(self, each: RedisAssignment, reply: Reply) -> bool:
        """Whether the partition is still as this member knows it. A vanished or shortened log is silent to readers."""
        match reply:
            case [b"OK", last]:
                known = each.newest()
                if last >= known:
                    return True
                self.lose(each, f"the server lost its newest records: it ends at {last}, {known} was read")
            case [b"FENCED", token]:
                self.lose(each, f"another member has it, by token {token}")
            case [b"GONE"]:
                raise gone(each.topic)
            case [b"NOGROUP"]:
                raise forgotten(self.group.name, each.topic)
            case _:
                raise unexpected("check", reply, each.topic)
        return False

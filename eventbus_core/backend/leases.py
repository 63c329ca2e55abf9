"""Sharing partitions among members by leases, for brokers that have no group protocol of their own.

Who owns what is decided by the store (a lease with an epoch, taken by one member only). Who *should* own what is
decided by every member for itself, from the same list of members: each may hold its quota, gives up what is above it
and takes free partitions up to it. So disagreement costs time, never order.
"""

from __future__ import annotations

import time
import zlib
from abc import abstractmethod
from collections.abc import Collection, Sequence
from contextlib import ExitStack
from typing import NamedTuple

from eventbus_core.backend import (
    Assigned,
    BackendConsumer,
    Change,
    Gap,
    Group,
    Lost,
    Polled,
    Revoking,
)
from eventbus_core.errors import EventBusError
from eventbus_core.records import Assignment, Delivery, Where, lease_clock


class Beat(NamedTuple):
    """What a heartbeat learned of one topic."""

    members: Sequence[str]
    """All live members of the group on this topic, this one included."""
    partitions: int
    free: Collection[int]
    """Partitions that nobody holds, as far as is known: worth an ``acquire``."""
    held: Collection[int]
    """Partitions of this member's that the store still says are its own, with the same epoch."""
    asked: float | None = None
    """When (``lease_clock``) the store was asked for this, if that was before the beat: leases count from then on."""


def quota(member: str, members: Collection[str], topic: str, partitions: int) -> int:
    """How many partitions of a topic a member may hold; over all members these add up to ``partitions``.

    Who gets the remainder depends on the topic, so that one member does not get it everywhere.
    """
    ranked = sorted(members, key=lambda name: zlib.crc32(f"{topic}/{name}".encode()))
    share, rest = divmod(partitions, len(ranked))
    return share + (ranked.index(member) < rest)


class LeasedConsumer(BackendConsumer):
    """The sharing half of a consumer: beats, quotas, announced moves, expiry by one's own clock.

    A plugin supplies the store: the six methods below and ``ack``. It may subclass ``Assignment`` to keep what it
    needs of a partition (cursor, client object). ``lease_seconds`` is how long a lease lives without a beat,
    ``beat_seconds`` the pause between beats (at most a quarter of the lease).
    """

    #: How soon to look again while partitions are about to move.
    _MOVING_BEAT_SECONDS = 0.1

    def __init__(self, group: Group, *, lease_seconds: float, beat_seconds: float) -> None:
        self.group = group
        self._lease_seconds = lease_seconds
        self._beat_seconds = min(beat_seconds, lease_seconds / 4)
        self._held: dict[tuple[str, int], Assignment] = {}
        self._revoking: set[Assignment] = set()
        self._lost: list[Change] = []
        self._next_beat = float("-inf")

    @abstractmethod
    def beat(self, topic: str, held: Sequence[Assignment]) -> Beat:
        """Renew this member's membership and its leases on ``held`` for ``lease_seconds``; say who is there."""

    @abstractmethod
    def acquire(self, topic: str, partition: int) -> Assignment | None:
        """Take a free or expired lease: the new hold, its epoch above every earlier one. None: somebody has it."""

    @abstractmethod
    def fetch(self, assignments: Sequence[Assignment], max_records: int, timeout: float) -> Sequence[Delivery | Gap]:
        """Wait at most ``timeout`` seconds for the next records of these assignments; at most ``max_records``."""

    @abstractmethod
    def give_back(self, assignment: Assignment) -> None:
        """Make acks durable, or ``lose`` it; free the lease, so that another can acquire it at once."""

    @abstractmethod
    def reposition(self, assignment: Assignment, to: Where) -> Assignment:
        """Move the durable position under the lease; the hold that replaces ``assignment``, with a higher epoch."""

    @abstractmethod
    def leave(self) -> None:
        """End the membership and close connections."""

    def forget(self, assignment: Assignment) -> None:
        """An assignment was lost: free local resources. Must not touch the store."""

    def lose(self, assignment: Assignment, reason: str, *, acks_lost: bool = False) -> None:
        """For plugins: the store says that ``assignment`` is not ours any more; the next poll reports it.

        ``acks_lost``: see ``Lost``; a plugin whose acks are durable later overrides this method to say so.
        """
        if self._held.get((assignment.topic, assignment.partition)) is assignment:
            self._drop(assignment)
            self.forget(assignment)
            self._lost.append(Lost(assignment, reason, acks_lost))

    def poll(self, max_records: int, timeout: float, paused: Collection[Assignment]) -> Polled:
        self._expire()
        changes, self._lost = self._lost, []
        if lease_clock() >= self._next_beat:
            self._share(changes)
        if changes:
            return Polled(changes)
        wait = max(0.0, min(timeout, self._next_beat - lease_clock()))
        wanted = [each for each in self._held.values() if each not in self._revoking and each not in paused]
        if not wanted or not max_records:
            time.sleep(wait)
            return Polled()
        fetched = self.fetch(wanted, max_records, wait)
        # The fetch may have outlived a lease (a frozen process wakes up here): what it brought is then another's.
        self._expire()
        changes, self._lost = self._lost, []
        live = set(self._held.values())
        changes.extend(item for item in fetched if isinstance(item, Gap) and item.assignment in live)
        return Polled(changes, [item for item in fetched if isinstance(item, Delivery) and item.assignment in live])

    def seek(self, assignment: Assignment, to: Where) -> Assignment:
        moved = self.reposition(assignment, to)
        moved.valid_until = assignment.valid_until
        self._revoking.discard(assignment)
        self._held[assignment.topic, assignment.partition] = moved
        return moved

    def release(self, assignment: Assignment) -> None:
        if self._held.get((assignment.topic, assignment.partition)) is not assignment:
            return
        self.give_back(assignment)
        if self._held.get((assignment.topic, assignment.partition)) is assignment:
            self._drop(assignment)
        self._next_beat = min(self._next_beat, lease_clock() + self._MOVING_BEAT_SECONDS)

    def close(self) -> None:
        with ExitStack() as closing:
            # Last in, first out: all releases are tried, then the member leaves; an error is raised after that.
            closing.callback(self.leave)
            for assignment in list(self._held.values()):
                closing.callback(self.release, assignment)

    def _drop(self, assignment: Assignment) -> None:
        del self._held[assignment.topic, assignment.partition]
        self._revoking.discard(assignment)

    def _expire(self) -> None:
        now = lease_clock()
        for assignment in [each for each in self._held.values() if now >= each.valid_until]:
            self.lose(assignment, f"not renewed within {self._lease_seconds:g} s")

    def _share(self, changes: list[Change]) -> None:
        """Beat on every topic; append what follows from it. Raises only when there is nothing else to tell."""
        moving = False
        trouble: EventBusError | None = None
        for topic in self.group.topics:
            try:
                moving |= self._share_topic(topic, changes)
            except EventBusError as error:
                trouble = trouble or error
        if trouble is not None:
            if not changes:
                raise trouble
            return
        pause = self._MOVING_BEAT_SECONDS if moving else self._beat_seconds
        self._next_beat = lease_clock() + min(pause, self._beat_seconds)

    def _share_topic(self, topic: str, changes: list[Change]) -> bool:
        """Beat on one topic; whether partitions are on the move."""
        held = [each for each in self._held.values() if each.topic == topic]
        started = lease_clock()
        seen = self.beat(topic, held)
        if seen.asked is not None:
            started = min(started, seen.asked)
        # A hold that lapsed while the beat was under way stays lost: users may have seen that it was not owned.
        self._expire()
        for assignment in held:
            if self._held.get((topic, assignment.partition)) is not assignment:
                continue
            if assignment.partition in seen.held:
                assignment.valid_until = started + self._lease_seconds
            else:
                self.lose(assignment, "the store gave it to another member or forgot it")
        changes.extend(self._lost)
        self._lost = []
        stable = [each for each in self._held.values() if each.topic == topic and each not in self._revoking]
        allowed = quota(self.group.member, seen.members, topic, seen.partitions)
        for assignment in sorted(stable, key=lambda each: each.partition)[allowed:]:
            self._revoking.add(assignment)
            changes.append(Revoking(assignment, time.monotonic() + self.group.drain_seconds))
        missing = allowed - len(stable)
        for partition in self._apart(seen) if missing > 0 else ():
            taken = self.acquire(topic, partition)
            if taken is not None:
                taken.valid_until = started + self._lease_seconds
                self._held[topic, partition] = taken
                changes.append(Assigned(taken))
                missing -= 1
                if not missing:
                    break
        return missing > 0 or bool(self._revoking)

    def _apart(self, seen: Beat) -> list[int]:
        """The free partitions in an order of this member's own, so that members do not queue for the same ones."""
        first = sorted(seen.members).index(self.group.member) * seen.partitions // len(seen.members)
        return sorted(seen.free, key=lambda partition: (partition - first) % seen.partitions)

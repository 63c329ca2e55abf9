"""Consuming: a member of a group, and its share of the partitions."""

from __future__ import annotations

import time
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from datetime import datetime

import pulsar

from eventbus_core.backend import Gap, Group
from eventbus_core.backend.leases import Beat, LeasedConsumer
from eventbus_core.errors import Unavailable
from eventbus_core.records import Assignment, Delivery, Where, lease_clock
from eventbus_pulsar.connection import close_client
from eventbus_pulsar.cursors import Cursors
from eventbus_pulsar.errors import ClientError, translated
from eventbus_pulsar.holds import Hold
from eventbus_pulsar.members import Members
from eventbus_pulsar.rest import Rest
from eventbus_pulsar.settings import PulsarSettings
from eventbus_pulsar.settling import Settling
from eventbus_pulsar.taking import Taking, shut

_SLICE_SECONDS = 0.01
_COUNT_SECONDS = 5.0


class PulsarConsumer(LeasedConsumer):
    """A member of a group. Moves are announced; the broker refuses a second owner, and a late owner's acks.

    A member whose client lost its connection, or heard nothing through it for ``lease_seconds``, gives its partitions
    up rather than go on with what it had fetched. A partition that is added to a topic is read from its beginning, from
    ``_COUNT_SECONDS`` after it was added at the latest.
    """

    def __init__(
        self, settings: PulsarSettings, group: Group, *, client: pulsar.Client, rest: Rest, cursors: Cursors
    ) -> None:
        super().__init__(group, lease_seconds=settings.lease_seconds, beat_seconds=settings.beat_seconds)
        self._settings = settings
        self._client = client
        self._rest = rest
        self._cursors = cursors
        # A thread each, as an attempt at a frozen owner's partition takes the broker's 5 s probe.
        self._threads = ThreadPoolExecutor(8, thread_name_prefix="eventbus-pulsar")
        self._taking = Taking(settings, group, client=client, cursors=cursors, threads=self._threads)
        # For what is asked between beats: none may take so long that the leases end.
        self._quick = Rest(settings, most_seconds=settings.lease_seconds / 4)
        self._beating = Cursors(settings, self._quick, client)
        self._settling = Settling(settings, group, cursors=self._beating, taking=self._taking, threads=self._threads)
        self._counts: dict[str, tuple[int, float]] = {}
        self._turn = 0
        self._members = {
            topic: Members(settings, rest, client, topic=topic, group=group.name, member=group.member)
            for topic in group.topics
        }
        self._rejoining: dict[str, Future[None]] = {}

    def join(self) -> None:
        """Give the group its positions and say hello. Raises NotFound: a topic is missing."""
        for topic in self.group.topics:
            for partition in range(self._count(topic)):
                self._cursors.ensure(self.group.name, topic, partition, self.group.start)
            self._members[topic].open()

    def beat(self, topic: str, held: Sequence[Assignment]) -> Beat:
        members = self._members[topic]
        holds = [each for each in held if isinstance(each, Hold)]
        connected = {each.partition for each in holds if each.connected}
        self._keep_joined(topic)
        if members.connected:
            members.say(connected)
        self._taking.begin_turn(topic)
        self._settling.turn([each for each in holds if each.partition in connected])
        count = self._count(topic)
        # Last, as what was said above may have come back by now.
        if members.connected:
            members.listen()
        silent = lease_clock() - members.answered
        if silent > self._settings.lease_seconds:
            raise Unavailable(
                f"the broker has let group {self.group.name!r} hear nothing for {silent:.1f} s; still trying",
                topic=topic,
                backend="pulsar",
            )
        living, taken = members.living()
        free = set(range(count)) - taken - {each.partition for each in holds}
        return Beat(living, count, free, connected, members.answered)

    def acquire(self, topic: str, partition: int) -> Assignment | None:
        return self._taking.attempt(topic, partition)

    def fetch(self, assignments: Sequence[Assignment], max_records: int, timeout: float) -> Sequence[Delivery | Gap]:
        self._turn += 1
        first = self._turn % len(assignments)
        holds = [each for each in (*assignments[first:], *assignments[:first]) if isinstance(each, Hold)]
        deadline = time.monotonic() + timeout
        found: list[Delivery | Gap] = []
        turn = 0
        while True:
            for hold in holds:
                if len(found) < max_records:
                    self._drain(hold, found, max_records, 0)
            remaining = deadline - time.monotonic()
            if found or remaining <= 0:
                return found
            if any(members.connected and members.listen() for members in self._members.values()):
                # Somebody came or left: share at once rather than at the next beat.
                self._next_beat = float("-inf")
                return found
            # Waiting happens on one of them at a time, in slices short enough for the others.
            wait_ms = max(1, int(min(_SLICE_SECONDS, remaining) * 1000))
            self._drain(holds[turn % len(holds)], found, max_records, wait_ms)
            turn += 1

    def ack(self, settled: Sequence[Delivery]) -> None:
        for delivery in settled:
            hold = delivery.assignment
            if not isinstance(hold, Hold) or self._held.get((hold.topic, hold.partition)) is not hold:
                continue
            # Not ``owned``: core ends an assignment before it sends the last acks and releases it.
            if delivery.position <= hold.settled:
                continue
            if hold.lapsed:
                self.lose(hold, "its lease ended before these acks", acks_lost=True)
                continue
            if not hold.connected:
                # The client would take the ack and lose it.
                self.lose(hold, "the connection to the broker was lost")
                continue
            try:
                hold.ack(delivery.position, delivery.token)
            except ClientError as error:
                self.lose(hold, f"an ack was refused ({type(error).__name__}: {error})")

    def unconfirmed(self) -> int:
        return self._settling.unconfirmed([each for each in self._held.values() if isinstance(each, Hold)])

    def lose(self, assignment: Assignment, reason: str, *, acks_lost: bool = False) -> None:
        super().lose(assignment, reason, acks_lost=acks_lost or (isinstance(assignment, Hold) and assignment.open_acks))

    def give_back(self, assignment: Assignment) -> None:
        if isinstance(assignment, Hold):
            try:
                self._settling.finish(assignment)
            finally:
                if assignment.open_acks:
                    self.lose(assignment, "its last acks could not be made durable")

    def reposition(self, assignment: Assignment, to: Where) -> Assignment:
        if not isinstance(assignment, Hold) or not assignment.connected:
            raise Unavailable(f"{assignment!r} lost its connection; seek again once it is assigned", backend="pulsar")
        topic, partition = assignment.topic, assignment.partition
        if isinstance(to, datetime):
            to = self._cursors.locate(topic, partition, to)
        # Without a consumer: what a live one had fetched, and its acks, would undo the move.
        shut(assignment.consumer)
        try:
            self._cursors.move(self.group.name, topic, partition, to)
            return self._taking.take(topic, partition)
        except ClientError as error:
            raise translated(error, f"taking {topic!r}[{partition}] again after a seek", topic) from error

    def forget(self, assignment: Assignment) -> None:
        if isinstance(assignment, Hold):
            # Left open, it would take the partition again by itself as soon as the new owner lets go.
            self._taking.shut_later(assignment.consumer)

    def leave(self) -> None:
        try:
            for members in self._members.values():
                members.leave()
        except ClientError as error:
            raise translated(error, f"leaving group {self.group.name!r}") from error
        finally:
            self._threads.shutdown(wait=False, cancel_futures=True)
            close_client(self._client, self._settings.request_timeout_seconds)
            self._rest.close()
            self._quick.close()

    def _keep_joined(self, topic: str) -> None:
        """Open the heartbeats again after a broker restart, which forgets non-persistent topics."""
        members = self._members[topic]
        rejoining = self._rejoining.get(topic)
        if rejoining is not None:
            if not rejoining.done():
                return
            del self._rejoining[topic]
            rejoining.result()
        if not members.connected:
            self._rejoining[topic] = self._threads.submit(self._rejoin, members)

    @staticmethod
    def _rejoin(members: Members) -> None:
        time.sleep(1.0)
        if not members.connected:
            members.drop()
            members.open()

    def _count(self, topic: str) -> int:
        count, at = self._counts.get(topic, (0, float("-inf")))
        if lease_clock() - at >= _COUNT_SECONDS:
            try:
                count = (self._beating if count else self._cursors).partitions(topic)
            except Unavailable:
                # New partitions can wait for the admin interface to come back; the known ones need not.
                if not count:
                    raise
            self._counts[topic] = count, lease_clock()
        return count

    def _drain(self, hold: Hold, found: list[Delivery | Gap], most: int, wait_ms: int) -> None:
        try:
            hold.drain(found, most, wait_ms)
        except ClientError as error:
            self.lose(hold, f"the client closed the subscription ({type(error).__name__})")

"""Consuming: one Exclusive subscription object per owned partition, which the broker grants to one member only."""

from __future__ import annotations

import time
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from concurrent.futures import TimeoutError as NotYet
from typing import Any, NamedTuple

import pulsar

from eventbus_core.backend import Gap, Group
from eventbus_core.backend.leases import Beat, LeasedConsumer
from eventbus_core.errors import Unavailable
from eventbus_core.records import Assignment, Delivery, Position, Where, lease_clock
from eventbus_pulsar.connection import close_client, data_topic
from eventbus_pulsar.cursors import Cursors
from eventbus_pulsar.encoding import decode
from eventbus_pulsar.errors import ClientError, translated
from eventbus_pulsar.members import Members
from eventbus_pulsar.positions import batch_size, entry_id, position_of
from eventbus_pulsar.rest import Rest
from eventbus_pulsar.settings import PulsarSettings

_SLICE_SECONDS = 0.01
_MARK_SECONDS = 1.0
_COUNT_SECONDS = 5.0
_PROMPT_SECONDS = 0.3


class Hold(Assignment):
    """One hold of a partition with its client consumer and how far it got."""

    __slots__ = ("consumer", "delivered", "inside", "marked", "marked_at", "settled", "skip")

    def __init__(self, topic: str, partition: int, epoch: int, consumer: Any, skip: Position | None) -> None:
        super().__init__(topic, partition, epoch)
        self.consumer = consumer
        self.delivered = Position(-1)
        self.settled = Position(-1)
        self.inside = False
        """Whether ``settled`` is inside a batch, which the broker's cursor cannot express."""
        self.marked = skip
        self.marked_at = 0.0
        self.skip = skip

    @property
    def lapsed(self) -> bool:
        """Whether the lease ran out."""
        return lease_clock() >= self.valid_until


class _Attempt(NamedTuple):
    future: Future[tuple[Any, Position | None]]
    asked: float


class PulsarConsumer(LeasedConsumer):
    """A member of a group. Moves are announced; the broker refuses a second owner, and a late owner's acks.

    A member whose client lost its connection gives its partitions up rather than go on with what it had fetched.
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
        self._attempts: dict[tuple[str, int], _Attempt] = {}
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
        connected = {each.partition for each in holds if each.consumer.is_connected()}
        self._keep_joined(topic)
        if members.connected:
            members.say(connected)
            members.listen()
        living, taken = members.living()
        self._drop_stale_attempts(topic)
        for hold in holds:
            if hold.partition in connected and lease_clock() - hold.marked_at >= _MARK_SECONDS:
                self._mark(hold)
        count = self._count(topic)
        free = set(range(count)) - taken - {each.partition for each in holds}
        return Beat(living, count, free, connected)

    def acquire(self, topic: str, partition: int) -> Assignment | None:
        key = (topic, partition)
        attempt = self._attempts.get(key)
        if attempt is None:
            future = self._threads.submit(self._subscribe, topic, partition)
            attempt = self._attempts[key] = _Attempt(future, lease_clock())
        else:
            attempt = self._attempts[key] = attempt._replace(asked=lease_clock())
        try:
            consumer, skip = attempt.future.result(_PROMPT_SECONDS)
        except NotYet:
            if not attempt.future.done():
                return None
            del self._attempts[key]
            raise
        except pulsar.ConsumerBusy:
            del self._attempts[key]
            return None
        except ClientError as error:
            del self._attempts[key]
            raise translated(error, f"subscribing to {topic!r}[{partition}]", topic) from error
        except BaseException:
            del self._attempts[key]
            raise
        del self._attempts[key]
        return Hold(topic, partition, time.time_ns(), consumer, skip)

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
            self._drain(
                holds[turn % len(holds)], found, max_records, max(1, int(min(_SLICE_SECONDS, remaining) * 1000))
            )
            turn += 1

    def ack(self, settled: Sequence[Delivery]) -> None:
        for delivery in settled:
            hold = delivery.assignment
            if not isinstance(hold, Hold) or self._held.get((hold.topic, hold.partition)) is not hold:
                continue
            # Not ``owned``: core ends an assignment before it sends the last acks and releases it.
            if hold.lapsed or delivery.position <= hold.settled:
                continue
            if not hold.consumer.is_connected():
                # The client would take the ack and lose it.
                self.lose(hold, "the connection to the broker was lost")
                continue
            self._ack(hold, delivery.position, delivery.token)

    def give_back(self, assignment: Assignment) -> None:
        if isinstance(assignment, Hold):
            try:
                if not assignment.lapsed and assignment.consumer.is_connected():
                    self._mark(assignment)
            finally:
                self._shut(assignment.consumer)

    def reposition(self, assignment: Assignment, to: Where) -> Assignment:
        if not isinstance(assignment, Hold) or not assignment.consumer.is_connected():
            raise Unavailable(f"{assignment!r} lost its connection; seek again once it is assigned", backend="pulsar")
        topic, partition = assignment.topic, assignment.partition
        # Without a consumer: what a live one had fetched, and its acks, would undo the move.
        self._shut(assignment.consumer)
        try:
            self._cursors.move(self.group.name, topic, partition, to)
            consumer, skip = self._subscribe(topic, partition)
        except ClientError as error:
            raise translated(error, f"taking {topic!r}[{partition}] again after a seek", topic) from error
        return Hold(topic, partition, max(time.time_ns(), assignment.epoch + 1), consumer, skip)

    def forget(self, assignment: Assignment) -> None:
        if isinstance(assignment, Hold):
            # Left open, it would take the partition again by itself as soon as the new owner lets go.
            self._threads.submit(self._shut, assignment.consumer)

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
                count = self._cursors.partitions(topic)
            except Unavailable:
                # New partitions can wait for the admin interface to come back; the known ones need not.
                if not count:
                    raise
            self._counts[topic] = count, lease_clock()
        return count

    def _subscribe(self, topic: str, partition: int) -> tuple[Any, Position | None]:
        """Take the partition; then the mark is read, as only an owner writes it. Blocks; any thread."""
        consumer = self._client.subscribe(
            data_topic(self._settings, topic, partition),
            self.group.name,
            consumer_type=pulsar.ConsumerType.Exclusive,
            consumer_name=self.group.member,
            receiver_queue_size=self._settings.receiver_queue_records,
            initial_position=pulsar.InitialPosition.Earliest,
        )
        try:
            return consumer, self._cursors.marked(self.group.name, topic, partition)
        except BaseException:
            self._shut(consumer)
            raise

    def _drop_stale_attempts(self, topic: str) -> None:
        """Give back what was obtained after this member had stopped wanting it."""
        stale = [key for key, (_, asked) in self._attempts.items() if key[0] == topic and lease_clock() - asked > 1.5]
        for key in stale:
            future = self._attempts[key].future
            if future.done():
                del self._attempts[key]
                if future.exception() is None:
                    self._threads.submit(self._shut, future.result()[0])

    @staticmethod
    def _shut(consumer: Any) -> None:
        try:
            consumer.close()
        except pulsar.AlreadyClosed:
            return
        except ClientError as error:
            raise translated(error, "closing a subscription") from error

    def _drain(self, hold: Hold, found: list[Delivery | Gap], most: int, wait_ms: int) -> None:
        """Take what the client has of one partition, waiting for the first for ``wait_ms``."""
        receive, topic, partition = hold.consumer.receive, hold.topic, hold.partition
        while len(found) < most:
            try:
                message = receive(wait_ms)
            except pulsar.Timeout:
                return
            except ClientError as error:
                self.lose(hold, f"the client closed the subscription ({type(error).__name__})")
                return
            wait_ms = 0
            identity = message.message_id()
            position = position_of(identity)
            if hold.skip is not None:
                if position[:2] != hold.skip[:2]:
                    hold.skip = None
                elif position <= hold.skip:
                    continue
            if position <= hold.delivered:
                # The client connected again and the broker repeats what was not settled.
                continue
            hold.delivered = position
            record = decode(message, topic)
            found.append(Delivery(record, partition, position, hold, token=identity))

    def _ack(self, hold: Hold, position: Position, identity: Any) -> None:
        ledger, entry, index = position
        hold.settled = position
        hold.inside = index + 1 < batch_size(identity)
        try:
            hold.consumer.acknowledge_cumulative(entry_id(hold.partition, ledger, entry - hold.inside))
        except ClientError as error:
            self.lose(hold, f"an ack was refused ({type(error).__name__}: {error})")

    def _mark(self, hold: Hold) -> None:
        """Make a position inside a batch durable; only the owner may."""
        if hold.inside and hold.settled != hold.marked:
            self._cursors.mark(self.group.name, hold.topic, hold.partition, hold.settled)
            hold.marked = hold.settled
            hold.marked_at = lease_clock()

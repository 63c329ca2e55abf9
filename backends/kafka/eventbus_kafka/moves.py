"""Partitions that come and go: Kafka's callbacks of a rebalance."""

from __future__ import annotations

import struct
import threading
import time
from collections.abc import Callable

from confluent_kafka import Consumer, TopicPartition

from eventbus_core.backend import Assigned, Group, Revoking
from eventbus_core.errors import BrokerError, EventBusError, Unavailable
from eventbus_core.records import lease_clock
from eventbus_kafka.commits import Commits
from eventbus_kafka.connection import Connection
from eventbus_kafka.errors import CLIENT_ERRORS, broker_error, of_exception
from eventbus_kafka.holds import Hold, Holds
from eventbus_kafka.offsets import bounds
from eventbus_kafka.positions import Places

NO_PARTITION = 2**31 - 1
"""Of no topic. The coordinator answers that the group has no position there."""
_METADATA_MAGIC = b"CGMDv2:"


def has_generation(metadata: object) -> bool:
    """Whether a member with this group metadata is in the group."""
    return _generation_in(metadata) >= 0


def generation_of(client: Consumer) -> int:
    """The group's generation (classic protocol) or this member's epoch (consumer protocol), at least 0.

    Kafka's client tells it only inside the group metadata for transactions, whose form is versioned (librdkafka 2.16).
    Both grow with every rebalance for as long as the group has positions.
    """
    generation = _generation_in(client.consumer_group_metadata())
    if generation < 0:
        raise Unavailable("the group gave this member up while it joined", backend="kafka")
    return generation


def _generation_in(metadata: object) -> int:
    if not isinstance(metadata, bytes) or not metadata.startswith(_METADATA_MAGIC):
        raise BrokerError(
            "this version of confluent-kafka tells the group's generation in an unknown form; use 2.16", backend="kafka"
        )
    generation: int = struct.unpack_from("=i", metadata, len(_METADATA_MAGIC))[0]
    return generation


class Moves:
    """What one client's rebalances do to the holds; its methods run in the member's thread, inside the client's poll.

    While a revoke drains, :meth:`revoked` does not return, because returning would give the partitions up. Partitions
    that are kept are then served from what was fetched before. ``meanwhile`` is called again and again.
    """

    def __init__(
        self,
        holds: Holds,
        commits: Commits,
        connection: Connection,
        group: Group,
        meanwhile: Callable[[], bool],
        pending: Places,
    ) -> None:
        """``meanwhile`` says whether the member goes on. ``pending``: positions to commit with the first share."""
        self.joined = threading.Event()
        self.failed = False
        self.deadline = 0.0
        self._holds = holds
        self._commits = commits
        self._connection = connection
        self._group = group
        self._meanwhile = meanwhile
        self.pending = pending

    def assigned(self, client: Consumer, parts: list[TopicPartition]) -> None:
        self._commits.in_callback = True
        try:
            self._assign(client, [(part.topic, part.partition) for part in parts])
        except CLIENT_ERRORS as error:
            user = self._connection.settings.user
            self._fail(of_exception(f"joining group {self._group.name!r}", error, user=user))
        except EventBusError as error:
            self._fail(error)
        else:
            self.joined.set()
        finally:
            self._commits.in_callback = False

    def _fail(self, error: EventBusError) -> None:
        self._holds.fail(error)
        self.failed = True

    def _assign(self, client: Consumer, places: list[tuple[str, int]]) -> None:
        self._holds.generation = generation_of(client)
        found = self._committed(client, list(dict.fromkeys([*places, *self.pending])))
        limits = bounds(self._connection, places)
        lows = {place: limit.low for place, limit in limits.items()}
        # A partition that appeared after the group began is read from its beginning.
        wanted = {**lows, **self.pending}
        created = {place: offset for place, offset in wanted.items() if place not in found}
        self._commits.places(created)
        self.pending = {}
        positions = {**found, **created}
        start = {place: max(positions[place], lows[place]) for place in places}
        client.incremental_assign([TopicPartition(*place, offset) for place, offset in start.items()])
        # A pause outlives the assignment that it was made in (librdkafka 2.16).
        client.resume([TopicPartition(*place) for place in places])
        for place in places:
            hold = self._holds.new_hold(*place, start[place])
            with self._holds.changed:
                self._holds.held[place] = hold
                self._holds.report(Assigned(hold))
            if positions[place] < lows[place]:
                reason = "records were removed before they were settled"
                self._holds.offer_gap(hold, positions[place], lows[place], reason)

    def _committed(self, client: Consumer, places: list[tuple[str, int]]) -> Places:
        if not places:
            return {}
        settings = self._connection.settings
        answer = self._stable(client, [TopicPartition(*place) for place in places])
        found: Places = {}
        for each in answer:
            if each.error is not None:
                raise broker_error("reading committed positions", each.error, topic=each.topic, user=settings.user)
            if each.offset >= 0:
                found[each.topic, each.partition] = each.offset
        return found

    def _stable(self, client: Consumer, places: list[TopicPartition]) -> list[TopicPartition]:
        """The broker's answer once no transaction is open in these partitions: that of a dead member has to time out.

        Until then Kafka's client says nothing (librdkafka 2.16), as if the coordinator were away: it is asked for
        another partition to see the difference.
        """
        while True:
            asked_at = lease_clock()
            try:
                answer = client.committed(places, timeout=self._connection.settings.request_timeout_seconds / 5)
            except CLIENT_ERRORS:
                if not self._meanwhile():
                    raise
                asked_at = lease_clock()
                elsewhere = TopicPartition(places[0].topic, NO_PARTITION)
                client.committed([elsewhere], timeout=self._connection.settings.request_timeout_seconds)
                self._holds.hear(asked_at)
            else:
                self._holds.hear(asked_at)
                return answer

    def revoked(self, client: Consumer, parts: list[TopicPartition]) -> None:  # noqa: ARG002
        self._commits.in_callback = True
        try:
            self._drain(parts)
        finally:
            self._commits.in_callback = False

    def _drain(self, parts: list[TopicPartition]) -> None:
        self.deadline = deadline = time.monotonic() + self._group.drain_seconds
        places = [(part.topic, part.partition) for part in parts]
        with self._holds.changed:
            for hold in self._of(places):
                hold.revoking = True
                self._holds.drop_queue(hold)
                self._holds.report(Revoking(hold, deadline))
        while self._of(places) and self._meanwhile() and time.monotonic() < deadline:
            self._let_go([hold for hold in self._of(places) if hold.released])
            with self._holds.changed:
                self._holds.changed.wait_for(lambda: any(hold.released for hold in self._of(places)), timeout=0.05)
        self._let_go(self._of(places), lost="the drain took longer than drain_seconds")

    def lost(self, client: Consumer, parts: list[TopicPartition]) -> None:  # noqa: ARG002
        self._holds.lose(
            self._of([(part.topic, part.partition) for part in parts]),
            "the group gave this member up (session timeout)",
        )

    def _of(self, places: list[tuple[str, int]]) -> list[Hold]:
        with self._holds.changed:
            return [hold for place in places if (hold := self._holds.held.get(place)) is not None]

    def _let_go(self, holds: list[Hold], lost: str = "") -> None:
        """Commit what is settled and end the holds; if that fails, their unsettled work comes again elsewhere."""
        if not holds:
            return
        try:
            self._commits.now(holds)
        except EventBusError as error:
            lost = lost or f"the last commit was refused: {error}"
        with self._holds.changed:
            if lost:
                self._holds.lose(holds, lost)
            for hold in holds:
                if self._holds.held.get(hold.place) is hold:
                    del self._holds.held[hold.place]
                hold.done = True
            self._holds.changed.notify_all()

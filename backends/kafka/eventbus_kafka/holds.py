"""What core's thread and the client's thread share: the partitions held, what was fetched of them, what happened."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Collection, Mapping, Sequence

from eventbus_core.backend import Change, Gap, Lost, Polled
from eventbus_core.errors import EventBusError
from eventbus_core.records import Assignment, Delivery, Position, lease_clock

#: Deliveries of a partition that core has paused which are kept, rather than fetched again.
_PAUSED_RESERVE = 200
_MAX_PAUSED_BYTES = 1 << 20
#: Of all partitions that are not paused.
_MAX_QUEUED_BYTES = 16 << 20


class Batch:
    """Deliveries of one hold that were fetched together, and their payload bytes."""

    __slots__ = ("bytes", "deliveries")

    def __init__(self, deliveries: list[Delivery]) -> None:
        self.deliveries = deliveries
        self.bytes = 0
        for delivery in deliveries:
            _, value, key, _, _ = delivery.record
            self.bytes += (len(value) if value else 0) + (len(key) if key else 0)


class Hold(Assignment):
    """An assignment with its cursor: ``next`` is the offset to fetch, ``settled`` the one to commit.

    ``turn``: the fetch of the client during which it began.
    """

    __slots__ = (
        "client_paused",
        "committed",
        "done",
        "next",
        "queue",
        "queued",
        "queued_bytes",
        "released",
        "revoking",
        "settled",
        "turn",
    )

    def __init__(self, topic: str, partition: int, epoch: int, offset: int, turn: int, valid_until: float) -> None:
        super().__init__(topic, partition, epoch, valid_until)
        self.next = self.settled = self.committed = offset
        self.turn = turn
        self.queue: deque[Batch | Gap] = deque()
        self.queued = self.queued_bytes = 0
        self.client_paused = False
        self.revoking = False
        self.released = False
        self.done = False

    @property
    def uncommitted(self) -> bool:
        """Whether it is done further than its last answered commit says."""
        return self.settled > self.committed

    @property
    def place(self) -> tuple[str, int]:
        return self.topic, self.partition


class Holds:
    """All holds of one member. Everything is done under ``changed``, which is notified of every change.

    ``valid_seconds``: so long after the last sign of life of the coordinator, another member may have the partitions.
    ``generation`` is the group's, a number that grows with every rebalance; ``turn`` counts the client's fetches.
    """

    def __init__(self, valid_seconds: float) -> None:
        self.valid_seconds = valid_seconds
        self.changed = threading.Condition()
        self.held: dict[tuple[str, int], Hold] = {}
        self.paused: Collection[Assignment] = ()
        self.lapsed = False
        self.generation = 0
        self.turn = 0
        self._heard = lease_clock()
        self._changes: list[Change] = []
        self._error: EventBusError | None = None
        self._limit = 1000
        self._made = 0

    def new_hold(self, topic: str, partition: int, offset: int) -> Hold:
        """A hold with a higher epoch than any before: a partition changes its holder in a later generation only."""
        with self.changed:
            self._made += 1
            epoch = self.generation << 32 | self._made
            return Hold(topic, partition, epoch, offset, self.turn, self._heard + self.valid_seconds)

    def hear(self, at: float) -> None:
        """The coordinator answered a request that was sent ``at`` (``lease_clock``); what has lapsed stays so."""
        with self.changed:
            self.expire()
            self._heard = max(at, self._heard)
            for hold in self.held.values():
                hold.valid_until = self._heard + self.valid_seconds

    def expire(self) -> None:
        """After too long a silence all holds are lost: the broker may be cut off, or this process stood still."""
        with self.changed:
            if self.held and lease_clock() > self._heard + self.valid_seconds:
                self.give_up(
                    f"nothing was heard of the group's coordinator for {self.valid_seconds:.1f} s, so another member "
                    "may have the partition"
                )

    def report(self, *changes: Change) -> None:
        """Tell core; in the order of calls."""
        with self.changed:
            self._changes.extend(changes)
            self.changed.notify_all()

    def fail(self, error: EventBusError) -> None:
        """Let ``take`` raise: a retryable error once, another for good."""
        with self.changed:
            if self._error is None or self._error.retryable:
                self._error = error
            self.changed.notify_all()

    def error(self) -> EventBusError | None:
        """What stands in the way now."""
        with self.changed:
            error = self._error
            if error is not None and error.retryable:
                self._error = None
            return error

    def lose(self, holds: Sequence[Hold], reason: str) -> None:
        """End holds without a drain."""
        with self.changed:
            for hold in holds:
                if self.held.get(hold.place) is hold:
                    del self.held[hold.place]
                    self.drop_queue(hold)
                    self._changes.append(Lost(hold, reason, acks_lost=hold.uncommitted))
            self.changed.notify_all()

    def drop_queue(self, hold: Hold) -> None:
        """Forget what was fetched and not yet delivered."""
        with self.changed:
            hold.queue.clear()
            hold.queued = hold.queued_bytes = 0
            self.changed.notify_all()

    def snapshot(self) -> dict[tuple[str, int], Hold]:
        """The holds now, by topic and partition."""
        with self.changed:
            return dict(self.held)

    def offer(self, fetched: Mapping[Hold, list[Delivery]]) -> None:
        """Queue fetched records, in order; those of holds that ended meanwhile are left out."""
        batches = {hold: Batch(deliveries) for hold, deliveries in fetched.items() if deliveries}
        with self.changed:
            for hold, batch in batches.items():
                if self.held.get(hold.place) is hold:
                    hold.queue.append(batch)
                    hold.queued += len(batch.deliveries)
                    hold.queued_bytes += batch.bytes
            self.changed.notify_all()

    def offer_gap(self, hold: Hold, wanted: int, low: int, reason: str) -> None:
        """Queue the news that the records from ``wanted`` to before ``low`` are gone."""
        with self.changed:
            hold.queue.append(Gap(hold, Position(wanted - 1) if wanted > 0 else None, Position(low), reason))
            self.changed.notify_all()

    def room(self, wait: float) -> int:
        """How many more records may be fetched; waits up to ``wait`` seconds for some room."""
        with self.changed:
            room = self._room()
            if room <= 0:
                self.changed.wait(wait)
                room = self._room()
            return room

    def _room(self) -> int:
        active = [hold for hold in self.held.values() if hold not in self.paused]
        if sum(hold.queued_bytes for hold in active) >= _MAX_QUEUED_BYTES:
            return 0
        return self._limit - sum(hold.queued for hold in active)

    def to_pause_and_resume(self, *, stalled: bool) -> tuple[list[Hold], list[Hold]]:
        """The holds that the client should stop to fetch now, and those that it should fetch again."""
        with self.changed:
            pause: list[Hold] = []
            resume: list[Hold] = []
            for hold in self.held.values():
                reserve_full = hold in self.paused and (
                    hold.client_paused or hold.queued >= _PAUSED_RESERVE or hold.queued_bytes >= _MAX_PAUSED_BYTES
                )
                if (stalled or reserve_full) != hold.client_paused:
                    (resume if hold.client_paused else pause).append(hold)
            return pause, resume

    def take(self, max_records: int, timeout: float, paused: Collection[Assignment]) -> Polled:
        """Changes if there are any, else deliveries, else the error; waits up to ``timeout`` seconds."""
        deadline = time.monotonic() + timeout
        with self.changed:
            self.paused = frozenset(paused)
            self._limit = max(1000, 2 * max_records)
            while True:
                self.expire()
                changes, self._changes = self._changes, []
                gaps, deliveries = ([], []) if changes else self._collect(max_records)
                if changes or gaps or deliveries:
                    self.changed.notify_all()
                    return Polled(changes or gaps, deliveries)
                error = self.error()
                if error is not None:
                    raise error
                remaining = deadline - time.monotonic()
                if remaining <= 0:
                    return Polled()
                self.changed.wait(min(remaining, self.valid_seconds / 4))

    def _collect(self, max_records: int) -> tuple[list[Change], list[Delivery]]:
        """A gap stands in its queue between the records around it, and comes alone."""
        deliveries: list[Delivery] = []
        for place, hold in list(self.held.items()):
            if not hold.queue or hold in self.paused:
                continue
            while hold.queue and len(deliveries) < max_records:
                head = hold.queue[0]
                if isinstance(head, Gap):
                    if deliveries:
                        return [], deliveries
                    hold.queue.popleft()
                    return [head], []
                deliveries += self._take_of(hold, head, max_records - len(deliveries))
            # To the end of the turn order, so that one full partition does not starve the others.
            self.held[place] = self.held.pop(place)
            if len(deliveries) >= max_records:
                break
        return [], deliveries

    def _take_of(self, hold: Hold, batch: Batch, limit: int) -> list[Delivery]:
        """Up to ``limit`` deliveries of the first batch in the queue."""
        hold.queue.popleft()
        rest = Batch(batch.deliveries[limit:])
        if rest.deliveries:
            hold.queue.appendleft(rest)
            del batch.deliveries[limit:]
        hold.queued -= len(batch.deliveries)
        hold.queued_bytes -= batch.bytes - rest.bytes
        return batch.deliveries

    def to_settle(self, deliveries: Sequence[Delivery]) -> dict[tuple[str, int], int] | None:
        """The offsets to commit for these; None if one of their holds has ended."""
        with self.changed:
            self.expire()
            places: dict[tuple[str, int], int] = {}
            for delivery in deliveries:
                hold = delivery.assignment
                if not isinstance(hold, Hold) or self.held.get(hold.place) is not hold:
                    return None
                places[hold.place] = max(places.get(hold.place, 0), delivery.position[0] + 1)
            return places

    def uncommitted(self) -> int:
        """How many holds are done further than committed, those included of whose loss core does not know yet."""
        with self.changed:
            lost = sum(isinstance(each, Lost) and each.acks_lost for each in self._changes)
            return lost + sum(hold.uncommitted for hold in self.held.values())

    def settled(self, deliveries: Sequence[Delivery]) -> None:
        """Note what was committed in a transaction; a hold may have ended meanwhile."""
        with self.changed:
            for delivery in deliveries:
                hold = delivery.assignment
                if isinstance(hold, Hold):
                    hold.settled = hold.committed = max(hold.settled, delivery.position[0] + 1)

    def give_up(self, reason: str) -> None:
        """End all holds, and let the member join anew."""
        with self.changed:
            self.lapsed = True
            self.lose(list(self.held.values()), reason)

    def settle(self, deliveries: Sequence[Delivery]) -> None:
        """Note how far each hold is done; of a hold that ended, nothing. This check is the only fence there is."""
        with self.changed:
            self.expire()
            for delivery in deliveries:
                hold = delivery.assignment
                if isinstance(hold, Hold) and self.held.get(hold.place) is hold:
                    hold.settled = max(hold.settled, delivery.position[0] + 1)

"""What core's thread and the client's thread share: the partitions held, what was fetched of them, what happened."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Collection, Sequence

from eventbus_core.backend import Change, Gap, Lost, Polled
from eventbus_core.errors import EventBusError
from eventbus_core.records import Assignment, Delivery, lease_clock

#: Deliveries of a partition that core has paused which are kept, rather than fetched again.
_PAUSED_RESERVE = 200
_MAX_QUEUED_BYTES = 16 << 20


def size_of(delivery: Delivery) -> int:
    """Payload bytes, for the bound on what waits."""
    record = delivery.record
    return len(record.value or b"") + len(record.key or b"")


class Hold(Assignment):
    """An assignment with its cursor: ``next`` is the offset to fetch, ``settled`` the one to commit."""

    __slots__ = ("client_paused", "committed", "done", "next", "queue", "released", "revoking", "settled", "turn")

    def __init__(self, topic: str, partition: int, epoch: int, offset: int, turn: int, valid_until: float) -> None:
        super().__init__(topic, partition, epoch, valid_until)
        self.next = self.settled = self.committed = offset
        self.turn = turn
        self.queue: deque[Delivery | Gap] = deque()
        self.client_paused = False
        self.revoking = False
        self.released = False
        self.done = False

    @property
    def place(self) -> tuple[str, int]:
        return self.topic, self.partition


class Holds:
    """All holds of one member. Everything is done under ``changed``, which is notified of every change.

    ``valid_seconds``: after so long without a sign of life of this process, another member may have the partitions.
    """

    def __init__(self, valid_seconds: float) -> None:
        self.changed = threading.Condition()
        self.held: dict[tuple[str, int], Hold] = {}
        self.paused: Collection[Assignment] = ()
        self.stopped_too_long = False
        self._valid_seconds = valid_seconds
        self._alive = lease_clock()
        self._changes: list[Change] = []
        self._error: EventBusError | None = None
        self._limit = 1000
        self._queued_bytes = 0
        self._epoch = 0

    def new_hold(self, topic: str, partition: int, offset: int, turn: int) -> Hold:
        """A hold with a higher epoch than any before.

        Kafka tells no client a number that grows with every hold, so the wall clock in ns stands for it; epochs of
        different machines compare as well as their clocks do, and nothing but their order in reports rests on it.
        """
        self._epoch = max(self._epoch + 1, time.time_ns())
        return Hold(topic, partition, self._epoch, offset, turn, lease_clock() + self._valid_seconds)

    def beat(self) -> None:
        """A sign of life. After too long a silence (a stopped process, a sleeping machine) all holds are lost."""
        with self.changed:
            now = lease_clock()
            if now - self._alive > self._valid_seconds and self.held:
                self.stopped_too_long = True
                self.lose(list(self.held.values()), "this process stood still for longer than its group session")
            self._alive = now
            for hold in self.held.values():
                hold.valid_until = now + self._valid_seconds

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
                    self._changes.append(Lost(hold, reason))
            self.changed.notify_all()

    def drop_queue(self, hold: Hold) -> None:
        """Forget what was fetched and not yet delivered."""
        with self.changed:
            self._queued_bytes -= sum(size_of(each) for each in hold.queue if isinstance(each, Delivery))
            hold.queue.clear()
            self.changed.notify_all()

    def offer(self, hold: Hold, delivery: Delivery) -> None:
        """Queue a fetched record; the caller holds ``changed`` and notifies."""
        hold.queue.append(delivery)
        self._queued_bytes += size_of(delivery)

    def room(self, wait: float) -> int:
        """How many more records may be fetched; waits up to ``wait`` seconds for some room."""
        with self.changed:
            room = self._room()
            if room <= 0:
                self.changed.wait(wait)
                room = self._room()
            return room

    def _room(self) -> int:
        if self._queued_bytes >= _MAX_QUEUED_BYTES:
            return 0
        return self._limit - sum(len(hold.queue) for hold in self.held.values() if hold not in self.paused)

    def to_pause(self, *, stalled: bool) -> set[Hold]:
        """The holds that the client should not fetch now."""
        with self.changed:
            return {
                hold
                for hold in self.held.values()
                if stalled or (hold in self.paused and (hold.client_paused or len(hold.queue) >= _PAUSED_RESERVE))
            }

    def take(self, max_records: int, timeout: float, paused: Collection[Assignment]) -> Polled:
        """Changes if there are any, else deliveries, else the error; waits up to ``timeout`` seconds."""
        deadline = time.monotonic() + timeout
        with self.changed:
            self.paused = frozenset(paused)
            self._limit = max(1000, 2 * max_records)
            while True:
                self.beat()
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
                self.changed.wait(min(remaining, self._valid_seconds / 4))

    def _collect(self, max_records: int) -> tuple[list[Change], list[Delivery]]:
        """A gap stands in its queue between the records around it, and comes alone."""
        deliveries: list[Delivery] = []
        for place, hold in list(self.held.items()):
            if not hold.queue or hold in self.paused:
                continue
            queue = hold.queue
            while queue and len(deliveries) < max_records:
                head = queue[0]
                if isinstance(head, Gap):
                    if deliveries:
                        return [], deliveries
                    queue.popleft()
                    return [head], []
                deliveries.append(head)
                self._queued_bytes -= size_of(head)
                queue.popleft()
            # To the end of the turn order, so that one full partition does not starve the others.
            self.held[place] = self.held.pop(place)
            if len(deliveries) >= max_records:
                break
        return [], deliveries

    def settle(self, deliveries: Sequence[Delivery]) -> None:
        """Note how far each hold is done; of a hold that ended, nothing. This check is the only fence there is."""
        with self.changed:
            for delivery in deliveries:
                hold = delivery.assignment
                if isinstance(hold, Hold) and self.held.get(hold.place) is hold:
                    hold.settled = max(hold.settled, delivery.position[0] + 1)

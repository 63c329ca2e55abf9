"""The partitions a consumer holds: what waits there for the user, what is not settled, what is paused."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import groupby
from operator import attrgetter
from typing import Any

from eventbus_core.records import Assignment, Delivery, Record
from eventbus_core.watermark import Watermark

_assignment_of = attrgetter("assignment")
_LARGE = 1 << 20
_OVERHEAD = 1024  # what a small record takes in memory, its objects included


class _Hold:
    """What core knows of one assignment."""

    __slots__ = ("deadline", "made", "moved_at", "paused", "stuck", "waiting", "watermark")

    def __init__(self, *, paused: bool) -> None:
        self.watermark = Watermark()
        self.waiting: deque[Delivery] = deque()  # delivered by the backend, not yet received by the user
        self.made: dict[int, Sequence[Record]] = {}  # to be stored when the delivery of this order is settled
        self.deadline: float | None = None  # time.monotonic(), while it is being revoked
        self.paused = paused
        self.stuck = False
        self.moved_at = 0.0  # time.monotonic(), when the first of what is open was last another one


class Holds:
    """No I/O, no threads and no lock: the intake calls it under its own."""

    def __init__(self, max_unacked: int, max_bytes: int | None = None, *, stuck_seconds: float = float("inf")) -> None:
        self._stuck_seconds = stuck_seconds
        self._max_unacked = max_unacked
        self._max_bytes = max_bytes
        self._mean_bytes = float(_LARGE)  # of a record; until the first ones are seen they may be large
        self._holds: dict[Assignment, _Hold] = {}  # who has waited longest comes first
        self._open = 0
        self._dirty: set[Assignment] = set()
        self._unsure: set[Assignment] = set()  # acks were sent that may not be durable
        self._fresh: set[Assignment] = set()  # acks were sent since the last poll
        self._lost: set[tuple[str, int]] = set()  # acks went with the partition
        self._paused: set[tuple[str, int]] = set()

    @property
    def dirty(self) -> int:
        """In how many partitions acks wait to be sent."""
        return len(self._dirty)

    @property
    def open_acks(self) -> int:
        """In how many partitions acks are not sent, or may not be durable."""
        return len(self._dirty | self._unsure)

    def note_poll(self) -> None:
        """A poll has told of all that was lost before it."""
        self._fresh.clear()

    def make_sure(self) -> None:
        """All acks that were sent are durable."""
        self._unsure.clear()

    def take_lost(self) -> int:
        """In how many partitions acks went with the partition, and may never be durable, since the last call."""
        lost, self._lost = self._lost, set()
        return len(lost)

    def add(self, assignment: Assignment) -> None:
        """A partition is held from now on."""
        self._holds[assignment] = _Hold(paused=(assignment.topic, assignment.partition) in self._paused)

    def revoke(self, assignment: Assignment, deadline: float) -> None:
        """A partition is wanted back: what nobody has received of it is another's."""
        hold = self._holds.get(assignment)
        if hold is not None:
            hold.deadline = deadline
            hold.watermark.retract(len(hold.waiting))
            self._open -= len(hold.waiting)
            hold.waiting.clear()

    def draining(self) -> list[Assignment]:
        """Those that are wanted back."""
        return [each for each, hold in self._holds.items() if hold.deadline is not None]

    def give_back(self, assignment: Assignment, last: int) -> None:
        """Of one that is wanted back: what was received after the order ``last`` is not going to be settled."""
        hold = self._holds.get(assignment)
        if hold is not None and hold.deadline is not None:
            self._open -= hold.watermark.retract_after(last)

    def lose(self, assignment: Assignment, *, acks_lost: bool) -> None:
        """A partition is another's; ``acks_lost``: with acks that had been sent before the last poll."""
        if acks_lost or assignment in self._dirty or assignment in self._fresh:
            self._lost.add((assignment.topic, assignment.partition))
        self._unsure.discard(assignment)
        self.drop(assignment)

    def release(self, assignment: Assignment) -> None:
        """A partition was given back. Its acks count as open until the next poll: that may tell that they were lost."""
        self.drop(assignment)

    def drop(self, assignment: Assignment, *, sought: bool = False) -> None:
        """A partition is held no more. The pause of one that was ``sought`` goes on in the hold that follows."""
        assignment.ended = True
        hold = self._holds.pop(assignment, None)
        self._dirty.discard(assignment)
        if sought:  # earlier acks are void
            self._unsure.discard(assignment)
        if hold is not None:
            self._open -= len(hold.watermark)
        if not sought:  # ``resume`` cannot name a partition that is not held, so the pause ends with the hold
            self._paused.discard((assignment.topic, assignment.partition))

    def end(self) -> None:
        """Nothing is owned any more."""
        for assignment in self._holds:
            assignment.ended = True

    def clear(self) -> None:
        """Forget everything."""
        self.end()
        self._holds.clear()
        self._dirty.clear()
        self._unsure.clear()
        self._open = 0

    def held(self, wanted: Iterable[tuple[str, int]] | None = None) -> list[Assignment]:
        """The assignments (None: all; else of the ``wanted`` partitions) that are not being given back."""
        return [
            each
            for each, hold in self._holds.items()
            if hold.deadline is None and (wanted is None or (each.topic, each.partition) in wanted)
        ]

    def drained(self, now: float) -> list[Assignment]:
        """Those wanted back that are all settled, or whose time is up."""
        return [
            each
            for each, hold in self._holds.items()
            if hold.deadline is not None and (not len(hold.watermark) or now >= hold.deadline)
        ]

    def accept(self, deliveries: Iterable[Delivery]) -> None:
        """Take what the backend delivered; what is not ours any more goes to whoever holds the partition next."""
        for assignment, run in groupby(deliveries, _assignment_of):
            hold = self._holds.get(assignment)
            if hold is not None and hold.deadline is None:
                fresh = list(run)
                if not len(hold.watermark):
                    hold.moved_at = time.monotonic()
                hold.watermark.deliver(fresh)
                hold.waiting.extend(fresh)
                self._open += len(fresh)
                if self._max_bytes is not None:
                    self._note_sizes(fresh)

    def take(self, max_records: int) -> list[Delivery]:
        """Hand out what waits, at most ``max_records``, from the partition that has waited longest on.

        What a lapsed hold has is kept until the backend says that it is lost: the watermark counts on it.
        """
        received: list[Delivery] = []
        for assignment, hold in list(self._holds.items()):
            waiting = hold.waiting
            if not waiting or hold.paused or not assignment.owned:
                continue
            room = max_records - len(received)
            if len(waiting) <= room:
                received.extend(waiting)
                waiting.clear()
            else:
                received.extend(waiting.popleft() for _ in range(room))
                self._holds[assignment] = self._holds.pop(assignment)
            if len(received) == max_records:
                break
        return received

    def settle(self, deliveries: Sequence[Delivery]) -> list[Delivery]:
        """Note acks; those that come after their assignment has ended."""
        late: list[Delivery] = []
        runs: Iterable[tuple[Any, Iterable[Delivery]]] = groupby(deliveries, _assignment_of)
        if len(deliveries) == 1:
            runs = ((deliveries[0].assignment, deliveries),)
        for assignment, run in runs:
            hold = self._holds.get(assignment)
            if hold is None or assignment.ended:
                late.extend(run)
                if assignment is not None:
                    self._lost.add((assignment.topic, assignment.partition))
                continue
            if shrunk := hold.watermark.settle(run):
                self._open -= shrunk
                self._dirty.add(assignment)
                hold.moved_at = time.monotonic()
        return late

    def take_prefixes(self) -> list[Delivery]:
        """The last delivery of each prefix that grew, to be acked."""
        dirty, self._dirty = self._dirty, set()
        self._unsure |= dirty
        self._fresh |= dirty
        prefixes = [hold.watermark.take_prefix() for each in dirty if (hold := self._holds.get(each))]
        return [each for each in prefixes if each is not None]

    def put_back(self, prefixes: Sequence[Delivery]) -> None:
        """The acks did not get through: they are sent again with the next ones."""
        for delivery in prefixes:
            assignment = delivery.assignment
            if assignment is not None and (hold := self._holds.get(assignment)):
                hold.watermark.put_back(delivery)
                self._dirty.add(assignment)

    def keep(self, made: Mapping[Delivery, Sequence[Record]]) -> None:
        """What is to be stored with the acks of these, which come next."""
        for delivery, records in made.items():
            hold = None if delivery.assignment is None else self._holds.get(delivery.assignment)
            if hold is not None:
                hold.made[delivery.order] = records

    def made(self, prefixes: Sequence[Delivery]) -> list[Record]:
        """What is to be stored with these prefixes, in the order of each partition."""
        return [
            record
            for prefix, made in self._made_in(prefixes)
            for order in sorted(made)
            if order <= prefix.order
            for record in made[order]
        ]

    def forget_made(self, prefixes: Sequence[Delivery]) -> None:
        """It is stored."""
        for prefix, made in self._made_in(prefixes):
            for order in [each for each in made if each <= prefix.order]:
                del made[order]

    def _made_in(self, prefixes: Sequence[Delivery]) -> Iterator[tuple[Delivery, dict[int, Sequence[Record]]]]:
        for prefix in prefixes:
            hold = None if prefix.assignment is None else self._holds.get(prefix.assignment)
            if hold is not None and hold.made:
                yield prefix, hold.made

    def pause(self, partitions: Iterable[tuple[str, int]]) -> None:
        """Hand out nothing more of these; what waits is kept."""
        self._paused.update(partitions)
        self._note_pauses()

    def resume(self, partitions: Iterable[tuple[str, int]]) -> None:
        """End a pause."""
        self._paused.difference_update(partitions)
        self._note_pauses()

    def _note_pauses(self) -> None:
        for assignment, hold in self._holds.items():
            hold.paused = (assignment.topic, assignment.partition) in self._paused

    def paused(self) -> list[Assignment]:
        """The assignments of paused partitions, and of those that are stuck."""
        return [each for each, hold in self._holds.items() if hold.paused or hold.stuck]

    def find_stuck(self) -> None:
        """See which partitions have used up their share of the room and settle nothing.

        They get nothing more until they do, and what they have does not count: the others would have no room.
        """
        now = time.monotonic()
        share = self._limit() // (len(self._holds) or 1)
        for hold in self._holds.values():
            hold.stuck = len(hold.watermark) > share and now - hold.moved_at > self._stuck_seconds

    def room(self) -> int:
        """How many records to ask for; few small polls cost more than one a little later."""
        waiting = held_back = 0
        for hold in self._holds.values():
            if hold.stuck:
                held_back += len(hold.watermark)
            elif hold.paused:
                held_back += len(hold.waiting)
            else:
                waiting += len(hold.waiting)
        room = self._limit() - self._open + held_back
        return 0 if waiting and room < self._max_unacked // 4 else max(room, 0)

    def _limit(self) -> int:
        """How many records may be open; what they weigh is estimated, as to look at every one costs more."""
        if self._max_bytes is None:
            return self._max_unacked
        return max(1, min(self._max_unacked, int(self._max_bytes / self._mean_bytes)))

    def _note_sizes(self, fresh: Sequence[Delivery]) -> None:
        mean = sum(len(each.record.value or b"") for each in fresh) / len(fresh) + _OVERHEAD
        # Larger at once, smaller slowly: the bound is for the bytes.
        self._mean_bytes = max(mean, (self._mean_bytes + mean) / 2)

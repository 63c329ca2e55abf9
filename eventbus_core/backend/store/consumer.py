"""Consuming: plain reads of the log, and a cell per group and partition that only its owner can move."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Mapping, Sequence
from typing import Final

from eventbus_core.backend import Gap, Group
from eventbus_core.backend.leases import Beat, LeasedConsumer
from eventbus_core.backend.store import Key, Log, Put, Store, whole
from eventbus_core.backend.store.groups import GroupCells, Hold
from eventbus_core.backend.store.reading import Place, deliveries, locate
from eventbus_core.backend.store.topics import Topic, find_topic, topic_to_use
from eventbus_core.errors import EventBusError, NotFound, Unavailable
from eventbus_core.records import Assignment, Delivery, Where

_LOOK_SECONDS: Final = 1.0
"""A sign of something new that got lost costs no more than this."""
_TAKEN: Final = "another member has taken the partition over"


class Held(Assignment):
    """A hold: the revision of its cell (0: not ours any more), the settled place, and what was read ahead.

    ``look``: when to read again what was found empty, on ``time.monotonic``, whatever the store says; 0 at once.
    """

    __slots__ = ("key", "log", "look", "next", "ready", "revision", "settled")

    def __init__(self, log: Log, epoch: int, key: Key, revision: int, place: Place) -> None:
        super().__init__(log.topic, log.number, epoch)
        self.log = log
        self.key = key
        self.revision = revision
        self.settled = place
        self.next = place
        self.ready: deque[Delivery] = deque()
        self.look = 0.0


class StoreConsumer(LeasedConsumer):
    """Who lives is judged by the store's clock alone: by the times of the members' cells."""

    def __init__(self, store: Store, group: Group) -> None:
        super().__init__(group, lease_seconds=store.settings.lease_seconds, beat_seconds=1.0)
        self._store = store
        self._topics: dict[str, Topic] = {}
        self._cells: dict[str, GroupCells] = {}
        self._free: dict[str, dict[int, Hold]] = {}
        for name in group.topics:
            topic = self._topics[name] = topic_to_use(store, name)
            self._cells[name] = GroupCells(store, topic, group.name)
            self._cells[name].begin(group.start)

    def beat(self, topic: str, held: Sequence[Assignment]) -> Beat:
        self._store.begin()
        if find_topic(self._store, topic) != self._topics[topic]:
            message = f"topic {topic} was deleted or made anew; open the consumer again"
            raise NotFound(message, topic=topic, backend=self._store.backend)
        # Holds before members: who owns one has beaten before, so a member that joins meanwhile is not taken for dead.
        holds = self._cells[topic].holds()
        living = self._cells[topic].beat(self.group.member, self._lease_seconds)
        epochs = {each.partition: each.epoch for each in held}
        free, mine = {}, []
        for number, hold in enumerate(holds):
            if hold.owner == self.group.member and hold.epoch == epochs.get(number):
                mine.append(number)
            elif hold.owner == self.group.member or hold.owner not in living:
                free[number] = hold
        self._free[topic] = free
        return Beat(sorted(living), self._topics[topic].partitions, free, mine)

    def acquire(self, topic: str, partition: int) -> Assignment | None:
        # At the revision that the beat saw: whoever has taken it since, or is alive again, has written.
        self._store.begin()
        seen = self._free[topic][partition]
        taken = Hold(seen.epoch + 1, self.group.member, seen.place)
        key = self._cells[topic].hold_key(partition)
        (revision,) = whole(self._store.put([Put(key, taken.value, seen.revision)]))
        if revision is None:
            return None
        return Held(self._topics[topic].log(partition), taken.epoch, key, revision, taken.place)

    def fetch(self, assignments: Sequence[Assignment], max_records: int, timeout: float) -> Sequence[Delivery | Gap]:
        self._store.begin(timeout)
        deadline = time.monotonic() + timeout
        holds = [each for each in assignments if isinstance(each, Held)]
        found: list[Delivery | Gap] = []
        wait = 0.0
        while True:
            self._notice(holds, wait)
            found += self._read_ahead(holds)
            ready = [hold for hold in holds if hold.ready]
            wait = min(deadline - time.monotonic(), _LOOK_SECONDS)
            if ready or found or wait <= 0:
                break
        for hold in ready:
            share = min(max(1, max_records // len(ready)), max_records - len(found), len(hold.ready))
            found += [hold.ready.popleft() for _ in range(share)]
        return found

    def ack(self, settled: Sequence[Delivery]) -> None:
        self._store.begin()
        holds = set()
        for each in settled:
            hold, place = each.assignment, each.token
            if isinstance(hold, Held) and isinstance(place, Place):
                hold.settled = max(hold.settled, place)
                holds.add(hold)
        self._move({hold: Hold(hold.epoch, self.group.member, hold.settled) for hold in holds})
        for hold in holds:
            if not hold.revision:
                self.lose(hold, _TAKEN)

    def give_back(self, assignment: Assignment) -> None:
        assert isinstance(assignment, Held)
        self._store.begin()
        self._move({assignment: Hold(assignment.epoch, "", assignment.settled)})
        if not assignment.revision:
            self.lose(assignment, _TAKEN)
        assignment.revision = 0

    def reposition(self, assignment: Assignment, to: Where) -> Assignment:
        assert isinstance(assignment, Held)
        self._store.begin()
        epoch, place = assignment.epoch + 1, locate(self._store, assignment.log, to)
        self._move({assignment: Hold(epoch, self.group.member, place)})
        # The former hold's late acks must not fit any more.
        revision, assignment.revision = assignment.revision, 0
        if not revision:
            self.lose(assignment, _TAKEN)
            message = f"{assignment!r} is held no more; seek again"
            raise Unavailable(message, topic=assignment.topic, backend=self._store.backend)
        return Held(assignment.log, epoch, assignment.key, revision, place)

    def leave(self) -> None:
        self._store.begin()
        try:
            for cells in self._cells.values():
                cells.leave(self.group.member)
        finally:
            self._store.close()

    def _move(self, moves: Mapping[Held, Hold]) -> None:
        """Write the cells that are their holds'; nothing is changed of the others, and their revision is 0 then."""
        left = {hold: to for hold, to in moves.items() if hold.revision}
        while left:
            revisions = whole(self._store.put([Put(hold.key, to.value, hold.revision) for hold, to in left.items()]))
            for hold, revision in zip(tuple(left), revisions, strict=True):
                if revision is not None:
                    hold.revision = revision
                    del left[hold]
            # Another's write, or an earlier one of ours whose reply was lost.
            for hold, cell in zip(tuple(left), whole(self._store.get([hold.key for hold in left])), strict=True):
                ours = cell is not None and Hold.of(cell)[:2] == (hold.epoch, self.group.member)
                hold.revision = cell.revision if cell and ours else 0
                if not ours:
                    del left[hold]

    def _notice(self, holds: Sequence[Held], wait: float) -> None:
        """Wait for what was found empty; what may have more now is read again."""
        quiet = {hold.log: hold for hold in holds if hold.look and not hold.ready}
        for log in self._store.appended(list(quiet), wait) if quiet else ():
            quiet[log].look = 0.0

    def _read_ahead(self, holds: Sequence[Held]) -> list[Gap]:
        """Read an entry for each hold that may have more, into what is ready; gaps, where others before are missing."""
        now = time.monotonic()
        due = [hold for hold in holds if not hold.ready and now >= hold.look]
        gaps: list[Gap] = []
        failed: EventBusError | None = None
        for hold, entry in zip(due, self._store.read([(hold.log, hold.next.number) for hold in due]), strict=True):
            if isinstance(entry, EventBusError):
                failed = entry
                continue
            if entry is None:
                hold.look = now + _LOOK_SECONDS
                continue
            hold.look = 0.0
            after, missing = hold.next, entry.number != hold.next.number
            hold.ready.extend(deliveries(hold.log, entry, 0 if missing else after.offset, hold))
            hold.next = Place(entry.number + 1, 0)
            if missing:
                reason = f"{entry.number} is the first left in the log"
                gaps.append(Gap(hold, after.before, hold.ready[0].position, reason))
        if failed is not None and not gaps and not any(hold.ready for hold in holds):
            raise failed  # else the next fetch meets it again: what was read is told first
        return gaps

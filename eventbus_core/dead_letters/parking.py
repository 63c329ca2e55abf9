"""Which keys are parked: an event of theirs is among the dead letters, and later ones have to follow it there."""

from __future__ import annotations

import threading
from collections.abc import Iterable
from typing import TypeAlias

from eventbus_core.admin import Admin
from eventbus_core.dead_letters.letters import DeadLetter, DeadLetterId, Mark, parse
from eventbus_core.dead_letters.log import DeadLetterLog
from eventbus_core.records import Position

Place: TypeAlias = tuple[int, bytes]
"""The partition of the source topic, and a key in it."""


class ParkedKeys:
    """The parked keys of one group, as its member knows them. Thread-safe.

    Only the owner of a partition parks its keys, so it knows them all: by reading the dead letters when it gets the
    partition, and by what it stored since. A key is parked until every dead letter that parks it is discharged; so an
    event that is handled after its key was released comes after all that were parked before it. Memory: some 300 bytes
    for each dead letter that parks.
    """

    def __init__(self, admin: Admin, group: str) -> None:
        self._admin = admin
        self._group = group
        self._reading = threading.Lock()
        self._topics: dict[str, _Topic] = {}

    def load(self, topic: str, partition: int) -> None:  # noqa: ARG002  (one reading serves all partitions)
        """Learn the parked keys of a partition that was just assigned, before any event of it is handled.

        Blocks for I/O: the first time in a topic it reads all dead letters that are not discharged, later only what is
        new. Of a topic without dead letters, such as a redrive topic, it learns nothing. Raises ``BrokerError``.
        """
        with self._reading:
            known = self._topics.get(topic)
            if known is None:
                known = self._topics[topic] = _Topic(self._admin, topic, self._group)
            known.update()

    def is_parked(self, topic: str, partition: int, key: bytes | None) -> bool:
        """Whether an event of this key must go to the dead letters instead of to its handler. Never waits.

        False without a key, and for a redriven event, whose topic is the redrive topic.
        """
        known = self._topics.get(topic)
        return known is not None and key is not None and known.holds((partition, key))

    def note(self, topic: str, partition: int, key: bytes) -> None:
        """A dead letter that parks this key was just stored (its receipt said so). Never waits.

        ``topic`` and ``partition`` are the event's. If they were forgotten meanwhile, it is found by loading them.
        """
        known = self._topics.get(topic)
        if known is not None:
            known.note((partition, key))

    def forget(self) -> None:
        """The dead letters may be gone, and their topics made anew: every partition has to be loaded again."""
        with self._reading:
            self._topics = {}

    def refresh(self) -> list[tuple[str, int, bytes]]:
        """See which keys were released meanwhile: topic, partition and key of each.

        Call it every second or two. Costs nothing while no key is parked; otherwise it blocks for I/O: one question
        for each topic, and reading what is new there. Raises ``BrokerError``; it may be called again then.
        """
        with self._reading:
            parking = [(name, topic) for name, topic in self._topics.items() if topic.parks]
            return [(name, *place) for name, topic in parking for place in topic.update()]


class _Topic:
    """One source topic. ``note`` may be called while another thread is in ``update``."""

    def __init__(self, admin: Admin, topic: str, group: str) -> None:
        self._log = DeadLetterLog(admin, topic, group)
        self._topic = topic
        self._group = group
        self._lock = threading.Lock()
        self._places: dict[DeadLetterId, Place] = {}  # of each dead letter that parks
        self._holding: dict[Place, int] = {}  # how many of those a key has
        self._noted: dict[Place, int] = {}  # what was stored and not read since; when it was noted last
        self._notes = 0
        self._settled: dict[int, Position | None] = {}

    @property
    def parks(self) -> bool:
        """Whether any key is parked."""
        return bool(self._holding or self._noted)

    def holds(self, place: Place) -> bool:
        """Whether this key is parked."""
        # In this order: a key that was noted enters the one before it leaves the other.
        return place in self._noted or place in self._holding

    def note(self, place: Place) -> None:
        """A dead letter of this key was stored."""
        with self._lock:
            self._notes += 1
            self._noted[place] = self._notes

    def update(self) -> list[Place]:
        """Read what is new; the keys that no dead letter holds any more."""
        with self._lock:
            before = self._notes
        touched: set[Place] = set()
        for found, record in self._log.new():
            match parse(record, self._topic, self._group):
                case DeadLetter(parks=True) as letter if letter.original.key is not None:
                    place = letter.origin.partition, letter.original.key
                    self._places[found] = place
                    self._holding[place] = self._holding.get(place, 0) + 1
                case Mark(of):
                    touched |= self._discharge([of])
                case _:
                    pass
        touched |= self._discharge_settled()
        with self._lock:
            # What had been noted before the reading began was there to be read.
            read = [place for place, when in self._noted.items() if when <= before]
            for place in read:
                del self._noted[place]
        return [place for place in touched.union(read) if not self.holds(place)]

    def _discharge_settled(self) -> set[Place]:
        settled = self._log.settled
        if settled == self._settled:
            return set()
        self._settled = settled
        behind = [
            each for each in self._places if (at := settled.get(each.partition)) is not None and each.position < at
        ]
        return self._discharge(behind)

    def _discharge(self, letters: Iterable[DeadLetterId]) -> set[Place]:
        """Forget discharged dead letters; the keys that they held."""
        touched = set()
        for each in letters:
            place = self._places.pop(each, None)
            if place is not None:
                touched.add(place)
                self._holding[place] -= 1
                if not self._holding[place]:
                    del self._holding[place]
        return touched

"""Reading a log: places in it, by position and by time, and its records as deliveries."""

from __future__ import annotations

from datetime import datetime
from typing import NamedTuple

from eventbus_core.backend.store import Entry, Log, Store, whole
from eventbus_core.records import Assignment, Delivery, Position, Record, Where


class Place(NamedTuple):
    """Before a record: the number of its entry, and how many of that lie before it."""

    number: int
    offset: int

    @property
    def position(self) -> Position:
        """What users see of it."""
        return Position(self.number, self.offset)

    @property
    def before(self) -> Position | None:
        """The position before, as far as it can be known; None: there is none."""
        if self.offset:
            return Position(self.number, self.offset - 1)
        return Position(self.number - 1) if self.number > 1 else None


def entry_from(store: Store, log: Log, number: int) -> Entry | None:
    """The entry with this number, or the next that is there; None: there is none."""
    return whole(store.read([(log, number)]))[0]


def end_of(store: Store, log: Log) -> Place:
    """Behind the last record."""
    return Place(whole(store.last([log]))[0].number + 1, 0)


def locate(store: Store, log: Log, where: Where) -> Place:
    """The place before the first record at or after ``where``; else the end."""
    if where == "earliest":
        first = entry_from(store, log, 1)
        return end_of(store, log) if first is None else Place(first.number, 0)
    if where == "latest":
        return end_of(store, log)
    if isinstance(where, datetime):
        return _since(store, log, where.timestamp() * 1000)
    assert isinstance(where, Position)
    number, offset = (*where, 0, 0)[:2]
    entry = entry_from(store, log, number)
    if entry is None:
        return end_of(store, log)
    if entry.number != number:
        offset = 0
    return Place(entry.number, offset) if offset < len(entry.batch.records) else Place(entry.number + 1, 0)


def _since(store: Store, log: Log, wanted_ms: float) -> Place:
    """The place before the first record that is not older; of removed entries the time may still show in later ones."""
    number = _first_since(store, log, wanted_ms)
    while (entry := entry_from(store, log, number)) is not None:
        for offset, each in enumerate(entry.batch.records):
            if each.timestamp_ms >= wanted_ms:
                return Place(entry.number, offset)
        number = entry.number + 1
    return end_of(store, log)


def behind(store: Store, log: Log, place: Place) -> int:
    """How many records there are from a place on."""
    entry = entry_from(store, log, place.number)
    last = whole(store.last([log]))[0].batch
    if entry is None or last is None:
        return 0
    return last.next - entry.batch.before - (place.offset if entry.number == place.number else 0)


def deliveries(log: Log, entry: Entry, offset: int = 0, hold: Assignment | None = None) -> list[Delivery]:
    """The records of an entry from an offset on; the token of each is the place behind it."""
    found = []
    records = entry.batch.records
    for at in range(offset, len(records)):
        after = Place(entry.number, at + 1) if at + 1 < len(records) else Place(entry.number + 1, 0)
        record = Record(log.topic, *records[at])
        found.append(Delivery(record, log.number, Position(entry.number, at), hold, token=after))
    return found


def _first_since(store: Store, log: Log, wanted_ms: float) -> int:
    """The number of the first entry that ends at a time or later; or behind the end. By bisection."""
    low, high = 1, end_of(store, log).number
    while low < high:
        middle = (low + high) // 2
        entry = entry_from(store, log, middle)
        if entry is not None and entry.batch.latest_ms < wanted_ms:
            low = middle + 1
        else:
            high = middle
    return low

"""What is known of the dead letters of one group in one topic: those not discharged, with repeats merged."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import takewhile
from typing import NamedTuple

from eventbus_core.dead_letters.letters import DeadLetter, DeadLetterId, Mark
from eventbus_core.envelope import peek_type


@dataclass
class Entry:
    """One dead event. ``latest`` is its newest failure; ``first`` and ``latest`` come without the original's value."""

    id: DeadLetterId
    first: DeadLetter
    latest: DeadLetter
    event_type: str | None
    """None: not an event, or a malformed one."""
    value_bytes: int
    stored_ms: int
    """When it was stored (Unix time), never less than that of one before it in its partition."""
    repeats: list[DeadLetterId] = field(default_factory=list)
    """The notes of later failures, and copies that a crash between storing and acking left."""
    failed_in: Counter[str] = field(default_factory=Counter)
    """How often it failed again, by redrive."""


class Kind(NamedTuple):
    """Dead letters that failed last in the same way, the oldest first."""

    reason: str
    error_type: str
    stack_hash: str | None
    event_type: str | None
    entries: Sequence[Entry]


class DeadLetterIndex:
    """No I/O, no threads. Takes some 2 KiB for each dead letter."""

    def __init__(self) -> None:
        self._entries: dict[DeadLetterId, Entry] = {}
        self._origins: dict[tuple[DeadLetterId, int], DeadLetterId] = {}
        self._discharged: dict[int, dict[DeadLetterId, bool]] = {}  # every record, in order, by partition
        self._newest: dict[int, int] = {}

    def add(self, found: DeadLetterId, record: DeadLetter | Mark | None, stored_ms: int) -> None:
        """The next record of its partition; None: one that is no business of this topic and group."""
        self._discharged.setdefault(found.partition, {})[found] = not isinstance(record, DeadLetter)
        if isinstance(record, Mark):
            self.discharge(record.of)
        elif isinstance(record, DeadLetter):
            self._add(found, record, stored_ms)

    def _add(self, found: DeadLetterId, letter: DeadLetter, stored_ms: int) -> None:
        value = letter.original.value
        origin = letter.origin, hash(value)
        light = letter._replace(original=letter.original._replace(value=None))
        known = self._entries.get(self._origins.get(origin, found) if letter.again is None else letter.again)
        if known is not None:
            known.repeats.append(found)
            known.latest = light
            known.failed_in.update([letter.run] if letter.run else [])
            return
        order = self._newest[found.partition] = max(stored_ms, self._newest.get(found.partition, 0))
        self._entries[found] = Entry(found, light, light, peek_type(letter.original), len(value or b""), order)
        self._origins[origin] = found

    def discharge(self, identity: DeadLetterId) -> None:
        """It, and the repeats of it, are dead no more; one that is unknown is left alone."""
        entry = self._entries.pop(identity, None)
        for each in (identity, *(entry.repeats if entry else ())):
            records = self._discharged.get(each.partition, {})
            if each in records:
                records[each] = True

    def get(self, identity: DeadLetterId) -> Entry | None:
        """The entry; None: there is none, or it is discharged."""
        return self._entries.get(identity)

    def entries(self) -> list[Entry]:
        """The oldest first; within a partition, and so for each key, in the order in which they were stored."""
        return sorted(self._entries.values(), key=lambda entry: (entry.stored_ms, entry.id))

    def kinds(self) -> list[Kind]:
        """The entries by how they failed last, the most frequent kind first."""
        found: dict[tuple[str, str, str | None, str | None], list[Entry]] = {}
        for entry in self.entries():
            last = entry.latest
            found.setdefault((last.reason, last.error_type, last.stack_hash, entry.event_type), []).append(entry)
        return [Kind(*kind, entries) for kind, entries in sorted(found.items(), key=lambda item: -len(item[1]))]

    def is_discharged(self, found: DeadLetterId) -> bool:
        """Whether nothing has to be done about this record any more; False for one that was not added."""
        return self._discharged.get(found.partition, {}).get(found, False)

    def behind(self) -> Iterator[DeadLetterId]:
        """What is discharged without a gap, per partition: the position may move behind it."""
        for records in self._discharged.values():
            yield from takewhile(records.__getitem__, records)

"""What became of every event of a demo: the arithmetic behind its last table, without any I/O."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from typing import NamedTuple, TypeAlias

EventId: TypeAlias = tuple[str, int]
"""A key, and the event's number among the events of that key, from 0, in the order in which they were published."""


class Handled(NamedTuple):
    """One handling of one event, as the member that did it wrote it down before the ack."""

    event: EventId
    member: str
    partition: int
    at: float
    """``time.monotonic``, which all processes of one machine share."""


class Account(NamedTuple):
    """What one group did with what was published."""

    published: int
    handled: int
    """Distinct events handled at least once."""
    duplicated: int
    """Handlings beyond the first of each event: allowed, at-least-once repeats what a killed member had not acked."""
    lost: int
    """Published and never handled."""
    out_of_order: int
    """Events whose first handling came after the first handling of a later event of the same key."""
    unexpected: int
    """Distinct events that were handled and never published."""

    @property
    def good(self) -> bool:
        """Nothing lost, nothing out of order, nothing out of thin air."""
        return not (self.lost or self.out_of_order or self.unexpected)


def account(published: Collection[EventId], history: Iterable[EventId], uncertain: Collection[EventId] = ()) -> Account:
    """Account for every published event from one group's history, which is in the order of handling.

    ``uncertain`` are events whose send ended as unknown: they may be handled and need not be.
    """
    seen: set[EventId] = set()
    latest: dict[str, int] = {}
    duplicated = out_of_order = 0
    for event in history:
        if event in seen:
            duplicated += 1
            continue
        seen.add(event)
        key, number = event
        if number < latest.get(key, -1):
            out_of_order += 1
        else:
            latest[key] = number
    wanted = set(published)
    return Account(
        published=len(wanted),
        handled=len(seen),
        duplicated=duplicated,
        lost=len(wanted - seen),
        out_of_order=out_of_order,
        unexpected=len(seen - wanted - set(uncertain)),
    )


def takeover_seconds(history: Iterable[Handled], victim: str, killed_at: float) -> float | None:
    """From the kill until another member had handled something of the last of the victim's partitions.

    The victim's partitions are those whose last handling before the kill was its own. None when nobody took any over.
    """
    holder: dict[int, str] = {}
    taken: dict[int, float] = {}
    for handled in history:
        if handled.at <= killed_at:
            holder[handled.partition] = handled.member
        elif handled.member != victim and holder.get(handled.partition) == victim:
            taken.setdefault(handled.partition, handled.at)
    return max(taken.values()) - killed_at if taken else None

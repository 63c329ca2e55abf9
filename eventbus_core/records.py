"""The values that cross every layer: records, positions, deliveries and holds of partitions.

Nothing here does I/O or imports anything of ours.
"""

from __future__ import annotations

import time
from datetime import datetime
from typing import Literal, NamedTuple, Self, TypeAlias

Headers: TypeAlias = tuple[tuple[str, bytes], ...]
"""Ordered name and value pairs; names may repeat."""


_BOOTTIME = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)


def lease_clock() -> float:
    """Seconds on the clock that leases are judged by.

    It goes on while the machine sleeps (``CLOCK_BOOTTIME``, where there is one), so that a laptop that wakes up does
    not take an expired lease for a valid one.
    """
    return time.clock_gettime(_BOOTTIME)


class Position(tuple[int, ...]):
    """A place in one partition: opaque, totally ordered inside that partition; gaps between positions are normal."""

    __slots__ = ()

    def __new__(cls, *numbers: int) -> Self:
        return super().__new__(cls, numbers)

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read what ``str(position)`` wrote. Raises ``ValueError`` for anything else."""
        try:
            return cls(*(int(number) for number in text.split("-")) if text else ())
        except ValueError as error:
            raise ValueError(
                f"not a position: {text!r} (expected numbers joined by '-', e.g. '42' or '7-3')"
            ) from error

    def __str__(self) -> str:
        return "-".join(map(str, self))

    def __repr__(self) -> str:
        return f"Position({', '.join(map(str, self))})"


Start: TypeAlias = Literal["earliest", "latest"] | datetime
"""Where a new group begins. A datetime (aware) means the first record not older, else the end."""

Where: TypeAlias = Start | Position
"""Where to move to. A position means the first record at or after it."""


class Record(NamedTuple):
    """The wire unit. Comes back with the same bytes; ``None`` and ``b""`` differ. ``timestamp_ms``: Unix time, UTC."""

    topic: str
    value: bytes | None
    key: bytes | None = None
    headers: Headers = ()
    timestamp_ms: int | None = None


class Stored(NamedTuple):
    """Where a sent record lies.

    ``position`` is None where the backend's ``stored_position`` capability is False, and where a broker that was asked
    twice said only that it has the record.
    """

    topic: str
    partition: int
    position: Position | None
    timestamp_ms: int


class Assignment:
    """One hold of one partition by one member, until release, loss or seek. Compared by identity.

    ``epoch`` grows with every hold of the partition. ``valid_until`` (on :func:`lease_clock`) is when the hold
    lapses unless it is renewed: infinite where the broker tells of every loss. Only core sets
    ``ended``, and does so before it sends the last acks and releases: plugins do not look at it.
    """

    __slots__ = ("ended", "epoch", "partition", "topic", "valid_until")

    def __init__(self, topic: str, partition: int, epoch: int, valid_until: float = float("inf")) -> None:
        self.topic = topic
        self.partition = partition
        self.epoch = epoch
        self.valid_until = valid_until
        self.ended = False

    @property
    def owned(self) -> bool:
        """Whether this member still holds the partition, as far as it can know."""
        return not self.ended and (self.valid_until == float("inf") or lease_clock() < self.valid_until)

    def __repr__(self) -> str:
        return f"<Assignment {self.topic}[{self.partition}] epoch {self.epoch}{' ended' if self.ended else ''}>"


class Delivery:
    """A record handed to a consumer. Built by backends, held by users; never changed by them.

    ``delivery_count`` is 1 where the broker does not count. ``assignment`` is None for a record that was read without
    a group. ``token`` is the backend's own handle. ``order`` is core's: the place within the assignment.
    """

    __slots__ = ("assignment", "delivery_count", "order", "partition", "position", "record", "token")

    def __init__(
        self,
        record: Record,
        partition: int,
        position: Position,
        assignment: Assignment | None = None,
        delivery_count: int = 1,
        token: object = None,
    ) -> None:
        self.record = record
        self.partition = partition
        self.position = position
        self.assignment = assignment
        self.delivery_count = delivery_count
        self.token = token
        self.order = -1

    @property
    def owned(self) -> bool:
        """False once the partition went elsewhere or was sought: no more side effects then. Takes no I/O."""
        return self.assignment is not None and self.assignment.owned

    def __repr__(self) -> str:
        return f"<Delivery {self.record.topic}[{self.partition}]@{self.position} key={self.record.key!r}>"

"""Backends over a store: any broker or database with an append-only log and cells that are written on condition.

A plugin writes a :class:`Store`; :class:`~eventbus_core.backend.store.backend.StoreBackend` makes the rest of it. Every
record lies in the log of its partition. All else is cells: topics, and the positions, holds and members of groups.
"""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Collection, Sequence
from typing import ClassVar, NamedTuple, TypeAlias, TypeVar

from pydantic import Field

from eventbus_core.backend import BackendSettings
from eventbus_core.errors import EventBusError
from eventbus_core.records import Headers

Key: TypeAlias = tuple[str, ...]
"""The key of a cell, in parts. Parts are letters, digits, ``-``, ``_`` and ``.``."""


class StoreSettings(BackendSettings):
    """The settings that every backend over a store has."""

    lease_seconds: float = Field(default=10.0, gt=0.5)
    """How long a member that says nothing keeps its partitions. It has to outlast a slow write of the store."""


class Log(NamedTuple):
    """The log of one partition.

    ``incarnation`` is new whenever the topic is made, so that nothing of an old topic of that name is met again.
    """

    topic: str
    incarnation: str
    number: int

    def __str__(self) -> str:
        return f"{self.topic}[{self.number}]"


class LogRecord(NamedTuple):
    """A record in a log."""

    value: bytes | None
    key: bytes | None
    headers: Headers
    timestamp_ms: int


class Batch(NamedTuple):
    """What is appended at once and whole; the store keeps all of it, in whatever encoding.

    ``writer`` and ``first`` name it. ``before``: how many records of the partition lie before it, so that lag is exact.
    ``latest_ms``: the highest timestamp in it and in all before it, so that places can be found by time.
    """

    writer: str
    first: int
    before: int
    latest_ms: int
    records: tuple[LogRecord, ...]

    @property
    def next(self) -> int:
        """How many records there are with it."""
        return self.before + len(self.records)


class Entry(NamedTuple):
    """A batch in a log, by its number there."""

    number: int
    batch: Batch


class End(NamedTuple):
    """The number of the last entry that a log ever had, 0 at first; its batch, if it is still there."""

    number: int
    batch: Batch | None


class Append(NamedTuple):
    """Append ``batch``, if entry ``behind`` is still the last that the log ever had."""

    log: Log
    behind: int
    batch: Batch


class Cell(NamedTuple):
    """What a key has. ``stored``: when it was written, seconds on the store's one clock.

    A revision never comes again, not even when the key was deleted and written anew: a late owner's ack would fit.
    """

    value: str
    revision: int
    stored: float


class Put(NamedTuple):
    """Write a cell, if it is still at ``revision`` (0: there is none; None: in any case)."""

    key: Key
    value: str
    revision: int | None = None


class Store(ABC):
    """One connection, of one producer, consumer or admin; calls do not overlap.

    A call ends by ``deadline``. It connects by itself if the last connection broke. What takes many of a kind does them
    at once and gives one outcome for each, in order; it may also raise, when nothing can be told of any.
    ``Unavailable`` says that it is not known whether something was done. What was once answered is seen by all reads
    after it: no replica that lags may answer them.
    """

    backend: ClassVar[str]
    """The backend's name, for errors."""

    def __init__(self, settings: StoreSettings) -> None:
        """Does no I/O."""
        self.settings = settings
        self.deadline = float("inf")
        """When the call under way has to end, on ``time.monotonic``."""

    def begin(self, timeout: float = 0.0) -> None:
        """What is called from now on ends within ``request_timeout_seconds`` and ``timeout``, all together."""
        self.deadline = time.monotonic() + self.settings.request_timeout_seconds + timeout

    @abstractmethod
    def open(self) -> None:
        """Connect, and make what cells need. Called once, first; it may exist already."""

    @abstractmethod
    def create(self, logs: Sequence[Log]) -> Sequence[EventBusError | None]:
        """Make logs."""

    @abstractmethod
    def drop(self, logs: Sequence[Log]) -> Sequence[EventBusError | None]:
        """Remove logs with all that is in them. One that is not there: nothing."""

    @abstractmethod
    def append(self, appends: Sequence[Append]) -> Sequence[int | EventBusError | None]:
        """Append to distinct logs; the new entries' numbers, each one above the last. None: something else is last.

        Durable on return. ``SendFailed``: the batch can never be stored. A log that is not there is ``Unavailable``:
        its topic is looked up then.
        """

    @abstractmethod
    def read(self, wanted: Sequence[tuple[Log, int]]) -> Sequence[Entry | EventBusError | None]:
        """From each log the entry with this number or the next that is there; None: there is none."""

    @abstractmethod
    def last(self, logs: Sequence[Log]) -> Sequence[End | EventBusError]:
        """The end of each log."""

    @abstractmethod
    def get(self, keys: Sequence[Key]) -> Sequence[Cell | EventBusError | None]:
        """Read cells."""

    @abstractmethod
    def put(self, puts: Sequence[Put]) -> Sequence[int | EventBusError | None]:
        """Write distinct cells; the new revisions. None: the cell is at another revision."""

    @abstractmethod
    def delete(self, key: Key, revision: int | None = None) -> None:
        """Remove a cell, if it is there (and, unless None, still at ``revision``)."""

    @abstractmethod
    def delete_below(self, prefix: Key) -> None:
        """Remove all cells whose key goes on from ``prefix``."""

    @abstractmethod
    def keys(self, prefix: Key) -> Sequence[Key]:
        """The keys of all cells that go on from ``prefix``."""

    @abstractmethod
    def appended(self, logs: Sequence[Log], timeout: float) -> Collection[Log]:
        """Wait at most ``timeout`` seconds until one of these logs may have got more; those that may.

        That is: since they were last given to this call. Whatever is in doubt is given, at the cost of a read.
        """

    @abstractmethod
    def close(self) -> None:
        """Give back connection and threads, also when the broker hangs."""


T = TypeVar("T")


def whole(outcomes: Sequence[T | EventBusError]) -> list[T]:
    """All of the outcomes. Raises the first that is an error."""
    found: list[T] = []
    for each in outcomes:
        if isinstance(each, EventBusError):
            raise each
        found.append(each)
    return found

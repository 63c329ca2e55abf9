"""Logs, and what groups, members and writers have of them, in this process."""

from __future__ import annotations

import bisect
import os
import threading
from datetime import datetime
from typing import NamedTuple

from eventbus_core.errors import NotFound
from eventbus_core.records import Position, Record, Stored, Where, lease_clock


class Lease(NamedTuple):
    """Who holds a partition, and until when by ``lease_clock``."""

    member: str
    epoch: int
    until: float


class Partition:
    """A log, and what groups and writers have of it."""

    def __init__(self) -> None:
        self.records: list[Record] = []
        self.times: list[int] = []  # the highest timestamp so far, for each record
        self.writers: dict[str, tuple[int, list[Stored]]] = {}  # the last batch of each: its first, its places
        self.settled: dict[str, int] = {}
        self.leases: dict[str, Lease] = {}
        self.epochs: dict[str, int] = {}


class Store:
    """Topics and groups. Every method of the other classes works under ``changed``."""

    def __init__(self) -> None:
        self.changed = threading.Condition()
        self.topics: dict[str, list[Partition]] = {}
        self.members: dict[tuple[str, str], dict[str, float]] = {}  # (group, topic) -> member -> expiry

    def topic(self, name: str) -> list[Partition]:
        """The partitions of a topic."""
        try:
            return self.topics[name]
        except KeyError:
            raise NotFound(f"no topic {name!r}; create it first", topic=name, backend="memory") from None

    def partition(self, topic: str, number: int) -> Partition:
        """One partition."""
        partitions = self.topic(topic)
        if not 0 <= number < len(partitions):
            raise NotFound(f"topic {topic!r} has no partition {number}", topic=topic, backend="memory")
        return partitions[number]

    def live(self, group: str, topic: str) -> dict[str, float]:
        """The members whose heartbeat has not lapsed."""
        now = lease_clock()
        members = {name: until for name, until in self.members.get((group, topic), {}).items() if until > now}
        self.members[group, topic] = members
        return members


_stores: dict[str, Store] = {}
_stores_lock = threading.Lock()


def _forget_stores() -> None:
    """A forked child is another process: it starts empty, and without locks that threads of the parent hold."""
    global _stores_lock
    _stores_lock = threading.Lock()
    _stores.clear()


os.register_at_fork(after_in_child=_forget_stores)


def store_of(name: str) -> Store:
    """The store of that name in this process."""
    with _stores_lock:
        return _stores.setdefault(name, Store())


def index_of(partition: Partition, where: Where) -> int:
    """The index of the first record at or after ``where``."""
    if where == "earliest":
        return 0
    if where == "latest":
        return len(partition.records)
    if isinstance(where, datetime):
        return bisect.bisect_left(partition.times, where.timestamp() * 1000)
    if isinstance(where, Position):
        return min(max(where[0], 0), len(partition.records))
    raise AssertionError(where)

"""What operators and tools do with topics and groups, the same on every backend."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Self

from eventbus_core.backend import BackendAdmin, GroupInfo, PartitionLag, TopicInfo
from eventbus_core.errors import Closed, NotFound, UsageError
from eventbus_core.forking import generation, refuse_fork
from eventbus_core.records import Delivery, Position, Where
from eventbus_core.validation import check_group, check_topic, check_where

_READ_RECORDS = 500


class Admin:
    """Had from ``EventBus.admin``; connects with the first call. Thread-safe: calls wait for each other.

    Every call is finished, and its effect visible to all, when it returns. Raises ``Unavailable`` (then it may have had
    its effect all the same), ``AccessDenied``, and what the methods say.
    """

    def __init__(self, connect: Callable[[], BackendAdmin], read_timeout: float) -> None:
        self._connect = connect
        self._read_timeout = read_timeout
        # Ctrl-C may come just after it was taken, and then this thread is the one that closes.
        self._lock = threading.RLock()
        self._admin: BackendAdmin | None = None
        self._closed = False
        self._opened_in = generation()

    def create_topic(self, topic: str, partitions: int = 4) -> None:
        """Create a topic; if it exists with as many partitions, nothing. ``Conflict``: with another number."""
        check_topic(topic)
        if partitions < 1:
            raise UsageError(f"a topic has at least 1 partition, not {partitions}")
        with self._connection() as admin:
            admin.create_topic(topic, partitions)

    def delete_topic(self, topic: str) -> None:
        """Delete a topic with its records and all groups' positions in it. ``NotFound``."""
        check_topic(topic)
        with self._connection() as admin:
            admin.delete_topic(topic)

    def topics(self) -> Sequence[str]:
        """The names of all topics, sorted."""
        with self._connection() as admin:
            return admin.topics()

    def describe_topic(self, topic: str) -> TopicInfo:
        """Partitions, first and end positions, retention. ``NotFound``."""
        check_topic(topic)
        with self._connection() as admin:
            return admin.describe_topic(topic)

    def groups(self) -> Sequence[GroupInfo]:
        """All groups, sorted by name."""
        with self._connection() as admin:
            return admin.groups()

    def lag(self, group: str, topic: str | None = None) -> Sequence[PartitionLag]:
        """Unsettled records per partition, exact; of all the group's topics when ``topic`` is None. ``NotFound``."""
        check_group(group)
        with self._connection() as admin:
            if topic is not None:
                return admin.lag(group, check_topic(topic))
            topics = [name for each in admin.groups() if each.name == group for name in each.topics]
            if not topics:
                raise NotFound(f"no group {group!r}")
            return [lag for name in topics for lag in admin.lag(group, name)]

    def set_position(self, group: str, topic: str, to: Where, *, partition: int | None = None) -> None:
        """Move a group that has no members now (in one partition, or in all), making it if need be.

        ``Conflict``: it has members; let one of them ``seek`` instead. ``NotFound``: no such topic or partition.
        """
        check_group(group)
        check_topic(topic)
        check_where(to)
        with self._connection() as admin:
            count = admin.describe_topic(topic).partitions
            for each in range(count) if partition is None else [partition]:
                admin.set_position(group, topic, each, to)

    def delete_group(self, group: str) -> None:
        """Forget a group's positions. ``Conflict``: it has members. ``NotFound``."""
        check_group(group)
        with self._connection() as admin:
            admin.delete_group(group)

    def read(self, topic: str, start: Where, *, follow: bool) -> Iterator[Delivery]:
        """For ``EventBus.read``."""
        check_topic(topic)
        check_where(start)
        info = self.describe_topic(topic)
        cursors = [_Cursor(self, topic, partition, start, info.ends[partition]) for partition in range(info.partitions)]
        for cursor, first, end in zip(cursors, info.firsts, info.ends, strict=True):
            if first is not None and first != end:  # an empty partition would cost a timeout of waiting
                yield from cursor.to_end()
        while follow:
            for cursor in cursors:
                yield from cursor.step(self._read_timeout / 10 / len(cursors))

    def read_partition(self, topic: str, partition: int, start: Where, end: Position) -> Iterator[Delivery]:
        """For core: one partition from ``start`` up to, and without, ``end``, as ``lag`` told it."""
        yield from _Cursor(self, topic, partition, start, end).to_end()

    def read_one(self, topic: str, partition: int, position: Position) -> Delivery | None:
        """For core: the record at this position; None: it is there no more."""
        with self._connection() as admin:
            found = admin.read(topic, partition, position, 1, self._read_timeout)
        return found[0] if found and found[0].position == position else None

    def close(self) -> None:
        """Close the connection now instead of with the bus; the next call opens another. Also a context manager."""
        if self._opened_in != generation():
            return  # the parent's
        with self._lock:
            admin, self._admin = self._admin, None
            if admin is not None:
                admin.close()

    def end(self) -> None:
        """For the bus: close for good."""
        self._closed = True
        self.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @contextmanager
    def _connection(self) -> Iterator[BackendAdmin]:
        refuse_fork(self._opened_in, "admin")  # before the lock: a thread of the parent may have held it
        with self._lock:
            if self._closed:
                raise Closed("the bus of this admin was closed; open another")
            if self._admin is None:
                self._admin = self._connect()
            yield self._admin

    def _read(self, topic: str, partition: int, start: Where, timeout: float | None) -> Sequence[Delivery]:
        with self._connection() as admin:
            return admin.read(
                topic, partition, start, _READ_RECORDS, self._read_timeout if timeout is None else timeout
            )


class _Cursor:
    """Reading one partition without a group."""

    def __init__(self, admin: Admin, topic: str, partition: int, start: Where, end: Position | None) -> None:
        self._admin = admin
        self._topic = topic
        self._partition = partition
        # "latest" is where the partition ended at the call, not at each later step.
        self._next: Where = start if start != "latest" else ("earliest" if end is None else end)
        self._last: Position | None = None
        self._end = end

    def to_end(self) -> Iterator[Delivery]:
        """Everything up to the end seen at the call."""
        while self._end is not None and not (self._next == self._end or self._reached()):
            batch = self._admin._read(self._topic, self._partition, self._next, None)  # noqa: SLF001
            # What came after that end is left for `step`.
            new = self._new([each for each in batch if each.position < self._end])
            yield from new
            if not new:
                return

    def step(self, timeout: float) -> Iterator[Delivery]:
        """What has come since."""
        yield from self._new(self._admin._read(self._topic, self._partition, self._next, timeout))  # noqa: SLF001

    def _reached(self) -> bool:
        """Whether the last record read is the last before the end."""
        last = self._last
        return last is not None and self._end is not None and Position(*last[:-1], last[-1] + 1) >= self._end

    def _new(self, batch: Sequence[Delivery]) -> list[Delivery]:
        new = [each for each in batch if self._last is None or each.position > self._last]
        if new:
            # Positions have no successor that all brokers know: begin at the last one read and leave it out.
            self._last = new[-1].position
            self._next = self._last
        return new

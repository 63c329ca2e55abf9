"""From acks in any order to the gap-free prefixes that a backend may settle."""

from __future__ import annotations

from collections import deque

from eventbus_core.records import Delivery


class Watermark:
    """The deliveries of one assignment that are not settled yet, in order. Not thread-safe."""

    __slots__ = ("_next", "_open", "_prefix", "_settled")

    def __init__(self) -> None:
        self._open: deque[Delivery] = deque()
        self._settled: set[int] = set()
        self._next = 0
        self._prefix: Delivery | None = None

    def __len__(self) -> int:
        """How many deliveries are open or settled out of turn."""
        return len(self._open)

    @property
    def pending(self) -> bool:
        """Whether there is a prefix to take."""
        return self._prefix is not None

    def deliver(self, delivery: Delivery) -> None:
        """Note the next delivery of the assignment."""
        delivery.order = self._next
        self._next += 1
        self._open.append(delivery)

    def retract(self, count: int) -> None:
        """Forget the newest ``count`` deliveries: nobody has seen them."""
        for _ in range(count):
            self._open.pop()

    def settle(self, delivery: Delivery) -> int:
        """Note an ack (again: no effect); by how many the open deliveries shrink."""
        if not self._open or delivery.order < self._open[0].order or delivery.order in self._settled:
            return 0
        if delivery.order != self._open[0].order:
            self._settled.add(delivery.order)
            return 0
        self._prefix = self._open.popleft()
        shrunk = 1
        while self._settled and self._open and self._open[0].order in self._settled:
            self._prefix = self._open.popleft()
            self._settled.discard(self._prefix.order)
            shrunk += 1
        return shrunk

    def take_prefix(self) -> Delivery | None:
        """The last delivery of the settled prefix, if it grew since the last call."""
        prefix, self._prefix = self._prefix, None
        return prefix

    def put_back(self, prefix: Delivery) -> None:
        """A prefix that was taken did not get through: it is to be taken again, unless it grew meanwhile."""
        if self._prefix is None:
            self._prefix = prefix

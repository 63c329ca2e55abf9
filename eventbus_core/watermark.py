"""From acks in any order to the gap-free prefixes that a backend may settle."""

from __future__ import annotations

from collections.abc import Iterable

from eventbus_core.records import Delivery


class Watermark:
    """Counts the deliveries of one assignment, and which of them are settled. Not thread-safe."""

    __slots__ = ("_ahead", "_first", "_next", "_prefix")

    def __init__(self) -> None:
        self._first = 0  # the order of the first delivery that is not settled
        self._next = 0
        self._ahead: dict[int, Delivery] = {}  # settled out of turn, by order
        self._prefix: Delivery | None = None

    def __len__(self) -> int:
        """How many deliveries are open or settled out of turn."""
        return self._next - self._first

    def deliver(self, deliveries: Iterable[Delivery]) -> None:
        """Note the next deliveries of the assignment."""
        order = self._next
        for delivery in deliveries:
            delivery.order = order
            order += 1
        self._next = order

    def retract(self, count: int) -> None:
        """Forget the newest ``count`` deliveries: nobody has seen them."""
        self._next -= count

    def retract_after(self, last: int) -> int:
        """Forget what was delivered after the order ``last``; nothing of it is settled. How many that were."""
        count = max(self._next - 1 - last, 0)
        self._next -= count
        return count

    def settle(self, deliveries: Iterable[Delivery]) -> int:
        """Note acks, in any order (again: no effect); by how many the open deliveries shrink."""
        before = first = self._first
        ahead = self._ahead
        for delivery in deliveries:
            if delivery.order == first:
                self._prefix = delivery
                first += 1
                while ahead and first in ahead:
                    self._prefix = ahead.pop(first)
                    first += 1
            elif delivery.order > first:
                ahead[delivery.order] = delivery
        self._first = first
        return first - before

    def take_prefix(self) -> Delivery | None:
        """The last delivery of the settled prefix, if it grew since the last call."""
        prefix, self._prefix = self._prefix, None
        return prefix

    def put_back(self, prefix: Delivery) -> None:
        """A prefix that was taken did not get through: it is to be taken again, unless it grew meanwhile."""
        if self._prefix is None:
            self._prefix = prefix

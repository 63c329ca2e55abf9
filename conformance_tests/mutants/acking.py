"""Mutants that settle too much, too little, or the wrong thing."""

from __future__ import annotations

import time
from collections.abc import Collection, Sequence
from typing import ClassVar

from conformance_tests.mutants.mutant import Mutant
from eventbus_core.backend import Gap, Polled
from eventbus_core.memory.consumer import MemoryConsumer, MemoryHold
from eventbus_core.records import Assignment, Delivery


class _Judged(Mutant):
    runs: ClassVar[tuple[str, ...]] = (
        "core.test_acks",
        "core.test_redelivery",
        "core.test_groups",
        "semantics.test_admin",
    )


class AckOnReceive(_Judged):
    """What was fetched counts as settled."""

    class consumer_type(MemoryConsumer):
        def fetch(
            self, assignments: Sequence[Assignment], max_records: int, timeout: float
        ) -> Sequence[Delivery | Gap]:
            fetched = super().fetch(assignments, max_records, timeout)
            self.ack([each for each in fetched if isinstance(each, Delivery)])
            return fetched


class AckHighest(_Judged):
    """An ack settles everything that was handed out so far, holes and all."""

    class consumer_type(MemoryConsumer):
        def ack(self, settled: Sequence[Delivery]) -> None:
            super().ack(settled)
            with self._store.changed:
                for each in settled:
                    hold = each.assignment
                    if isinstance(hold, MemoryHold) and self._is_mine(hold):
                        hold.source.settled[self.group.name] = hold.next


class AcksOneLess(_Judged):
    """Takes the record that was acked for the next one to deliver."""

    class consumer_type(MemoryConsumer):
        def ack(self, settled: Sequence[Delivery]) -> None:
            before = [each for each in settled if each.position[0] > 0]
            super().ack([_one_before(each) for each in before])


def _one_before(delivery: Delivery) -> Delivery:
    position = type(delivery.position)(delivery.position[0] - 1)
    return Delivery(delivery.record, delivery.partition, position, delivery.assignment)


class AcksAtLeavingOnly(_Judged):
    """Keeps acks to itself until it leaves; a member that dies takes them along."""

    class consumer_type(MemoryConsumer):
        kept: list[Delivery]

        def ack(self, settled: Sequence[Delivery]) -> None:
            self.kept = [*getattr(self, "kept", ()), *settled]

        def give_back(self, assignment: Assignment) -> None:
            super().ack([each for each in getattr(self, "kept", ()) if each.assignment is assignment])
            super().give_back(assignment)


class AcksLate(_Judged):
    """Claims that acks are durable at once; it collects them for two seconds."""

    class consumer_type(MemoryConsumer):
        kept: list[Delivery]
        due = float("inf")

        def ack(self, settled: Sequence[Delivery]) -> None:
            self.kept = [*getattr(self, "kept", ()), *settled]
            self.due = min(self.due, time.monotonic() + 2)

        def poll(self, max_records: int, timeout: float, paused: Collection[Assignment]) -> Polled:
            if time.monotonic() >= self.due:
                self.settle()
            return super().poll(max_records, timeout, paused)

        def give_back(self, assignment: Assignment) -> None:
            self.settle()
            super().give_back(assignment)

        def settle(self) -> None:
            kept, self.kept, self.due = getattr(self, "kept", []), [], float("inf")
            super().ack(kept)


class AcksAllAtLeaving(_Judged):
    """A member that leaves settles all that it received (drop-on-nack: what was given up does not come back)."""

    class consumer_type(MemoryConsumer):
        def give_back(self, assignment: Assignment) -> None:
            with self._store.changed:
                if isinstance(assignment, MemoryHold) and self._is_mine(assignment):
                    assignment.source.settled[self.group.name] = assignment.next
            super().give_back(assignment)

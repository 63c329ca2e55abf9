"""Mutants that hand records out wrongly, or to the wrong member."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any, ClassVar

from conformance_tests.mutants.mutant import Mutant, chosen
from eventbus_core.backend import Change, Gap, Lost, Polled, Revoking
from eventbus_core.backend.leases import Beat
from eventbus_core.errors import BrokerError
from eventbus_core.memory.consumer import MemoryConsumer, MemoryHold
from eventbus_core.memory.store import Partition
from eventbus_core.records import Assignment, Delivery, lease_clock


class _Judged(Mutant):
    runs: ClassVar[tuple[str, ...]] = (
        "core.test_acks",
        "core.test_redelivery",
        "core.test_delivery",
        "core.test_backpressure",
        "core.test_foreign",
        "semantics.test_moves",
        "semantics.test_pausing",
    )


class DeliversSomeTwice(_Judged):
    """Some records come again at once."""

    class consumer_type(MemoryConsumer):
        def fetch(
            self, assignments: Sequence[Assignment], max_records: int, timeout: float
        ) -> Sequence[Delivery | Gap]:
            fetched = super().fetch(assignments, max_records, timeout)
            for at, each in enumerate(fetched):
                if isinstance(each, Delivery) and each.token is None and chosen(each.record):
                    again = Delivery(each.record, each.partition, each.position, each.assignment)
                    return [*fetched[: at + 1], again, *fetched[at + 1 :]]
            return fetched


class DuplicatesOnReconnect(_Judged):
    """Whoever takes a partition over begins one record too early."""

    class consumer_type(MemoryConsumer):
        def acquire(self, topic: str, partition: int) -> Assignment | None:
            taken = super().acquire(topic, partition)
            if isinstance(taken, MemoryHold):
                taken.next = max(0, taken.next - 1)
            return taken


class NewestFirst(_Judged):
    """What was there when it asked comes newest first."""

    runs: ClassVar[tuple[str, ...]] = ("core.test_redelivery", "core.test_foreign")

    class consumer_type(MemoryConsumer):
        def fetch(
            self, assignments: Sequence[Assignment], max_records: int, timeout: float
        ) -> Sequence[Delivery | Gap]:
            return list(reversed(super().fetch(assignments, max_records, timeout)))


class UnboundedPrefetch(_Judged):
    """Fetches all there is, however much was asked for."""

    class consumer_type(MemoryConsumer):
        def fetch(
            self,
            assignments: Sequence[Assignment],
            max_records: int,  # noqa: ARG002
            timeout: float,
        ) -> Sequence[Delivery | Gap]:
            return super().fetch(assignments, 1_000_000, timeout)


class StopsAtForeign(_Judged):
    """A record that its own producer did not write ends the consumer (stop-on-garbage)."""

    class consumer_type(MemoryConsumer):
        def fetch(
            self, assignments: Sequence[Assignment], max_records: int, timeout: float
        ) -> Sequence[Delivery | Gap]:
            fetched = super().fetch(assignments, max_records, timeout)
            for each in fetched:
                if isinstance(each, Delivery) and _is_foreign(each.record.headers):
                    raise BrokerError(f"cannot read {each!r}")
            return fetched


class SkipsForeign(_Judged):
    """A record that its own producer did not write is left out without a word."""

    class consumer_type(MemoryConsumer):
        def fetch(
            self, assignments: Sequence[Assignment], max_records: int, timeout: float
        ) -> Sequence[Delivery | Gap]:
            fetched = super().fetch(assignments, max_records, timeout)
            return [each for each in fetched if isinstance(each, Gap) or not _is_foreign(each.record.headers)]


def _is_foreign(headers: Sequence[tuple[str, bytes]]) -> bool:
    return any(name == "foreign" for name, _ in headers)


class DropsWhilePaused(_Judged):
    """What is sent while a partition is paused is never delivered."""

    class consumer_type(MemoryConsumer):
        def poll(self, max_records: int, timeout: float, paused: Collection[Assignment]) -> Polled:
            for each in paused:
                if isinstance(each, MemoryHold):
                    each.next = len(each.source.records)
            return super().poll(max_records, timeout, paused)


class PausesForEver(_Judged):
    """A partition that went while nothing could be taken of it stays silent when it comes back."""

    class consumer_type(MemoryConsumer):
        def __init__(self, *args: Any) -> None:
            super().__init__(*args)
            self.stopped: Collection[Assignment] = ()
            self.silent: set[tuple[str, int]] = set()

        def poll(self, max_records: int, timeout: float, paused: Collection[Assignment]) -> Polled:
            self.stopped = paused if max_records else list(self._held.values())
            return super().poll(max_records, timeout, paused)

        def give_back(self, assignment: Assignment) -> None:
            if assignment in self.stopped:
                self.silent.add((assignment.topic, assignment.partition))
            super().give_back(assignment)

        def fetch(
            self, assignments: Sequence[Assignment], max_records: int, timeout: float
        ) -> Sequence[Delivery | Gap]:
            heard = [each for each in assignments if (each.topic, each.partition) not in self.silent]
            return super().fetch(heard, max_records, timeout)


class TwoOwners(_Judged):
    """Every member holds every partition."""

    runs: ClassVar[tuple[str, ...]] = ("core.test_delivery", "semantics.test_order", "semantics.test_moves")

    class consumer_type(MemoryConsumer):
        def beat(self, topic: str, held: Sequence[Assignment]) -> Beat:
            seen = super().beat(topic, held)
            mine = {each.partition for each in held}
            return Beat([self.group.member], seen.partitions, set(range(seen.partitions)) - mine, mine)

        def acquire(self, topic: str, partition: int) -> Assignment | None:
            source = self._store.partition(topic, partition)
            return MemoryHold(topic, partition, 1, source, source.settled.setdefault(self.group.name, 0))

        def _is_mine(self, hold: MemoryHold) -> bool:
            return hold.epoch == 1

        def give_back(self, assignment: Assignment) -> None:
            pass


class TakesOverTooEarly(_Judged):
    """A member that joins takes its share from members that are alive (early-delay: a timer that fires at once)."""

    class consumer_type(MemoryConsumer):
        def beat(self, topic: str, held: Sequence[Assignment]) -> Beat:
            seen = super().beat(topic, held)
            return seen._replace(free=set(range(seen.partitions)) - {each.partition for each in held})

        def acquire(self, topic: str, partition: int) -> Assignment | None:
            self._store.partition(topic, partition).leases.pop(self.group.name, None)
            return super().acquire(topic, partition)


class NeverTakesOver(_Judged):
    """The lease of a member that died never ends."""

    runs: ClassVar[tuple[str, ...]] = ("core.test_acks", "semantics.test_moves", "faults.test_members")

    class consumer_type(MemoryConsumer):
        def beat(self, topic: str, held: Sequence[Assignment]) -> Beat:
            self.keep(topic)
            return super().beat(topic, held)

        def acquire(self, topic: str, partition: int) -> Assignment | None:
            self.keep(topic)
            return super().acquire(topic, partition)

        def keep(self, topic: str) -> None:
            for each in self._store.topic(topic):
                lease = each.leases.get(self.group.name)
                if lease is not None:
                    each.leases[self.group.name] = lease._replace(until=float("inf"))


class RenewsByAcks(_Judged):
    """A member that acks nothing for a while is taken for dead, however long a handling takes."""

    runs: ClassVar[tuple[str, ...]] = (
        "core.test_delivery",
        "faults.test_members::test_a_handling_that_takes_longer_than_any_lease_keeps_its_partition",
    )

    class consumer_type(MemoryConsumer):
        acked_at = 0.0

        def poll(self, max_records: int, timeout: float, paused: Collection[Assignment]) -> Polled:
            holds = [each for each in self._held.values() if isinstance(each, MemoryHold)]
            if all(each.next == each.source.settled[self.group.name] for each in holds):
                self.acked_at = lease_clock()
            if lease_clock() - self.acked_at > self._lease_seconds / 2:
                self._next_beat = lease_clock() + self._lease_seconds
            return super().poll(max_records, timeout, paused)

        def ack(self, settled: Sequence[Delivery]) -> None:
            self.acked_at = lease_clock()
            super().ack(settled)


class MovesWithoutAnnouncement(_Judged):
    """Claims to announce moves; a partition that is wanted back is simply gone."""

    class consumer_type(MemoryConsumer):
        def _share_topic(self, topic: str, changes: list[Change]) -> bool:
            moving = super()._share_topic(topic, changes)
            for at, each in enumerate(changes):
                if isinstance(each, Revoking):
                    changes[at] = Lost(each.assignment, "it was wanted back")
                    self.release(each.assignment)
            return moving


class LosesWhatTheDeadHad(_Judged):
    """Whoever takes over from a member that died goes on behind what that one had received."""

    runs: ClassVar[tuple[str, ...]] = ("core.test_acks", "faults.test_members")

    class consumer_type(MemoryConsumer):
        def acquire(self, topic: str, partition: int) -> Assignment | None:
            source, name = self._store.partition(topic, partition), self.group.name
            died = source.leases.get(name)
            taken = super().acquire(topic, partition)
            if isinstance(taken, MemoryHold) and died is not None:
                taken.next = source.settled[name] = max(taken.next, _received(source).get(name, 0))
            return taken

        def fetch(
            self, assignments: Sequence[Assignment], max_records: int, timeout: float
        ) -> Sequence[Delivery | Gap]:
            fetched = super().fetch(assignments, max_records, timeout)
            for each in assignments:
                if isinstance(each, MemoryHold):
                    _received(each.source)[self.group.name] = each.next
            return fetched


def _received(source: Partition) -> dict[str, int]:
    """How far each group has received, kept beside the log."""
    received: dict[str, int] = source.__dict__.setdefault("received", {})
    return received


class RedeliversToTail(_Judged):
    """What a member had not acked when it left goes to the end of the log, behind what came later."""

    class consumer_type(MemoryConsumer):
        def give_back(self, assignment: Assignment) -> None:
            with self._store.changed:
                if isinstance(assignment, MemoryHold) and self._is_mine(assignment):
                    source = assignment.source
                    settled = source.settled[self.group.name]
                    unacked = source.records[settled : assignment.next]
                    source.settled[self.group.name] = assignment.next
                    source.records += unacked
                    source.times += source.times[-1:] * len(unacked)
            super().give_back(assignment)

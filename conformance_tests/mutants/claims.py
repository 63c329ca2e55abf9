"""Mutants that claim too much or too little (flag-lies)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from types import MappingProxyType
from typing import ClassVar

from conformance_tests.mutants.mutant import Mutant
from eventbus_core.backend import Gap
from eventbus_core.backend.batching import WriteBatch
from eventbus_core.capabilities import Reach
from eventbus_core.errors import EventBusError
from eventbus_core.memory import MemoryBackend
from eventbus_core.memory.consumer import MemoryConsumer, MemoryHold
from eventbus_core.memory.producer import MemoryProducer
from eventbus_core.records import Assignment, Delivery, Stored, Where

_SOURCES: Mapping[str, str] = MappingProxyType({**MemoryBackend.capabilities.sources, "ack_delay_seconds": " "})


class _Judged(Mutant):
    runs: ClassVar[tuple[str, ...]] = ("core.test_capabilities", "core.test_sending", "semantics.test_limits")


class ClaimsPositions(_Judged):
    """Claims that receipts tell positions; they do not."""

    class producer_type(MemoryProducer):
        def _write(self, batch: WriteBatch) -> Sequence[Stored] | EventBusError:
            places = super()._write(batch)
            return places if isinstance(places, EventBusError) else [each._replace(position=None) for each in places]


class HidesPositions(_Judged, stored_position=False):
    """Denies that receipts tell positions; they do."""


class _Counting(MemoryConsumer):
    def fetch(self, assignments: Sequence[Assignment], max_records: int, timeout: float) -> Sequence[Delivery | Gap]:
        fetched = super().fetch(assignments, max_records, timeout)
        for each in fetched:
            if isinstance(each, Delivery) and isinstance(each.assignment, MemoryHold):
                counts: dict[object, int] = each.assignment.source.__dict__.setdefault("counts", {})
                counts[self.counted(each)] = each.delivery_count = counts.get(self.counted(each), 0) + 1
        return fetched

    def counted(self, delivery: Delivery) -> object:
        return self.group.name, delivery.position


class CountsDeliveries(_Judged, counted_deliveries=True):
    """No defect: counts deliveries, and says so."""

    consumer_type = _Counting


class ClaimsCounts(_Judged, counted_deliveries=True):
    """Claims to count deliveries; the count is always one."""


class CountsPerMember(_Judged, counted_deliveries=True):
    """Counts deliveries, and begins anew with every member."""

    class consumer_type(_Counting):
        def counted(self, delivery: Delivery) -> object:
            return self.group.member, delivery.position


class HidesCounts(_Judged):
    """Denies that deliveries are counted; they are."""

    consumer_type = _Counting


class ClaimsTime(_Judged):
    """Claims to seek by time; any time is the beginning."""

    runs: ClassVar[tuple[str, ...]] = ("semantics.test_seeking",)

    class consumer_type(MemoryConsumer):
        def reposition(self, assignment: Assignment, to: Where) -> Assignment:
            return super().reposition(assignment, "earliest" if isinstance(to, datetime) else to)


class ClaimsQuickTakeover(_Judged, max_takeover_seconds=0.05):
    """Claims that a takeover takes a twentieth of a second; it waits for a lease of five seconds."""

    lease_seconds = 5
    runs = ("core.test_acks::test_what_a_killed_member_had_not_acked_is_delivered_again",)


class ClaimsLargeRecords(_Judged, max_record_bytes=2 * 1024 * 1024):
    """Claims to take two mebibytes; cuts at half of that and some."""

    class producer_type(MemoryProducer):
        def _write(self, batch: WriteBatch) -> Sequence[Stored] | EventBusError:
            return super()._write(
                batch._replace(
                    records=[each._replace(value=each.value and each.value[:1_500_000]) for each in batch.records]
                )
            )


class ClaimsReach(_Judged, reach=Reach.HOST):
    """Claims that other processes share its topics."""

    runs: ClassVar[tuple[str, ...]] = (
        "core.test_capabilities",
        "core.test_closing::test_what_was_opened_before_a_fork_refuses_to_work_after",
    )


class GivesNoSource(_Judged, sources=_SOURCES):
    """Does not say where one of its claims comes from."""

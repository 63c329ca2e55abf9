"""Receiving in tests: so many records and no more, and what is left."""

from __future__ import annotations

from collections.abc import Iterable

from eventbus_conformance.waiting import wait_until
from eventbus_core import EventBus
from eventbus_core.consumer import Consumer
from eventbus_core.records import Delivery


def take(consumer: Consumer, records: int, timeout: float, *, ack: bool = False) -> list[Delivery]:
    """Receive until there are so many records, or fail."""
    taken: list[Delivery] = []

    def enough() -> bool:
        received = consumer.receive(max_records=max(1, records - len(taken)), timeout=0.2)
        taken.extend(received)
        if ack and received:
            consumer.ack(*received)
        return len(taken) >= records

    wait_until(enough, timeout, every=0.0, what=f"{records} records received")
    return taken


def nothing_more(consumer: Consumer, seconds: float) -> bool:
    """Whether nothing is delivered for so long."""
    return consumer.receive(timeout=seconds) == []


def numbers(deliveries: Iterable[Delivery]) -> list[int]:
    """The values, read as numbers, sorted."""
    return sorted(int(each.record.value or b"-1") for each in deliveries)


def total_lag(bus: EventBus, group: str, topic: str) -> int:
    """Unsettled records of all partitions."""
    with bus.admin() as admin:
        return sum(each.records for each in admin.lag(group, topic))

"""What is removed from the log, by retention and by others."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from eventbus_conformance.clauses import clause, denied
from eventbus_conformance.harness import Bounds, Harness
from eventbus_conformance.receiving import nothing_more, numbers, take
from eventbus_conformance.sending import send_all
from eventbus_conformance.waiting import wait_until
from eventbus_core import EventBus
from eventbus_core.errors import PositionGone
from eventbus_core.hooks import Hooks
from eventbus_core.records import Assignment, Position

KEYS = 40


class Gaps(Hooks):
    """Remembers the gaps that were told."""

    def __init__(self) -> None:
        self.told: list[tuple[int, Position]] = []

    def gap(self, assignment: Assignment, after: Position | None, resume: Position, reason: str) -> None:  # noqa: ARG002
        self.told.append((assignment.partition, resume))


@clause("D13")
def test_retention_keeps_what_a_group_has_not_settled(
    bus: EventBus, topic: str, group: str, harness: Harness, bounds: Bounds
) -> None:
    quick, slow = f"{group}-quick", f"{group}-slow"
    send_all(bus, topic, 800, KEYS)
    for name in (quick, slow):
        _settle(bus, topic, name, 800, bounds)
    firsts = bus.admin().describe_topic(topic).firsts

    def removed() -> bool:
        harness.expire(topic)
        return bus.admin().describe_topic(topic).firsts != firsts

    wait_until(removed, bounds.recover, every=0.5, what="retention removes what all have settled")
    send_all(bus, topic, 800, KEYS, first=800)
    _settle(bus, topic, quick, 800, bounds)
    harness.expire(topic)
    with bus.consumer(topic, group=slow, on_gap="stop") as consumer:
        received = take(consumer, 800, bounds.deliver, ack=True)
        assert nothing_more(consumer, bounds.quiet)
    assert numbers(received) == sorted(number // KEYS for number in range(800, 1600))


@clause("D12")
def test_records_that_others_removed_are_reported_missing(
    bus: EventBus, bus_url: str, topic: str, group: str, harness: Harness, bounds: Bounds
) -> None:
    gap_is_told(bus, bus_url, topic, group, bounds, harness.remove_records)


@denied("keeps_unsettled")
@clause("D12")
def test_records_that_retention_removed_are_reported_missing(
    bus: EventBus, bus_url: str, topic: str, group: str, harness: Harness, bounds: Bounds
) -> None:
    gap_is_told(bus, bus_url, topic, group, bounds, harness.expire)


def gap_is_told(
    bus: EventBus, bus_url: str, topic: str, group: str, bounds: Bounds, remove: Callable[[str], None]
) -> None:
    """What a group had not settled is removed: one that wants to stop stops, one that goes on is told."""
    stopping, going_on = f"{group}-stopping", f"{group}-going-on"
    send_all(bus, topic, 200, KEYS)
    for name in (stopping, going_on):
        _settle(bus, topic, name, 50, bounds)
    remove(topic)
    assert list(bus.read(topic)) == [], "nothing was removed: nothing shown"
    send_all(bus, topic, KEYS, KEYS, first=200)
    with bus.consumer(topic, group=stopping, on_gap="stop") as consumer, pytest.raises(PositionGone) as raised:
        take(consumer, KEYS + 1, bounds.deliver)
    assert raised.value.topic == topic
    gaps = Gaps()
    with EventBus(bus_url, hooks=[gaps]) as told, told.consumer(topic, group=going_on) as consumer:
        received = take(consumer, KEYS, bounds.deliver, ack=True)
        assert nothing_more(consumer, bounds.quiet)
    assert numbers(received) == [200 // KEYS] * KEYS
    firsts = {each.partition: each.position for each in reversed(received)}
    missing = {partition for partition, _ in gaps.told}
    assert missing, "records vanished, and nobody was told"
    assert all(resume <= firsts[partition] for partition, resume in gaps.told if partition in firsts)


def _settle(bus: EventBus, topic: str, group: str, records: int, bounds: Bounds) -> None:
    with bus.consumer(topic, group=group) as consumer:
        take(consumer, records, bounds.deliver, ack=True)
        assert consumer.flush(bounds.close) == 0

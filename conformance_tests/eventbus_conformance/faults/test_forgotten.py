"""A group that the broker forgot."""

from __future__ import annotations

import time

import pytest

from eventbus_conformance.clauses import clause
from eventbus_conformance.fixtures import PARTITIONS
from eventbus_conformance.harness import Bounds, Harness, InUse
from eventbus_conformance.history import History, Line
from eventbus_conformance.members import Member
from eventbus_conformance.receiving import numbers, take
from eventbus_conformance.run import Measurements
from eventbus_conformance.sending import send_all
from eventbus_conformance.waiting import wait_until
from eventbus_conformance.work import Work
from eventbus_core import EventBus
from eventbus_core.capabilities import Capabilities
from eventbus_core.errors import NotFound


@clause("F8")
def test_a_group_that_was_forgotten_gets_everything_again(
    bus: EventBus, topic: str, group: str, harness: Harness, bounds: Bounds
) -> None:
    send_all(bus, topic, 100, keys=20)
    with bus.consumer(topic, group=group) as consumer:
        received = take(consumer, 100, bounds.deliver)
        consumer.ack(*received[:60])
        assert consumer.flush(bounds.close) == 0
    harness.drop_group(group, topic)
    with pytest.raises(NotFound):
        bus.admin().lag(group, topic)
    with bus.consumer(topic, group=group) as consumer:
        again = take(consumer, 100, bounds.deliver, ack=True)
    assert numbers(again) == numbers(received)


@clause("F8")
@pytest.mark.timeout(300)
def test_a_group_that_is_forgotten_under_its_members_loses_nothing_in_silence(
    work: Work,
    topic: str,
    group: str,
    harness: Harness,
    capabilities: Capabilities,
    bounds: Bounds,
    measured: Measurements,
) -> None:
    work.expect(min_members=2, min_partitions=PARTITIONS, min_faults=1)
    running = work.join("m0", "m1", pace_seconds=0.001)
    work.wait_shared(*running)
    work.senders.start("sender", keys=48, per_second=200)
    work.wait_on_all_partitions(*running)
    with work.fault("group-forgotten") as fault:
        try:
            harness.drop_group(group, topic)
        except InUse:
            measured.add("groups that the broker would not forget")
        fault.saw()
    dropped_at = time.monotonic() + capabilities.ack_delay_seconds

    def reacted(member: Member) -> bool:
        return member.ended or acked_since(work.history, member.name, dropped_at)

    wait_until(
        lambda: all(map(reacted, running)), bounds.recover, every=0.1, what="members end, or go on with new acks"
    )
    ended = [each for each in running if each.ended]
    measured.add("members that ended because their group was forgotten", len(ended))
    for each in running:
        if each not in ended:
            each.leave()
    heirs = work.join("h0", "h1", pace_seconds=0.001)
    work.wait_shared(*heirs)
    work.wait_on_all_partitions(*heirs)
    work.finish(*heirs)


def acked_since(history: History, member: str, since: float) -> bool:
    """Whether an ack that a member began later than this is durable. Of an earlier one it may be noted later, too."""
    began = {place: each["at"] for each in history.events("ack-invoke", member) for place in places(each)}
    return any(
        since < began.get(place, since) < each["at"]
        for each in history.events("ack-ok", member)
        for place in places(each)
    )


def places(acks: Line) -> list[tuple[int, str]]:
    """Partitions and positions that a line about acks names."""
    return [(acks["partition"], position) for position in acks["positions"]]

"""A group that the broker forgot."""

from __future__ import annotations

import time

import pytest

from eventbus_conformance.clauses import clause
from eventbus_conformance.fixtures import PARTITIONS
from eventbus_conformance.harness import Bounds, Harness, InUse
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
        return member.ended or any(each["at"] > dropped_at for each in work.history.events("ack-ok", member.name))

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

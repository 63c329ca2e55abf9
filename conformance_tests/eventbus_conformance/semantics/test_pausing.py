"""Pause and resume."""

from __future__ import annotations

from eventbus_conformance.clauses import clause
from eventbus_conformance.harness import Bounds
from eventbus_conformance.receiving import nothing_more, take
from eventbus_conformance.sending import send_all
from eventbus_core import EventBus


@clause("D8")
def test_pause_and_resume(bus: EventBus, topic: str, group: str, bounds: Bounds) -> None:
    with bus.consumer(topic, group=group) as consumer:
        send_all(bus, topic, 40, keys=20)
        first = take(consumer, 40, bounds.deliver, ack=True)
        paused = first[0].partition
        here = sum(each.partition == paused for each in first)
        assert 0 < here < 40, "one partition has everything: nothing shown"
        consumer.pause(topic, paused)
        # Until then the backend may be waiting for records of a time before.
        assert nothing_more(consumer, bounds.quiet)
        send_all(bus, topic, 40, keys=20, first=40)
        others = take(consumer, 40 - here, bounds.deliver, ack=True)
        assert paused not in {each.partition for each in others}
        assert nothing_more(consumer, bounds.quiet)
        consumer.resume(topic, paused)
        rest = take(consumer, here, bounds.deliver, ack=True)
        assert {each.partition for each in rest} == {paused}
        assert nothing_more(consumer, bounds.quiet)
        positions = [each.position for each in rest]
        assert positions == sorted(positions)

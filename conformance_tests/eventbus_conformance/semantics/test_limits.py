"""Declared numbers are true: sizes, counts of deliveries."""

from __future__ import annotations

import pytest

from eventbus_conformance.clauses import clause
from eventbus_conformance.fixtures import NewTopic
from eventbus_conformance.harness import Bounds
from eventbus_conformance.receiving import take
from eventbus_conformance.sending import send_all
from eventbus_core import EventBus
from eventbus_core.capabilities import Capabilities
from eventbus_core.errors import TooLarge


@clause("P4")
def test_the_declared_largest_record_is_stored_and_no_larger_one(
    bus: EventBus, topic: str, group: str, capabilities: Capabilities, bounds: Bounds
) -> None:
    limit = capabilities.max_record_bytes
    with bus.producer() as producer, bus.consumer(topic, group=group) as consumer:
        producer.send(topic, bytes(limit - 3), key=b"key").result(bounds.deliver)
        with pytest.raises(TooLarge):
            producer.send(topic, bytes(limit - 2), key=b"key")
        producer.send(topic, b"next", key=b"key").result(bounds.deliver)
        received = take(consumer, 2, bounds.deliver, ack=True)
    assert [len(each.record.value or b"") for each in received] == [limit - 3, 4]


@clause("P5")
def test_deliveries_are_counted_across_members(bus: EventBus, new_topic: NewTopic, group: str, bounds: Bounds) -> None:
    topic = new_topic(1)
    send_all(bus, topic, 10, keys=1)
    for times in (1, 2, 3):
        with bus.consumer(topic, group=group) as consumer:
            assert [each.delivery_count for each in take(consumer, 10, bounds.deliver)] == [times] * 10

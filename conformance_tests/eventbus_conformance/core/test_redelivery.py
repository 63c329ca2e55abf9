"""In which order what was not acked comes again."""

from __future__ import annotations

from eventbus_conformance.clauses import clause
from eventbus_conformance.fixtures import NewTopic
from eventbus_conformance.harness import Bounds
from eventbus_conformance.receiving import nothing_more, take
from eventbus_core import EventBus

RECORDS = 60


@clause("D2", "O2")
def test_what_was_not_acked_comes_again_in_its_old_place(
    bus: EventBus, new_topic: NewTopic, group: str, bounds: Bounds
) -> None:
    topic = new_topic(1)
    with bus.producer() as producer:
        for number in range(RECORDS):
            producer.send(topic, str(number).encode(), key=b"one")
    with bus.consumer(topic, group=group, max_unacked=RECORDS // 2) as consumer:
        received = take(consumer, RECORDS // 2, bounds.deliver)
        consumer.ack(*received[:5])
        assert consumer.flush(bounds.close) == 0
    # The other half was never received, and lies behind what comes again.
    with bus.consumer(topic, group=group) as consumer:
        again = take(consumer, RECORDS - 5, bounds.deliver, ack=True)
        assert nothing_more(consumer, bounds.quiet)
    assert [int(each.record.value or b"") for each in again] == list(range(5, RECORDS))
    assert [each.position for each in again[:25]] == [each.position for each in received[5:]]

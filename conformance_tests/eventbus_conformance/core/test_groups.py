"""Groups: who gets what, and from where."""

from __future__ import annotations

import time
from collections import Counter

from eventbus_conformance.clauses import clause
from eventbus_conformance.fixtures import NewTopic, OpenBus, Sized
from eventbus_conformance.harness import Bounds
from eventbus_conformance.receiving import nothing_more, numbers, take, total_lag
from eventbus_conformance.run import Measurements
from eventbus_conformance.sending import send_all
from eventbus_core import EventBus


@clause("G1")
def test_every_group_gets_every_record_of_its_topics_and_no_other(
    bus: EventBus, new_topic: NewTopic, group: str, bounds: Bounds
) -> None:
    topics = [new_topic(2) for _ in range(3)]
    for number, topic in enumerate(topics):
        send_all(bus, topic, 100, keys=10, first=1000 * number)
    expected = {topic: sorted(n // 10 for n in range(1000 * at, 1000 * at + 100)) for at, topic in enumerate(topics)}
    groups = [group, f"{group}-b"]
    with bus.consumer(*topics[:2], group=groups[0]) as one, bus.consumer(*topics[1:], group=groups[1]) as other:
        for consumer, own in ((one, topics[:2]), (other, topics[1:])):
            received = take(consumer, 200, bounds.deliver)
            by_topic = {topic: numbers(each for each in received if each.record.topic == topic) for topic in topics}
            assert by_topic == {topic: expected[topic] if topic in own else [] for topic in topics}
            if consumer is one:
                one.ack(*received)
                assert one.flush(bounds.close) == 0
        assert nothing_more(one, bounds.quiet)
        assert nothing_more(other, bounds.quiet)
        assert [total_lag(bus, groups[0], topic) for topic in topics[:2]] == [0, 0]
        assert [total_lag(bus, groups[1], topic) for topic in topics[1:]] == [100, 100], "an ack moved another group"


@clause("G2")
def test_a_group_goes_on_after_its_last_ack(open_bus: OpenBus, topic: str, group: str, bounds: Bounds) -> None:
    bus = open_bus()
    send_all(bus, topic, 100, keys=10)
    with bus.consumer(topic, group=group) as consumer:
        acked = take(consumer, 60, bounds.deliver, ack=True)
    bus.close()
    again = open_bus()
    with again.consumer(topic, group=group) as consumer:
        rest = take(consumer, 40, bounds.deliver, ack=True)
        assert nothing_more(consumer, bounds.quiet)
    places = Counter((each.partition, each.position) for each in [*acked, *rest])
    assert len(places) == 100
    assert max(places.values()) == 1


@clause("G2")
def test_start_acts_on_a_new_group_only(bus: EventBus, topic: str, group: str, bounds: Bounds) -> None:
    send_all(bus, topic, 30, keys=10)
    with bus.consumer(topic, group=f"{group}-b", start="earliest") as consumer:
        assert numbers(take(consumer, 30, bounds.deliver, ack=True)) == sorted(n // 10 for n in range(30))
    with bus.consumer(topic, group=group, start="latest") as consumer:
        assert nothing_more(consumer, bounds.quiet)
    send_all(bus, topic, 30, keys=10, first=30)
    with bus.consumer(topic, group=group, start="earliest") as consumer:
        received = take(consumer, 30, bounds.deliver, ack=True)
        assert nothing_more(consumer, bounds.quiet)
    assert min(numbers(received)) == 3, "start moved a group that had a position"
    with bus.consumer(topic, group=group, start="latest") as consumer:
        send_all(bus, topic, 10, keys=10, first=60)
        assert numbers(take(consumer, 10, bounds.deliver, ack=True)) == [6] * 10


@clause("G3")
def test_latest_misses_nothing_sent_after_consumer_returned(
    bus: EventBus, new_topic: NewTopic, group: str, bounds: Bounds, measured: Measurements, sized: Sized
) -> None:
    topic = new_topic(2)
    begun = time.monotonic()
    rounds = 0
    with bus.producer() as producer:
        # As many rounds as fit: joining takes milliseconds on one broker, and a second on another.
        while rounds < 5 or (rounds < sized(200) and time.monotonic() - begun < 4):
            with bus.consumer(topic, group=f"{group}-{rounds}", start="latest") as consumer:
                value = str(rounds).encode()
                for receipt in [producer.send(topic, value, key=f"key-{key}".encode()) for key in range(8)]:
                    receipt.result(bounds.deliver)
                assert numbers(take(consumer, 8, bounds.deliver, ack=True)) == [rounds] * 8
            rounds += 1
    measured.add("joins at latest", rounds)

"""Seeking, and starting at a time."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from eventbus_conformance.clauses import clause
from eventbus_conformance.fixtures import NewTopic
from eventbus_conformance.harness import Bounds
from eventbus_conformance.receiving import nothing_more, numbers, take, total_lag
from eventbus_conformance.sending import send_all
from eventbus_conformance.waiting import wait_until
from eventbus_core import EventBus


@clause("G5")
def test_seek_moves_the_group(bus: EventBus, topic: str, group: str, bounds: Bounds) -> None:
    send_all(bus, topic, 80, keys=8)
    with bus.consumer(topic, group=group) as consumer:
        received = take(consumer, 80, bounds.deliver, ack=True)
        assert consumer.flush(bounds.close) == 0
        stale = received[-1]
        consumer.seek("earliest")
        assert not stale.owned
        again = take(consumer, 80, bounds.deliver)
        assert [each.position for each in again if each.partition == stale.partition] == [
            each.position for each in received if each.partition == stale.partition
        ]
        middle = [each for each in again if each.partition == stale.partition][5]
        consumer.seek(middle.position, topic=topic, partition=middle.partition)
        here = sum(each.partition == middle.partition for each in again)
        from_middle = take(consumer, here - 5, bounds.deliver)
        assert from_middle[0].position == middle.position
        assert {each.partition for each in from_middle} == {middle.partition}
        consumer.seek("latest")
        assert nothing_more(consumer, bounds.quiet)
        assert total_lag(bus, group, topic) == 0
        send_all(bus, topic, 8, keys=8, first=80)
        assert numbers(take(consumer, 8, bounds.deliver, ack=True)) == [10] * 8


@clause("G6")
def test_seek_by_stated_time(bus: EventBus, topic: str, group: str, bounds: Bounds) -> None:
    # Recent stated times: whole seconds, each used by one record of each of eight keys.
    base = datetime.now(UTC).replace(microsecond=0) - timedelta(minutes=10)
    with bus.producer() as producer:
        for second in range(10):
            for key in range(8):
                at = base + timedelta(seconds=second)
                producer.send(topic, str(second).encode(), key=f"key-{key}".encode(), timestamp=at)
    expected = sorted(second for second in range(4, 10) for _ in range(8))
    with bus.consumer(topic, group=group) as consumer:
        take(consumer, 80, bounds.deliver, ack=True)
        consumer.seek(base + timedelta(seconds=4))
        assert numbers(take(consumer, 48, bounds.deliver)) == expected, "records of exactly that time belong to it"
        assert nothing_more(consumer, bounds.quiet)
        consumer.seek(base + timedelta(seconds=3, milliseconds=1))
        assert numbers(take(consumer, 48, bounds.deliver)) == expected
        consumer.seek(base - timedelta(days=1))
        assert len(take(consumer, 80, bounds.deliver)) == 80
        consumer.seek(base + timedelta(days=1))
        assert nothing_more(consumer, bounds.quiet)
    with bus.consumer(topic, group=f"{group}-b", start=base + timedelta(seconds=4)) as consumer:
        assert numbers(take(consumer, 48, bounds.deliver)) == expected


@clause("G6")
def test_seek_by_the_time_of_sending(bus: EventBus, topic: str, group: str, bounds: Bounds) -> None:
    send_all(bus, topic, 40, keys=8)
    between = datetime.now(UTC) + timedelta(milliseconds=200)
    later = between + timedelta(milliseconds=200)
    wait_until(lambda: datetime.now(UTC) > later, bounds.close, what="the clock goes on")
    send_all(bus, topic, 40, keys=8, first=40)
    newer = sorted(number // 8 for number in range(40, 80))
    with bus.consumer(topic, group=group) as consumer:
        take(consumer, 80, bounds.deliver, ack=True)
        consumer.seek(between)
        assert numbers(take(consumer, 40, bounds.deliver)) == newer
        assert nothing_more(consumer, bounds.quiet)
    with bus.consumer(topic, group=f"{group}-b", start=between) as consumer:
        assert numbers(take(consumer, 40, bounds.deliver)) == newer


@clause("G6")
def test_reading_and_moving_by_stated_time(bus: EventBus, new_topic: NewTopic, group: str, bounds: Bounds) -> None:
    # One partition: a reader that begins behind the last record waits for one in each of them.
    topic = new_topic(1)
    base = datetime.now(UTC).replace(microsecond=0) - timedelta(minutes=10)
    with bus.producer() as producer:
        for second in range(10):
            for key in range(8):
                at = base + timedelta(seconds=second)
                producer.send(topic, str(second).encode(), key=f"key-{key}".encode(), timestamp=at)
    expected = sorted(second for second in range(4, 10) for _ in range(8))
    assert numbers(bus.read(topic, start=base + timedelta(seconds=4))) == expected
    assert len(list(bus.read(topic, start=base - timedelta(days=1)))) == 80
    assert list(bus.read(topic, start=base + timedelta(days=1))) == []
    with bus.admin() as admin:
        admin.set_position(group, topic, base + timedelta(seconds=4))
    assert total_lag(bus, group, topic) == 48
    with bus.consumer(topic, group=group) as consumer:
        assert numbers(take(consumer, 48, bounds.deliver, ack=True)) == expected
        assert nothing_more(consumer, bounds.quiet)

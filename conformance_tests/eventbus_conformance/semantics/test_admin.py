"""What operators do."""

from __future__ import annotations

from collections import Counter

import pytest

from eventbus_conformance.clauses import clause
from eventbus_conformance.fixtures import PARTITIONS
from eventbus_conformance.harness import Bounds
from eventbus_conformance.receiving import take, total_lag
from eventbus_conformance.sending import read_all, send_all
from eventbus_conformance.waiting import wait_until
from eventbus_core import EventBus
from eventbus_core.errors import Conflict, NotFound


@clause("A1")
def test_creating_a_topic_twice_is_fine_and_with_another_count_a_conflict(bus: EventBus, topic: str) -> None:
    with bus.admin() as admin:
        send_all(bus, topic, 5, keys=5)
        admin.create_topic(topic, PARTITIONS)
        assert len(read_all(bus, topic)) == 5, "creating it again emptied it"
        with pytest.raises(Conflict):
            admin.create_topic(topic, PARTITIONS + 1)
        assert admin.describe_topic(topic).partitions == PARTITIONS


@clause("A2")
def test_topics_are_listed_described_and_deleted(bus: EventBus, topic: str, bounds: Bounds) -> None:
    other = f"{topic}-one"
    with bus.admin() as admin:
        admin.create_topic(other, 1)
        assert {topic, other} <= set(admin.topics())
        assert list(admin.topics()) == sorted(admin.topics())
        with bus.producer() as producer:
            for number in range(10):
                producer.send(other, str(number).encode(), key=b"k").result(bounds.deliver)
        read = list(bus.read(other))
        assert len(read) == 10
        info = admin.describe_topic(other)
        assert (info.name, info.partitions, len(info.firsts), len(info.ends)) == (other, 1, 1, 1)
        assert info.firsts[0] == read[0].position
        assert info.ends[0] is not None
        assert info.ends[0] > read[-1].position
        admin.delete_topic(other)
        wait_until(lambda: other not in admin.topics(), bounds.refuse, what="the topic is gone")
        with pytest.raises(NotFound):
            admin.describe_topic(other)
        admin.create_topic(other, 2)
        assert list(bus.read(other)) == [], "a new topic has records of the old one"
        admin.delete_topic(other)


@clause("A3")
def test_lag_is_exact(bus: EventBus, topic: str, group: str, bounds: Bounds) -> None:
    with bus.admin() as admin:
        with pytest.raises(NotFound):
            admin.lag(group, topic)
        with bus.consumer(topic, group=group) as consumer:
            assert [each.records for each in admin.lag(group, topic)] == [0] * PARTITIONS
            send_all(bus, topic, 90, keys=30)
            per_partition = Counter(each.partition for each in read_all(bus, topic))
            assert [each.records for each in admin.lag(group, topic)] == [per_partition[n] for n in range(PARTITIONS)]
            received = take(consumer, 90, bounds.deliver)
            assert sum(each.records for each in admin.lag(group, topic)) == 90, "receiving is not acking"
            half = [each for each in received if each.partition % 2]
            assert 0 < len(half) < 90
            consumer.ack(*half)
            assert consumer.flush(bounds.close) == 0
            lag = admin.lag(group, topic)
            assert [each.records for each in lag] == [0 if n % 2 else per_partition[n] for n in range(PARTITIONS)]
            assert [(each.topic, each.partition) for each in lag] == [(topic, n) for n in range(PARTITIONS)]
            consumer.ack(*(each for each in received if not each.partition % 2))
            assert consumer.flush(bounds.close) == 0
        assert [each.records for each in admin.lag(group, topic)] == [0] * PARTITIONS
        assert list(admin.lag(group)) == list(admin.lag(group, topic))


@clause("A4")
def test_groups_are_listed_moved_and_deleted(bus: EventBus, topic: str, group: str, bounds: Bounds) -> None:
    send_all(bus, topic, 40, keys=20)
    with bus.admin() as admin:
        with bus.consumer(topic, group=group) as consumer:
            take(consumer, 40, bounds.deliver, ack=True)
            assert consumer.flush(bounds.close) == 0
            found = [each for each in admin.groups() if each.name == group]
            assert [(each.topics, each.members) for each in found] == [((topic,), 1)]
            with pytest.raises(Conflict):
                admin.set_position(group, topic, "earliest")
            with pytest.raises(Conflict):
                admin.delete_group(group)
            assert sum(each.records for each in admin.lag(group, topic)) == 0, "a refused move moved the group"
        assert [each.members for each in admin.groups() if each.name == group] == [0]
        admin.set_position(group, topic, "earliest")
        assert total_lag(bus, group, topic) == 40
        admin.set_position(group, topic, "latest")
        assert total_lag(bus, group, topic) == 0
        third = next(each for n, each in enumerate(e for e in bus.read(topic) if e.partition == 1) if n == 2)
        admin.set_position(group, topic, third.position, partition=1)
        with bus.consumer(topic, group=group) as consumer:
            first = take(consumer, 1, bounds.deliver)[0]
            assert (first.partition, first.position) == (1, third.position)
        admin.delete_group(group)
        assert group not in [each.name for each in admin.groups()]
        with pytest.raises(NotFound):
            admin.delete_group(group)
        with bus.consumer(topic, group=group) as consumer:
            assert len(take(consumer, 40, bounds.deliver, ack=True)) == 40, (
                "a group made anew has the old one's position"
            )

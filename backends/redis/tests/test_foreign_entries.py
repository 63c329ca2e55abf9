"""Entries that somebody else wrote into a stream of ours: told, passed over, and never in the way."""

from __future__ import annotations

import pytest

from eventbus_core.backend import Gap
from eventbus_core.records import Delivery, Position, Stored
from tests.waiting import wait_until

FOREIGN = [{b"value": b"\xff", b"key": b"k"}, {b"r": b"no record of ours"}, {b"r": b""}, {b"a": b"", b"r": b"1"}]


def read_on(consumer, count: int) -> tuple[list[Delivery], list[Gap]]:
    """Poll until there are so many records, and a little longer."""
    found: list[Delivery] = []
    gaps: list[Gap] = []
    idle = 0

    def quiet() -> bool:
        nonlocal idle
        polled = consumer.poll(100, 0.1, ())
        found.extend(polled.deliveries)
        gaps.extend(change for change in polled.changes if isinstance(change, Gap))
        idle = 0 if polled.deliveries or polled.changes else idle + 1
        return len(found) >= count and idle > 3

    wait_until(quiet, 20, every=0.0, what=f"{count} records")
    return found, gaps


def values(found: list[Delivery]) -> list[bytes | None]:
    return [each.record.value for each in found]


@pytest.fixture
def one(make_bus):
    """One partition with a record, entries of others, and another record."""
    bus = make_bus(partitions=1, lease_seconds=20)
    bus.stream = f"eb:{{{bus.topic}.0}}:s"
    producer = bus.producer()
    bus.send(producer, ["a"])
    bus.ids = [bus.raw.xadd(bus.stream, fields).decode() for fields in FOREIGN]
    bus.send(producer, ["b", "c"])
    return bus


def test_they_are_told_and_what_is_around_them_comes_in_order_and_is_acked(one):
    consumer = one.consumer()
    found, gaps = read_on(consumer, 3)
    assert values(found) == [b"a", b"b", b"c"]
    assert len(gaps) == len(FOREIGN)
    for gap, identity in zip(gaps, one.ids, strict=True):
        assert f"passed over entry {identity} of stream {one.stream}" in gap.reason
        assert gap.after == found[0].position
        assert found[0].position < gap.resume <= found[1].position
    (lag,) = one.admin.lag("g", one.topic)
    assert lag.records == 3
    consumer.ack([found[-1]])
    consumer.close()
    assert read_on(one.consumer(member="m2"), 0) == ([], [])
    (lag,) = one.admin.lag("g", one.topic)
    assert lag.records == 0


def test_at_the_ends_of_the_log_they_are_told_too(make_bus):
    bus = make_bus(partitions=1, lease_seconds=20)
    stream = f"eb:{{{bus.topic}.0}}:s"
    bus.raw.xadd(stream, {"x": "first"})
    consumer = bus.consumer()
    found, gaps = read_on(consumer, 0)
    assert (found, len(gaps)) == ([], 1)
    bus.send(bus.producer(), ["a"])
    bus.raw.xadd(stream, {"x": "last"})
    found, gaps = read_on(consumer, 1)
    assert (values(found), len(gaps)) == ([b"a"], 1)
    later, told = read_on(bus.consumer(group="late"), 1)
    assert (values(later), len(told)) == ([b"a"], 2)


def test_an_id_of_others_in_the_future_stops_no_sender(make_bus):
    bus = make_bus(partitions=1, lease_seconds=20)
    stream = f"eb:{{{bus.topic}.0}}:s"
    producer = bus.producer()
    bus.send(producer, ["a"])
    ahead = int(bus.raw.time()[0] + 3600) * 1000
    bus.raw.xadd(stream, {"x": "y"}, id=f"{ahead}-7")
    stored = [each.outcome for each in bus.send(producer, ["b", "c"])]
    assert [type(each) for each in stored] == [Stored, Stored]
    assert [each.position for each in stored] == [Position(ahead + 1, 2), Position(ahead + 1, 3)]
    bus.raw.xdel(stream, bus.raw.xadd(stream, {"x": "y"}))
    bus.send(producer, ["d"])
    found, gaps = read_on(bus.consumer(), 4)
    assert (values(found), len(gaps)) == ([b"a", b"b", b"c", b"d"], 1)
    assert [each.position for each in found[1:3]] == [each.position for each in stored]


def test_reading_without_a_group_leaves_them_out(one):
    found = one.admin.read(one.topic, 0, "earliest", 100, 1.0)
    assert values(found) == [b"a", b"b", b"c"]
    assert values(one.admin.read(one.topic, 0, Position.parse(one.ids[0]), 1, 1.0)) == [b"b"]


def test_retention_by_number_counts_our_records_only(make_bus):
    bus = make_bus(partitions=1, lease_seconds=20, retention_records=300)
    producer = bus.producer()
    for number in range(5):
        stored = bus.send(producer, [f"{number}.{each}" for each in range(200)])
        last = stored[-1].outcome.position[0]
        for ahead in range(1, 20):
            bus.raw.xadd(f"eb:{{{bus.topic}.0}}:s", {"x": "y"}, id=f"{last + ahead}-0")
    consumer = bus.consumer()
    found, gaps = read_on(consumer, 1000)
    assert len(gaps) == 5 * 19
    consumer.ack([found[-1]])
    link = consumer._control
    consumer._trimming.trim(link, bus.topic, consumer._topics[bus.topic].shape.incarnation, [0])
    left = len(bus.stored())
    assert 300 <= left < 500, "not what retention says, and a node of a hundred or so"

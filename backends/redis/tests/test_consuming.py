from __future__ import annotations

from datetime import UTC, datetime

import pytest

from eventbus_core.backend import Assigned, Gap, Lost, Revoking
from eventbus_core.errors import Conflict, NotFound
from eventbus_core.records import Position
from eventbus_redis.trimming import Trimming
from tests.waiting import wait_until


def values(deliveries):
    return [each.record.value.decode() for each in deliveries]


def test_start_acts_on_a_new_group_only(bus):
    producer = bus.producer()
    bus.send(producer, ["old"])
    early, late = bus.consumer("early"), bus.consumer("late", start="latest")
    bus.send(producer, ["new"])
    assert values(bus.receive(early, 2)) == ["old", "new"]
    assert values(bus.receive(late, 1)) == ["new"]
    late.close()  # without an ack
    bus.opened.remove(late)
    again = bus.consumer("late", member="m2", start="latest")
    assert values(bus.receive(again, 1)) == ["new"]


def test_start_at_a_time(bus):
    producer = bus.producer()
    bus.send(producer, ["old"])
    stored = bus.send(producer, ["mark"])[0].outcome
    wait_until(lambda: datetime.now(UTC).timestamp() * 1000 > stored.timestamp_ms + 2, 2, what="the clock to go on")
    now = datetime.now(UTC)
    bus.send(producer, ["new"])
    assert values(bus.receive(bus.consumer("timed", start=now), 1)) == ["new"]
    assert values(bus.receive(bus.consumer("future", start=datetime(2100, 1, 1, tzinfo=UTC)), 0)) == []


def test_acks_survive_and_lag_is_exact(bus):
    bus.send(bus.producer(), [str(i) for i in range(50)])
    first = bus.consumer()
    deliveries = bus.receive(first, 50)
    first.ack([deliveries[19]])
    first.ack([deliveries[4]])  # an old one changes nothing
    assert sum(each.records for each in bus.admin.lag("g", bus.topic)) == 30
    groups = bus.raw.xinfo_groups(f"eb:{{{bus.topic}.{deliveries[0].partition}}}:s")
    assert [(each["name"], each["lag"]) for each in groups] == [(b"g", 30)]
    first.close()
    bus.opened.remove(first)
    assert values(bus.receive(bus.consumer(member="m2"), 30)) == [str(i) for i in range(20, 50)]


def test_a_late_ack_of_a_former_owner_is_refused_and_told(bus):
    bus.send(bus.producer(), [str(i) for i in range(10)])
    old = bus.consumer(member="old")
    deliveries = bus.receive(old, 10)
    partition = deliveries[0].partition
    assert (
        bus.raw.zrem(f"eb:{{{bus.topic}|g}}:{old._topics[bus.topic].shape.incarnation}:m", "old") == 1
    )  # expelled, unknowing
    new = bus.consumer(member="new")
    again = bus.receive(new, 10)
    new.ack([again[2]])
    old.ack([deliveries[9]])
    assert sum(each.records for each in bus.admin.lag("g", bus.topic)) == 7
    changes = [change for _ in range(3) for change in old.poll(0, 0.1, ()).changes]
    assert partition in {change.assignment.partition for change in changes if isinstance(change, Lost)}


def test_a_second_member_gets_its_share_after_an_announcement(bus):
    one = bus.consumer(member="one")
    wait_until(lambda: one.poll(0, 0.1, ()) and len(one._held) == 2, 5, what="one to have both")
    two = bus.consumer(member="two")
    moved = []

    def shared() -> bool:
        for change in one.poll(10, 0.05, ()).changes:
            if isinstance(change, Revoking):
                moved.append(change.assignment)
                one.release(change.assignment)
        two.poll(10, 0.05, ())
        return len(two._held) == 1

    wait_until(shared, 5, what="two to have one")
    assert len(moved) == 1
    assert len(one._held) == 1


def test_seek_moves_the_group_and_voids_earlier_acks(bus):
    bus.send(bus.producer(), [str(i) for i in range(30)])
    consumer = bus.consumer()
    deliveries = bus.receive(consumer, 30)
    held = deliveries[0].assignment
    moved = consumer.seek(held, deliveries[10].position)
    assert moved.epoch > held.epoch
    consumer.ack([deliveries[29]])
    again = bus.receive(consumer, 20)
    assert values(again) == [str(i) for i in range(10, 30)]
    consumer.ack([again[-1]])
    assert sum(each.records for each in bus.admin.lag("g", bus.topic)) == 0


def test_paused_partitions_are_left_out(bus):
    bus.send(bus.producer(), ["a"], key=b"k")
    consumer = bus.consumer()
    wait_until(lambda: consumer.poll(0, 0.1, ()) and len(consumer._held) == 2, 5, what="both partitions")
    paused = frozenset(consumer._held.values())
    assert not [each for _ in range(5) for each in consumer.poll(10, 0.05, paused).deliveries]
    assert values(bus.receive(consumer, 1)) == ["a"]


def test_a_hole_in_the_log_is_told_and_passed(bus):
    places = [each.outcome for each in bus.send(bus.producer(), [str(i) for i in range(10)])]
    consumer = bus.consumer()
    stream = f"eb:{{{bus.topic}.{places[0].partition}}}:s"
    bus.raw.xdel(stream, *[str(place.position) for place in places[3:6]])
    gaps, found = [], []

    def all_read() -> bool:
        polled = consumer.poll(100, 0.2, ())
        gaps.extend(change for change in polled.changes if isinstance(change, Gap))
        found.extend(polled.deliveries)
        return len(found) == 7

    wait_until(all_read, 5, what="the rest of the log")
    assert values(found) == ["0", "1", "2", "6", "7", "8", "9"]
    (gap,) = gaps
    assert (gap.after, gap.resume) == (places[2].position, places[6].position)


def test_an_emptied_server_is_noticed(make_bus, server_url):
    bus = make_bus(url=server_url + "/9")
    consumer = bus.consumer()
    wait_until(lambda: consumer.poll(0, 0.1, ()) and len(consumer._held) == 2, 5, what="both partitions")
    bus.raw.flushdb()

    def noticed() -> bool:
        try:
            consumer.poll(10, 0.1, ())
        except NotFound as error:
            return "lost its data" in str(error)
        return False

    wait_until(noticed, 5, what="the loss to be noticed")
    bus.admin.create_topic(bus.topic, 2)  # for the clean-up, and: a new topic is another one
    consumer._next_beat = 0
    with pytest.raises(NotFound):
        consumer.poll(10, 0.1, ())


def test_a_shortened_log_is_noticed_and_read_on_from_what_is_left(bus):
    producer, consumer = bus.producer(), bus.consumer()
    place = bus.send(producer, [str(i) for i in range(10)])[0].outcome
    deliveries = bus.receive(consumer, 10)
    consumer.ack([deliveries[-1]])
    stream, meta = (f"eb:{{{bus.topic}.{place.partition}}}:{kind}" for kind in "sm")
    for each in deliveries[6:]:  # as a failover to a replica that was behind
        bus.raw.xdel(stream, str(each.position))
    bus.raw.hset(meta, mapping={"n": 6, "ms": deliveries[5].position[0]})
    lost = wait_until(
        lambda: [each for each in consumer.poll(10, 0.1, ()).changes if isinstance(each, Lost)], 5, what="Lost"
    )
    assert "lost its newest records" in lost[0].reason


def test_trimming_stops_at_the_slowest_group(make_bus):
    bus = make_bus(partitions=1, retention_records=10)
    bus.send(bus.producer(), [str(i) for i in range(3000)])
    consumer, idle = bus.consumer("fast"), bus.consumer("idle")
    deliveries = bus.receive(consumer, 3000)
    consumer.ack([deliveries[-1]])
    trimming = Trimming(bus.backend.settings, consumer._keys)
    incarnation = consumer._topics[bus.topic].shape.incarnation
    assert trimming.trim(bus.admin._link, bus.topic, incarnation, [0]) == 0
    slow = bus.receive(idle, 3000)
    idle.ack([slow[1999]])
    bus.raw.xgroup_destroy(f"eb:{{{bus.topic}.0}}:s", "idle")  # the cursor counts even without its mirror
    removed = trimming.trim(bus.admin._link, bus.topic, incarnation, [0])
    assert 1500 < removed <= 2000
    assert bus.admin.describe_topic(bus.topic).firsts[0] <= slow[2000].position
    idle.ack([slow[-1]])
    assert trimming.trim(bus.admin._link, bus.topic, incarnation, [0]) > 500
    assert bus.stored()[-10:] == [str(i) for i in range(2990, 3000)]
    assert sum(each.records for each in bus.admin.lag("idle", bus.topic)) == 0


def test_trimming_by_age_keeps_the_young(make_bus):
    bus = make_bus(partitions=1, retention_seconds=3600.0)
    bus.send(bus.producer(), [str(i) for i in range(2000)])
    trimming = Trimming(bus.backend.settings, bus.admin._keys)
    incarnation = bus.raw.hget(f"eb:{{{bus.topic}}}:t", "inc").decode()
    assert trimming.trim(bus.admin._link, bus.topic, incarnation, [0]) == 0


def test_nothing_is_trimmed_by_default(bus):
    bus.send(bus.producer(), [str(i) for i in range(2000)])
    trimming = Trimming(bus.backend.settings, bus.admin._keys)
    incarnation = bus.raw.hget(f"eb:{{{bus.topic}}}:t", "inc").decode()
    assert trimming.trim(bus.admin._link, bus.topic, incarnation, [0, 1]) == 0


def test_operators_move_only_groups_that_nobody_uses(bus):
    bus.send(bus.producer(), ["a", "b", "c"])
    group = bus.topic  # deleting a group concerns all topics
    consumer = bus.consumer(group)
    deliveries = bus.receive(consumer, 3)
    partition = deliveries[0].partition
    with pytest.raises(Conflict):
        bus.admin.set_position(group, bus.topic, partition, "latest")
    with pytest.raises(Conflict):
        bus.admin.delete_group(group)
    consumer.close()
    bus.opened.remove(consumer)
    bus.admin.set_position(group, bus.topic, partition, deliveries[1].position)
    assert bus.admin.lag(group, bus.topic)[partition].records == 2
    again = bus.consumer(group, member="m2")
    assert values(bus.receive(again, 2)) == ["b", "c"]
    again.close()
    bus.opened.remove(again)
    bus.admin.delete_group(group)
    with pytest.raises(NotFound):
        bus.admin.lag(group, bus.topic)
    with pytest.raises(NotFound):
        bus.admin.delete_group(group)


def test_topics_are_created_once_and_missing_ones_named(bus):
    bus.admin.create_topic(bus.topic, 2)
    with pytest.raises(Conflict):
        bus.admin.create_topic(bus.topic, 3)
    assert bus.topic in bus.admin.topics()
    for call in (bus.admin.describe_topic, bus.admin.delete_topic):
        with pytest.raises(NotFound):
            call("no-such-topic")
    with pytest.raises(NotFound):
        bus.admin.read(bus.topic, 7, "earliest", 1, 0)


def test_reading_without_a_group_waits_for_the_next_record(bus):
    assert bus.admin.read(bus.topic, 0, "latest", 10, 0.05) == []
    place = bus.send(bus.producer(), ["a", "b"])[1].outcome
    found = bus.admin.read(bus.topic, place.partition, Position(place.position[0], place.position[1] + 1), 10, 0.05)
    assert found == []
    assert values(bus.admin.read(bus.topic, place.partition, place.position, 10, 0.05)) == ["b"]


def test_assignments_of_all_partitions_are_told(bus):
    consumer = bus.consumer()
    changes = consumer.poll(0, 0.1, ()).changes
    assert {each.assignment.partition for each in changes if isinstance(each, Assigned)} == {0, 1}


def test_leases_that_the_server_forgot_come_back_with_higher_tokens(bus):
    bus.send(bus.producer(), ["a", "b", "c"])
    consumer = bus.consumer()
    deliveries = bus.receive(consumer, 3)
    consumer.ack([deliveries[0]])
    bus.raw.delete(*consumer._topics[bus.topic].members.keys)
    again = bus.receive(consumer, 2)
    assert values(again) == ["b", "c"]
    assert again[0].assignment.epoch > deliveries[0].assignment.epoch


def test_a_position_that_was_deleted_by_hand_is_named_as_what_is_missing(bus):
    bus.send(bus.producer(), ["a", "b"])
    consumer = bus.consumer()
    deliveries = bus.receive(consumer, 2)
    bus.raw.delete(*bus.raw.keys(f"*{bus.topic}*:g:*"))
    with pytest.raises(NotFound, match=r"group .* was deleted .* open the consumer again"):
        consumer.ack(deliveries)


def test_producers_that_were_silent_for_a_day_are_forgotten_a_part_at_a_time(make_bus):
    bus = make_bus(partitions=1)
    producer = bus.producer()
    bus.send(producer, ["before"])
    meta = f"eb:{{{bus.topic}.0}}:m"
    now = int(datetime.now(UTC).timestamp() * 1000)
    day = 24 * 3600 * 1000
    bus.raw.hset(meta, mapping={f"P:former-{each}": f"1 0 1 {now - day - 60_000} 1 0" for each in range(3000)})
    bus.raw.hset(meta, mapping={f"P:recent-{each}": f"1 0 1 {now - day + 60_000} 1 0" for each in range(1500)})
    consumer = bus.consumer()
    trimming = Trimming(bus.backend.settings, consumer._keys)
    incarnation = consumer._topics[bus.topic].shape.incarnation

    def former() -> int:
        trimming.trim(bus.admin._link, bus.topic, incarnation, [0])
        return sum(name.startswith(b"P:former") for name in bus.raw.hkeys(meta))

    assert former() > 1500
    wait_until(lambda: former() == 0, 10, what="all former producers to be forgotten")
    assert sum(name.startswith(b"P:recent") for name in bus.raw.hkeys(meta)) == 1500
    bus.send(producer, ["after"])
    assert bus.stored() == ["before", "after"]

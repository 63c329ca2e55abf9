"""What holds with both of Kafka's group protocols."""

from __future__ import annotations

import time

import pytest
from confluent_kafka.admin import AdminClient, NewPartitions  # type: ignore[attr-defined]

from eventbus_core.backend import Lost
from eventbus_core.records import Position
from tests.waiting import wait_until

from .conftest import Bus, Pump, open_aside, victim


def test_a_slow_drain_moves_partitions_without_repeating_settled_work(any_bus: Bus) -> None:
    any_bus.send(any_bus.numbered(0, 800, keys=40))
    first = Pump(any_bus.consumer("m1"))
    first.until(lambda: len(first.deliveries) == 800, 15, "all delivered, none acked", ack=False)
    thread, opened = open_aside(any_bus, "m2")
    first.until(first.revoking, 10, "two partitions wanted back", ack=False)
    began = time.monotonic()
    first.until(lambda: time.monotonic() - began > 1.5, 5, "a slow drain", ack=False)
    moved = first.revoking()
    first.consumer.ack(list({each.assignment: each for each in first.deliveries}.values()))
    for assignment in moved:
        first.consumer.release(assignment)
    thread.join(15)
    second = Pump(opened[0])

    def both() -> bool:
        first.turn()
        return len(second.assigned()) == 2

    second.until(both, 15, "the second owns them")
    new = any_bus.numbered(800, 400, keys=40)
    any_bus.send(new)

    def all_new() -> bool:
        first.turn()
        return len(first.deliveries) + len(second.deliveries) >= 1200

    second.until(all_new, 15, "the new records")
    assert not [each for each in first.changes if isinstance(each, Lost)]
    assert sorted(first.values() + second.values()) == list(range(1200))
    epochs = {(each.topic, each.partition): each.epoch for each in first.assigned()}
    assert all(each.epoch > epochs[each.topic, each.partition] for each in second.assigned())
    second.consumer.close()
    first.consumer.close()


def test_a_drain_past_its_deadline_is_lost_and_its_late_ack_changes_nothing(any_bus: Bus) -> None:
    any_bus.send(any_bus.numbered(0, 200, keys=40))
    first = Pump(any_bus.consumer("m1", drain=0.5))
    first.until(lambda: len(first.deliveries) == 200, 15, "all delivered", ack=False)
    thread, opened = open_aside(any_bus, "m2")
    first.until(lambda: [each for each in first.changes if isinstance(each, Lost)], 15, "lost", ack=False)
    lost = {each.assignment for each in first.changes if isinstance(each, Lost)}
    first.consumer.ack([each for each in first.deliveries if each.assignment in lost])
    thread.join(15)
    second = Pump(opened[0])
    expected = sum(each.assignment in lost for each in first.deliveries)
    assert expected

    def all_again() -> bool:
        first.turn(ack=False)
        return len(second.deliveries) >= expected

    second.until(all_again, 15, "the unsettled records come again")
    second.consumer.close()
    first.consumer.close()


def test_a_killed_member_is_replaced_within_the_declared_time(any_bus: Bus) -> None:
    process = victim(any_bus, "earliest")
    pump = Pump(any_bus.consumer("m2"))
    process.kill()
    process.wait()
    began = time.monotonic()
    pump.until(lambda: len(pump.assigned()) == 4, 20, "all partitions taken over")
    assert time.monotonic() - began < any_bus.backend.capabilities.max_takeover_seconds
    pump.consumer.close()


def test_healthy_members_keep_their_partitions_while_a_dead_ones_session_runs_out(any_bus: Bus) -> None:
    process = victim(any_bus, "earliest")
    pump = Pump(any_bus.consumer("m1"))
    pump.until(lambda: len(pump.assigned()) == 2, 15, "half of the partitions")
    process.kill()
    process.wait()
    # It makes the coordinator wait for all members, the dead one included, and answer nothing else on that connection.
    thread, opened = open_aside(any_bus, "m3")

    def joined() -> bool:
        pump.release_wanted()
        return not thread.is_alive()

    pump.until(joined, 20, "a third joins")
    third = Pump(opened[0])

    def all_held() -> bool:
        pump.turn()
        pump.release_wanted()
        return len(pump.assigned()) + len(third.assigned()) - len(pump.revoking()) >= 4

    third.until(all_held, 20, "all partitions are held")
    assert not [each for each in pump.changes if isinstance(each, Lost)]
    pump.consumer.close()
    third.consumer.close()


def test_seek_moves_the_durable_position_backwards(any_bus: Bus) -> None:
    any_bus.send(any_bus.numbered(0, 100, keys=1))
    pump = Pump(any_bus.consumer())
    pump.until(lambda: len(pump.deliveries) == 100, 15, "delivered")
    before = pump.deliveries[0].assignment
    assert before is not None
    after = pump.consumer.seek(before, Position(40))
    assert after.epoch > before.epoch
    assert sum(each.records for each in any_bus.admin.lag(any_bus.group, any_bus.topic)) == 60
    pump.consumer.ack([pump.deliveries[99]])
    pump.consumer.close()
    assert sum(each.records for each in any_bus.admin.lag(any_bus.group, any_bus.topic)) == 60


def test_two_members_share_and_every_record_is_delivered_once(any_bus: Bus) -> None:
    first = Pump(any_bus.consumer("m1"))
    first.until(lambda: len(first.assigned()) == 4, 15, "the first has all")
    thread, opened = open_aside(any_bus, "m2")

    def shared() -> bool:
        first.turn()
        first.release_wanted()
        return not thread.is_alive() and len(first.revoking()) == 2

    wait_until(shared, 15, every=0.001, what="the first gives two away")
    second = Pump(opened[0])
    any_bus.send(any_bus.numbered(0, 1000, keys=40))

    def all_there() -> bool:
        first.turn()
        return len(first.deliveries) + len(second.deliveries) >= 1000

    second.until(all_there, 15, "all records")
    assert sorted(first.values() + second.values()) == list(range(1000))
    held = {each.partition for each in first.assigned()} - {each.partition for each in first.revoking()}
    assert {each.partition for each in first.deliveries} == held
    assert {each.partition for each in second.deliveries} == {0, 1, 2, 3} - held
    first.consumer.close()
    second.consumer.close()


def test_partitions_that_went_while_paused_are_delivered_when_they_come_back(any_bus: Bus) -> None:
    first = Pump(any_bus.consumer("m1"))
    first.until(lambda: len(first.assigned()) == 4, 15, "the first has all")
    any_bus.send(any_bus.numbered(0, 4000, keys=40))

    def stalled() -> bool:
        first.turn(first.assigned())
        return all(each.client_paused for each in first.consumer._holds.snapshot().values())

    wait_until(stalled, 15, what="the client fetches no more")
    assert not first.deliveries
    thread, opened = open_aside(any_bus, "m2")

    def shared() -> bool:
        stalled()
        first.release_wanted()
        return not thread.is_alive() and len(first.revoking()) == 2

    wait_until(shared, 15, every=0.001, what="the first gives two away")
    opened[0].close()
    first.until(lambda: len(first.deliveries) == 4000, 20, "all, of those that came back too")
    assert sorted(first.values()) == list(range(4000))
    first.consumer.close()


def test_partitions_that_are_added_are_delivered_from_their_beginning(any_bus: Bus) -> None:
    pump = Pump(any_bus.consumer(start="latest"))
    pump.until(lambda: len(pump.assigned()) == 4, 15, "assigned")
    # The producer learns of the new partitions at once; the group takes until its next look at the topic.
    client = AdminClient({"bootstrap.servers": any_bus.url})
    for answer in client.create_partitions([NewPartitions(any_bus.topic, 6)]).values():
        answer.result(10)
    wait_until(lambda: any_bus.admin.describe_topic(any_bus.topic).partitions == 6, 10, what="six partitions")
    stored = any_bus.send(any_bus.numbered(0, 600, keys=60))
    before = sum(each.partition >= 4 for each in stored)
    assert before
    assert {each.partition for each in stored} == set(range(6))
    pump.until(lambda: len(pump.deliveries) >= 600, 30, "all records, also of the new partitions")
    assert sorted(pump.values()) == list(range(600))
    for partition in range(6):
        offsets = [each.position[0] for each in pump.deliveries if each.partition == partition]
        assert offsets == list(range(len(offsets)))
    pump.consumer.close()
    assert sum(each.records for each in any_bus.admin.lag(any_bus.group, any_bus.topic)) == 0


def test_epochs_grow_over_all_holds_of_a_partition(any_bus: Bus, monkeypatch: pytest.MonkeyPatch) -> None:
    """By a clock that goes backwards too: each holder may have its own, and none of them has to be right."""
    moments = iter(range(10**18, 0, -(10**9)))
    monkeypatch.setattr(time, "time_ns", lambda: next(moments))
    epochs: list[int] = []
    for member in ("m1", "m2", "m3"):
        pump = Pump(any_bus.consumer(member))
        pump.until(lambda pump=pump: len(pump.assigned()) == 4, 15, "assigned")  # type: ignore[misc]
        hold = next(each for each in pump.assigned() if each.partition == 0)
        sought = pump.consumer.seek(hold, "earliest")
        epochs += [hold.epoch, sought.epoch]
        pump.consumer.close()
    assert epochs == sorted(set(epochs))

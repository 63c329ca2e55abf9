from __future__ import annotations

import threading
import time

import pytest
from confluent_kafka import ConsumerGroupTopicPartitions, TopicPartition
from confluent_kafka.admin import AdminClient

from eventbus_core.backend import Assigned, Gap, Group, Lost
from eventbus_core.errors import BrokerError, Conflict, NotFound, Unavailable
from eventbus_core.records import Position, Where
from eventbus_kafka import KafkaBackend
from eventbus_kafka.connection import Connection
from eventbus_kafka.holds import Hold
from eventbus_kafka.member import Member
from eventbus_kafka.positions import set_positions
from tests.waiting import wait_until

from .conftest import Bus, Pump, victim


def test_latest_loses_nothing_even_if_the_first_member_dies_at_once(bus: Bus) -> None:
    bus.send(bus.numbered(0, 10))
    process = victim(bus, "latest")
    process.kill()
    process.wait()
    bus.send(bus.numbered(10, 10))
    pump = Pump(bus.consumer("m2", start="latest"))
    pump.until(lambda: len(pump.deliveries) == 10, 20, "what was sent after the first join")
    assert sorted(pump.values()) == list(range(10, 20))
    pump.consumer.close()


def test_paused_partitions_come_later_and_in_order(bus: Bus) -> None:
    pump = Pump(bus.consumer())
    pump.until(lambda: len(pump.assigned()) == 4, 10, "assigned")
    paused = [each for each in pump.assigned() if each.partition in {0, 1}]
    stored = bus.send(bus.numbered(0, 4000, keys=40))
    others = sum(each.partition in {2, 3} for each in stored)
    assert 0 < others < 4000

    def all_others() -> bool:
        pump.turn(paused)
        return len(pump.deliveries) >= others

    wait_until(all_others, 15, every=0.001, what="the others")
    pump.turn(paused)
    assert {each.partition for each in pump.deliveries} == {2, 3}
    pump.until(lambda: len(pump.deliveries) >= 4000, 15, "the paused ones after resuming")
    for partition in range(4):
        offsets = [each.position[0] for each in pump.deliveries if each.partition == partition]
        assert offsets == list(range(len(offsets)))
    pump.consumer.close()
    assert [each.records for each in bus.admin.lag(bus.group, bus.topic)] == [0, 0, 0, 0]


def test_positions_are_given_up_in_time_where_no_coordinator_answers(bus: Bus) -> None:
    connection = Connection(bus.settings)
    nowhere = {"bootstrap_servers": "127.0.0.1:1", "request_timeout_seconds": 2.0}
    connection.settings = bus.settings.model_copy(update=nowhere)
    began = time.monotonic()
    with pytest.raises(Unavailable):
        set_positions(connection, bus.group, {(bus.topic, 0): 0})
    assert 1.5 < time.monotonic() - began < 4


def test_a_truncated_position_is_a_gap(bus: Bus) -> None:
    bus.consumer().close()
    stored = bus.send(bus.numbered(0, 50, keys=1))[0]
    remover = AdminClient({"bootstrap.servers": bus.url})
    for answer in remover.delete_records([TopicPartition(bus.topic, stored.partition, 30)]).values():
        answer.result(10)
    pump = Pump(bus.consumer())
    pump.until(lambda: len(pump.deliveries) == 20, 15, "what is left")
    gaps = [each for each in pump.changes if isinstance(each, Gap)]
    assert [(each.after, each.resume) for each in gaps] == [(None, Position(30))]
    assert pump.values() == list(range(30, 50))
    pump.consumer.close()


def test_a_position_cut_off_while_running_is_a_gap(bus: Bus) -> None:
    pump = Pump(bus.consumer())
    pump.until(lambda: len(pump.assigned()) == 4, 10, "assigned")
    stored = bus.send(bus.numbered(0, 50, keys=1))[0]
    pump.until(lambda: len(pump.deliveries) == 50, 10, "delivered")
    assignment = pump.deliveries[0].assignment
    assert isinstance(assignment, Hold)
    member = pump.consumer._member  # type: ignore[attr-defined]
    remover = AdminClient({"bootstrap.servers": bus.url})
    for answer in remover.delete_records([TopicPartition(bus.topic, stored.partition, 50)]).values():
        answer.result(10)

    def rewind() -> Hold:
        assignment.next = 10
        member._fetching.move(assignment, 10)
        return assignment

    member.call(rewind).result(10)
    pump.until(lambda: any(isinstance(each, Gap) for each in pump.changes), 10, "the gap")
    bus.send(bus.numbered(50, 5, keys=1))
    pump.until(lambda: len(pump.deliveries) == 55, 10, "what came after the gap")
    gap = next(each for each in pump.changes if isinstance(each, Gap))
    assert (gap.after, gap.resume) == (Position(9), Position(50))
    pump.consumer.close()


def test_what_does_not_exist_or_is_in_use_says_so(bus: Bus) -> None:
    topic, bus.topic = bus.topic, bus.topic + "-not"
    with pytest.raises(NotFound):
        bus.consumer()
    bus.topic = topic
    with pytest.raises(Conflict):
        bus.admin.create_topic(topic, 5)
    pump = Pump(bus.consumer())
    pump.until(lambda: any(isinstance(each, Assigned) for each in pump.changes), 10, "assigned")
    with pytest.raises(Conflict):
        bus.admin.set_position(bus.group, topic, 0, "earliest")
    with pytest.raises(Conflict):
        bus.admin.delete_group(bus.group)
    pump.consumer.close()
    bus.admin.delete_group(bus.group)
    with pytest.raises(NotFound):
        bus.admin.lag(bus.group, topic)
    bus.admin.delete_topic(topic)
    assert topic not in bus.admin.topics()


def test_a_position_beyond_the_end_of_the_log_is_given_up_durably(bus: Bus) -> None:
    bus.send(bus.numbered(0, 5, keys=1))
    bus.admin.set_position(bus.group, bus.topic, 0, "earliest")
    places = [TopicPartition(bus.topic, partition, 9) for partition in range(4)]
    raw = AdminClient({"bootstrap.servers": bus.url})
    wanted = [ConsumerGroupTopicPartitions(bus.group, places)]
    next(iter(raw.alter_consumer_group_offsets(wanted).values())).result(10)
    first = Pump(bus.consumer("m1"))
    first.until(lambda: len(first.deliveries) == 5, 15, "all records again")
    first.consumer.close()
    # The log grows past the position that was wrong: what lies before it must not be skipped.
    bus.send(bus.numbered(5, 10, keys=1))
    second = Pump(bus.consumer("m2"))
    second.until(lambda: len(second.deliveries) >= 10, 15, "what came afterwards")
    assert second.values() == list(range(5, 15))
    second.consumer.close()


def test_an_outage_in_the_member_thread_is_told_and_survived(bus: Bus, monkeypatch: pytest.MonkeyPatch) -> None:
    pump = Pump(bus.consumer())
    pump.until(pump.assigned, 10, "assigned")
    failures = [Unavailable("the broker is away")]
    turn = Member._take_turn

    def failing(member: Member) -> None:
        if failures:
            raise failures.pop()
        turn(member)

    monkeypatch.setattr(Member, "_take_turn", failing)
    wait_until(lambda: not failures, 5, what="the failure")
    bus.send(bus.numbered(0, 5))
    told: list[Unavailable] = []

    def survived() -> bool:
        try:
            pump.turn()
        except Unavailable as error:
            told.append(error)
        return len(pump.deliveries) == 5 and bool(told)

    wait_until(survived, 15, what="records after the outage")
    assert len(told) == 1
    pump.consumer.close()


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_member_thread_that_ends_is_an_error_not_a_silence(bus: Bus, monkeypatch: pytest.MonkeyPatch) -> None:
    pump = Pump(bus.consumer())

    def failing(member: Member) -> None:
        raise KeyError(member.name)

    monkeypatch.setattr(Member, "_take_turn", failing)
    with pytest.raises(BrokerError, match="KeyError"):
        pump.until(lambda: False, 5, "the error")
    pump.consumer.close()


def test_a_member_that_joins_while_another_one_drains_is_open_in_time(bus: Bus) -> None:
    first = Pump(bus.consumer("m1"))
    first.until(lambda: len(first.assigned()) == 4, 15, "assigned")
    second = Pump(bus.consumer("m2"))
    first.until(first.revoking, 15, "partitions wanted back")
    hurried = KafkaBackend(bus.settings.model_copy(update={"connect_timeout_seconds": 3.0}))
    began = time.monotonic()
    third = Pump(hurried.consumer(Group(bus.group, (bus.topic,), "earliest", "m3", 10.0)))
    assert 2.5 < time.monotonic() - began < 5, "it did not wait: nothing shown"

    def shared() -> bool:
        for each in (first, second):
            each.turn()
            each.release_wanted()
        return bool(third.assigned())

    third.until(shared, 20, "its share")
    for each in (third, second, first):
        each.consumer.close()


def test_a_seek_that_ends_late_is_told_as_a_new_assignment(bus: Bus, monkeypatch: pytest.MonkeyPatch) -> None:
    bus.send(bus.numbered(0, 20, keys=1))
    pump = Pump(bus.consumer())
    pump.until(lambda: len(pump.deliveries) == 20, 15, "delivered")
    before = pump.deliveries[0].assignment
    assert before is not None
    go_on = threading.Event()
    move = Member.move

    def slow(member: Member, hold: Hold, to: Where) -> Hold:
        go_on.wait(10)
        return move(member, hold, to)

    monkeypatch.setattr(Member, "move", slow)
    bus.backend.settings.__dict__["request_timeout_seconds"] = 1.0
    with pytest.raises(Unavailable):
        pump.consumer.seek(before, Position(15))
    bus.backend.settings.__dict__["request_timeout_seconds"] = 5.0
    go_on.set()
    pump.until(lambda: len(pump.deliveries) == 25, 10, "the records again")
    assert [each for each in pump.changes if isinstance(each, Lost) and each.assignment is before]
    assert pump.deliveries[-1].assignment in pump.assigned()
    pump.consumer.close()

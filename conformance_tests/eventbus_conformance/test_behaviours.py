"""What every backend must do. Names no broker and runs unchanged on all of them."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from collections import Counter
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from eventbus_conformance.fixtures import PARTITIONS, BrokerControl, OpenBus
from eventbus_conformance.history import duplicated, lost, phantoms, reordered, stored_twice
from eventbus_conformance.members import Members
from eventbus_conformance.sending import Stream, read_all, send_all, send_one
from eventbus_conformance.waiting import wait_until
from eventbus_core import EventBus
from eventbus_core.capabilities import Capabilities
from eventbus_core.consumer import Consumer
from eventbus_core.errors import (
    BufferFull,
    Closed,
    Conflict,
    InvalidRecord,
    NotFound,
    SendFailed,
    SendUnknown,
    TooLarge,
    Unavailable,
    UsageError,
)
from eventbus_core.records import Delivery, Stored

pytestmark = pytest.mark.timeout(120)

HANDLE_SECONDS = 60.0


def take(consumer: Consumer, records: int, timeout: float = 30.0, *, ack: bool = False) -> list[Delivery]:
    """Receive until there are so many records, or fail."""
    taken: list[Delivery] = []

    def enough() -> bool:
        received = consumer.receive(max_records=max(1, records - len(taken)), timeout=0.2)
        taken.extend(received)
        if ack and received:
            consumer.ack(*received)
        return len(taken) >= records

    wait_until(enough, timeout, every=0.0, what=f"{records} records received")
    return taken


def nothing_more(consumer: Consumer, seconds: float = 1.0) -> bool:
    """Whether nothing is delivered for so long."""
    return consumer.receive(timeout=seconds) == []


def numbers(deliveries: list[Delivery]) -> list[int]:
    """The values, read as numbers, sorted."""
    return sorted(int(each.record.value or b"-1") for each in deliveries)


def total_lag(bus: EventBus, group: str, topic: str) -> int:
    """Unsettled records of all partitions."""
    with bus.admin() as admin:
        return sum(each.records for each in admin.lag(group, topic))


# Records


def test_records_come_back_with_the_same_bytes(bus: EventBus, topic: str, group: str) -> None:
    stated = datetime(2024, 2, 29, 12, 30, 15, 123000, tzinfo=UTC)
    every_byte = bytes(range(256))
    shapes: list[tuple[bytes | None, bytes | None, tuple[tuple[str, bytes], ...], datetime | None]] = [
        (b"plain", b"key", (), None),
        (b"", b"", (), None),
        (None, None, (), None),
        (None, b"only a key", (), None),
        (b"only a value", None, (), None),
        (every_byte, every_byte, (("all", every_byte),), None),
        (b"\xff\xfe\x00", b"\x80\x00\xff", (("empty", b""),), None),
        (b"repeated", b"k", (("a", b"1"), ("b", b"2"), ("a", b"3"), ("A", b"4"), ("a", b"1")), None),
        (b"names", b"k", (("näme-ключ-鍵", b"v"), ("", b"no name"), ("with space: and = signs\n", b"v")), None),
        (b"dated", b"k", (), stated),
    ]
    with bus.producer() as producer, bus.consumer(topic, group=group) as consumer:
        before = time.time() * 1000
        receipts = [
            producer.send(topic, value, key=key, headers=(*headers, ("n", str(number).encode())), timestamp=at)
            for number, (value, key, headers, at) in enumerate(shapes)
        ]
        stored = [receipt.result(30) for receipt in receipts]
        after = time.time() * 1000
        received = {int(each.record.headers[-1][1]): each for each in take(consumer, len(shapes), ack=True)}
    assert len(received) == len(shapes)
    read = {int(each.record.headers[-1][1]): each for each in bus.read(topic)}
    for number, (value, key, headers, at) in enumerate(shapes):
        for delivery in (received[number], read[number]):
            record = delivery.record
            assert (record.topic, record.value, record.key) == (topic, value, key)
            assert record.headers == (*headers, ("n", str(number).encode()))
            assert record.timestamp_ms == stored[number].timestamp_ms
            assert delivery.partition == stored[number].partition
            assert stored[number].position in {None, delivery.position}
        if at is None:
            assert before - 1 <= stored[number].timestamp_ms <= after + 1
        else:
            assert stored[number].timestamp_ms == 1709209815123


def test_a_mebibyte_less_overhead_comes_back_whole(bus: EventBus, topic: str, group: str) -> None:
    key, header = b"large", ("h", b"x" * 1000)
    values = [os.urandom(1024 * 1024 - 4096 - len(key) - 1001) for _ in range(3)]
    with bus.producer() as producer, bus.consumer(topic, group=group) as consumer:
        for value in values:
            producer.send(topic, value, key=key, headers=[header]).result(30)
        received = take(consumer, 3, ack=True)
    assert [each.record.value for each in received] == values


def test_a_receipt_says_where_the_record_lies(bus: EventBus, topic: str, capabilities: Capabilities) -> None:
    with bus.producer() as producer:
        stored = [send_one(producer, topic, number, 16).result(30) for number in range(64)]
    read = {(each.record.key, each.record.value): each for each in bus.read(topic)}
    assert len(read) == 64
    for number, each in enumerate(stored):
        delivery = read[f"key-{number % 16}".encode(), str(number // 16).encode()]
        assert (each.topic, each.partition) == (topic, delivery.partition)
        assert each.position == (delivery.position if capabilities.stored_position else None)
    assert len({each.partition for each in stored}) > 1, "all keys went to one partition: nothing shown"


def test_bad_records_are_refused_at_once(
    open_bus: OpenBus, bus_url: str, backend_under_test: Any, topic: str, capabilities: Capabilities
) -> None:
    # Where nobody listens a refusal can only come without asking the broker.
    refusing = open_bus(backend_under_test.unreachable_url or bus_url)
    limit = capabilities.max_record_bytes
    with refusing.producer() as producer:
        for name in ("", "a b", "ümlaut", "x" * 300, "slash/ed", "a-partition-0", "."):
            with pytest.raises(InvalidRecord):
                producer.send(name, b"v")
        bad: list[Any] = ["text", 7, [b"v"]]
        for wrong in bad:
            with pytest.raises(InvalidRecord):
                producer.send(topic, wrong)
            with pytest.raises(InvalidRecord):
                producer.send(topic, b"v", key=wrong)
        headers: list[Any] = [("name", "text"), (b"bytes", b"v"), ("nul\0", b"v"), ("\ud800", b"v"), ("one",)]
        for header in headers:
            with pytest.raises(InvalidRecord):
                producer.send(topic, b"v", headers=[header])
        with pytest.raises(InvalidRecord):
            producer.send(topic, b"v", timestamp=datetime(2024, 1, 1))  # noqa: DTZ001
        with pytest.raises(TooLarge):
            producer.send(topic, bytes(limit + 1))
        with pytest.raises(TooLarge):
            producer.send(topic, bytes(limit - 10), key=b"k" * 11)
        assert producer.flush(0) == 0, "something bad was taken"
    with open_bus().producer() as producer:
        assert isinstance(producer.send(topic, b"good").result(30), Stored)
    assert [each.record.value for each in open_bus().read(topic)] == [b"good"]


def test_the_declared_largest_record_is_stored(bus: EventBus, topic: str, capabilities: Capabilities) -> None:
    with bus.producer() as producer:
        producer.send(topic, bytes(capabilities.max_record_bytes - 3), key=b"key").result(60)
    assert [len(each.record.value or b"") for each in bus.read(topic)] == [capabilities.max_record_bytes - 3]


# Sending


def test_close_settles_every_receipt(bus: EventBus, topic: str) -> None:
    producer = bus.producer()
    receipts = [send_one(producer, topic, number, 50) for number in range(5000)]
    open_at_close = sum(not receipt.done() for receipt in receipts)
    producer.close()
    assert all(receipt.done() for receipt in receipts)
    assert all(isinstance(receipt.result(0), Stored) for receipt in receipts)
    assert open_at_close > 0, "everything was settled before close: nothing shown"
    started = time.monotonic()
    producer.close()
    assert time.monotonic() - started < 1
    with pytest.raises(Closed):
        producer.send(topic, b"late")
    assert len(read_all(bus, topic)) == 5000


def test_flush_counts_what_is_still_open(open_bus: OpenBus, unreachable_url: str, topic: str) -> None:
    producer = open_bus(unreachable_url).producer()
    receipts = [producer.send(topic, b"v") for _ in range(5)]
    started = time.monotonic()
    assert producer.flush(0.3) == 5
    assert 0.2 < time.monotonic() - started < 1.5
    assert not any(receipt.done() for receipt in receipts)
    with pytest.raises(TimeoutError):
        receipts[0].result(0.1)
    producer.close(0.2)
    for receipt in receipts:
        with pytest.raises(SendFailed):
            receipt.result(0)


def test_a_full_buffer_is_an_error_and_drops_nothing(open_bus: OpenBus, topic: str) -> None:
    bus = open_bus(send_buffer_records=20)
    full = 0
    receipts = []
    with bus.producer() as producer:
        for number in range(3000):
            while True:
                try:
                    receipts.append(producer.send(topic, str(number).encode(), key=b"one", wait_seconds=0))
                    break
                except BufferFull:
                    full += 1
                    producer.flush(5)
    assert full > 0, "the buffer was never full: nothing shown"
    assert all(isinstance(receipt.result(0), Stored) for receipt in receipts)
    assert [int(each.record.value or b"") for each in bus.read(topic)] == list(range(3000))


def test_an_unknown_topic_is_an_error_at_once(bus: EventBus, topic: str, group: str) -> None:
    missing = f"{topic}-missing"
    started = time.monotonic()
    with pytest.raises(NotFound, match=missing):
        bus.consumer(missing, group=group)
    with bus.producer() as producer:
        receipt = producer.send(missing, b"v", key=b"k")
        with pytest.raises(SendFailed, match=missing):
            receipt.result(20)
        assert isinstance(producer.send(topic, b"v", key=b"k").result(20), Stored), "the producer is no longer usable"
    with bus.admin() as admin:
        with pytest.raises(NotFound):
            admin.describe_topic(missing)
        with pytest.raises(NotFound):
            admin.delete_topic(missing)
        assert missing not in admin.topics()
    assert time.monotonic() - started < 20


def test_a_broker_that_is_away_at_start_is_reported(
    open_bus: OpenBus, unreachable_url: str, topic: str, group: str
) -> None:
    # The URL says 2 s for connecting and 2 s for sending; the rest is for closing and a busy machine.
    bus = open_bus(unreachable_url)
    started = time.monotonic()
    with pytest.raises(Unavailable):
        bus.consumer(topic, group=group)
    assert time.monotonic() - started < 8
    started = time.monotonic()
    with bus.admin() as admin, pytest.raises(Unavailable):
        admin.topics()
    assert time.monotonic() - started < 8
    started = time.monotonic()
    with bus.producer() as producer:
        receipt = producer.send(topic, b"v")
        with pytest.raises((SendFailed, SendUnknown)):
            receipt.result(15)
    assert time.monotonic() - started < 10


@pytest.mark.usefixtures("processes_only")
def test_what_was_opened_before_a_fork_refuses_to_work_after(bus: EventBus, bus_url: str, topic: str) -> None:
    command = [sys.executable, "-m", "eventbus_conformance.forked", bus_url, topic]
    done = subprocess.run(command, capture_output=True, text=True, timeout=90, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    said = done.stdout.splitlines()
    assert said == ["send Forked", "flush Forked", "receive Forked", "own stored", "parent stored"]
    assert [each.record.value for each in bus.read(topic)] == [b"parent", b"child", b"parent again"]


# Groups


def test_keys_keep_their_order_with_four_members(members: Members, bus: EventBus, topic: str) -> None:
    running = [members.start(f"m{number}", pace_seconds=0.001, wait=False) for number in range(4)]
    members.wait_shared(*running, partitions=PARTITIONS)
    sent = send_all(bus, topic, 2000, keys=64)
    members.wait_handled(len(sent), HANDLE_SECONDS, *running)
    for member in running:
        member.leave()
    handled = members.history.handled()
    assert lost(sent, handled) == []
    assert phantoms(sent, handled) == []
    assert reordered(handled) == []
    assert len(members.history.handled_by()) == 4, "not every member handled something: nothing shown"
    if members.processes:
        assert len({each.pid for each in handled}) == 4


def test_members_of_a_settled_group_handle_each_record_once(
    members: Members, bus: EventBus, topic: str, group: str
) -> None:
    running = [members.start(f"m{number}", wait=False) for number in range(2)]
    members.wait_shared(*running, partitions=PARTITIONS)
    sent = send_all(bus, topic, 1000, keys=40)
    members.wait_handled(len(sent), HANDLE_SECONDS, *running)
    wait_until(lambda: total_lag(bus, group, topic) == 0, 15, what="everything is acked")
    for member in running:
        member.leave()
    handled = members.history.handled()
    assert lost(sent, handled) == []
    assert duplicated(handled) == []
    assert len(members.history.handled_by()) == 2
    assert {each.partition for each in handled} == set(range(PARTITIONS))


def test_every_group_gets_every_record(bus: EventBus, topic: str, group: str) -> None:
    with bus.consumer(topic, group=group) as one, bus.consumer(topic, group=f"{group}-b") as other:
        sent = send_all(bus, topic, 300, keys=20)
        first = take(one, 300, ack=True)
        assert one.flush(10) == 0
        assert total_lag(bus, group, topic) == 0
        assert total_lag(bus, f"{group}-b", topic) == 300, "acks of one group moved the other"
        second = take(other, 300, ack=True)
        assert nothing_more(one)
        assert nothing_more(other)
    for received in (first, second):
        assert {((each.record.key or b"").decode(), int(each.record.value or b"")) for each in received} == set(sent)


def test_a_group_goes_on_after_its_last_ack(open_bus: OpenBus, topic: str, group: str) -> None:
    bus = open_bus()
    send_all(bus, topic, 100, keys=10)
    with bus.consumer(topic, group=group) as consumer:
        acked = take(consumer, 60, ack=True)
    bus.close()
    again = open_bus()
    with again.consumer(topic, group=group) as consumer:
        rest = take(consumer, 40, ack=True)
        assert nothing_more(consumer)
    places = Counter((each.partition, each.position) for each in [*acked, *rest])
    assert len(places) == 100
    assert max(places.values()) == 1


def test_what_was_not_acked_is_delivered_again(bus: EventBus, topic: str, group: str) -> None:
    with bus.producer() as producer:
        for number in range(20):
            producer.send(topic, str(number).encode(), key=b"one")
    with bus.consumer(topic, group=group) as consumer:
        received = take(consumer, 20)
        # An ack behind an unacked record must not settle that record.
        consumer.ack(*received[:5], *received[6:])
        assert consumer.flush(10) == 0
    with bus.consumer(topic, group=group) as consumer:
        again = take(consumer, 15)
        assert nothing_more(consumer)
        consumer.ack(*again)
    assert [int(each.record.value or b"") for each in again] == list(range(5, 20))
    assert total_lag(bus, group, topic) == 0


def test_a_killed_member_loses_nothing(
    members: Members, open_bus: OpenBus, topic: str, capabilities: Capabilities
) -> None:
    bus = open_bus()
    running = [members.start(f"m{number}", pace_seconds=0.002, wait=False) for number in range(3)]
    members.wait_shared(*running, partitions=PARTITIONS)
    victim, *others = running
    with Stream(bus, topic, keys=48, per_second=600) as stream:
        wait_until(lambda: len(members.history.handled(victim.name)) > 50, 30, what="the victim works")
        victim.kill()
        killed_at = time.monotonic()
        its_partitions = {each.partition for each in members.history.handled(victim.name)}
        taken_over = wait_until(
            lambda: {each.partition for each in members.history.handled() if each.at > killed_at} >= its_partitions,
            capabilities.max_takeover_seconds + 10,
            what=f"partitions {its_partitions} of the victim are taken over",
        )
        sent = stream.finish()
    assert taken_over
    members.wait_handled(len(sent), HANDLE_SECONDS, *others)
    for member in others:
        member.leave()
    handled = members.history.handled()
    assert lost(sent, handled) == []
    assert reordered(handled) == []
    after = [each for each in handled if each.at > killed_at]
    assert after, "the kill came after the work: nothing shown"
    assert {each.member for each in after} <= {each.name for each in others}
    if capabilities.idempotent_send:
        assert stored_twice(handled) == []


def test_order_survives_members_joining_and_leaving(
    members: Members, bus: EventBus, topic: str, capabilities: Capabilities
) -> None:
    with Stream(bus, topic, keys=48, per_second=400) as stream:
        first = members.start("m0", pace_seconds=0.001)
        wait_until(lambda: len(members.history.handled("m0")) > 50, 30, what="m0 works alone")
        joining = [members.start(f"m{number}", pace_seconds=0.001, wait=False) for number in (1, 2, 3)]
        members.wait_shared(first, *joining, partitions=PARTITIONS)
        wait_until(lambda: len(members.history.handled_by()) == 4, 30, what="all four work")
        first.leave()
        joining[0].leave()
        members.wait_shared(*joining[1:], partitions=PARTITIONS)
        settled_at = time.monotonic()
        wait_until(
            lambda: (
                {each.partition for each in members.history.handled() if each.at > settled_at} == set(range(PARTITIONS))
            ),
            30,
            what="the remaining two work on all partitions",
        )
        sent = stream.finish()
    members.wait_handled(len(sent), HANDLE_SECONDS, *joining[1:])
    for member in joining[1:]:
        member.leave()
    handled = members.history.handled()
    assert lost(sent, handled) == []
    assert reordered(handled) == []
    moved = {each.partition for each in handled if each.member == "m0"} & {
        each.partition for each in handled if each.member != "m0"
    }
    assert moved, "no partition moved: nothing shown"
    if capabilities.announced_moves:
        # Who leaves or hands over in good order finishes first, so nothing is handled twice.
        assert duplicated(handled) == []


def test_a_new_group_at_latest_keeps_its_place_though_its_first_member_dies(
    members: Members, bus: EventBus, topic: str, group: str, capabilities: Capabilities
) -> None:
    send_all(bus, topic, 40, keys=10)
    members.start("first", start="latest").kill()
    send_all(bus, topic, 60, keys=10, first=40)
    assert members.history.count() == 0, "the first member handled something: nothing shown"
    with bus.consumer(topic, group=group, start="latest") as second:
        received = take(second, 60, capabilities.max_takeover_seconds + 20, ack=True)
        assert nothing_more(second)
    assert min(numbers(received)) == 4


def test_start_acts_on_a_new_group_only(bus: EventBus, topic: str, group: str) -> None:
    send_all(bus, topic, 30, keys=10)
    with bus.consumer(topic, group=group, start="latest") as consumer:
        assert nothing_more(consumer, 0.5)
    send_all(bus, topic, 30, keys=10, first=30)
    with bus.consumer(topic, group=group, start="earliest") as consumer:
        received = take(consumer, 30, ack=True)
        assert nothing_more(consumer)
    assert min(numbers(received)) == 3, "start moved a group that had a position"
    with bus.consumer(topic, group=group, start="latest") as consumer:
        send_all(bus, topic, 10, keys=10, first=60)
        assert numbers(take(consumer, 10, ack=True)) == [6] * 10


def test_latest_misses_nothing_sent_after_consumer_returned(bus: EventBus, topic: str, group: str) -> None:
    with bus.producer() as producer:
        for number in range(5):
            with bus.consumer(topic, group=f"{group}-{number}", start="latest") as consumer:
                for key in range(8):
                    producer.send(topic, str(number).encode(), key=f"key-{key}".encode()).result(30)
                assert numbers(take(consumer, 8, ack=True)) == [number] * 8


def test_seek_moves_the_group(bus: EventBus, topic: str, group: str) -> None:
    send_all(bus, topic, 80, keys=8)
    with bus.consumer(topic, group=group) as consumer:
        received = take(consumer, 80, ack=True)
        assert consumer.flush(10) == 0
        stale = received[-1]
        consumer.seek("earliest")
        assert not stale.owned
        again = take(consumer, 80)
        assert [each.position for each in again if each.partition == stale.partition] == [
            each.position for each in received if each.partition == stale.partition
        ]
        middle = [each for each in again if each.partition == stale.partition][5]
        consumer.seek(middle.position, topic=topic, partition=middle.partition)
        from_middle = take(consumer, sum(each.partition == middle.partition for each in again) - 5)
        assert from_middle[0].position == middle.position
        assert {each.partition for each in from_middle} == {middle.partition}
        consumer.seek("latest")
        assert nothing_more(consumer)
        assert total_lag(bus, group, topic) == 0
        send_all(bus, topic, 8, keys=8, first=80)
        assert numbers(take(consumer, 8, ack=True)) == [10] * 8


def test_seek_by_stated_time(bus: EventBus, topic: str, group: str, capabilities: Capabilities) -> None:
    if not capabilities.seek_by_time:
        pytest.skip("capability seek_by_time")
    # Recent stated times: whole seconds, each used by one record of each of eight keys.
    base = datetime.now(UTC).replace(microsecond=0) - timedelta(minutes=10)
    with bus.producer() as producer:
        for second in range(10):
            for key in range(8):
                at = base + timedelta(seconds=second)
                producer.send(topic, str(second).encode(), key=f"key-{key}".encode(), timestamp=at)
    expected = sorted(second for second in range(4, 10) for _ in range(8))
    with bus.consumer(topic, group=group) as consumer:
        take(consumer, 80, ack=True)
        consumer.seek(base + timedelta(seconds=4))
        assert numbers(take(consumer, 48)) == expected, "records of exactly that time belong to it"
        assert nothing_more(consumer)
        consumer.seek(base + timedelta(seconds=3, milliseconds=1))
        assert numbers(take(consumer, 48)) == expected
        consumer.seek(base - timedelta(days=1))
        assert len(take(consumer, 80)) == 80
        consumer.seek(base + timedelta(days=1))
        assert nothing_more(consumer)
    with bus.consumer(topic, group=f"{group}-b", start=base + timedelta(seconds=4)) as consumer:
        assert numbers(take(consumer, 48)) == expected


def test_seek_by_the_time_of_sending(bus: EventBus, topic: str, group: str, capabilities: Capabilities) -> None:
    if not capabilities.seek_by_time:
        pytest.skip("capability seek_by_time")
    send_all(bus, topic, 40, keys=8)
    between = datetime.now(UTC) + timedelta(milliseconds=200)
    later = between + timedelta(milliseconds=200)
    wait_until(lambda: datetime.now(UTC) > later, 5, what="the clock goes on")
    send_all(bus, topic, 40, keys=8, first=40)
    newer = sorted(number // 8 for number in range(40, 80))
    with bus.consumer(topic, group=group) as consumer:
        take(consumer, 80, ack=True)
        consumer.seek(between)
        assert numbers(take(consumer, 40)) == newer
        assert nothing_more(consumer, 0.5)
    with bus.consumer(topic, group=f"{group}-b", start=between) as consumer:
        assert numbers(take(consumer, 40)) == newer


def test_pause_and_resume(bus: EventBus, topic: str, group: str) -> None:
    with bus.consumer(topic, group=group) as consumer:
        send_all(bus, topic, 40, keys=20)
        first = take(consumer, 40, ack=True)
        paused = first[0].partition
        here = sum(each.partition == paused for each in first)
        assert 0 < here < 40, "one partition has everything: nothing shown"
        consumer.pause(topic, paused)
        send_all(bus, topic, 40, keys=20, first=40)
        others = take(consumer, 40 - here, ack=True)
        assert paused not in {each.partition for each in others}
        assert nothing_more(consumer)
        consumer.resume(topic, paused)
        rest = take(consumer, here, ack=True)
        assert {each.partition for each in rest} == {paused}
        assert nothing_more(consumer, 0.5)
        positions = [each.position for each in rest]
        assert positions == sorted(positions)


def test_a_consumer_belongs_to_one_thread(bus: EventBus, topic: str, group: str) -> None:
    raised: list[BaseException] = []
    with bus.consumer(topic, group=group) as consumer:
        consumer.receive(timeout=0.1)

        def use() -> None:
            try:
                consumer.receive(timeout=0.1)
            except UsageError as error:
                raised.append(error)

        thread = threading.Thread(target=use)
        thread.start()
        thread.join(10)
        assert not thread.is_alive()
        assert len(raised) == 1
        send_all(bus, topic, 1, keys=1)
        assert len(take(consumer, 1, ack=True)) == 1, "the owner can no longer use it"
    consumer.close()
    with pytest.raises(Closed):
        consumer.receive()


@pytest.mark.usefixtures("processes_only")
def test_the_late_ack_of_a_former_owner_changes_nothing(
    members: Members, bus: EventBus, topic: str, group: str, capabilities: Capabilities
) -> None:
    if not capabilities.fenced_ack:
        pytest.skip("capability fenced_ack")
    sent = send_all(bus, topic, 200, keys=40)
    frozen = members.start("frozen", hold_acks=True)
    members.wait_handled(len(sent), HANDLE_SECONDS, frozen)
    frozen.freeze()
    try:
        with bus.consumer(topic, group=group) as heir:
            received = take(heir, 200, capabilities.max_takeover_seconds + 20)
            prefixes = [[each for each in received if each.partition == number][:3] for number in range(PARTITIONS)]
            acked = [each for prefix in prefixes for each in prefix]
            heir.ack(*acked)
            assert heir.flush(10) == 0
            assert total_lag(bus, group, topic) == 200 - len(acked)
            frozen.ack_held()
            frozen.thaw()
            late = wait_until(lambda: members.history.events("acked", "frozen"), 30, what="the former owner acks late")
            assert late[0]["records"] == 200, "it held back less than it handled: nothing shown"
            assert total_lag(bus, group, topic) == 200 - len(acked)
    finally:
        frozen.thaw()


# The broker


def test_a_broker_that_is_killed_and_started_loses_nothing(
    broker: BrokerControl, members: Members, open_bus: OpenBus, topic: str, capabilities: Capabilities
) -> None:
    bus = open_bus()
    running = [members.start(f"m{number}", wait=False) for number in range(2)]
    members.wait_shared(*running, partitions=PARTITIONS)
    with Stream(bus, topic, keys=48, per_second=500) as stream:
        wait_until(lambda: members.history.count() > 200, 30, what="members work")
        broker.kill()
        try:
            handled_before = members.history.count()
            sent_before = len(stream.receipts)
            wait_until(lambda: len(stream.receipts) > sent_before + 100, 10, what="sending goes on meanwhile")
            open_meanwhile = sum(not receipt.done() for receipt in stream.receipts)
        finally:
            broker.start()
        wait_until(lambda: members.history.count() > handled_before + 500, HANDLE_SECONDS, what="handling goes on")
        sent = stream.finish()
    assert open_meanwhile > 0, "nothing was open while the broker was away: nothing shown"
    members.wait_handled(len(sent), HANDLE_SECONDS, *running)
    for member in running:
        member.leave()
    handled = members.history.handled()
    stored = read_all(open_bus(), topic)
    assert lost(sent, stored) == []
    assert lost(sent, handled) == []
    assert phantoms(sent, handled) == []
    assert reordered(stored) == []
    assert reordered(handled) == []
    if capabilities.idempotent_send:
        assert stored_twice(stored) == []
        assert duplicated(stored) == []


# Admin


def test_creating_a_topic_twice_is_fine_and_with_another_count_a_conflict(bus: EventBus, topic: str) -> None:
    with bus.admin() as admin:
        send_all(bus, topic, 5, keys=5)
        admin.create_topic(topic, PARTITIONS)
        assert len(read_all(bus, topic)) == 5, "creating it again emptied it"
        with pytest.raises(Conflict):
            admin.create_topic(topic, PARTITIONS + 1)
        assert admin.describe_topic(topic).partitions == PARTITIONS


def test_topics_are_listed_described_and_deleted(bus: EventBus, topic: str) -> None:
    other = f"{topic}-one"
    with bus.admin() as admin:
        admin.create_topic(other, 1)
        assert {topic, other} <= set(admin.topics())
        assert list(admin.topics()) == sorted(admin.topics())
        with bus.producer() as producer:
            for number in range(10):
                producer.send(other, str(number).encode(), key=b"k").result(30)
        read = list(bus.read(other))
        info = admin.describe_topic(other)
        assert (info.name, info.partitions, len(info.firsts), len(info.ends)) == (other, 1, 1, 1)
        assert info.firsts[0] == read[0].position
        assert info.ends[0] is not None
        assert info.ends[0] > read[-1].position
        admin.delete_topic(other)
        wait_until(lambda: other not in admin.topics(), 10, what="the topic is gone")
        with pytest.raises(NotFound):
            admin.describe_topic(other)
        admin.create_topic(other, 2)
        assert list(bus.read(other)) == [], "a new topic has records of the old one"
        admin.delete_topic(other)


def test_lag_is_exact(bus: EventBus, topic: str, group: str) -> None:
    with bus.admin() as admin:
        with pytest.raises(NotFound):
            admin.lag(group, topic)
        with bus.consumer(topic, group=group) as consumer:
            assert [each.records for each in admin.lag(group, topic)] == [0] * PARTITIONS
            send_all(bus, topic, 90, keys=30)
            per_partition = Counter(each.partition for each in read_all(bus, topic))
            assert [each.records for each in admin.lag(group, topic)] == [per_partition[n] for n in range(PARTITIONS)]
            received = take(consumer, 90)
            assert sum(each.records for each in admin.lag(group, topic)) == 90, "receiving is not acking"
            half = [each for each in received if each.partition % 2]
            assert 0 < len(half) < 90
            consumer.ack(*half)
            assert consumer.flush(10) == 0
            lag = admin.lag(group, topic)
            assert [each.records for each in lag] == [0 if n % 2 else per_partition[n] for n in range(PARTITIONS)]
            assert [(each.topic, each.partition) for each in lag] == [(topic, n) for n in range(PARTITIONS)]
            consumer.ack(*(each for each in received if not each.partition % 2))
            assert consumer.flush(10) == 0
        assert [each.records for each in admin.lag(group, topic)] == [0] * PARTITIONS
        assert list(admin.lag(group)) == list(admin.lag(group, topic))


def test_groups_are_listed_moved_and_deleted(bus: EventBus, topic: str, group: str) -> None:
    send_all(bus, topic, 40, keys=20)
    with bus.admin() as admin:
        with bus.consumer(topic, group=group) as consumer:
            take(consumer, 40, ack=True)
            assert consumer.flush(10) == 0
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
            first = take(consumer, 1)[0]
            assert (first.partition, first.position) == (1, third.position)
        admin.delete_group(group)
        assert group not in [each.name for each in admin.groups()]
        with pytest.raises(NotFound):
            admin.delete_group(group)
        with bus.consumer(topic, group=group) as consumer:
            assert len(take(consumer, 40, ack=True)) == 40, "a group made anew has the old one's position"

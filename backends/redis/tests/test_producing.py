from __future__ import annotations

import threading
import time

import pytest

from eventbus_core.backend import Outgoing, Settled
from eventbus_core.errors import NotFound, SendFailed, Unavailable
from eventbus_core.records import Position, Record, Stored
from eventbus_redis.connection import Link
from tests.waiting import wait_until


def test_places_are_dense_and_in_order(bus):
    settled = bus.send(bus.producer(), [str(i) for i in range(1200)])
    places = [each.outcome.position for each in settled]
    assert [place[1] for place in places] == list(range(1, 1201))
    assert places == sorted(places)
    assert bus.stored() == [str(i) for i in range(1200)]
    found = bus.admin.read(bus.topic, settled[7].outcome.partition, places[7], 1, 0)
    assert found[0].record.value == b"7"
    assert Position.parse(str(places[7])) == places[7]


def test_a_lost_reply_never_duplicates(bus, proxy):
    producer = bus.producer(proxy.url)
    bus.send(producer, ["first"])
    for attempt in range(5):
        proxy.drop_next_reply = True
        settled = bus.send(producer, [f"{attempt}-{i}" for i in range(20)])
        assert all(isinstance(each.outcome, Stored) for each in settled)
    assert proxy.dropped == 5
    assert bus.stored() == ["first"] + [f"{attempt}-{i}" for attempt in range(5) for i in range(20)]


def test_places_told_after_a_lost_reply_are_the_real_ones(bus, proxy):
    producer = bus.producer(proxy.url)
    bus.send(producer, ["first"])
    proxy.drop_next_reply = True
    (settled,) = bus.send(producer, ["x"])
    found = bus.admin.read(bus.topic, settled.outcome.partition, settled.outcome.position, 1, 0)
    assert found[0].record.value == b"x"
    assert proxy.dropped == 1


def test_a_full_server_fails_the_send_writes_nothing_and_lets_groups_settle(bus):
    producer, consumer = bus.producer(), bus.consumer()
    bus.send(producer, ["before"])
    bus.raw.config_set("maxmemory", 1)
    try:
        (settled,) = bus.send(producer, ["refused"])
        (delivery,) = bus.receive(consumer, 1)
        consumer.ack([delivery])
    finally:
        bus.raw.config_set("maxmemory", 0)
    assert isinstance(settled.outcome, SendFailed)
    assert "maxmemory" in str(settled.outcome)
    assert sum(each.records for each in bus.admin.lag("g", bus.topic)) == 0
    bus.send(producer, ["after"])
    assert bus.stored() == ["before", "after"]


def test_full_after_a_lost_reply_is_not_reported_as_failed(bus, proxy):
    producer = bus.producer(proxy.url)
    bus.send(producer, ["first"])
    proxy.drop_next_reply = True
    producer.send([Outgoing(0, Record(bus.topic, b"stored", b"k"))])
    wait_until(lambda: not producer.poll(0.01) and proxy.dropped, 5, what="the reply to be dropped")
    bus.raw.config_set("maxmemory", 1)
    try:
        settled = [each for _ in range(5) for each in producer.poll(0.02)]
    finally:
        bus.raw.config_set("maxmemory", 0)
    # The write was there already; whatever was said while the server was full, it was not "failed".
    assert not any(isinstance(each.outcome, SendFailed) for each in settled)
    if not settled:
        settled = wait_until(lambda: producer.poll(0.2), 5, what="the send settled")
    assert isinstance(settled[0].outcome, Stored)
    assert bus.stored() == ["first", "stored"]


def test_a_missing_topic_fails_the_send(bus):
    producer = bus.producer()
    producer.send([Outgoing(1, Record("no-such-topic", b"v"))])
    (settled,) = producer.poll(1.0)
    assert isinstance(settled.outcome, SendFailed)
    assert isinstance(settled.outcome.__cause__, NotFound)


def test_a_forgotten_writer_goes_on_behind_what_is_left(bus, caplog):
    producer = bus.producer()
    bus.send(producer, ["a", "b"])
    partition = bus.send(producer, ["c"])[0].outcome.partition
    meta = bus.backend.settings.prefix + f":{{{bus.topic}.{partition}}}:m"
    (field,) = [name for name in bus.raw.hkeys(meta) if name.startswith(b"P:")]
    start, _, rest = bus.raw.hget(meta, field).decode().partition(" ")
    bus.raw.hset(meta, field, f"{int(start) - 1} {rest}")  # as if the last batch were lost in a failover
    bus.send(producer, ["d"])
    assert bus.stored() == ["a", "b", "c", "d"]
    assert "lost records that it had confirmed" in caplog.text


def test_recreated_topic_fails_once_and_then_works(bus):
    producer = bus.producer()
    bus.send(producer, ["old"])
    bus.admin.delete_topic(bus.topic)
    bus.admin.create_topic(bus.topic, 3)
    (settled,) = bus.send(producer, ["refused"])
    assert isinstance(settled.outcome, SendFailed)
    bus.send(producer, ["new"])
    assert bus.stored() == ["new"]


@pytest.mark.parametrize(
    "times",
    [
        [None, None, None],
        [5, 3, 9, 9, 8],
        [-3, 0, 1, -7],
        [None, 4, None, 5_000_000_000_000, None, 7, -1],
    ],
    ids=str,
)
def test_places_are_the_ids_in_the_log_whatever_the_timestamps(bus, times):
    producer = bus.producer()
    producer.send([Outgoing(at, Record(bus.topic, b"%d" % at, b"k", (), each)) for at, each in enumerate(times)])
    settled = sorted(wait_until(lambda: producer.poll(0.2), 5, what="the sends settled"))
    places = [each.outcome for each in settled]
    found = bus.admin.read(bus.topic, places[0].partition, "earliest", 100, 0)
    assert [each.position for each in found] == [each.position for each in places]
    assert [each.record.value for each in found] == [b"%d" % at for at in range(len(times))]
    highest = 0
    for sent, place, delivery in zip(times, places, found, strict=True):
        assert place.timestamp_ms == (place.timestamp_ms if sent is None else sent)
        highest = max(highest, 1, place.timestamp_ms)
        assert place.position[0] == highest
        assert delivery.record.timestamp_ms == (place.position[0] if sent is None else sent)


def test_a_batch_of_every_size_is_written_whole_and_in_order(bus):
    # More than is gathered before it is sent, in all partitions at a time, with records that differ in size.
    producer = bus.producer()
    values = [f"{number} ".encode() + b"x" * (number * 37 % 9000) for number in range(400)]
    producer.send([Outgoing(at, Record(bus.topic, each, b"%d" % (at % 7))) for at, each in enumerate(values)])
    settled: list[Settled] = []
    wait_until(lambda: settled.extend(producer.poll(0.2)) or len(settled) == len(values), 10, what="all settled")
    by_key: dict[bytes, list[int]] = {}
    for partition in range(2):
        for each in bus.admin.read(bus.topic, partition, "earliest", 1000, 0):
            by_key.setdefault(each.record.key, []).append(int(each.record.value.partition(b" ")[0]))
            assert each.record.value == values[by_key[each.record.key][-1]]
    assert by_key == {b"%d" % key: list(range(key, 400, 7)) for key in range(7)}


def test_a_call_whose_connection_is_cut_late_ends_within_its_time(make_bus, proxy):
    bus = make_bus(request_timeout_seconds=2.0)
    link = Link(bus.at(proxy.url).settings)
    link.open()
    proxy.swallow = True
    limit = bus.settings["request_timeout_seconds"]
    cutting = threading.Timer(0.8 * limit, proxy.cut)
    cutting.start()
    began = time.monotonic()
    with pytest.raises(Unavailable):
        link.command("PING", doing="asking")
    assert time.monotonic() - began < 1.5 * limit
    cutting.join()
    link.close()

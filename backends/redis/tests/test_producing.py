from __future__ import annotations

from eventbus_core.backend import Outgoing
from eventbus_core.errors import NotFound, SendFailed
from eventbus_core.records import Position, Record, Stored
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

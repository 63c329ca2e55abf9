"""A topic that gets more partitions while it is used. The bus has no verb for it; operators grow topics."""

from __future__ import annotations

import threading
import time
from collections import defaultdict
from itertools import pairwise

import httpx
import pytest

from eventbus_core.backend import Outgoing
from eventbus_core.errors import Conflict, SendFailed
from eventbus_core.records import Record, Stored
from tests.waiting import wait_until

NOTICED_SECONDS = 7.0


@pytest.fixture
def counted_every_second(monkeypatch):
    """Most of the time until growth is noticed is then what a busy machine may take."""
    monkeypatch.setattr("eventbus_pulsar.producer.COUNT_SECONDS", 1.0)
    monkeypatch.setattr("eventbus_pulsar.consumer._COUNT_SECONDS", 1.0)


def grow(bus, partitions: int) -> None:
    url = f"{bus.broker.admin_url}/admin/v2/persistent/public/default/{bus.topic}/partitions"
    assert httpx.post(url, json=partitions).status_code == 204


def spread(bus, count: int) -> list[Record]:
    return [Record(bus.topic, b"%d" % number, b"k%d" % (number % 40)) for number in range(count)]


@pytest.mark.usefixtures("counted_every_second")
def test_a_producer_uses_new_partitions_after_what_it_sent_before(bus):
    producer = bus.producer()
    sent: list[Record] = []
    settled: list[tuple[int, int]] = []

    def used() -> set[int]:
        number = len(sent)
        fresh = [Record(bus.topic, b"%d" % (number + each), b"k%d" % (each % 40)) for each in range(400)]
        producer.send([Outgoing(number + at, record) for at, record in enumerate(fresh)])
        sent.extend(fresh)
        for token, outcome in producer.poll(0.05):
            assert isinstance(outcome, Stored)
            settled.append((token, outcome.partition))
        return {partition for _, partition in settled}

    wait_until(used, 5, what="the first is stored")
    grow(bus, 3)
    wait_until(lambda: used() == {0, 1, 2}, NOTICED_SECONDS, what="the new partitions are used")
    while len(settled) < len(sent):
        settled += [(token, outcome.partition) for token, outcome in producer.poll(0.2)]
    of_key = defaultdict(list)
    for token, partition in settled:
        of_key[token % 40].append((token, partition))
    for history in of_key.values():
        assert history == sorted(history), "a record of a key was stored before an earlier one"
        moves = sum(before != after for (_, before), (_, after) in pairwise(history))
        assert moves <= 1
    stored = [each.record.value for at in range(3) for each in bus.admin.read(bus.topic, at, "earliest", 100_000, 2)]
    assert sorted(stored) == sorted(each.value for each in sent)


def test_what_waits_for_growth_is_sent_though_the_topic_is_looked_up_again_meanwhile(bus, monkeypatch):
    producer = bus.producer()
    refused = threading.Event()
    open_, failing = producer._open, [True]

    def fail_once(topic: str, partition: int) -> object:
        if failing:
            failing.clear()
            refused.wait(10)
            raise Conflict("refused once")
        return open_(topic, partition)

    monkeypatch.setattr(producer, "_open", fail_once)
    settled: dict[int, object] = {}
    producer.send([Outgoing(0, Record(bus.topic, b"0", b"k"))])
    wait_until(lambda: producer.poll(0.01) or not failing, 10, what="the opening")
    grow(bus, 2)
    producer._topics[bus.topic].grown_to = 2
    producer.send([Outgoing(1, Record(bus.topic, b"1", b"k"))])
    refused.set()

    def both() -> bool:
        settled.update(producer.poll(0.1))
        return len(settled) == 2

    wait_until(both, 10, what="both settled")
    assert isinstance(settled[0], SendFailed)
    assert isinstance(settled[1], Stored)


@pytest.mark.usefixtures("counted_every_second")
def test_no_record_overtakes_one_that_is_stuck_on_its_way_to_the_old_partition(bus, proxy):
    producer = bus.producer(proxy.url)
    bus.send(producer, spread(bus, 40))
    proxy.swallow_requests = True
    producer.send([Outgoing(100 + at, record) for at, record in enumerate(spread(bus, 40))])
    settled: list[int] = []
    grow(bus, 3)

    def noticed() -> bool:
        settled.extend(each.token for each in producer.poll(0.05))
        return bool(producer._topics[bus.topic].grown_to)

    wait_until(noticed, NOTICED_SECONDS, what="the growth is noticed")
    producer.send([Outgoing(200 + at, record) for at, record in enumerate(spread(bus, 40))])
    producer.poll(0.2)
    proxy.swallow_requests = False
    proxy.cut()

    def all_settled() -> bool:
        settled.extend(each.token for each in producer.poll(0.05))
        return len(settled) == 80

    wait_until(all_settled, 20, what="all are stored")
    assert max(settled.index(token) for token in range(100, 140)) < min(
        settled.index(token) for token in range(200, 240)
    )


@pytest.mark.usefixtures("counted_every_second")
def test_a_consumer_reads_new_partitions_from_their_beginning(bus):
    consumer = bus.consumer()
    bus.send(bus.producer(), ["before"])
    assert bus.values(bus.receive(consumer, 1)) == ["before"]
    grow(bus, 3)
    started = time.monotonic()
    # A producer that is opened now knows the new partitions at once, earlier than the consumer may.
    bus.send(bus.producer(), spread(bus, 100))
    found = bus.receive(consumer, 100, timeout=NOTICED_SECONDS)
    assert time.monotonic() - started < NOTICED_SECONDS
    assert {each.partition for each in found} == {0, 1, 2}
    assert sorted(int(each) for each in bus.values(found)) == list(range(100))


def test_a_group_that_is_away_while_a_topic_grows_misses_nothing(bus):
    bus.consumer(start="latest").close()
    grow(bus, 3)
    bus.send(bus.producer(), spread(bus, 100))
    found = bus.receive(bus.consumer(start="latest"), 100)
    assert sorted(int(each) for each in bus.values(found)) == list(range(100))

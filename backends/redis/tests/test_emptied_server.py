"""A server that loses everything while producers produce and members consume: nothing hangs, nothing is silent."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from functools import partial

import pytest

from eventbus_core import Consumer, EventBus, Producer
from eventbus_core.backend import Group
from eventbus_core.errors import EventBusError, NotFound, SendError, SendFailed
from eventbus_core.records import Stored
from eventbus_redis.backend import RedisBackend
from eventbus_redis.consumer import RedisConsumer
from eventbus_redis.settings import RedisSettings
from eventbus_redis.topics import topic_shape
from tests.waiting import wait_until

from .own_server import OwnServer

NOTICED_SECONDS = 5.0
"""A beat a second, and the time to connect again."""


class Load:
    """A thread that sends one record after the other, and one per consumer that receives and acks."""

    def __init__(self, producer: Producer, consumers: list[Consumer]) -> None:
        self.producer = producer
        self.stored: list[Stored] = []
        self.failed: list[SendError] = []
        self.ended: list[tuple[float, EventBusError]] = []
        self.handled = 0
        self._stop = threading.Event()
        work = [self._send, *(partial(self._receive, each) for each in consumers)]
        self._threads = [threading.Thread(target=each) for each in work]
        for each in self._threads:
            each.start()

    def _send(self) -> None:
        number = 0
        while not self._stop.wait(0.002):
            number += 1
            try:
                self.stored.append(self.producer.send("orders", b"%d" % number, key=b"%d" % (number % 7)).result(20))
            except SendError as error:
                self.failed.append(error)

    def _receive(self, consumer: Consumer) -> None:
        try:
            while not self._stop.is_set():
                deliveries = consumer.receive(50, timeout=0.1)
                consumer.ack(*deliveries)
                self.handled += len(deliveries)
        except EventBusError as error:
            self.ended.append((time.monotonic(), error))

    def close(self) -> None:
        self._stop.set()
        for each in self._threads:
            each.join()


@pytest.fixture(scope="module")
def server() -> Iterator[OwnServer]:
    started = OwnServer()
    yield started
    started.close()


@pytest.fixture
def bus(server: OwnServer) -> Iterator[EventBus]:
    with server.raw() as raw:
        raw.flushall()
    with EventBus(f"{server.url}?lease_seconds=2&request_timeout_seconds=2") as made:
        made.admin().create_topic("orders", 4)
        yield made


@pytest.fixture
def load(bus: EventBus) -> Iterator[Load]:
    consumers = [bus.consumer("orders", group="g") for _ in range(2)]
    made = Load(bus.producer(), consumers)
    yield made
    made.close()


def flush(server: OwnServer) -> None:
    with server.raw() as raw:
        raw.flushall()


@pytest.mark.parametrize("empty", [flush, OwnServer.restart], ids=["FLUSHALL", "restart without persistence"])
def test_everybody_is_told_that_the_topic_is_gone(server, bus, load, empty: Callable[[OwnServer], None]):
    wait_until(lambda: load.handled > 100, 10, what="the work to be under way")
    empty(server)
    emptied = time.monotonic()
    wait_until(lambda: len(load.ended) == 2 and load.failed, NOTICED_SECONDS, what="all to be told")
    for at, error in load.ended:
        assert isinstance(error, NotFound), error
        assert "lost its data" in str(error)
        assert at - emptied < NOTICED_SECONDS
    stored = len(load.stored)
    failed = len(load.failed)
    wait_until(lambda: len(load.failed) > failed + 10, 5, what="more sends to fail")
    assert len(load.stored) == stored
    for error in load.failed:
        assert isinstance(error, SendFailed)
        assert isinstance(error.__cause__, NotFound)
    assert bus.admin().topics() == []
    for verb in (lambda: bus.admin().lag("g", "orders"), lambda: bus.consumer("orders", group="g")):
        with pytest.raises(NotFound):
            verb()


@pytest.mark.parametrize("made_anew", [False, True], ids=["gone", "made anew"])
def test_members_that_have_nothing_to_do_are_told_too(server, bus, made_anew):
    consumers = [bus.consumer("orders", group="g") for _ in range(5)]  # one more than partitions
    wait_until(lambda: sum(len(each.assignments) for each in consumers) == 4, 10, what="all partitions assigned")
    flush(server)
    if made_anew:
        bus.admin().create_topic("orders", 4)
    for consumer in consumers:
        with pytest.raises(NotFound, match="lost its data"):
            wait_until(partial(consumer.receive, 1, timeout=0.2), NOTICED_SECONDS, what="the consumer to be told")


def test_what_was_emptied_stays_empty(server, bus, load):
    wait_until(lambda: load.handled > 100, 10, what="the work to be under way")
    flush(server)
    wait_until(lambda: len(load.ended) == 2, NOTICED_SECONDS, what="the consumers to be told")
    load.close()
    with server.raw() as raw:
        assert raw.keys() == []


def open_member(server: OwnServer, name: str) -> RedisConsumer:
    """Polled by the test alone."""
    return RedisBackend(RedisSettings(url=server.url)).consumer(Group("g", ("orders",), "earliest", name, 5.0))


@pytest.mark.parametrize("idle", [False, True], ids=["with partitions", "without"])
@pytest.mark.usefixtures("bus")
def test_a_beat_that_is_under_way_meanwhile_leaves_nothing_behind(server, monkeypatch, idle):
    member = open_member(server, "m")
    if not idle:
        assert member.poll(0, 0.0, ()).changes

    def seen_and_emptied(*place):
        shape = topic_shape(*place)
        flush(server)
        return shape

    monkeypatch.setattr("eventbus_redis.consumer.topic_shape", seen_and_emptied)
    member._next_beat = 0.0
    with pytest.raises(NotFound, match="lost its data"):
        member.poll(0, 0.0, ())
    member.close()
    with server.raw() as raw:
        assert raw.keys() == []


def test_a_member_of_what_was_lost_touches_nothing_of_what_was_made_anew(server, bus):
    former = open_member(server, "m")
    assert former.poll(0, 0.0, ()).changes
    flush(server)
    bus.admin().create_topic("orders", 4)
    present = open_member(server, "m")
    assert present.poll(0, 0.0, ()).changes
    former._next_beat = 0.0
    with pytest.raises(NotFound, match="lost its data"):
        former.poll(0, 0.0, ())
    with server.raw() as raw:
        before = {name: raw.dump(name) for name in raw.scan_iter()}
        former.close()
        assert {name: raw.dump(name) for name in raw.scan_iter()} == before
    present.close()


def test_a_topic_made_anew_is_used_by_the_same_producer_and_by_new_consumers(server, bus, load):
    wait_until(lambda: load.handled > 100, 10, what="the work to be under way")
    flush(server)
    wait_until(lambda: len(load.ended) == 2 and load.failed, NOTICED_SECONDS, what="all to be told")
    stored = len(load.stored)
    bus.admin().create_topic("orders", 4)
    wait_until(lambda: len(load.stored) > stored + 20, 5, what="records in the new topic")
    with bus.consumer("orders", group="g") as consumer:
        deliveries = wait_until(lambda: consumer.receive(5, timeout=0.2), 10, what="records of the new topic")
    assert min(each.position[1] for each in deliveries) == 1


def test_a_topic_made_anew_before_anybody_looked_is_not_taken_for_the_old_one(server, bus, load):
    wait_until(lambda: load.handled > 100, 10, what="the work to be under way")
    with server.raw() as raw, EventBus(server.url) as other, other.admin() as admin:
        raw.flushall()
        admin.create_topic("orders", 4)
    wait_until(lambda: len(load.ended) == 2 and load.failed, NOTICED_SECONDS, what="all to be told")
    assert all(isinstance(error, NotFound) for _, error in load.ended)
    assert all(isinstance(error.__cause__, NotFound) for error in load.failed)


def test_one_lost_log_among_several_ends_its_owner(server, bus, load):
    wait_until(lambda: load.handled > 100, 10, what="the work to be under way")
    with server.raw() as raw:
        assert raw.delete("eb:{orders.2}:s") == 1
    wait_until(lambda: load.ended and load.failed, NOTICED_SECONDS, what="owner and producer to be told")
    assert all(isinstance(error, NotFound) for _, error in load.ended)
    assert {type(error.__cause__) for error in load.failed} == {NotFound}


def test_scripts_that_the_server_forgot_are_taught_again(server, bus, load):
    wait_until(lambda: load.handled > 100, 10, what="the work to be under way")
    with server.raw() as raw:
        raw.script_flush()
    stored, handled = len(load.stored), load.handled
    wait_until(lambda: len(load.stored) > stored + 50 and load.handled > handled + 50, 10, what="the work to go on")
    assert not load.ended
    assert not load.failed

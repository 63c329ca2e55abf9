"""Acks that get lost, acks that come too late, and the epochs of holds."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable

import httpx
import pytest

from eventbus_core.backend import Lost, Outgoing
from eventbus_core.errors import Unavailable
from eventbus_core.records import Position, Record, lease_clock
from eventbus_pulsar.cursors import Kept
from eventbus_pulsar.settling import _CONFIRM_SECONDS
from tests.waiting import wait_until

ACK_FRAME = b"\x08\x0a"
"""How a frame of Pulsar's protocol with an ack begins, after two sizes of four bytes: BaseCommand.type = ACK."""


def one_by_one(bus, values) -> None:
    """Send records in a batch each: the broker's cursor moves by batches."""
    sender = bus.producer()
    for value in values:
        bus.send(sender, [value])


def settled_up_to(bus, group="g") -> Position:
    """Where the broker's own cursor is."""
    url = f"{bus.broker.admin_url}/admin/v2/persistent/public/default/{bus.topic}-partition-0/internalStats"
    ledger, entry = httpx.get(url).json()["cursors"][group]["markDeletePosition"].split(":")
    return Position(int(ledger), int(entry))


def polling(consumer) -> Callable[[Callable[[], object]], Callable[[], object]]:
    """A predicate that keeps a consumer alive while something is waited for."""

    def wrap(predicate: Callable[[], object]) -> Callable[[], object]:
        def polled() -> object:
            assert not [each for each in consumer.poll(10, 0.05, ()).changes if isinstance(each, Lost)]
            return predicate()

        return polled

    return wrap


@pytest.mark.parametrize("how", ["on its way", "in the client"])
def test_an_ack_lost_in_a_short_disconnect_is_sent_again(bus, proxy, how):
    one_by_one(bus, [str(number) for number in range(10)])
    consumer = bus.consumer(url=proxy.url)
    found = bus.receive(consumer, 10)
    consumer.ack([found[4]])
    wait_until(polling(consumer)(lambda: settled_up_to(bus) == found[4].position[:2]), 3, what="the first ack")
    if how == "on its way":
        proxy.swallow_requests = True
        consumer.ack([found[9]])
        lost_at = time.monotonic()
        wait_until(lambda: time.monotonic() - lost_at > 0.3, 1, what="the client has sent its acks")
        proxy.cut()
        proxy.swallow_requests = False
    else:
        consumer.ack([found[9]])
        proxy.cut()
    assert settled_up_to(bus) == found[4].position[:2], "the ack is lost, or this shows nothing"
    wait_until(lambda: found[9].assignment.connected, 3, what="the client is back")
    wait_until(polling(consumer)(lambda: settled_up_to(bus) == found[9].position[:2]), 4, what="the ack again")


def test_an_ack_lost_just_before_a_release_is_sent_again(bus, proxy):
    one_by_one(bus, [str(number) for number in range(10)])
    consumer = bus.consumer(url=proxy.url)
    found = bus.receive(consumer, 10)
    consumer.ack([found[9]])
    proxy.cut()
    wait_until(lambda: found[9].assignment.connected, 3, what="the client is back")
    assert settled_up_to(bus) < found[0].position[:2], "the ack is lost, or this shows nothing"
    consumer.close()
    assert settled_up_to(bus) == found[9].position[:2]


def test_a_former_owners_late_ack_reaches_the_broker_and_changes_nothing(bus, proxy):
    one_by_one(bus, [str(number) for number in range(10)])
    former = bus.consumer(member="former", url=proxy.url)
    found = bus.receive(former, 10)
    # Opened before the former owner falls silent, whose lease must last until its late ack.
    successor = bus.backend.consumer(former.group._replace(member="successor"))
    bus.opened.append(successor)
    former.ack([found[1]])
    wait_until(polling(former)(lambda: settled_up_to(bus) == found[1].position[:2]), 10, what="acks of the owner count")
    # The broker lets go of the consumer and says so, which the former owner does not hear; the connection stays.
    proxy.swallow = True
    path = f"{bus.broker.admin_url}/admin/v2/persistent/public/default/{bus.topic}-partition-0/unload"
    assert httpx.put(path).status_code == 204
    again = []

    def taken_over() -> bool:
        members = successor._members[bus.topic]
        members._heard.clear()  # the former owner still says that it is there and has the partition
        members._holds.clear()
        successor._next_beat = float("-inf")
        with contextlib.suppress(Unavailable):  # before it hears itself, as it was not polled since it was opened
            again.extend(successor.poll(10, 0.05, ()).deliveries)
        return len(again) == 8

    wait_until(taken_over, 10, what="the successor has the partition")
    assert again[0].assignment.epoch > found[0].assignment.epoch
    assert found[9].assignment.connected, "the former owner knows nothing"
    proxy.last_request = b""
    former.ack([found[9]])
    wait_until(lambda: proxy.last_request[8:10] == ACK_FRAME, 3, what="the late ack is passed on to the broker")
    successor.ack([again[2]])
    wait_until(polling(successor)(lambda: settled_up_to(bus) >= again[2].position[:2]), 3, what="a valid ack")
    proxy.swallow = False
    assert settled_up_to(bus) == again[2].position[:2], "the late ack, which came first, changed nothing"
    assert [each.records for each in bus.admin.lag("g", bus.topic)] == [5]


def test_epochs_rise_from_hold_to_hold_whatever_the_clock_says(bus, monkeypatch):
    bus.send(bus.producer(), ["0", "1", "2"])
    consumer = bus.consumer()
    (first, *_) = bus.receive(consumer, 3)
    consumer.ack([first])
    consumer.close()
    monkeypatch.setattr("eventbus_pulsar.taking.time.time_ns", lambda: 1)
    consumer = bus.consumer(member="m2")
    (second, *_) = bus.receive(consumer, 2)
    third = consumer.seek(second.assignment, second.position)
    assert first.assignment.epoch < second.assignment.epoch < third.epoch
    again = bus.receive(consumer, 2)
    consumer.ack([again[0]])  # inside a batch: stored beside the epoch
    consumer.close()
    bus.admin.set_position("g", bus.topic, 0, "earliest")
    fourth = bus.receive(bus.consumer(), 3)[0].assignment
    assert fourth.epoch > third.epoch


def test_an_epoch_is_not_below_the_clock_when_an_older_one_was_put_back(bus):
    bus.send(bus.producer(), ["0"])
    consumer = bus.consumer()
    (first,) = bus.receive(consumer, 1)
    consumer.close()
    bus.admin._cursors.keep("g", bus.topic, 0, Kept(None, 1))
    assert bus.receive(bus.consumer(), 1)[0].assignment.epoch > first.assignment.epoch


def test_acks_under_load_are_not_asked_about(bus, monkeypatch):
    """A busy partition's next ack repairs a lost one, so that looking costs nothing there."""
    sender, consumer = bus.producer(), bus.consumer()
    ages = []
    cursors = type(bus.admin._cursors)
    look = cursors.unsettled_entries

    def noted(self, group, topic, partition, last):
        ages.append(lease_clock() - consumer._held[topic, partition].acked_at)
        return look(self, group, topic, partition, last)

    monkeypatch.setattr(cursors, "unsettled_entries", noted)
    started = time.monotonic()
    while time.monotonic() - started < 2.5:
        sender.send([Outgoing(0, Record(bus.topic, b"v", b"k"))])
        sender.poll(0.05)
        if found := consumer.poll(10, 0.05, ()).deliveries:
            consumer.ack(found[-1:])
    wait_until(polling(consumer)(lambda: ages), 10, what="the last one is asked about")
    assert min(ages) >= _CONFIRM_SECONDS
    sender.poll(1)

"""Positions of groups on the real broker: where they begin, acks inside batches, seeks, lag."""

from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime

import httpx
import pytest

from eventbus_core.errors import Conflict, NotFound
from eventbus_core.records import Record
from eventbus_pulsar.rest import Rest
from tests.waiting import wait_until


def test_a_new_group_at_the_end_keeps_what_is_sent_while_it_is_away(bus):
    sender = bus.producer()
    bus.send(sender, ["before"])
    bus.consumer(start="latest").close()
    bus.send(sender, ["after"])
    assert bus.values(bus.receive(bus.consumer(start="latest"), 1)) == ["after"]


def test_acks_inside_a_batch_are_kept_and_counted(bus):
    values = [str(number) for number in range(100)]
    bus.send(bus.producer(), values)
    consumer = bus.consumer()
    found = bus.receive(consumer, 100)
    inside = next(at for at in range(39, 99) if found[at].position[:2] == found[at + 1].position[:2])
    consumer.ack([found[inside]])
    consumer.close()
    (lag,) = bus.admin.lag("g", bus.topic)
    left = values[inside + 1 :]
    assert (lag.records, lag.settled) == (len(left), found[inside + 1].position)
    assert bus.values(bus.receive(bus.consumer(), len(left))) == left


def test_the_lag_is_told_while_what_follows_the_end_of_a_ledger_is_being_settled(bus, monkeypatch):
    """The broker fails to scan from behind a ledger's last entry when all that follows is settled (Pulsar 4.0.8)."""
    bus.send(bus.producer(), ["before"])
    (before,) = bus.receive(first := bus.consumer(), 1)
    first.ack([before])
    first.close()
    path = f"{bus.broker.admin_url}/admin/v2/persistent/public/default/{bus.topic}-partition-0/unload"
    assert httpx.put(path).status_code == 204
    bus.send(bus.producer(), ["0", "1"])
    consumer = bus.consumer()
    found = bus.receive(consumer, 2)
    assert found[0].position[0] > before.position[0], "another ledger is what this is about"
    ask = Rest.call

    def settled_behind(rest, method, path, doing, **kwargs):
        answer = ask(rest, method, path, doing, **kwargs)
        if doing.startswith("measuring") and found:
            consumer.ack(found[-1:])
            found.clear()
            wait_until(lambda: not consumer.unconfirmed(), 5, what="the ack to count")
        return answer

    lag = bus.admin.lag
    with monkeypatch.context() as patched:
        patched.setattr(Rest, "call", settled_behind)
        assert [each.records for each in lag("g", bus.topic)] == [2], "as it was when asked"
    assert not found, "nothing was settled meanwhile, so this shows nothing"
    assert [each.records for each in lag("g", bus.topic)] == [0]


def test_seek_by_position_and_time_is_exact_and_durable(bus):
    stamped = [Record(bus.topic, b"%d" % at, b"k", (), int(time.time() * 1000) - 1000 + at) for at in range(100)]
    bus.send(bus.producer(), stamped)
    consumer = bus.consumer()
    found = bus.receive(consumer, 100)
    consumer.ack(found[-1:])
    moved = consumer.seek(found[0].assignment, found[30].position)
    again = bus.receive(consumer, 70)
    assert bus.values(again) == [str(at) for at in range(30, 100)]
    assert again[0].assignment is moved
    assert moved.epoch > found[0].assignment.epoch
    moment = datetime.fromtimestamp((stamped[70].timestamp_ms or 0) / 1000, UTC)
    consumer.seek(moved, moment)
    consumer.close()
    assert bus.values(bus.receive(bus.consumer(), 30)) == [str(at) for at in range(70, 100)]


def test_positions_are_set_only_without_members(bus):
    group = f"group of {bus.topic}"
    bus.send(bus.producer(), ["0", "1", "2"])
    consumer = bus.consumer(group)
    with pytest.raises(Conflict):
        bus.admin.set_position(group, bus.topic, 0, "latest")
    consumer.close()
    bus.admin.set_position(group, bus.topic, 0, "latest")
    assert [each.records for each in bus.admin.lag(group, bus.topic)] == [0]
    bus.admin.set_position(group, bus.topic, 0, "earliest")
    assert [each.records for each in bus.admin.lag(group, bus.topic)] == [3]
    assert [(each.members, bus.topic in each.topics) for each in bus.admin.groups() if each.name == group] == [
        (0, True)
    ]
    bus.admin.delete_group(group)
    with pytest.raises(NotFound):
        bus.admin.lag(group, bus.topic)


@pytest.mark.parametrize("first", [0, 3, 6, 9])
def test_members_that_start_a_new_group_at_once_begin_at_its_time(make_bus, first):
    bus = make_bus(2)
    sender = bus.producer()
    for at in range(0, 10, 2):
        pair = [Record(bus.topic, str(n).encode(), b"k", (), 1_000_000_000_000 + n) for n in (at, at + 1)]
        bus.send(sender, pair)
    start = datetime.fromtimestamp(1_000_000_000 + first / 1000, UTC)
    together = threading.Barrier(3)

    def join(member: str) -> object:
        together.wait(10)
        return bus.consumer(member=member, start=start)

    with ThreadPoolExecutor(3) as threads:
        members = list(threads.map(join, ["m1", "m2", "m3"]))
    found: list[str] = []

    def all_there() -> bool:
        for each in members:
            found.extend(bus.values(each.poll(100, 0.05, ()).deliveries))
        return len(found) >= 10 - first

    wait_until(all_there, 10, what="the records from that time on")
    assert found == [str(n) for n in range(first, 10)]

from __future__ import annotations

import pytest
from redis.crc import key_slot

from eventbus_core.errors import InvalidRecord
from eventbus_redis import cursors, members, producer, topics, trimming
from eventbus_redis.connection import Call
from eventbus_redis.keys import Keys
from eventbus_redis.script import Script
from tests.waiting import wait_until

SCRIPTS = [
    each
    for module in (cursors, members, producer, topics, trimming)
    for each in vars(module).values()
    if isinstance(each, Script)
]


def test_all_keys_of_a_partition_lie_in_one_slot():
    keys = Keys("eb")
    slots = set()
    for partition in range(16):
        mine = {
            key_slot(each.encode())
            for each in (
                keys.stream("a.b", partition),
                keys.meta("a.b", partition),
                keys.cursor("a.b", partition, "g-1"),
            )
        }
        assert len(mine) == 1
        slots |= mine
    assert len(slots) > 8  # and partitions are spread


def test_what_one_script_touches_of_a_group_lies_in_one_slot():
    keys = Keys("eb")
    assert len({key_slot(each("t", "g", "1").encode()) for each in (keys.members, keys.leases)}) == 1
    assert len({key_slot(each("t").encode()) for each in (keys.topic, keys.groups)}) == 1


def test_every_script_that_runs_touches_one_slot(make_bus, monkeypatch):
    ran: dict[str, set[int]] = {}
    by_digest = Call.by_digest

    def noted(call: Call) -> object:
        slots = {key_slot(each.encode()) for each in call.keys}
        assert len(slots) == 1, (call.script.name, call.keys)
        ran.setdefault(call.script.name, set()).update(slots)
        return by_digest(call)

    monkeypatch.setattr(Call, "by_digest", noted)
    bus = make_bus(partitions=2, retention_records=1)
    bus.send(bus.producer(), ["1", "2"])
    consumer, other = bus.consumer("g"), bus.consumer("other")
    deliveries = bus.receive(consumer, 2)
    consumer.ack(deliveries)
    assert deliveries[0].assignment is not None
    moved = consumer.seek(deliveries[0].assignment, "earliest")
    wait_until(lambda: other.poll(10, 0.2, ()) and "check" in ran, 10, what="beats that check what is held")
    consumer.release(moved)
    for each in (consumer, other):
        each.close()
    bus.admin.set_position("g", bus.topic, 0, "earliest")
    bus.admin.delete_group("g")
    bus.admin.groups()
    assert set(ran) == {each.name for each in SCRIPTS}


def test_names_that_would_break_the_tag_are_refused():
    for name in ("", "a{b", "a}b", "a|b"):
        with pytest.raises(InvalidRecord):
            Keys("eb").stream(name, 0)

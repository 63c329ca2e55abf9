"""Records and positions that are stored together, or not at all."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from eventbus_core.backend import BackendConsumer, Lost
from eventbus_core.errors import NotFound, Unavailable
from eventbus_core.records import Delivery, Record
from tests.waiting import wait_until

from .conftest import Bus, Pump, open_aside, quick_groups


@pytest.fixture(params=["classic", "consumer"])
def bus(request: pytest.FixtureRequest) -> Iterator[Bus]:
    """On a broker of our own, as a transaction needs one that can reach itself."""
    bus = Bus(quick_groups(), request.param)
    for topic in (bus.topic, f"{bus.topic}.out"):
        bus.admin.create_topic(topic, 2)
    yield bus
    bus.admin.close()


def _lasts(deliveries: list[Delivery]) -> list[Delivery]:
    return list({each.assignment: each for each in deliveries}.values())


def _copies(bus: Bus, deliveries: list[Delivery]) -> list[Record]:
    return [each.record._replace(topic=f"{bus.topic}.out") for each in deliveries]


def _stored(bus: Bus) -> list[int]:
    """What a short look finds."""
    found = [bus.admin.read(f"{bus.topic}.out", partition, "earliest", 10_000, 0.5) for partition in range(2)]
    return sorted(int(each.record.value or b"") for run in found for each in run)


def _stored_when(bus: Bus, count: int) -> list[int]:
    """What is stored once it is so much: the marks of a commit are written after its answer."""

    def enough() -> list[int]:
        found = _stored(bus)
        return found if len(found) >= count else []

    return wait_until(enough, 15, what=f"{count} stored records")


def _lag(bus: Bus) -> int:
    return sum(each.records for each in bus.admin.lag(bus.group, bus.topic))


def _transact(consumer: BackendConsumer, records: list[Record], settled: list[Delivery]) -> None:
    """As core does: again, as long as it is of use."""

    def done() -> bool:
        try:
            consumer.transact(records, settled)
        except Unavailable:
            return False
        return True

    wait_until(done, 20, every=0.1, what="the transaction")


def test_records_and_positions_are_stored_together(bus: Bus) -> None:
    bus.send(bus.numbered(0, 100))
    pump = Pump(bus.consumer("m1"))
    pump.until(lambda: len(pump.deliveries) == 100, 15, "all", ack=False)
    _transact(pump.consumer, _copies(bus, pump.deliveries), _lasts(pump.deliveries))
    wait_until(lambda: _lag(bus) == 0, 5, what="lag 0")
    assert _stored_when(bus, 100) == list(range(100))
    pump.consumer.close()
    again = Pump(bus.consumer("m2"))
    again.until(again.assigned, 10, "assigned")
    again.turn()
    assert not again.deliveries
    again.consumer.close()


def test_a_record_that_is_refused_leaves_nothing_behind(bus: Bus) -> None:
    bus.send(bus.numbered(0, 10))
    pump = Pump(bus.consumer("m1"))
    pump.until(lambda: len(pump.deliveries) == 10, 15, "all", ack=False)
    good = _copies(bus, pump.deliveries)
    with pytest.raises(NotFound, match="nothing was stored"):
        pump.consumer.transact([*good, Record(f"{bus.topic}.misspelt", b"1")], _lasts(pump.deliveries))
    assert _stored(bus) == []
    assert _lag(bus) == 10
    _transact(pump.consumer, good, _lasts(pump.deliveries))
    assert _stored_when(bus, 10) == list(range(10))
    pump.consumer.close()


def test_of_a_partition_that_was_given_up_nothing_is_stored(bus: Bus) -> None:
    bus.send(bus.numbered(0, 100, keys=40))
    first = Pump(bus.consumer("m1", drain=0.5))
    first.until(lambda: len(first.deliveries) == 100, 15, "all", ack=False)
    thread, opened = open_aside(bus, "m2")
    first.until(lambda: [each for each in first.changes if isinstance(each, Lost)], 15, "lost", ack=False)
    with pytest.raises(Unavailable, match="no longer ours"):
        first.consumer.transact(_copies(bus, first.deliveries), _lasts(first.deliveries))
    thread.join(15)
    assert _stored(bus) == []
    second = Pump(opened[0])
    lost = {each.assignment for each in first.changes if isinstance(each, Lost)}
    theirs = [each for each in first.deliveries if each.assignment in lost]
    second.until(lambda: len(second.deliveries) == len(theirs), 15, "what was given up", ack=False)
    ours = [each for each in first.deliveries if each.assignment not in lost]
    _transact(first.consumer, _copies(bus, ours), _lasts(ours))
    _transact(second.consumer, _copies(bus, second.deliveries), _lasts(second.deliveries))
    assert _stored_when(bus, 100) == list(range(100))
    first.consumer.close()
    second.consumer.close()

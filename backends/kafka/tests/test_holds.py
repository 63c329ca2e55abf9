"""What was fetched and not yet handed over: how much of it, and of which partitions."""

from __future__ import annotations

from eventbus_core.backend import Polled
from eventbus_core.records import Delivery, Position, Record
from eventbus_kafka.holds import Hold, Holds

MEBIBYTE = 1 << 20


def held(holds: Holds, partition: int) -> Hold:
    hold = holds.new_hold("t", partition, 0)
    holds.held[hold.place] = hold
    return hold


def large(hold: Hold, count: int) -> list[Delivery]:
    records = [Record("t", bytes(MEBIBYTE)) for _ in range(count)]
    return [Delivery(record, hold.partition, Position(at), hold) for at, record in enumerate(records)]


def test_what_is_kept_of_a_paused_partition_takes_no_room_from_the_others() -> None:
    holds = Holds(60.0)
    paused, other = held(holds, 0), held(holds, 1)
    holds.offer({paused: large(paused, 20)})
    assert holds.room(0) == 0
    assert holds.take(500, 0, [paused]) == Polled()
    assert holds.room(0) > 0
    stop, _ = holds.to_pause_and_resume(stalled=False)
    assert stop == [paused], "of the paused partition it fetched more, without a bound"
    holds.offer({other: large(other, 1)})
    assert [each.partition for each in holds.take(500, 0, [paused]).deliveries] == [1]


def test_a_partition_that_goes_gives_its_room_back() -> None:
    holds = Holds(60.0)
    gone, other = held(holds, 0), held(holds, 1)
    holds.offer({gone: large(gone, 10), other: large(other, 10)})
    assert holds.room(0) == 0
    holds.lose([gone], "test")
    assert holds.room(0) > 0
    holds.take(4, 0, ())
    holds.offer({other: large(other, 12)})
    assert holds.room(0) == 0

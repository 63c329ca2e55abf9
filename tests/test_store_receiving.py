"""Backends over a store, receiving: holds that are taken over, late acks, gaps, lost replies, operators' verbs."""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from datetime import UTC, datetime

import pytest

from eventbus_core import NotFound, Position, Record, Unavailable
from eventbus_core.backend import Assigned, Change, Gap, Group, Lost, Outgoing
from eventbus_core.records import Delivery, Start
from tests.memory_store import ShelfBackend
from tests.waiting import wait_until


class Member:
    """A consumer of group ``g``, and what came of it."""

    def __init__(self, backend: ShelfBackend, start: Start = "earliest") -> None:
        self.consumer = backend.consumer(Group("g", ("t",), start, uuid.uuid4().hex, 5.0))
        self.changes: list[Change] = []
        self.deliveries: list[Delivery] = []

    def poll(self, max_records: int = 100) -> None:
        polled = self.consumer.poll(max_records, 0.02, ())
        assert len(polled.deliveries) <= max_records
        self.changes += polled.changes
        self.deliveries += polled.deliveries

    def until(self, count: int) -> list[bytes | None]:
        """Poll until so many deliveries are there; their values."""

        def there() -> bool:
            self.poll()
            return len(self.deliveries) >= count

        wait_until(there, 5, what=f"{count} deliveries")
        return [each.record.value for each in self.deliveries]

    def of(self, kind: type[Assigned | Lost | Gap]) -> list[Change]:
        return [each for each in self.changes if isinstance(each, kind)]


@pytest.fixture
def backend() -> ShelfBackend:
    backend = ShelfBackend()
    backend.admin().create_topic("t", 1)
    return backend


def send(backend: ShelfBackend, *batches: Sequence[tuple[bytes, int]]) -> None:
    """Values and their times."""
    producer = backend.producer(max_records=100, max_bytes=1 << 20)
    for batch in batches:
        producer.send([Outgoing(n, Record("t", value, b"k", (), at)) for n, (value, at) in enumerate(batch)])
        assert len(producer.poll(0.0)) == len(batch)


def settled(backend: ShelfBackend) -> Position | None:
    return backend.admin().lag("g", "t")[0].settled


def test_a_silent_member_is_replaced_by_the_stores_clock_and_its_late_calls_change_nothing(
    backend: ShelfBackend,
) -> None:
    send(backend, [(b"a", 1), (b"b", 2)], [(b"c", 3)])
    silent = Member(backend)
    assert silent.until(3) == [b"a", b"b", b"c"]
    silent.consumer.ack(silent.deliveries[:1])
    backend.shelf.now += backend.settings.lease_seconds + 0.1
    other = Member(backend)
    assert other.until(2) == [b"b", b"c"]
    assert other.deliveries[0].assignment is not None
    assert silent.deliveries[0].assignment is not None
    assert other.deliveries[0].assignment.epoch > silent.deliveries[0].assignment.epoch
    silent.consumer.ack(silent.deliveries)
    assert settled(backend) == Position(1, 1)
    silent.poll()
    assert len(silent.of(Lost)) == 1
    other.consumer.ack(other.deliveries)
    assert settled(backend) == Position(3, 0)
    silent.consumer.close()
    assert settled(backend) == Position(3, 0)


def test_a_partition_that_was_taken_over_is_told_lost_when_it_is_released(backend: ShelfBackend) -> None:
    send(backend, [(b"a", 1)])
    silent = Member(backend)
    silent.until(1)
    backend.shelf.now += backend.settings.lease_seconds + 0.1
    Member(backend).until(1)
    hold = silent.deliveries[0].assignment
    assert hold is not None
    silent.consumer.release(hold)
    silent.poll()
    assert len(silent.of(Lost)) == 1


def test_a_member_that_lives_keeps_what_it_has(backend: ShelfBackend) -> None:
    send(backend, [(b"a", 1)])
    first = Member(backend)
    first.until(1)
    backend.shelf.now += backend.settings.lease_seconds - 0.1
    beat = Member(backend).consumer.beat("t", ())
    assert (len(beat.members), list(beat.free), list(beat.held)) == (2, [], [])


def test_of_two_that_see_a_partition_free_one_takes_it(backend: ShelfBackend) -> None:
    first, second = Member(backend).consumer, Member(backend).consumer
    for each in (first, second):
        assert list(each.beat("t", ()).free) == [0]
    assert second.acquire("t", 0) is not None
    assert first.acquire("t", 0) is None


def test_what_a_member_took_that_joined_during_a_beat_is_not_free(backend: ShelfBackend) -> None:
    first = Member(backend).consumer

    def joins() -> None:
        second = Member(backend).consumer
        second.beat("t", ())
        assert second.acquire("t", 0) is not None

    backend.shelf.meanwhile["get"] = joins
    beat = first.beat("t", ())
    assert (len(beat.members), list(beat.free)) == (2, [])


def test_a_late_ack_after_a_release_takes_nothing_back(backend: ShelfBackend) -> None:
    send(backend, [(b"a", 1), (b"b", 2)])
    member = Member(backend)
    member.until(2)
    hold = member.deliveries[0].assignment
    assert hold is not None
    member.consumer.release(hold)
    member.consumer.ack(member.deliveries)
    assert settled(backend) == Position(1, 0)
    assert list(Member(backend).consumer.beat("t", ()).free) == [0]


def test_who_leaves_is_followed_at_once_from_what_it_settled(backend: ShelfBackend) -> None:
    send(backend, [(b"a", 1), (b"b", 2)])
    first = Member(backend)
    first.until(2)
    first.consumer.ack(first.deliveries[:1])
    first.consumer.close()
    assert Member(backend).until(1) == [b"b"]


@pytest.mark.parametrize("call", ["put", "put one"])
def test_an_ack_whose_reply_was_lost_is_not_a_loss(backend: ShelfBackend, call: str) -> None:
    send(backend, [(b"a", 1), (b"b", 2)])
    member = Member(backend)
    member.until(2)
    backend.shelf.lost_replies = [call]
    with pytest.raises(Unavailable):
        member.consumer.ack(member.deliveries[:1])
    member.consumer.ack(member.deliveries)
    member.poll()
    assert settled(backend) == Position(2, 0)
    assert member.of(Lost) == []


def test_a_poll_brings_no_more_than_asked_and_the_rest_comes_next(backend: ShelfBackend) -> None:
    send(backend, [(b"a", 1), (b"b", 2), (b"c", 3)])
    member = Member(backend)
    for _ in range(5):
        member.poll(2)
    assert [each.record.value for each in member.deliveries] == [b"a", b"b", b"c"]


def test_what_vanished_is_a_gap(backend: ShelfBackend) -> None:
    send(backend, [(b"a", 1)], [(b"b", 2)])
    member = Member(backend)
    backend.shelf.remove_first("t", 0)
    assert member.until(1) == [b"b"]
    (gap,) = member.of(Gap)
    assert isinstance(gap, Gap)
    assert (gap.after, gap.resume) == (None, Position(2, 0))


def test_what_vanished_before_the_group_began_is_no_gap(backend: ShelfBackend) -> None:
    send(backend, [(b"a", 1)], [(b"b", 2)])
    backend.shelf.remove_first("t", 0)
    member = Member(backend)
    assert member.until(1) == [b"b"]
    assert member.of(Gap) == []


def test_a_place_by_time_is_found_also_where_the_record_that_had_it_vanished(backend: ShelfBackend) -> None:
    send(backend, [(b"a", 100_000)], [(b"b", 50_000)], [(b"c", 50_000)])
    backend.shelf.remove_first("t", 0)
    at = datetime.fromtimestamp(100, UTC)
    assert backend.admin().read("t", 0, at, 10, 0.0) == []
    send(backend, [(b"d", 200_000)])
    assert [each.record.value for each in backend.admin().read("t", 0, at, 10, 0.0)] == [b"d"]


def test_a_gap_is_told_also_while_another_partition_cannot_be_read(backend: ShelfBackend) -> None:
    backend.admin().delete_topic("t")
    backend.admin().create_topic("t", 2)
    producer = backend.producer(max_records=100, max_bytes=1 << 20)
    for _ in range(2):
        producer.send([Outgoing(n, Record("t", b"%d" % n, b"%d" % n)) for n in range(8)])
        assert len(producer.poll(0.0)) == 8
    member = Member(backend)
    backend.shelf.remove_first("t", 0)
    backend.shelf.unreadable = {log for log in backend.shelf.logs if log.number == 1}
    for _ in range(2):  # the first brings the holds
        member.poll()
    assert len(member.of(Gap)) == 1
    assert len(member.deliveries) > 0
    with pytest.raises(Unavailable):  # when nothing is left to tell
        member.poll()


def test_a_seek_moves_the_group_and_voids_what_came_before(backend: ShelfBackend) -> None:
    send(backend, [(b"a", 1000), (b"b", 3000)], [(b"c", 2000)], [(b"d", 4000)])
    member = Member(backend)
    member.until(4)
    hold = member.deliveries[0].assignment
    assert hold is not None
    moved = member.consumer.seek(hold, datetime.fromtimestamp(3.5, UTC))
    assert moved.epoch == hold.epoch + 1
    member.consumer.ack(member.deliveries)
    assert settled(backend) == Position(3, 0)
    member.deliveries.clear()
    assert member.until(1) == [b"d"]
    for where, expected in [("earliest", b"a"), (datetime.fromtimestamp(2.5, UTC), b"b"), (Position(1, 7), b"c")]:
        moved = member.consumer.seek(moved, where)  # type: ignore[arg-type]
        member.deliveries.clear()
        assert member.until(1)[0] == expected


def test_a_group_that_begins_at_the_end_begins_there_when_it_is_joined(backend: ShelfBackend) -> None:
    send(backend, [(b"a", 1)])
    member = Member(backend, start="latest")
    later = Member(backend, start="earliest")  # the group is known now: its place stays
    send(backend, [(b"b", 2)])
    assert member.until(1) == [b"b"]
    assert settled(backend) == Position(2, 0)
    assert later.deliveries == []


def test_two_that_begin_a_group_agree(backend: ShelfBackend) -> None:
    send(backend, [(b"a", 1)])
    backend.shelf.meanwhile["put"] = lambda: Member(backend, start="latest")
    Member(backend, start="earliest")
    assert settled(backend) == Position(2, 0)


def test_a_position_whose_record_is_gone_means_the_next(backend: ShelfBackend) -> None:
    send(backend, [(b"a", 1), (b"b", 2)], [(b"c", 3), (b"d", 4)])
    backend.shelf.remove_first("t", 0)
    assert backend.admin().read("t", 0, Position(1, 1), 1, 0.0)[0].record.value == b"c"


def test_a_consumer_of_a_topic_made_anew_ends(backend: ShelfBackend) -> None:
    member = Member(backend)
    backend.admin().delete_topic("t")
    backend.admin().create_topic("t", 1)
    with pytest.raises(NotFound, match="made anew"):
        member.poll()
    assert [key for key in backend.shelf.cells if key[0] == "of"] == []


def test_a_consumer_whose_topic_is_deleted_during_a_beat_ends(backend: ShelfBackend) -> None:
    member = Member(backend)
    member.poll()
    backend.shelf.meanwhile["keys"] = backend.shelf.cells.clear
    backend.shelf.now += backend.settings.lease_seconds / 2
    with pytest.raises(Unavailable, match="deleted"):
        wait_until(member.poll, 5, what="the beat")
    with pytest.raises(NotFound, match="made anew"):
        wait_until(member.poll, 5, what="the next beat")


def test_cells_of_the_dead_are_removed_at_last(backend: ShelfBackend) -> None:
    Member(backend).poll()
    backend.shelf.now += 11 * backend.settings.lease_seconds
    Member(backend).poll()
    assert len([key for key in backend.shelf.cells if "member" in key]) == 1

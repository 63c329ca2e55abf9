"""Backends over a store, sending: one batch is one entry, once and whole, whatever replies get lost."""

from __future__ import annotations

from contextlib import suppress

import pytest

from eventbus_core import NotFound, Position, Record, SendFailed, Stored, Unavailable
from eventbus_core.backend import BackendProducer, Outgoing
from eventbus_core.backend.store import StoreSettings
from tests.memory_store import ShelfBackend


@pytest.fixture
def backend() -> ShelfBackend:
    backend = ShelfBackend()
    backend.admin().create_topic("t", 1)
    return backend


def a_producer(backend: ShelfBackend) -> BackendProducer:
    producer = backend.producer(max_records=100, max_bytes=1 << 20)
    producer._RETRY_SECONDS = (0.0, 0.0)
    return producer


def sent(producer: BackendProducer, *values: bytes, topic: str = "t") -> list[Stored | Exception]:
    """One batch for each partition."""
    producer.send([Outgoing(token, Record(topic, value, value)) for token, value in enumerate(values)])
    return settled(producer, len(values))


def settled(producer: BackendProducer, count: int) -> list[Stored | Exception]:
    found = {}
    for _ in range(50):
        with suppress(Unavailable):  # it is polled again, as core does
            found.update({each.token: each.outcome for each in producer.poll(0.1)})
        if len(found) == count:
            return [found[token] for token in sorted(found)]
    raise AssertionError(f"{len(found)} of {count} settled")


def test_positions_and_times_are_those_of_the_log(backend: ShelfBackend) -> None:
    producer = a_producer(backend)
    producer.send([Outgoing(0, Record("t", b"a", timestamp_ms=7)), Outgoing(1, Record("t", None, b""))])
    first, second = settled(producer, 2)
    assert isinstance(first, Stored)
    assert isinstance(second, Stored)
    assert (first.position, first.timestamp_ms, second.position) == (Position(1, 0), 7, Position(1, 1))
    read = backend.admin().read("t", 0, "earliest", 9, 0.0)
    assert [(each.position, each.record.value, each.record.key, each.record.timestamp_ms) for each in read] == [
        (first.position, b"a", None, 7),
        (second.position, None, b"", second.timestamp_ms),
    ]


@pytest.mark.parametrize("call", ["append", "append one"])
def test_a_batch_whose_reply_was_lost_is_stored_once(backend: ShelfBackend, call: str) -> None:
    producer = a_producer(backend)
    backend.shelf.lost_replies = [call, call]
    (outcome,) = sent(producer, b"a")
    assert isinstance(outcome, Stored)
    assert outcome.position == Position(1, 0)
    assert backend.shelf.lost_replies == []
    assert backend.shelf.batches("t", 0) == [[b"a"]]


def test_it_is_stored_once_also_if_another_writer_came_behind_it(backend: ShelfBackend) -> None:
    producer = a_producer(backend)
    backend.shelf.lost_replies = ["append"]
    producer.send([Outgoing(0, Record("t", b"a"))])
    with pytest.raises(Unavailable):
        producer.poll(0.0)
    sent(a_producer(backend), b"b")
    (outcome,) = settled(producer, 1)
    assert isinstance(outcome, Stored)
    assert outcome.position == Position(1, 0)
    sent(producer, b"c")
    assert backend.shelf.batches("t", 0) == [[b"a"], [b"b"], [b"c"]]


def test_what_was_written_before_an_outage_is_not_written_again_after_it() -> None:
    backend = ShelfBackend()
    backend.admin().create_topic("t", 2)
    producer = a_producer(backend)
    sent(producer, b"0", b"1", b"2", b"3")
    beaten = a_producer(backend)
    sent(beaten, *(b"other" for _ in range(4)))
    # One partition is written and the other is beaten; what is at the beaten end cannot be read at first.
    backend.shelf.lost_replies = ["read"]
    sent(producer, b"4", b"5", b"6", b"7")
    stored = [value for partition in (0, 1) for batch in backend.shelf.batches("t", partition) for value in batch]
    assert backend.shelf.lost_replies == []
    assert sorted(each or b"" for each in stored if each != b"other") == [b"%d" % n for n in range(8)]


def test_writers_of_one_partition_take_turns_and_lag_stays_exact(backend: ShelfBackend) -> None:
    producers = [a_producer(backend) for _ in range(3)]
    for turn in range(4):
        for number, producer in enumerate(producers):
            sent(producer, b"%d-%d" % (turn, number), b"x")
    assert len(backend.shelf.batches("t", 0)) == 12
    admin = backend.admin()
    admin.set_position("g", "t", 0, Position(5, 1))
    (lag,) = admin.lag("g", "t")
    assert (lag.records, lag.end) == (24 - 9, Position(13, 0))


def test_a_refused_batch_leaves_nothing_to_the_next(backend: ShelfBackend) -> None:
    producer = a_producer(backend)
    (refused,) = sent(producer, b"refused")
    assert isinstance(refused, SendFailed)
    (stored,) = sent(producer, b"good")
    assert isinstance(stored, Stored)
    assert backend.shelf.batches("t", 0) == [[b"good"]]


def test_a_topic_that_is_made_anew_gets_what_is_sent_then(backend: ShelfBackend) -> None:
    producer, admin = a_producer(backend), backend.admin()
    sent(producer, b"old")
    admin.delete_topic("t")
    admin.create_topic("t", 1)
    (stored,) = sent(producer, b"new")
    assert isinstance(stored, Stored)
    assert stored.position == Position(1, 0)
    assert [each.record.value for each in admin.read("t", 0, "earliest", 9, 0.0)] == [b"new"]


def test_a_topic_that_is_not_there_fails_its_records_unless_it_may_be_made(backend: ShelfBackend) -> None:
    (outcome,) = sent(a_producer(backend), b"a", topic="missing")
    assert isinstance(outcome, SendFailed)
    assert isinstance(outcome.__cause__, NotFound)
    making = ShelfBackend(StoreSettings(create_topics=True, default_partitions=3))
    (outcome,) = sent(a_producer(making), b"a", topic="missing")
    assert isinstance(outcome, Stored)
    assert making.admin().describe_topic("missing").partitions == 3

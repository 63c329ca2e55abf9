"""BatchProducer: placing, order and retry over a store that loses replies."""

from __future__ import annotations

import random
import time
from collections.abc import Sequence

import pytest

from eventbus_core import BrokerError, EventBusError, NotFound, Position, Record, SendFailed, Stored, Unavailable
from eventbus_core.backend import Outgoing, Settled
from eventbus_core.backend.batching import BatchProducer, WriteBatch
from eventbus_core.partitioning import partition_of


class LossyStore(BatchProducer):
    """Stores batches once by (writer, partition, first); loses requests and replies at random."""

    _RETRY_SECONDS = (0.0, 0.0)

    def __init__(self, seed: int) -> None:
        super().__init__(max_batch_records=7, max_batch_bytes=10_000)
        self.random = random.Random(seed)
        self.logs: dict[int, list[Record]] = {n: [] for n in range(4)}
        self.done: dict[tuple[str, int, int], list[Stored]] = {}
        self.lost = self.repeated = 0

    def partition_count(self, topic: str) -> int:
        if topic == "missing":
            raise NotFound("no topic 'missing'", topic=topic)
        if self.random.random() < 0.1:
            raise Unavailable("the broker is away")
        return 4

    def write(self, batches: Sequence[WriteBatch]) -> Sequence[Sequence[Stored] | EventBusError]:
        assert len({(each.topic, each.partition) for each in batches}) == len(batches)
        return [self.write_one(each) for each in batches]

    def write_one(self, batch: WriteBatch) -> Sequence[Stored] | EventBusError:
        chance = self.random.random()
        if chance < 0.2:
            return Unavailable("request lost")
        if any(record.value == b"bad" for record in batch.records):
            return SendFailed("refused")
        place = (batch.writer, batch.partition, batch.first)
        if place in self.done:
            self.repeated += 1
        else:
            log = self.logs[batch.partition]
            assert batch.first == len(log)
            self.done[place] = [
                Stored(batch.topic, batch.partition, Position(n), 1)
                for n in range(len(log), len(log) + len(batch.records))
            ]
            log.extend(batch.records)
        if chance < 0.4:
            self.lost += 1
            return Unavailable("reply lost")
        return self.done[place]


@pytest.mark.parametrize("seed", range(5))
def test_lost_requests_and_replies_neither_lose_repeat_nor_reorder(seed: int) -> None:
    store = LossyStore(seed)
    settled: list[Settled] = []
    for token in range(2000):
        store.send([Outgoing(token, Record("t", b"%d" % token, b"k%d" % (token % 17)))])
        if token % 5 == 0:
            settled.extend(store.poll(0.0))
    for _ in range(5000):
        if len(settled) == 2000:
            break
        settled.extend(store.poll(0.0))
    assert sorted(each.token for each in settled) == list(range(2000))
    assert store.lost > 20
    assert store.repeated > 20
    written = [int(record.value or b"") for log in store.logs.values() for record in log]
    assert sorted(written) == list(range(2000))
    for log in store.logs.values():
        assert [int(each.value or b"") for each in log] == sorted(int(each.value or b"") for each in log)
    for token, outcome in settled:
        assert isinstance(outcome, Stored)
        assert outcome.position is not None
        assert store.logs[outcome.partition][outcome.position[0]].value == b"%d" % token


def test_a_refused_batch_fails_and_the_next_takes_its_place() -> None:
    store = LossyStore(1)
    store.send([Outgoing(1, Record("t", b"bad", b"k"))])
    settled = poll_until(store, 1)
    assert isinstance(settled[0].outcome, SendFailed)
    store.send([Outgoing(2, Record("t", b"good", b"k"))])
    assert isinstance(poll_until(store, 1)[0].outcome, Stored)


def test_a_missing_topic_fails_its_records_only() -> None:
    store = LossyStore(2)
    store.send([Outgoing(1, Record("missing", b"x")), Outgoing(2, Record("t", b"y"))])
    outcomes = dict(poll_until(store, 2))
    assert isinstance(outcomes[1], SendFailed)
    assert isinstance(outcomes[1].__cause__, NotFound)
    assert isinstance(outcomes[2], Stored)


def test_a_wrong_number_of_places_is_the_backends_error() -> None:
    class Short(LossyStore):
        def write(self, batches: Sequence[WriteBatch]) -> Sequence[Sequence[Stored] | EventBusError]:
            return [[] for _ in batches]

    store = Short(3)
    store.send([Outgoing(1, Record("t", b"x"))])
    with pytest.raises(BrokerError, match="0 places for a batch of 1"):
        poll_until(store, 1)


class Away(BatchProducer):
    """Partition 0 cannot be written to, the others can; or nothing can, and ``write`` raises."""

    def __init__(self, error: EventBusError | None = None) -> None:
        super().__init__(max_batch_records=10, max_batch_bytes=10_000)
        self.error = error
        self.counts: EventBusError | None = None
        self.writes = self.asked = 0

    def partition_count(self, topic: str) -> int:
        self.asked += 1
        if self.counts is not None:
            raise self.counts
        if topic == "missing":
            raise NotFound("no topic 'missing'", topic=topic)
        return 4

    def write(self, batches: Sequence[WriteBatch]) -> Sequence[Sequence[Stored] | EventBusError]:
        self.writes += 1
        if self.error is not None:
            raise self.error
        return [
            [Stored(each.topic, each.partition, None, 1)] * len(each.records)
            if each.partition
            else Unavailable("partition 0 is away")
            for each in batches
        ]


def key_of(partition: int) -> bytes:
    return next(key for key in map(b"%d".__mod__, range(100)) if partition_of(key, 4) == partition)


def poll_for(store: BatchProducer, seconds: float) -> list[Settled]:
    settled: list[Settled] = []
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        settled.extend(store.poll(0.005))
    return settled


def test_in_an_outage_the_pauses_outlast_polls_and_hold_up_nothing_else() -> None:
    store = Away()
    store.send([Outgoing(1, Record("t", b"stuck", key_of(0)))])
    assert poll_for(store, 0.5) == []
    assert 2 <= store.writes <= 12
    store.send([Outgoing(2, Record("t", b"fine", key_of(1)))])
    assert [each.token for each in store.poll(0.005)] == [2]


def test_asking_for_partitions_pauses_too() -> None:
    store = Away()
    store.counts = Unavailable("the broker is away")
    store.send([Outgoing(1, Record("t", b"x"))])
    assert poll_for(store, 0.5) == []
    assert 2 <= store.asked <= 12


@pytest.mark.parametrize("error", [Unavailable("away"), BrokerError("broken")])
def test_what_is_settled_is_told_although_the_write_of_the_same_poll_raises(error: EventBusError) -> None:
    store = Away(error)
    store.send([Outgoing(1, Record("missing", b"x")), Outgoing(2, Record("t", b"y", key_of(1)))])
    assert [each.token for each in store.poll(0.005)] == [1]
    with pytest.raises(type(error)):
        poll_for(store, 0.5)


def poll_until(store: BatchProducer, count: int) -> list[Settled]:
    settled: list[Settled] = []
    for _ in range(200):
        settled.extend(store.poll(0.0))
        if len(settled) >= count:
            return settled
    raise AssertionError(f"only {len(settled)} of {count} settled")


def test_headers_count_for_the_bytes_of_a_batch() -> None:
    store = LossyStore(0)
    store.random = AlwaysFine()
    heavy = tuple((f"h{number}", b"x" * 1000) for number in range(4))
    store.send([Outgoing(token, Record("t", b"v", b"one key", heavy, 1)) for token in range(7)])
    sizes: list[int] = []
    write_one = store.write_one

    def noted(batch: WriteBatch) -> Sequence[Stored] | EventBusError:
        sizes.append(len(batch.records))
        return write_one(batch)

    store.write_one = noted  # type: ignore[method-assign]
    settled = [each for _ in range(7) for each in store.poll(0)]
    assert [each.token for each in settled] == list(range(7))
    assert sizes == [2, 2, 2, 1]


class AlwaysFine(random.Random):
    def random(self) -> float:
        return 0.99

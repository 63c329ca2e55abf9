"""What a receipt says is true."""

from __future__ import annotations

import asyncio
import contextlib
import subprocess
import sys
from collections import Counter

import pytest

from eventbus_conformance.clauses import Unknown, clause
from eventbus_conformance.fixtures import OpenBus, Sized
from eventbus_conformance.harness import Bounds
from eventbus_conformance.receiving import nothing_more, take
from eventbus_conformance.run import Measurements
from eventbus_conformance.sending import read_all, send_one
from eventbus_core import EventBus
from eventbus_core.capabilities import Capabilities, Reach
from eventbus_core.errors import BufferFull, SendFailed
from eventbus_core.receipts import Receipt
from eventbus_core.records import Stored

MAX_BURSTS = 20


@clause("S1")
def test_what_a_killed_process_was_told_is_stored_is_delivered(
    bus: EventBus,
    bus_url: str,
    topic: str,
    group: str,
    capabilities: Capabilities,
    bounds: Bounds,
    measured: Measurements,
    sized: Sized,
) -> None:
    kills = sized(20)
    told: list[str] = []
    with bus.consumer(topic, group=group, start="latest") as consumer:
        if capabilities.reach is Reach.PROCESS:
            # The bus dies with the process; what is stored must be there without any flush or close.
            producer = bus.producer()
            for number in range(kills):
                producer.send(topic, str(number).encode(), key=b"k").result(bounds.deliver)
                told.append(str(number))
        else:
            command = [sys.executable, "-m", "eventbus_conformance.publishing", bus_url, topic, "0", str(kills)]
            done = subprocess.run(command, capture_output=True, text=True, timeout=100, check=False)
            assert done.returncode == 0, done.stdout + done.stderr
            told = done.stdout.split()
            measured.add("senders killed", len(told))
        assert len(told) == kills
        received = take(consumer, kills, bounds.deliver, ack=True)
        assert nothing_more(consumer, bounds.quiet)
    assert Counter((each.record.value or b"").decode() for each in received) == Counter(told)


@clause("S2")
def test_close_settles_every_receipt(bus: EventBus, topic: str, sized: Sized) -> None:
    records = sized(5000)
    producer = bus.producer()
    receipts: list[Receipt] = []
    open_at_close = 0
    # A quick broker, or a slow sender, may have settled everything by the end of a burst.
    for burst in range(MAX_BURSTS):
        receipts += [send_one(producer, topic, number, 50) for number in range(burst * records, (burst + 1) * records)]
        open_at_close = sum(not receipt.done() for receipt in receipts[-records:])
        if open_at_close:
            break
    producer.close()
    assert all(receipt.done() for receipt in receipts)
    assert all(isinstance(receipt.result(0), Stored) for receipt in receipts)
    if not open_at_close:
        raise Unknown("everything was settled before close: nothing shown")
    assert Counter((each.key, each.seq) for each in read_all(bus, topic)).total() == len(receipts)


@clause("S5", "O1")
def test_a_full_buffer_is_an_error_and_drops_nothing(open_bus: OpenBus, topic: str, bounds: Bounds) -> None:
    bus = open_bus(send_buffer_records=20)
    full = 0
    receipts = []
    with bus.producer() as producer:
        for number in range(3000):
            while True:
                try:
                    receipts.append(producer.send(topic, str(number).encode(), key=b"one", wait_seconds=0))
                    break
                except BufferFull as error:
                    assert error.retryable
                    full += 1
                    assert producer.flush(bounds.deliver) == 0
    assert full > 0, "the buffer was never full: nothing shown"
    assert all(isinstance(receipt.result(0), Stored) for receipt in receipts)
    assert [int(each.record.value or b"") for each in bus.read(topic)] == list(range(3000))


@clause("O1")
def test_keys_are_stored_in_the_order_of_the_calls(bus: EventBus, topic: str, bounds: Bounds, sized: Sized) -> None:
    records = sized(5000)
    with bus.producer() as producer:
        receipts = [send_one(producer, topic, number, 64) for number in range(records)]
        for receipt in receipts:
            receipt.result(bounds.deliver)
    by_key: dict[str, list[int]] = {}
    homes: dict[str, set[int]] = {}
    for each in read_all(bus, topic):
        by_key.setdefault(each.key, []).append(each.seq)
        homes.setdefault(each.key, set()).add(each.partition)
    assert sum(map(len, by_key.values())) == records
    assert all(seqs == sorted(seqs) for seqs in by_key.values())
    assert all(len(partitions) == 1 for partitions in homes.values()), "a key lies in two partitions"
    assert len(set.union(*homes.values())) > 1, "all keys went to one partition: nothing shown"


@clause("S8")
def test_giving_up_waiting_changes_nothing_for_the_record(bus: EventBus, topic: str, bounds: Bounds) -> None:
    producer = bus.producer()

    async def give_up() -> tuple[list[Receipt], int]:
        receipts, given_up = [], 0
        for number in range(200):
            receipt = producer.send(topic, str(number).encode(), key=b"k")
            receipts.append(receipt)
            waiting = asyncio.ensure_future(_wait(receipt))
            await asyncio.sleep(0)  # so that it waits when it is cancelled
            given_up += waiting.cancel() and not receipt.done()
            await asyncio.gather(waiting, return_exceptions=True)
        return receipts, given_up

    receipts, given_up = asyncio.run(give_up())
    if not given_up:
        raise Unknown("every receipt was settled before the wait for it was given up: nothing shown")
    assert all(isinstance(receipt.result(bounds.deliver), Stored) for receipt in receipts)
    late = producer.send(topic, b"200", key=b"k")
    with contextlib.suppress(TimeoutError):
        late.result(0)
    assert isinstance(late.result(bounds.deliver), Stored)
    assert [int(each.record.value or b"") for each in bus.read(topic)] == list(range(201))


async def _wait(receipt: Receipt) -> Stored:
    return await receipt


@clause("S9")
def test_a_receipt_says_where_the_record_lies(bus: EventBus, topic: str, bounds: Bounds) -> None:
    with bus.producer() as producer:
        stored = [send_one(producer, topic, number, 16).result(bounds.deliver) for number in range(64)]
    read = {(each.record.key, each.record.value): each for each in bus.read(topic)}
    assert len(read) == 64
    for number, each in enumerate(stored):
        delivery = read[f"key-{number % 16}".encode(), str(number // 16).encode()]
        assert (each.topic, each.partition) == (topic, delivery.partition)
        assert each.position in {None, delivery.position}
    assert len({each.partition for each in stored}) > 1, "all keys went to one partition: nothing shown"


@clause("P3")
def test_a_receipt_tells_the_position(bus: EventBus, topic: str, bounds: Bounds) -> None:
    with bus.producer() as producer:
        stored = {n: send_one(producer, topic, n, 16).result(bounds.deliver).position for n in range(64)}
    read = {(each.key, each.seq): each.position for each in read_all(bus, topic)}
    assert {(f"key-{n % 16}", n // 16): position for n, position in stored.items()} == read


@clause("S6")
def test_flush_counts_what_is_still_open(open_bus: OpenBus, unreachable_url: str, topic: str) -> None:
    producer = open_bus(unreachable_url).producer()
    receipts = [producer.send(topic, b"v") for _ in range(5)]
    assert producer.flush(0.3) == 5
    assert not any(receipt.done() for receipt in receipts)
    with pytest.raises(TimeoutError):
        receipts[0].result(0.1)
    producer.close(0.2)
    for receipt in receipts:
        with pytest.raises(SendFailed):
            receipt.result(0)

"""Records come back as they were sent."""

from __future__ import annotations

import random
import time
from collections import Counter
from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Any

import pytest

from eventbus_conformance.clauses import clause
from eventbus_conformance.fixtures import PARTITIONS, NewTopic, OpenBus, Sized
from eventbus_conformance.harness import Bounds, Harness
from eventbus_conformance.numbered import digest, numbered, read_numbered
from eventbus_conformance.receiving import nothing_more, take
from eventbus_core import EventBus
from eventbus_core.capabilities import Capabilities
from eventbus_core.errors import InvalidRecord, TooLarge
from eventbus_core.records import Delivery, Headers, Stored

EVERY_BYTE = bytes(range(256))

ODD_TEXTS = (
    *(" ", "  two blanks  ", "with/slash", "../up", "a\\b", "'single'", '"double"', "a=b&c=d", "50%", "%20", "\t\r\n"),
    *(
        "\x01\x1f\x7f",
        "!#$()*+,-.:;<>?@[]^_`{|}~",
        "näme-ключ-鍵",
        "☺😀",
        "e\u0301 is not é",
        "\u200b\ufeff",
        "x" * 300,
    ),
)

# Value, key, headers, stated time.
SHAPES: list[tuple[bytes | None, bytes | None, Headers, datetime | None]] = [
    (b"plain", b"key", (), None),
    (b"", b"", (), None),
    (None, None, (), None),
    (None, b"only a key", (), None),
    (b"only a value", None, (), None),
    (EVERY_BYTE, EVERY_BYTE, (("all", EVERY_BYTE),), None),
    (b"\xff\xfe\x00", b"\x80\x00\xff", (("empty", b""),), None),
    (b"repeated", b"k", (("a", b"1"), ("b", b"2"), ("a", b"3"), ("A", b"4"), ("a", b"1")), None),
    (b"case", b"k", (("Content-Type", b"1"), ("content-type", b"2"), ("CONTENT-TYPE", b"")), None),
    (b"no name", b"k", (("", b"no name"), ("", b"")), None),
    (b"odd names", b"k", tuple((text, b"v") for text in ODD_TEXTS), None),
    (b"odd values", b"k", tuple((f"h{n}", text.encode()) for n, text in enumerate(ODD_TEXTS)), None),
    (b"dated", b"k", (), datetime(2024, 2, 29, 12, 30, 15, 123000, tzinfo=UTC)),
]


def exchange(bus: EventBus, topic: str, group: str, bounds: Bounds) -> list[tuple[Stored, Delivery, Delivery]]:
    """Send every shape, one after the other; its receipt, and how it was received and read."""
    with bus.producer() as producer, bus.consumer(topic, group=group) as consumer:
        stored = [
            producer.send(topic, value, key=key, headers=headers, timestamp=at).result(bounds.deliver)
            for value, key, headers, at in SHAPES
        ]
        deliveries = take(consumer, len(SHAPES), bounds.deliver, ack=True)
    received, read = (_in_partitions(each) for each in (deliveries, bus.read(topic)))
    # Within a partition they come in the order in which they were stored, so nothing in them must tell which is which.
    return [(each, received[each.partition].pop(0), read[each.partition].pop(0)) for each in stored]


def _in_partitions(deliveries: Iterable[Delivery]) -> dict[int, list[Delivery]]:
    found: dict[int, list[Delivery]] = {}
    for each in deliveries:
        found.setdefault(each.partition, []).append(each)
    return found


@clause("R1")
def test_keys_and_values_come_back_with_the_same_bytes(bus: EventBus, topic: str, group: str, bounds: Bounds) -> None:
    exchanged = exchange(bus, topic, group, bounds)
    for (value, key, _, _), (_, *deliveries) in zip(SHAPES, exchanged, strict=True):
        for each in deliveries:
            assert (each.record.topic, each.record.value, each.record.key) == (topic, value, key)


@clause("R2")
def test_headers_come_back_with_the_same_bytes_in_order(bus: EventBus, topic: str, group: str, bounds: Bounds) -> None:
    exchanged = exchange(bus, topic, group, bounds)
    for (_, _, headers, _), (_, *deliveries) in zip(SHAPES, exchanged, strict=True):
        for each in deliveries:
            assert each.record.headers == headers


@clause("R3")
def test_timestamps_come_back_to_the_millisecond(bus: EventBus, topic: str, group: str, bounds: Bounds) -> None:
    before = time.time() * 1000
    exchanged = exchange(bus, topic, group, bounds)
    after = time.time() * 1000
    for (_, _, _, at), (stored, *deliveries) in zip(SHAPES, exchanged, strict=True):
        for each in deliveries:
            assert each.record.timestamp_ms == stored.timestamp_ms
        if at is None:
            assert before - 1 <= stored.timestamp_ms <= after + 1
        else:
            assert stored.timestamp_ms == 1709209815123


@clause("R6", "R1")
def test_a_thousand_records_come_back_and_nothing_else(
    bus: EventBus, topic: str, group: str, bounds: Bounds, rng: random.Random, sized: Sized
) -> None:
    sizes = [0, 1, 255, 256, 65_536] + [rng.randrange(4096) for _ in range(sized(995))]
    values = [EVERY_BYTE * (size // 256) + rng.randbytes(size % 256) for size in sizes]
    sent = {}
    with bus.consumer(topic, group=group) as consumer:
        with bus.producer() as producer:
            for number, value in enumerate(values):
                key, kseq = f"key-{number % 50}", number // 50
                sent[str(number)] = digest(value)
                about = numbered(str(number), key, kseq, value)
                producer.send(topic, value, key=key.encode(), headers=about.headers)
        deliveries = take(consumer, len(values), bounds.deliver, ack=True)
        assert nothing_more(consumer, bounds.quiet)
    received = [read_numbered(each.record) for each in deliveries]
    assert {str(each.id): each.sha256 for each in received} == sent
    assert Counter(each.id for each in received).most_common(1)[0][1] == 1
    assert {each.partition for each in deliveries} == set(range(PARTITIONS)), "not all partitions used: nothing shown"


@clause("R4")
def test_a_mebibyte_less_overhead_comes_back_whole(
    bus: EventBus, topic: str, group: str, bounds: Bounds, rng: random.Random
) -> None:
    key, header = b"large", ("h", b"x" * 1000)
    values = [rng.randbytes(1024 * 1024 - 4096 - len(key) - 1001) for _ in range(3)]
    with bus.producer() as producer, bus.consumer(topic, group=group) as consumer:
        for value in values:
            producer.send(topic, value, key=key, headers=[header]).result(bounds.deliver)
        received = take(consumer, 3, bounds.deliver, ack=True)
    assert [each.record.value for each in received] == values


@clause("R5")
def test_bad_records_are_refused_at_once(
    open_bus: OpenBus, bus_url: str, harness: Harness, topic: str, capabilities: Capabilities, bounds: Bounds
) -> None:
    # Where nobody listens a refusal can only come without asking the broker.
    refusing = open_bus(harness.unreachable_url() or bus_url)
    limit = capabilities.max_record_bytes
    with refusing.producer() as producer:
        for name in ("", "a b", "ümlaut", "x" * 300, "slash/ed", "a-partition-0", "."):
            with pytest.raises(InvalidRecord):
                producer.send(name, b"v")
        bad: list[Any] = ["text", 7, [b"v"]]
        for wrong in bad:
            with pytest.raises(InvalidRecord):
                producer.send(topic, wrong)
            with pytest.raises(InvalidRecord):
                producer.send(topic, b"v", key=wrong)
        headers: list[Any] = [("name", "text"), (b"bytes", b"v"), ("nul\0", b"v"), ("\ud800", b"v"), ("one",)]
        for header in headers:
            with pytest.raises(InvalidRecord):
                producer.send(topic, b"v", headers=[header])
        with pytest.raises(InvalidRecord):
            producer.send(topic, b"v", timestamp=datetime(2024, 1, 1))  # noqa: DTZ001
        with pytest.raises(TooLarge):
            producer.send(topic, bytes(limit + 1))
        with pytest.raises(TooLarge):
            producer.send(topic, bytes(limit - 10), key=b"k" * 11)
        assert producer.flush(0) == 0, "something bad was taken"
    with open_bus().producer() as producer:
        assert isinstance(producer.send(topic, b"good").result(bounds.deliver), Stored)
    assert [each.record.value for each in open_bus().read(topic)] == [b"good"]


@clause("R8")
def test_another_program_finds_what_is_stored(
    bus: EventBus, new_topic: NewTopic, harness: Harness, bounds: Bounds
) -> None:
    topic = new_topic(2)
    with bus.producer() as producer:
        receipts = [producer.send(topic, f"value {n}".encode(), key=f"key-{n % 10}".encode()) for n in range(100)]
        stored = [receipt.result(bounds.deliver) for receipt in receipts]
    places = [(partition, raw.key, raw.value) for partition in range(2) for raw in harness.raw_read(topic, partition)]
    expected = [(each.partition, f"key-{n % 10}".encode(), f"value {n}".encode()) for n, each in enumerate(stored)]
    assert Counter(places) == Counter(expected)
    assert {each.partition for each in stored} == {0, 1}, "one partition has everything: nothing shown"

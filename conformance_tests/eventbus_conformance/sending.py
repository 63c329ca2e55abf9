"""Numbered records to send."""

from __future__ import annotations

from collections.abc import Sequence

from eventbus_conformance.history import Handled, Writer
from eventbus_conformance.numbered import numbered
from eventbus_core import EventBus
from eventbus_core.errors import SendFailed, SendUnknown
from eventbus_core.producer import Producer
from eventbus_core.receipts import Receipt
from eventbus_core.records import Stored

SETTLE_SECONDS = 60.0


def key_of(number: int, keys: int) -> tuple[str, int]:
    """The key of the n-th record, and its number within the key."""
    return f"key-{number % keys}", number // keys


def send_one(
    producer: Producer,
    topic: str,
    number: int,
    keys: int,
    *,
    history: Writer | None = None,
    wait_seconds: float | None = None,
) -> Receipt:
    """Send the n-th record; note it in a history."""
    key, seq = key_of(number, keys)
    value = str(seq).encode()
    about = numbered(f"{key}/{seq}", key, seq, value)
    if history is not None:
        history.send_invoke(topic, about)
    return producer.send(topic, value, key=key.encode(), headers=about.headers, wait_seconds=wait_seconds)


def note_outcome(history: Writer, number: int, keys: int, receipt: Receipt) -> None:
    """Note in a history how a send ended."""
    key, seq = key_of(number, keys)
    name = f"{key}/{seq}"
    try:
        history.send_ok(name, receipt.result(SETTLE_SECONDS))
    except SendFailed as error:
        history.send_failed(name, error)
    except (SendUnknown, TimeoutError) as error:
        history.send_unknown(name, error)


def send_all(
    bus: EventBus, topic: str, records: int, keys: int, *, first: int = 0, history: Writer | None = None
) -> list[tuple[str, int]]:
    """Send records, wait until all are stored, and return their keys and numbers."""
    span = range(first, first + records)
    with bus.producer() as producer:
        receipts = [send_one(producer, topic, number, keys, history=history) for number in span]
        for number, receipt in zip(span, receipts, strict=True):
            assert isinstance(receipt.result(SETTLE_SECONDS), Stored)
            if history is not None:
                note_outcome(history, number, keys, receipt)
    return [key_of(number, keys) for number in span]


def read_all(bus: EventBus, topic: str) -> Sequence[Handled]:
    """The whole topic, without a group."""
    found = []
    for each in bus.read(topic):
        assert each.record.key is not None
        assert each.record.value is not None
        key, seq = each.record.key.decode(), int(each.record.value)
        found.append(Handled("read", 0, key, seq, each.partition, each.position, 0.0))
    return found

"""Numbered records to send, in the foreground or all the while something else happens."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from typing import Self

from eventbus_conformance.history import Handled
from eventbus_core import EventBus
from eventbus_core.errors import BufferFull
from eventbus_core.producer import Producer
from eventbus_core.receipts import Receipt
from eventbus_core.records import Stored

SETTLE_SECONDS = 60.0


def key_of(number: int, keys: int) -> tuple[str, int]:
    """The key of the n-th record, and its number within the key."""
    return f"key-{number % keys}", number // keys


def send_one(producer: Producer, topic: str, number: int, keys: int) -> Receipt:
    """Send the n-th record."""
    key, seq = key_of(number, keys)
    return producer.send(topic, str(seq).encode(), key=key.encode())


def send_all(bus: EventBus, topic: str, records: int, keys: int, *, first: int = 0) -> list[tuple[str, int]]:
    """Send records, wait until all are stored, and return their keys and numbers."""
    numbers = range(first, first + records)
    with bus.producer() as producer:
        receipts = [send_one(producer, topic, number, keys) for number in numbers]
        for receipt in receipts:
            assert isinstance(receipt.result(SETTLE_SECONDS), Stored)
    return [key_of(number, keys) for number in numbers]


def read_all(bus: EventBus, topic: str) -> Sequence[Handled]:
    """The whole topic, without a group."""
    found = []
    for each in bus.read(topic):
        assert each.record.key is not None
        assert each.record.value is not None
        key, seq = each.record.key.decode(), int(each.record.value)
        found.append(Handled("read", 0, key, seq, each.partition, each.position, 0.0))
    return found


class Stream:
    """Sends at a steady pace from a thread until stopped."""

    def __init__(self, bus: EventBus, topic: str, *, keys: int, per_second: float) -> None:
        self.receipts: list[Receipt] = []
        self._bus = bus
        self._topic = topic
        self._keys = keys
        self._pause = 10 / per_second
        self._stop = threading.Event()
        self._failure: Exception | None = None
        self._thread = threading.Thread(target=self._run, name="stream")

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def finish(self) -> list[tuple[str, int]]:
        """Stop, wait until everything is settled and return what was sent; each must be stored."""
        self._stop.set()
        self._thread.join()
        assert self._failure is None, f"sending failed: {self._failure!r}"
        for receipt in self.receipts:
            assert isinstance(receipt.result(SETTLE_SECONDS), Stored)
        return [key_of(number, self._keys) for number in range(len(self.receipts))]

    def _run(self) -> None:
        try:
            with self._bus.producer() as producer:
                while not self._stop.is_set():
                    for _ in range(10):
                        self.receipts.append(self._send(producer))
                    self._stop.wait(self._pause)
        except Exception as error:  # noqa: BLE001  (raised in the test's thread by finish)
            self._failure = error

    def _send(self, producer: Producer) -> Receipt:
        while True:
            try:
                return send_one(producer, self._topic, len(self.receipts), self._keys)
            except BufferFull:
                if self._stop.is_set():
                    raise

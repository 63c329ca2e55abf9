"""Sending dead letters, so that it is known of each how it ended."""

from __future__ import annotations

import threading
from collections.abc import Callable

from eventbus_core.dead_letters.letters import size_of
from eventbus_core.errors import EventBusError, Unavailable
from eventbus_core.producer import Producer
from eventbus_core.receipts import Receipt
from eventbus_core.records import Record


class Storing:
    """Has a producer of its own, opened when first needed, and another if that one broke. Thread-safe."""

    def __init__(self, open_producer: Callable[[], Producer], fail: Callable[[BaseException], None]) -> None:
        self._open_producer = open_producer
        self._fail = fail
        self._lock = threading.Lock()
        self._producer: Producer | None = None
        self._closed = False

    def send(self, letter: Record, told: Callable[[EventBusError | None], None]) -> None:
        """Send it without waiting; ``told`` learns how it ended, None for stored, here or in the producer's thread."""
        producer: Producer | None = None
        try:
            producer = self._opened()
            receipt = producer.send_record(letter, size_of(letter), 0.0)
        except EventBusError as error:
            told(_of_broken(producer) or error)
            return
        receipt.add_done_callback(lambda settled: self._settled(producer, settled, told))

    def close(self) -> None:
        """What is on its way then is told to nobody."""
        with self._lock:
            self._closed = True
            producer = self._producer
        if producer is not None:
            producer.close(0.0)

    def _opened(self) -> Producer:
        with self._lock:
            if self._producer is None or self._producer.broke is not None:
                self._producer = self._open_producer()
            return self._producer

    def _settled(self, producer: Producer, receipt: Receipt, told: Callable[[EventBusError | None], None]) -> None:
        error: EventBusError | None = None
        try:
            receipt.result(0)
        except EventBusError as failure:
            error = _of_broken(producer) or failure
        if self._closed:
            return
        try:
            told(error)
        except BaseException as raised:  # a hook's: the receipt would only log it, and the event wait for ever
            self._fail(raised)
            raise


def _of_broken(producer: Producer | None) -> EventBusError | None:
    """What a producer that broke says of a record is about itself: another may send it."""
    broke = producer and producer.broke
    return Unavailable(f"the producer of the dead letters broke, opening another: {broke}") if broke else None

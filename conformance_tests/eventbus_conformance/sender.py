"""A sender as a process of its own: ``python -m eventbus_conformance.sender URL TOPIC HISTORY --name NAME``.

Sends numbered records and notes each before it is sent, and each outcome when it comes. SIGTERM: send no more, wait for
the outcomes and exit 0.
"""

from __future__ import annotations

import argparse
import random
import signal
import threading
import time
from pathlib import Path
from typing import NamedTuple

from eventbus_conformance.history import Writer
from eventbus_conformance.numbered import numbered
from eventbus_conformance.signalled import when_signalled
from eventbus_core import EventBus
from eventbus_core.errors import BufferFull, SendFailed, SendUnknown
from eventbus_core.producer import Producer
from eventbus_core.receipts import Receipt


class SendOrders(NamedTuple):
    """What a sender is to do.

    Its keys are ``NAME.0``, ``NAME.1``..., used in turn: a key has one sender, or its order would mean nothing.
    ``records``: how many, None: until told to stop. ``per_second``: 0 is as fast as it can. ``value_bytes``: the
    largest value; values are random bytes of random length, from ``seed``.
    """

    url: str
    topic: str
    history: Path
    name: str
    keys: int = 16
    records: int | None = None
    per_second: float = 0.0
    value_bytes: int = 256
    seed: int = 0


class Sending:
    """One sender at work."""

    def __init__(self, producer: Producer, orders: SendOrders, stop: threading.Event, history: Writer) -> None:
        self._producer = producer
        self._orders = orders
        self._stop = stop
        self._history = history
        self._random = random.Random(f"{orders.name} {orders.seed}")
        self._noted = 0

    def run(self) -> int:
        """Send until all is sent or it is told to stop; returns how many were taken by the producer."""
        sent = 0
        started = time.monotonic()
        while not self._stop.is_set() and sent != self._orders.records:
            if not self._send(sent):
                break
            sent += 1
            if self._orders.per_second:
                self._stop.wait(max(0.0, started + sent / self._orders.per_second - time.monotonic()))
        return sent

    def check(self, sent: int) -> None:
        """Raise ``RuntimeError`` unless every outcome was noted; to be called when the producer is closed."""
        if self._noted != sent:
            raise RuntimeError(f"{sent - self._noted} of {sent} outcomes were not noted")

    def _send(self, number: int) -> bool:
        """Send the n-th record. False: it was not taken, and the sender is to stop."""
        key = f"{self._orders.name}.{number % self._orders.keys}"
        value = self._random.randbytes(self._random.randint(0, self._orders.value_bytes))
        record = numbered(f"{self._orders.name}/{number}", key, number // self._orders.keys, value)
        self._history.send_invoke(self._orders.topic, record)
        while True:
            try:
                receipt = self._producer.send(self._orders.topic, value, key=key.encode(), headers=record.headers)
            except BufferFull as full:
                if self._stop.is_set():
                    self._history.send_failed(str(record.id), full)
                    return False
                continue
            receipt.add_done_callback(lambda settled: self._note(str(record.id), settled))
            return True

    def _note(self, record_id: str, receipt: Receipt) -> None:
        try:
            self._history.send_ok(record_id, receipt.result(0))
        except SendFailed as error:
            self._history.send_failed(record_id, error)
        except SendUnknown as error:
            self._history.send_unknown(record_id, error)
        self._noted += 1


def run(orders: SendOrders, stop: threading.Event) -> None:
    """Send, wait for the outcomes (the bus's own time limit for sending holds) and close."""
    with Writer(orders.history, orders.name) as history, EventBus(orders.url) as bus:
        with bus.producer() as producer:
            sending = Sending(producer, orders, stop, history)
            sent = sending.run()
            producer.flush()
        sending.check(sent)


def main() -> None:
    """Read the command line, wire the signal, run."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("url")
    parser.add_argument("topic")
    parser.add_argument("history", type=Path)
    parser.add_argument("--name", required=True)
    parser.add_argument("--keys", type=int, default=16)
    parser.add_argument("--records", type=int)
    parser.add_argument("--per-second", type=float, default=0.0)
    parser.add_argument("--value-bytes", type=int, default=256)
    parser.add_argument("--seed", type=int, default=0)
    stop = threading.Event()
    when_signalled({signal.SIGTERM: stop.set})
    run(SendOrders(**vars(parser.parse_args())), stop)


if __name__ == "__main__":
    main()

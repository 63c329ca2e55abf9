"""A member of a group as a process of its own: ``python -m eventbus_conformance.member URL TOPIC GROUP HISTORY``.

Handles records in the order received and notes each in the history before it is acked. SIGTERM: leave and exit 0.
SIGUSR1: ack what was held back (``--hold-acks``).
"""

from __future__ import annotations

import argparse
import signal
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Literal, NamedTuple

from eventbus_conformance.history import Writer
from eventbus_core import EventBus
from eventbus_core.consumer import Consumer
from eventbus_core.errors import Closed, EventBusError
from eventbus_core.records import Delivery

Start = Literal["earliest", "latest"]


class Orders(NamedTuple):
    """What a member is to do. ``pace_seconds``: how long one record takes; ``hold_acks``: ack only when told to."""

    url: str
    topic: str
    group: str
    history: Path
    name: str
    start: Start = "earliest"
    pace_seconds: float = 0.0
    hold_acks: bool = False


class Signals:
    """What others tell a running member."""

    def __init__(self) -> None:
        self.stop = threading.Event()
        self.ack_held = threading.Event()
        self.abandon: Callable[[], None] | None = None


class Running:
    """One member at work."""

    def __init__(self, consumer: Consumer, orders: Orders, signals: Signals, history: Writer) -> None:
        self._consumer = consumer
        self._orders = orders
        self._signals = signals
        self._history = history
        self._held_back: list[Delivery] = []
        self._holding: frozenset[int] | None = None

    def turn(self) -> None:
        """Note what changed, receive once and handle."""
        self._note_holding()
        if self._signals.ack_held.is_set() and self._held_back:
            self._ack_held_back()
        try:
            received = self._consumer.receive(max_records=50, timeout=0.1)
        except EventBusError as error:
            if not error.retryable:
                raise
            self._history.note("outage", error=str(error))
            return
        for delivery in received:
            if self._signals.stop.is_set():
                return
            if delivery.owned:
                self._handle(delivery)

    def _handle(self, delivery: Delivery) -> None:
        self._history.handled(delivery)
        if self._orders.pace_seconds:
            self._signals.stop.wait(self._orders.pace_seconds)
        if not self._orders.hold_acks:
            self._consumer.ack(delivery)
        elif not self._signals.ack_held.is_set():
            self._held_back.append(delivery)

    def _note_holding(self) -> None:
        now = frozenset(partition for _, partition in self._consumer.assignments)
        if now != self._holding:
            self._holding = now
            self._history.note("holds", partitions=sorted(now))

    def _ack_held_back(self) -> None:
        self._consumer.ack(*self._held_back)
        self._consumer.flush(5)
        self._history.note("acked", records=len(self._held_back))
        self._held_back.clear()


def run(orders: Orders, signals: Signals) -> None:
    """Join, handle until told to stop, and leave (unless abandoned)."""
    with Writer(orders.history, orders.name) as history, EventBus(orders.url) as bus:
        consumer = bus.consumer(orders.topic, group=orders.group, start=orders.start)
        signals.abandon = consumer._abandon  # noqa: SLF001  (private to users, made for this)
        history.note("joined")
        member = Running(consumer, orders, signals, history)
        try:
            while not signals.stop.is_set():
                member.turn()
            consumer.close()
            history.note("left")
        except Closed:
            history.note("abandoned")


def main() -> None:
    """Read the command line, wire the signals, run."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("url")
    parser.add_argument("topic")
    parser.add_argument("group")
    parser.add_argument("history", type=Path)
    parser.add_argument("--name", required=True)
    parser.add_argument("--start", choices=["earliest", "latest"], default="earliest")
    parser.add_argument("--pace-seconds", type=float, default=0.0)
    parser.add_argument("--hold-acks", action="store_true")
    signals = Signals()
    signal.signal(signal.SIGTERM, lambda *_: signals.stop.set())
    signal.signal(signal.SIGUSR1, lambda *_: signals.ack_held.set())
    run(Orders(**vars(parser.parse_args())), signals)


if __name__ == "__main__":
    main()

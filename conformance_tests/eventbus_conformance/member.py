"""A member of a group as a process of its own: ``python -m eventbus_conformance.member URL TOPIC GROUP HISTORY``.

Handles records in the order received and notes in the history each that it receives, handles and acks. SIGTERM: leave
and exit 0. SIGUSR1: ack what was held back (``--hold-acks``).
"""

from __future__ import annotations

import argparse
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Literal, NamedTuple

from eventbus_conformance.history import Writer
from eventbus_conformance.signalled import when_signalled
from eventbus_core import EventBus
from eventbus_core.consumer import Consumer
from eventbus_core.errors import Closed, EventBusError
from eventbus_core.hooks import Hooks
from eventbus_core.records import Assignment, Delivery

Start = Literal["earliest", "latest"]

FLUSH_TIMEOUT_SECONDS = 5.0
_WORK_PER_FLUSH = 3.0


class Orders(NamedTuple):
    """What a member is to do.

    ``pace_seconds``: how long one record takes; ``hold_acks``: hold acks back, and give them when told to, once;
    ``flush_seconds``: how often, at most, to wait until the acks are durable.
    """

    url: str
    topic: str
    group: str
    history: Path
    name: str
    start: Start = "earliest"
    pace_seconds: float = 0.0
    hold_acks: bool = False
    flush_seconds: float = 0.25


class Signals:
    """What others tell a running member."""

    def __init__(self) -> None:
        self.stop = threading.Event()
        self.ack_held = threading.Event()
        self.abandon: Callable[[], None] | None = None


class Losses(Hooks):
    """Notes what the member is told to have lost."""

    def __init__(self, group: str, history: Writer) -> None:
        self._group = group
        self._history = history

    def lost(self, assignment: Assignment, reason: str) -> None:
        self._history.lost(self._group, assignment, reason)


class Running:
    """One member at work."""

    def __init__(self, consumer: Consumer, orders: Orders, signals: Signals, history: Writer) -> None:
        self._consumer = consumer
        self._orders = orders
        self._signals = signals
        self._history = history
        self._held_back: list[Delivery] = []
        self._holds_back = orders.hold_acks
        self._unflushed: list[Delivery] = []
        self._flush_at = 0.0
        self._holding: frozenset[tuple[str, int]] | None = None

    def turn(self) -> None:
        """Note what changed, receive once and handle."""
        self._note_holding()
        if self._signals.ack_held.is_set() and self._held_back:
            self._holds_back = False
            self._ack(*self._held_back)
            self._held_back.clear()
            self._flush()
        try:
            received = self._consumer.receive(max_records=50, timeout=0.1)
            self._handle_all(received)
            if self._unflushed and time.monotonic() >= self._flush_at:
                self._flush()
        except EventBusError as error:
            if not error.retryable:
                raise
            self._history.note("outage", error=str(error))

    def _handle_all(self, received: list[Delivery]) -> None:
        for delivery in received:
            self._history.deliver(self._orders.group, delivery)
        for delivery in received:
            if self._signals.stop.is_set():
                return
            if delivery.owned:
                self._handle(delivery)

    def _handle(self, delivery: Delivery) -> None:
        self._history.handle_start(self._orders.group, delivery)
        if self._orders.pace_seconds:
            self._signals.stop.wait(self._orders.pace_seconds)
        self._history.handle_end(self._orders.group, delivery)
        if not self._orders.hold_acks:
            self._ack(delivery)
        elif self._holds_back:
            self._held_back.append(delivery)

    def _ack(self, *deliveries: Delivery) -> None:
        self._history.ack_invoke(self._orders.group, deliveries)
        self._consumer.ack(*deliveries)
        self._unflushed += deliveries

    def _flush(self) -> None:
        begin = time.monotonic()
        still_open = self._consumer.flush(FLUSH_TIMEOUT_SECONDS)
        self._history.line("flush", group=self._orders.group, open=still_open)
        # Where acks take long to be durable, a member would do little else than wait for them.
        end = time.monotonic()
        self._flush_at = end + max(self._orders.flush_seconds, _WORK_PER_FLUSH * (end - begin))
        if still_open == 0:
            # An ack of a partition that has gone is dropped, and flush does not count it.
            self._history.ack_ok(self._orders.group, [each for each in self._unflushed if each.owned])
            self._unflushed.clear()

    def _note_holding(self) -> None:
        now = self._consumer.assignments
        if now != self._holding:
            self._holding = now
            self._history.holds(self._orders.group, now)


def run(orders: Orders, signals: Signals) -> None:
    """Join, handle until told to stop, and leave (unless abandoned)."""
    with (
        Writer(orders.history, orders.name) as history,
        EventBus(orders.url, hooks=[Losses(orders.group, history)]) as bus,
    ):
        history.line("join", group=orders.group, start=orders.start)
        consumer = bus.consumer(orders.topic, group=orders.group, start=orders.start)
        signals.abandon = consumer._abandon  # noqa: SLF001  (private to users, made for this)
        history.line("ready", group=orders.group)
        member = Running(consumer, orders, signals, history)
        try:
            while not signals.stop.is_set():
                member.turn()
            consumer.close()
            history.line("leave", group=orders.group)
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
    parser.add_argument("--flush-seconds", type=float, default=0.25)
    signals = Signals()
    when_signalled({signal.SIGTERM: signals.stop.set, signal.SIGUSR1: signals.ack_held.set})
    run(Orders(**vars(parser.parse_args())), signals)


if __name__ == "__main__":
    main()

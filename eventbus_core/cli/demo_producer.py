"""The producers of the demo: threads that publish events of known keys in a known order."""

from __future__ import annotations

import threading

from eventbus_core import EventBus, Receipt
from eventbus_core.cli.demo_accounting import EventId
from eventbus_core.cli.demo_member import Reading
from eventbus_core.errors import BufferFull, SendError, SendUnknown

_KEYS_PER_PRODUCER = 50
#: Producers wait here until the kill, so that there is always something left to take over.
_PUBLISHED_BEFORE_KILL = 0.6


class Producing:
    """One producer thread with keys of its own, so that their order is known."""

    def __init__(self, bus: EventBus, topic: str, name: str, events: int, killed: threading.Event) -> None:
        self.stored: set[EventId] = set()
        self.unknown: set[EventId] = set()
        self.failed = 0
        self.sent = 0
        self.error: Exception | None = None
        self._bus = bus
        self._topic = topic
        self._name = name
        self._events = events
        self._killed = killed
        self._cancelled = False
        self.thread = threading.Thread(target=self._run, name=f"demo-producer-{name}", daemon=True)
        self.thread.start()

    def cancel(self) -> None:
        """Send no more."""
        self._cancelled = True
        self._killed.set()

    def _run(self) -> None:
        try:
            self._produce()
        except Exception as error:  # noqa: BLE001  (kept: the demo ends with it)
            self.error = error

    def _produce(self) -> None:
        receipts = []
        for index in range(self._events):
            if index >= self._events * _PUBLISHED_BEFORE_KILL:
                self._killed.wait()
            if self._cancelled:
                break
            number, chosen = divmod(index, _KEYS_PER_PRODUCER)
            reading = Reading(key=f"{self._name}-{chosen}", number=number)
            receipts.append(((reading.key, number), self._publish(reading)))
            self.sent += 1
        for event, receipt in receipts:
            try:
                receipt.result()
            except SendUnknown:
                self.unknown.add(event)
            except SendError:
                self.failed += 1
            else:
                self.stored.add(event)

    def _publish(self, reading: Reading) -> Receipt:
        while True:
            try:
                return self._bus.publish(reading, topic=self._topic)
            except BufferFull:
                # Nothing was taken; the demo's own patience bounds the wait.
                if self._cancelled:
                    raise

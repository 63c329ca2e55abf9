"""What ``send`` returns: the promise of an outcome."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Generator
from threading import Condition

from eventbus_core.errors import SendError
from eventbus_core.forking import generation, refuse_fork
from eventbus_core.records import Record, Stored

_log = logging.getLogger("eventbus.producer")


class Settlement:
    """What the receipts of one producer share: one lock and one wake-up per batch instead of per record."""

    def __init__(self) -> None:
        self.condition = Condition()
        self.waiting = 0
        self.opened_in = generation()

    def wake(self) -> None:
        """Wake those that wait for receipts; with the condition held."""
        if self.waiting:
            self.condition.notify_all()


class Receipt:
    """The outcome of one send; settles once. Thread-safe, and awaitable from any event loop."""

    __slots__ = ("_callbacks", "_outcome", "_settlement")

    def __init__(self, settlement: Settlement) -> None:
        self._settlement = settlement
        self._outcome: Stored | SendError | None = None
        self._callbacks: list[Callable[[Receipt], None]] | None = None

    def done(self) -> bool:
        """Whether the outcome is known."""
        return self._outcome is not None

    def result(self, timeout: float | None = None) -> Stored:
        """Wait at most ``timeout`` seconds (None: until the send deadline settles it) for the outcome.

        Raises ``SendFailed`` (certainly not stored), ``SendUnknown`` (may be stored), ``TimeoutError`` (still open) and
        ``Forked`` (open, and this is a child process: it can never settle here).
        """
        if self._outcome is None:
            self._wait(timeout)
        outcome = self._outcome
        if outcome is None:
            raise TimeoutError("the broker has not answered yet; the receipt stays open")
        if isinstance(outcome, SendError):
            raise outcome
        return outcome

    def add_done_callback(self, callback: Callable[[Receipt], None]) -> None:
        """Call ``callback(receipt)`` once settled: in the producer's thread, or now if it is. It must not block.

        What it raises in the producer's thread is logged. Raises ``Forked`` like ``result``.
        """
        if self._outcome is None:
            refuse_fork(self._settlement.opened_in, "receipt")
        with self._settlement.condition:
            if self._outcome is None:
                if self._callbacks is None:
                    self._callbacks = []
                self._callbacks.append(callback)
                return
        callback(self)

    def __await__(self) -> Generator[object, None, Stored]:
        if self._outcome is None:
            refuse_fork(self._settlement.opened_in, "receipt")
            loop = asyncio.get_running_loop()
            settled = loop.create_future()

            def settle() -> None:
                if not settled.done():
                    settled.set_result(None)

            def wake(_: Receipt) -> None:
                if not loop.is_closed():
                    loop.call_soon_threadsafe(settle)

            self.add_done_callback(wake)
            yield from settled
        return self.result(0)

    def _wait(self, timeout: float | None) -> None:
        settlement = self._settlement
        refuse_fork(settlement.opened_in, "receipt")
        deadline = None if timeout is None else time.monotonic() + timeout
        with settlement.condition:
            settlement.waiting += 1
            try:
                while self._outcome is None:
                    remaining = None if deadline is None else deadline - time.monotonic()
                    if remaining is not None and remaining <= 0:
                        return
                    settlement.condition.wait(remaining)
            finally:
                settlement.waiting -= 1


class OpenReceipt(Receipt):
    """The producer's side of a receipt; ``record`` is there until it is settled."""

    __slots__ = ("deadline", "record", "size")

    def __init__(self, settlement: Settlement, record: Record, size: int) -> None:
        self._settlement = settlement
        self._outcome = None
        self._callbacks = None
        self.record = record
        self.size = size
        self.deadline = 0.0

    def settle(self, outcome: Stored | SendError) -> bool:
        """With the settlement's condition held. Whether there are callbacks to run then."""
        self._outcome = outcome
        del self.record
        return self._callbacks is not None

    def call_back(self) -> None:
        """Run the callbacks, in this thread."""
        callbacks, self._callbacks = self._callbacks, None
        for callback in callbacks or ():
            try:
                callback(self)
            except Exception:  # noqa: BLE001
                # One user's defect must not cost the other receipts their callbacks, nor the producer its thread.
                _log.exception("a receipt's callback raised")

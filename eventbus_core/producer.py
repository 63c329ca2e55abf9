"""The producer that users hold: a bounded buffer, and one thread that moves it to the backend."""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections.abc import Callable, Iterable
from datetime import datetime
from typing import Any, NamedTuple, Self

from eventbus_core.backend import Backend, BackendProducer, Outgoing, Settled
from eventbus_core.errors import BrokerError, BufferFull, Closed, EventBusError, SendError, SendFailed, SendUnknown
from eventbus_core.forking import generation, refuse_fork
from eventbus_core.hooks import Hooks
from eventbus_core.receipts import Receipt, Settlement
from eventbus_core.records import Record, Stored
from eventbus_core.validation import make_record

_log = logging.getLogger("eventbus.producer")

#: How long one poll of the backend may wait; what is sent meanwhile waits as long at most.
_POLL_SECONDS = 0.005
_BACKOFF_SECONDS = 0.1


class _Open(NamedTuple):
    """A record whose outcome is open."""

    receipt: Receipt
    topic: str
    size: int
    deadline: float


class Producer:
    """Sends records. Thread-safe; one thread's sends of one key are stored in the order of the calls.

    Opened by ``EventBus.producer``. The broker is first contacted by the first send, from the producer's own thread.
    """

    def __init__(
        self,
        backend: Backend[Any],
        *,
        max_records: int,
        max_bytes: int,
        wait_seconds: float,
        hooks: Hooks,
        prepare_topic: Callable[[str], None] | None,
    ) -> None:
        self._backend = backend
        self._max_records = max_records
        self._max_bytes = max_bytes
        self._max_record_bytes = backend.capabilities.max_record_bytes
        self._wait_seconds = wait_seconds
        self._send_timeout: float = backend.settings.send_timeout_seconds
        self._hooks = hooks
        self._prepare_topic = prepare_topic
        self._prepared: set[str] = set()
        self._settlement = Settlement()
        self._changed = threading.Condition()
        self._tokens = 0
        self._bytes = 0
        self._open: dict[int, _Open] = {}  # in the order sent, so the first has the nearest deadline
        self._waiting: list[Outgoing] = []
        self._handed_over = 0  # every token up to this one was given to the backend
        self._idle = True
        self._closing = False
        self._stop_at = float("inf")
        self._opened_in = generation()
        self._thread: threading.Thread | None = None
        self._producer: BackendProducer | None = None

    def send(
        self,
        topic: str,
        value: bytes | None,
        *,
        key: bytes | None = None,
        headers: Iterable[tuple[str, bytes]] = (),
        timestamp: datetime | None = None,
        wait_seconds: float | None = None,
    ) -> Receipt:
        """Take a record into the buffer and return its receipt; never waits for the broker.

        When the buffer is full, waits at most ``wait_seconds`` (None: the setting ``send_wait_seconds``) for room; in
        an event loop or a receipt's callback not at all. Raises ``BufferFull`` then, and ``InvalidRecord``,
        ``TooLarge``, ``Closed`` or ``Forked`` at once; in each case nothing was taken. ``timestamp`` defaults to now.
        """
        record, size = make_record(topic, value, key, headers, timestamp, self._max_record_bytes)
        return self.send_record(record, size, wait_seconds)

    def send_record(self, record: Record, size: int, wait_seconds: float | None) -> Receipt:
        """For core: send a record that ``make_record`` made."""
        refuse_fork(self._opened_in, "producer")
        receipt = Receipt(self._settlement)
        with self._changed:
            if len(self._open) >= self._max_records or (self._open and self._bytes + size > self._max_bytes):
                self._wait_for_room(record.topic, size, wait_seconds)
            if self._closing:
                raise Closed("this producer was closed; ask the bus for another", topic=record.topic)
            self._tokens = token = self._tokens + 1
            self._open[token] = _Open(receipt, record.topic, size, time.monotonic() + self._send_timeout)
            self._bytes += size
            self._waiting.append(Outgoing(token, record))
            if self._idle:
                self._idle = False
                if self._thread is None:
                    self._thread = threading.Thread(target=self._run, name="eventbus-producer", daemon=True)
                    self._thread.start()
                self._changed.notify_all()
        return receipt

    def flush(self, timeout: float | None = None) -> int:
        """Wait at most ``timeout`` seconds for what was sent so far; how many of those receipts are still open."""
        refuse_fork(self._opened_in, "producer")
        deadline = None if timeout is None else time.monotonic() + timeout
        with self._changed:
            last = self._tokens
            while left := self._count_open(last):
                remaining = None if deadline is None else deadline - time.monotonic()
                if remaining is not None and remaining <= 0:
                    return left
                self._changed.wait(remaining)
        return 0

    def close(self, timeout: float | None = None) -> None:
        """Flush for at most ``timeout`` seconds (None: the send timeout) and settle the rest; idempotent.

        What is left then ends as ``SendFailed`` if the backend never had it, else as ``SendUnknown``.
        """
        if self._opened_in != generation():
            return  # the parent's: its threads and connections are not ours to end
        with self._changed:
            self._closing = True
            self._stop_at = min(self._stop_at, time.monotonic() + (self._send_timeout if timeout is None else timeout))
            self._changed.notify_all()
            thread = self._thread
        if thread is not None and thread is not threading.current_thread():
            thread.join()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _count_open(self, last: int) -> int:
        """How many of the tokens up to ``last`` are open."""
        if not self._open or next(iter(self._open)) > last:
            return 0
        return sum(token <= last for token in self._open)

    def _wait_for_room(self, topic: str, size: int, wait_seconds: float | None) -> None:
        allowed = self._wait_seconds if wait_seconds is None else wait_seconds
        if threading.current_thread() is self._thread or _in_event_loop():
            allowed = 0.0
        deadline = time.monotonic() + allowed
        while not self._closing and (
            len(self._open) >= self._max_records or (self._open and self._bytes + size > self._max_bytes)
        ):
            remaining = deadline - time.monotonic()
            if remaining <= 0:
                raise BufferFull(
                    f"no room for a record for {topic!r} within {allowed:g} s: {len(self._open)} records "
                    f"({self._bytes} bytes) are not settled yet; send slower or raise send_buffer_records/_bytes",
                    topic=topic,
                    backend=self._backend.name,
                )
            self._changed.wait(remaining)

    def _run(self) -> None:
        try:
            while self._turn():
                pass
        finally:
            # Whatever ended the loop, a defect in a plugin included: no receipt stays open for ever.
            with self._changed:
                self._closing = True
            self._give_up(None, "the producer was closed before the broker answered")

    def _turn(self) -> bool:
        """Move once; False when the producer is done."""
        with self._changed:
            while not self._open:
                if self._closing:
                    return False
                self._idle = True
                self._changed.wait()
            self._idle = False
            outgoing, self._waiting = self._waiting, []
            oldest = next(iter(self._open.values())).deadline
        now = time.monotonic()
        if now >= self._stop_at:
            self._put_back(outgoing)
            return False
        if now >= oldest:
            self._put_back(outgoing)
            self._give_up(now, f"no answer from the broker within {self._send_timeout:g} s")
            return True
        self._move(outgoing)
        return True

    def _move(self, outgoing: list[Outgoing]) -> None:
        """Open the backend's producer if there is none, hand over, and settle what settled."""
        try:
            if self._prepare_topic is not None:
                self._prepare(outgoing, self._prepare_topic)
            if self._producer is None:
                self._producer = self._backend.producer(max_records=self._max_records, max_bytes=self._max_bytes)
        except EventBusError as error:
            self._put_back(outgoing)
            self._trouble(error, None)
            return
        try:
            if outgoing:
                self._handed_over = outgoing[-1].token
                self._producer.send(outgoing)
            if settled := self._producer.poll(_POLL_SECONDS):
                self._settle(settled)
        except EventBusError as error:
            self._trouble(error, time.monotonic())

    def _prepare(self, outgoing: list[Outgoing], prepare_topic: Callable[[str], None]) -> None:
        for topic in {each.record.topic for each in outgoing} - self._prepared:
            prepare_topic(topic)
            self._prepared.add(topic)

    def _put_back(self, outgoing: list[Outgoing]) -> None:
        if outgoing:
            with self._changed:
                self._waiting[:0] = outgoing

    def _trouble(self, error: EventBusError, expired_at: float | None) -> None:
        """A retryable error: try again a little later. Any other ends the backend's producer (see ``_give_up``)."""
        if error.retryable:
            self._hooks.outage(error)
            with self._changed:
                self._changed.wait(_BACKOFF_SECONDS)
        else:
            self._give_up(expired_at, str(error), error)

    def _settle(self, settled: Iterable[Settled]) -> None:
        outcomes: list[tuple[Receipt, Stored | SendError]] = []
        failed: list[tuple[str, SendError]] = []
        twice: int | None = None
        with self._changed:
            for token, outcome in settled:
                entry = self._open.pop(token, None)
                if entry is None:
                    twice = token
                    continue
                self._bytes -= entry.size
                outcomes.append((entry.receipt, outcome))
                if isinstance(outcome, SendError):
                    failed.append((entry.topic, outcome))
            called = self._settlement.settle(outcomes)
        self._announce(called, failed)
        if twice is not None:
            raise BrokerError(f"the backend settled a record twice (token {twice})", backend=self._backend.name)

    def _give_up(self, expired_at: float | None, reason: str, cause: EventBusError | None = None) -> None:
        """Settle what was handed over as unknown, and of the rest what has expired (None: all of it) as failed."""
        outcomes: list[tuple[Receipt, Stored | SendError]] = []
        failed: list[tuple[str, SendError]] = []
        with self._changed:
            for token, entry in list(self._open.items()):
                handed_over = token <= self._handed_over and self._producer is not None
                if not handed_over and expired_at is not None and entry.deadline > expired_at:
                    continue
                kind = SendUnknown if handed_over else SendFailed
                error = kind(f"record for {entry.topic!r}: {reason}", topic=entry.topic, backend=self._backend.name)
                error.__cause__ = cause
                del self._open[token]
                self._bytes -= entry.size
                outcomes.append((entry.receipt, error))
                failed.append((entry.topic, error))
            self._waiting = [each for each in self._waiting if each.token in self._open]
            # Under this lock, so that nobody who finds nothing open holds a receipt that is.
            called = self._settlement.settle(outcomes)
        producer, self._producer = self._producer, None
        try:
            if producer is not None:
                producer.close()
        except EventBusError as error:
            _log.warning("closing the backend's producer failed: %s", error)
        finally:
            self._announce(called, failed)

    def _announce(self, called: list[Receipt], failed: list[tuple[str, SendError]]) -> None:
        with self._changed:
            self._changed.notify_all()
        self._settlement.call_back(called)
        if failed:
            _log.error("%d records were not confirmed, the first: %s", len(failed), failed[0][1])
        for topic, error in failed:
            self._hooks.send_failed(topic, error)


def _in_event_loop() -> bool:
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return False
    return True

"""The producer that users hold: a bounded buffer, and one thread that moves it to the backend."""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections.abc import Callable, Iterable
from datetime import datetime
from typing import Any, Self

from eventbus_core.backend import Backend, BackendProducer, Outgoing
from eventbus_core.errors import BrokerError, EventBusError, SendFailed, SendUnknown
from eventbus_core.forking import generation, refuse_fork
from eventbus_core.hooks import Hooks
from eventbus_core.receipts import OpenReceipt, Receipt
from eventbus_core.records import Record
from eventbus_core.sendbuffer import Ended, SendBuffer
from eventbus_core.validation import make_record

_log = logging.getLogger("eventbus.producer")

#: How long one poll of the backend may wait; what is sent meanwhile waits as long at most.
_POLL_SECONDS = 0.005
_BACKOFF_SECONDS = 0.1


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
        self._buffer = SendBuffer(
            max_records=max_records, max_bytes=max_bytes, send_timeout=self._send_timeout, backend_name=backend.name
        )
        self._unsent: list[Outgoing] = []  # drained from the buffer; the backend does not have them yet
        self._handed_over = 0  # every token up to this one was given to the backend
        self._stop_at = float("inf")
        self._opened_in = generation()
        self._starting = threading.Lock()
        self._thread: threading.Thread | None = None
        self._producer: BackendProducer | None = None
        self.broke: EventBusError | None = None
        """What ended this producer, if a defect of the backend did."""

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
        receipt = self._buffer.put(record, size)
        if receipt is None:
            allowed = self._wait_seconds if wait_seconds is None else wait_seconds
            if threading.current_thread() is self._thread or _in_event_loop():
                allowed = 0.0
            deadline = time.monotonic() + allowed
            while receipt is None:
                self._buffer.wait_for_room(record.topic, size, deadline, allowed)
                receipt = self._buffer.put(record, size)
        if self._thread is None:
            self._start()
        return receipt

    def flush(self, timeout: float | None = None) -> int:
        """Wait at most ``timeout`` seconds for what was sent so far; how many of those receipts are still open."""
        refuse_fork(self._opened_in, "producer")
        return self._buffer.flush(timeout)

    def close(self, timeout: float | None = None) -> None:
        """Flush for at most ``timeout`` seconds (None: the send timeout) and settle the rest; idempotent.

        What is left then ends as ``SendFailed`` if the backend never had it, else as ``SendUnknown``.
        """
        if self._opened_in != generation():
            return  # the parent's: its threads and connections are not ours to end
        self._stop_at = min(self._stop_at, time.monotonic() + (self._send_timeout if timeout is None else timeout))
        self._buffer.close("this producer was closed; ask the bus for another")
        if self._buffer.has_records:
            self._start()  # a send that this close met may not have started the thread yet
        with self._starting:
            thread = self._thread
        if thread is not None and thread is not threading.current_thread():
            thread.join()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _start(self) -> None:
        with self._starting:
            if self._thread is None:
                thread = threading.Thread(target=self._run, name="eventbus-producer", daemon=True)
                thread.start()
                self._thread = thread

    def _run(self) -> None:
        try:
            while self._turn():
                pass
        except Exception as error:
            self.broke = BrokerError(f"the backend {self._backend.name!r} broke: {error!r}", backend=self._backend.name)
            self.broke.__cause__ = error
            self._buffer.close(f"this producer ended, ask the bus for another: {self.broke}", self.broke)
            raise
        finally:
            # Whatever ended the loop: no receipt stays open for ever.
            self._buffer.close("this producer ended; ask the bus for another")
            self._buffer.drain()
            reason = "the producer was closed before the broker answered" if self.broke is None else str(self.broke)
            self._give_up(None, reason, self.broke)

    def _turn(self) -> bool:
        """Move once; False when the producer is done."""
        if not self._buffer.wait_for_records():
            return False
        self._unsent.extend(self._buffer.drain())
        now = time.monotonic()
        if now >= self._stop_at:
            return False
        if now >= self._buffer.oldest_deadline():
            self._give_up(now, f"no answer from the broker within {self._send_timeout:g} s")
        else:
            self._move()
        return True

    def _move(self) -> None:
        """Open the backend's producer if there is none, hand over, and settle what settled."""
        try:
            if self._prepare_topic is not None:
                self._prepare(self._unsent, self._prepare_topic)
            if self._producer is None:
                self._producer = self._backend.producer(max_records=self._max_records, max_bytes=self._max_bytes)
        except EventBusError as error:
            self._trouble(error, None)
            return
        try:
            if self._unsent:
                outgoing, self._unsent = self._unsent, []
                self._handed_over = outgoing[-1].token
                self._producer.send(outgoing)
            if settled := self._producer.poll(_POLL_SECONDS):
                self._finish(self._buffer.settle(settled))
        except EventBusError as error:
            self._trouble(error, time.monotonic())

    def _prepare(self, outgoing: list[Outgoing], prepare_topic: Callable[[str], None]) -> None:
        for topic in {each.record.topic for each in outgoing} - self._prepared:
            prepare_topic(topic)
            self._prepared.add(topic)

    def _trouble(self, error: EventBusError, expired_at: float | None) -> None:
        """A retryable error: try again a little later. Any other ends the backend's producer (see ``_give_up``)."""
        if error.retryable:
            self._hooks.outage(error)
            self._buffer.pause(_BACKOFF_SECONDS)
        else:
            self._give_up(expired_at, str(error), error)

    def _give_up(self, expired_at: float | None, reason: str, cause: EventBusError | None = None) -> None:
        """Settle what was handed over as unknown, and of the rest what has expired (None: all of it) as failed."""
        last = 0 if self._producer is None else self._handed_over

        def outcome(token: int, receipt: OpenReceipt) -> SendFailed | SendUnknown | None:
            if token > last and expired_at is not None and receipt.deadline > expired_at:
                return None
            topic = receipt.record.topic
            kind = SendUnknown if token <= last else SendFailed
            error = kind(f"record for {topic!r}: {reason}", topic=topic, backend=self._backend.name)
            error.__cause__ = cause
            return error

        ended = self._buffer.settle_those(outcome)
        self._unsent = [each for each in self._unsent if self._buffer.is_open(each.token)]
        producer, self._producer = self._producer, None
        try:
            if producer is not None:
                producer.close()
        except EventBusError as error:
            _log.warning("closing the backend's producer failed: %s", error)
        finally:
            self._finish(ended)

    def _finish(self, ended: Ended) -> None:
        """Run callbacks and tell of failures; a token that was not open is the backend's defect."""
        self._buffer.announce()
        for receipt in ended.called:
            receipt.call_back()
        if ended.failed:
            _log.error("%d records were not confirmed, the first: %s", len(ended.failed), ended.failed[0][1])
        for topic, error in ended.failed:
            self._hooks.send_failed(topic, error)
        if ended.strange is not None:
            raise BrokerError(f"the backend settled a record twice (token {ended.strange})", backend=self._backend.name)


def _in_event_loop() -> bool:
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return False
    return True

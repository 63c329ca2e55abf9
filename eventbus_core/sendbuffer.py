"""The bounded buffer of a producer: what was taken and is not settled yet."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Iterable
from typing import NamedTuple

from eventbus_core.backend import Outgoing, Settled
from eventbus_core.errors import BufferFull, Closed, EventBusError, SendError, SendFailed, SendUnknown
from eventbus_core.receipts import OpenReceipt, Settlement
from eventbus_core.records import Record


class Ended(NamedTuple):
    """What settling a batch leaves to do: callbacks to run, failures to tell, a token that was not open."""

    called: list[OpenReceipt]
    failed: list[tuple[str, SendError]]
    strange: int | None


class SendBuffer:
    """Any thread puts; one thread, the producer's, drains and settles.

    Putting takes a lock that the producer's thread leaves alone. With one lock for both, a thread that is switched
    away while it holds it makes the other wait, and from then on every record costs two switches.
    """

    def __init__(self, *, max_records: int, max_bytes: int, send_timeout: float, backend_name: str) -> None:
        self.settlement = Settlement()
        self._max_records = max_records
        self._max_bytes = max_bytes
        self._send_timeout = send_timeout
        self._backend_name = backend_name
        self._putting = threading.Lock()
        self._arrived: deque[OpenReceipt] = deque()
        self._taken_records = self._taken_bytes = 0  # ever; changed under ``_putting``
        self._closed: Closed | None = None
        self._changed = threading.Condition()
        self._open: dict[int, OpenReceipt] = {}  # by token, in the order taken, so the first has the nearest deadline
        self._tokens = 0
        self._settled_records = self._settled_bytes = 0  # ever; changed under ``_changed``
        self._idle = False

    # What senders' threads call.

    def put(self, record: Record, size: int) -> OpenReceipt | None:
        """Take a record; None when there is no room. ``Closed`` after ``close``."""
        receipt = OpenReceipt(self.settlement, record, size)
        with self._putting:
            if self._closed is not None:
                raise Closed(str(self._closed), topic=record.topic, backend=self._backend_name) from (
                    self._closed.__cause__
                )
            if self._is_full(size):
                return None
            self._taken_records += 1
            self._taken_bytes += size
            receipt.deadline = time.monotonic() + self._send_timeout
            self._arrived.append(receipt)
        if self._idle:
            with self._changed:
                self._changed.notify_all()
        return receipt

    def wait_for_room(self, topic: str, size: int, deadline: float, allowed: float) -> None:
        """Wait until ``deadline``; ``BufferFull`` then. Another sender may take the room first."""
        with self._changed:
            while self._closed is None and self._is_full(size):
                remaining = deadline - time.monotonic()
                if remaining <= 0:
                    raise BufferFull(
                        f"no room for a record for {topic!r} within {allowed:g} s: "
                        f"{self._taken_records - self._settled_records} records "
                        f"({self._taken_bytes - self._settled_bytes} bytes) are not settled yet; "
                        "send slower or raise send_buffer_records/_bytes",
                        topic=topic,
                        backend=self._backend_name,
                    )
                self._changed.wait(remaining)

    def flush(self, timeout: float | None) -> int:
        """Wait at most ``timeout`` seconds for what was taken so far; how many of those are still open."""
        deadline = None if timeout is None else time.monotonic() + timeout
        last = self._taken_records  # the token of the newest
        with self._changed:
            while self._settled_records < last and next(iter(self._open), self._tokens + 1) <= last:
                remaining = None if deadline is None else deadline - time.monotonic()
                if remaining is not None and remaining <= 0:
                    return max(0, last - self._tokens) + sum(token <= last for token in self._open)
                self._changed.wait(remaining)
        return 0

    @property
    def has_records(self) -> bool:
        """Whether anything was taken that is not settled yet."""
        return bool(self._open or self._arrived)

    def close(self, why: str, cause: EventBusError | None = None) -> None:
        """Take nothing more; the first reason stays."""
        with self._putting:
            if self._closed is None:
                self._closed = Closed(why)
                self._closed.__cause__ = cause
        with self._changed:
            self._changed.notify_all()

    # What the producer's thread calls.

    def wait_for_records(self) -> bool:
        """Wait while nothing is open; False when nothing is and the buffer is closed."""
        if self.has_records:
            return True
        with self._changed:
            self._idle = True  # before looking again: whoever puts after the look finds it set
            while not self._arrived and self._closed is None:
                self._changed.wait()
            self._idle = False
        return bool(self._arrived)

    def drain(self) -> list[Outgoing]:
        """What arrived since the last time, in order, each with its token."""
        drained: list[Outgoing] = []
        arrived = self._arrived
        with self._changed:
            while arrived:
                receipt = arrived.popleft()
                self._tokens = token = self._tokens + 1
                self._open[token] = receipt
                drained.append(Outgoing(token, receipt.record))
        return drained

    def oldest_deadline(self) -> float:
        """When the first of the open records is due."""
        return next((receipt.deadline for receipt in self._open.values()), float("inf"))

    def settle(self, settled: Iterable[Settled]) -> Ended:
        """Give receipts their outcomes."""
        called: list[OpenReceipt] = []
        failed: list[tuple[str, SendError]] = []
        strange: int | None = None
        records = size = 0
        take = self._open.pop
        with self._changed, self.settlement.condition:
            for token, outcome in settled:
                receipt = take(token, None)
                if receipt is None:
                    strange = token
                    continue
                records += 1
                size += receipt.size
                if isinstance(outcome, SendError):
                    failed.append((receipt.record.topic, outcome))
                if receipt.settle(outcome):
                    called.append(receipt)
            self._settled_records += records
            self._settled_bytes += size
            self.settlement.wake()
        return Ended(called, failed, strange)

    def settle_those(self, outcome: Callable[[int, OpenReceipt], SendFailed | SendUnknown | None]) -> Ended:
        """Ask of each open record how it ends (None: not yet), and settle it so."""
        return self.settle(
            [Settled(token, ended) for token, receipt in self._open.items() if (ended := outcome(token, receipt))]
        )

    def is_open(self, token: int) -> bool:
        """Whether a record is not settled yet."""
        return token in self._open

    def announce(self) -> None:
        """Wake who waits for room or for settling."""
        with self._changed:
            self._changed.notify_all()

    def pause(self, seconds: float) -> None:
        """Wait, but not for longer than until something happens."""
        with self._changed:
            self._changed.wait(seconds)

    def _is_full(self, size: int) -> bool:
        records = self._taken_records - self._settled_records
        return records >= self._max_records or (
            records > 0 and self._taken_bytes - self._settled_bytes + size > self._max_bytes
        )

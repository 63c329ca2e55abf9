"""Publishing from an event loop without ever blocking it.

``await bus.publish(event)`` works already: it waits for the receipt. What it cannot do is wait for room, as a full
buffer raises ``BufferFull`` at once in an event loop. ``AsyncPublisher`` waits for room too, and keeps the order of
those who wait.
"""

from __future__ import annotations

import asyncio
import time
from typing import Self

from eventbus_core.bus import EventBus
from eventbus_core.errors import BufferFull, SendError
from eventbus_core.receipts import Receipt
from eventbus_core.records import Stored

#: The producer's thread looks for settled records as often, so there is nothing to see in between.
_LOOK_SECONDS = 0.005
_TIDY_AT = 1000


class AsyncPublisher:
    """Publishes through a bus, for the tasks of one event loop. An async context manager that ends with ``flush``.

    Events are taken in the order of the calls, also when some of them wait for room; so events of one key are stored in
    that order. The bus stays open; closing it blocks, so close it in a thread (``asyncio.to_thread(bus.close)``) or
    after the loop.
    """

    def __init__(self, bus: EventBus) -> None:
        self._bus = bus
        self._turn = asyncio.Lock()  # first come, first served
        self._open: list[Receipt] = []
        self._tidy_at = _TIDY_AT

    async def publish(
        self, data: object, *, topic: str | None = None, key: str | None = None, wait_seconds: float | None = None
    ) -> Stored:
        """Publish an event and wait until it is stored; like ``EventBus.publish``, with the wait for room.

        Raises what ``enqueue`` and ``Receipt.result`` raise. Cancelled while it waits for room, nothing is taken;
        cancelled later, the event is sent all the same. Many at once: ``asyncio.gather`` of many calls, or ``enqueue``.
        """
        return await (await self._take(data, topic, key, wait_seconds))

    async def enqueue(
        self, data: object, *, topic: str | None = None, key: str | None = None, wait_seconds: float | None = None
    ) -> Receipt:
        """Publish an event and wait for room only; the receipt can be awaited, and ``flush`` waits for all.

        Raises ``BufferFull`` after ``wait_seconds`` (None: the setting ``send_wait_seconds``), and what
        ``EventBus.publish`` raises; in each case nothing was taken.
        """
        receipt = await self._take(data, topic, key, wait_seconds)
        self._open.append(receipt)
        if len(self._open) >= self._tidy_at:
            self._open = [each for each in self._open if not _is_stored(each)]
            self._tidy_at = max(_TIDY_AT, 2 * len(self._open))
        return receipt

    async def flush(self) -> None:
        """Wait until everything that was enqueued before is settled, at the latest by its send deadline.

        Raises the first ``SendError`` among what was enqueued since the last flush, when all are settled. May be
        cancelled (``asyncio.timeout``) and repeated.
        """
        receipts = list(self._open)
        outcomes = await asyncio.gather(*receipts, return_exceptions=True)
        seen = set(map(id, receipts))
        self._open = [each for each in self._open if id(each) not in seen]
        for outcome in outcomes:
            if isinstance(outcome, BaseException):
                raise outcome

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is None:
            await self.flush()

    async def _take(self, data: object, topic: str | None, key: str | None, wait_seconds: float | None) -> Receipt:
        allowed = self._bus.settings.send_wait_seconds if wait_seconds is None else wait_seconds
        deadline = time.monotonic() + allowed
        async with self._turn:
            while True:
                try:
                    return self._bus.publish(data, topic=topic, key=key, wait_seconds=0.0)
                except BufferFull:
                    if time.monotonic() >= deadline:
                        raise
                await asyncio.sleep(_LOOK_SECONDS)


def _is_stored(receipt: Receipt) -> bool:
    if not receipt.done():
        return False
    try:
        receipt.result(0)
    except SendError:
        return False  # for flush to raise
    return True

"""The way of a consumer's acks to the broker, alone or together with records."""

from __future__ import annotations

import time
from threading import Condition

from eventbus_core.backend import BackendConsumer
from eventbus_core.errors import EventBusError
from eventbus_core.holds import Holds


class Acks:
    """Sends the prefixes that the holds have ready, and knows when what was sent is durable."""

    def __init__(self, holds: Holds, changed: Condition, delay_seconds: float, *, transacts: bool) -> None:
        self._holds = holds
        self._changed = changed
        self._delay_seconds = delay_seconds
        self._transacts = transacts
        self._sending = False
        self._durable_at = 0.0

    def outstanding(self) -> tuple[int, float]:
        """In how many partitions acks are not sent, and when (``time.monotonic``) what was sent is durable.

        With the lock of ``changed`` held.
        """
        return self._holds.dirty + self._sending, self._durable_at

    def send(self, consumer: BackendConsumer) -> None:
        """Pass on what is settled without a gap. After an error it is sent again with the next acks."""
        with self._changed:
            if not self._holds.dirty:
                return
            settled = self._holds.take_prefixes()
            made = self._holds.made(settled)
            self._sending = True
        try:
            if self._transacts:
                consumer.transact(made, settled)
            else:
                consumer.ack(settled)
        except EventBusError:
            with self._changed:
                self._holds.put_back(settled)
            raise
        else:
            with self._changed:
                self._holds.forget_made(settled)
        finally:
            with self._changed:
                self._sending = False
                self._durable_at = time.monotonic() + self._delay_seconds
                self._changed.notify_all()

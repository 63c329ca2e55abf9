"""The way of a consumer's acks to the broker, alone or together with records."""

from __future__ import annotations

from threading import Condition

from eventbus_core.backend import BackendConsumer
from eventbus_core.errors import EventBusError
from eventbus_core.holds import Holds

_CONFIRM_AGAIN_SECONDS = 0.02


class Acks:
    """Sends the prefixes that the holds have ready, and finds out when they are durable for those who wait for it."""

    def __init__(self, holds: Holds, changed: Condition, *, transacts: bool) -> None:
        self._holds = holds
        self._changed = changed
        self._transacts = transacts
        self._asked = 0
        self._answered = 0
        self._unconfirmed = 0

    def ask(self) -> int:
        """A ticket for the acks noted so far; with the lock of ``changed`` held."""
        self._asked += 1
        if not self._holds.dirty and not self._holds.unsure:
            self._answered = self._asked
        return self._asked

    def unanswered(self, ticket: int) -> int:
        """In how many partitions acks noted before the ticket are not durable; with the lock of ``changed`` held."""
        return max(1, self._holds.dirty, self._unconfirmed) if ticket > self._answered else 0

    @property
    def awaited(self) -> int:
        """The last ticket, if somebody waits for it, else 0."""
        return self._asked if self._asked > self._answered else 0

    def send(self, consumer: BackendConsumer) -> None:
        """Pass on what is settled without a gap. After an error it is sent again with the next acks."""
        with self._changed:
            if not self._holds.dirty:
                return
            settled = self._holds.take_prefixes()
            made = self._holds.made(settled)
        try:
            if self._transacts:
                consumer.transact(made, settled)
            else:
                consumer.ack(settled)
        except EventBusError:
            with self._changed:
                self._holds.put_back(settled)
            raise
        with self._changed:
            self._holds.forget_made(settled)

    def confirm(self, consumer: BackendConsumer, ticket: int) -> None:
        """Ask for the acks of a ticket, which were all sent since: are they durable?

        After the poll that follows the acks, as it is the poll that tells of a partition that was lost before.
        """
        unconfirmed = consumer.unconfirmed()
        with self._changed:
            self._unconfirmed = unconfirmed
            if not unconfirmed:
                self._answered = max(self._answered, ticket)
                self._holds.make_sure()
                self._changed.notify_all()
            else:
                self._changed.wait(_CONFIRM_AGAIN_SECONDS)

"""The way of a consumer's acks to the broker, alone or together with records."""

from __future__ import annotations

import time
from threading import Condition

from eventbus_core.backend import BackendConsumer
from eventbus_core.errors import EventBusError
from eventbus_core.holds import Holds

_AGAIN_SECONDS = 0.02
_UNHURRIED_SECONDS = 0.5


class Acks:
    """Sends the prefixes that the holds have ready, and finds out when they are durable for those who wait for it."""

    def __init__(self, holds: Holds, changed: Condition, *, transacts: bool, delayed: bool) -> None:
        """``delayed``: an ack that was passed on is durable some time after, and the backend says when."""
        self._holds = holds
        self._changed = changed
        self._transacts = transacts
        self._delayed = delayed and not transacts
        self._asked = 0
        self._answered = 0
        self._waiting = 0
        self._next_question = 0.0

    def ask(self) -> int:
        """A ticket for the acks noted so far; with the lock of ``changed`` held."""
        self._asked += 1
        if not self._holds.open_acks:
            self._answered = self._asked
        return self._asked

    def unanswered(self, ticket: int) -> int:
        """In how many partitions acks noted before the ticket may not be durable; with the lock of ``changed`` held."""
        return max(1, self._holds.open_acks) if ticket > self._answered else 0

    def wait(self, seconds: float) -> None:
        """Let the lock of ``changed`` go until something happens, at most so long."""
        self._waiting += 1
        try:
            self._changed.wait(seconds)
        finally:
            self._waiting -= 1

    @property
    def awaited(self) -> int:
        """The last ticket, if it is time to find out about it, else 0. Of one that nobody waits for, less often."""
        due = self._waiting or time.monotonic() >= self._next_question
        return self._asked if self._asked > self._answered and due else 0

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
        """Find out whether the acks of a ticket, which were all sent since, are durable; 0: nobody asks.

        After the poll that follows the acks, as it is the poll that tells of a partition that was lost before.
        """
        if not self._delayed:
            with self._changed:
                self._holds.make_sure()
                self._answer(ticket)
        elif ticket:
            self._next_question = time.monotonic() + _UNHURRIED_SECONDS
            durable = not consumer.unconfirmed()
            with self._changed:
                if durable:
                    self._holds.make_sure()
                    self._answer(ticket)
                else:
                    self._changed.wait(_AGAIN_SECONDS)

    def _answer(self, ticket: int) -> None:
        if ticket > self._answered:
            self._answered = ticket
            self._changed.notify_all()

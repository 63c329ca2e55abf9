"""Making acks durable: the broker answers no ack, and cannot express a position inside a batch."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from concurrent.futures import TimeoutError as NotYet

import pulsar

from eventbus_core.backend import Group
from eventbus_core.errors import Unavailable
from eventbus_core.records import lease_clock
from eventbus_pulsar.cursors import Cursors, Kept
from eventbus_pulsar.errors import ClientError, translated
from eventbus_pulsar.holds import Hold
from eventbus_pulsar.settings import PulsarSettings
from eventbus_pulsar.taking import Taking, shut

_MARK_SECONDS = 1.0
_CONFIRM_SECONDS = 1.0
"""After so long without another ack the broker is asked whether it has got the last one."""
_SENT_SECONDS = 0.15
"""After so long the client has sent an ack: it gathers them for 100 ms."""
_ASKING_SECONDS = 0.25
"""So long at most the broker is asked about acks between two polls."""


class Settling:
    """For the consumer's thread. ``cursors`` asks in a fraction of a lease."""

    def __init__(
        self, settings: PulsarSettings, group: Group, *, cursors: Cursors, taking: Taking, threads: ThreadPoolExecutor
    ) -> None:
        self._settings = settings
        self._group = group
        self._cursors = cursors
        self._taking = taking
        self._threads = threads

    def turn(self, holds: Sequence[Hold]) -> None:
        """Mark what is due, and send again what the broker did not get: one hold per beat, all if one ack was lost."""
        now = lease_clock()
        due = [each for each in holds if each.unconfirmed and now - each.acked_at >= _CONFIRM_SECONDS]
        try:
            for hold in holds:
                if now - hold.marked_at >= _MARK_SECONDS:
                    self.mark(hold)
            for hold in sorted(due, key=lambda each: each.acked_at):
                missing = self._missing(hold)
                hold.ack_again(missing, hold.consumer)
                if not missing:
                    hold.unconfirmed = False
                    return
        except (Unavailable, ClientError):
            # Still not durable, which flush and a loss tell; the next beat tries again.
            return

    def mark(self, hold: Hold) -> None:
        """Make a position inside a batch durable; only the owner may."""
        if hold.unmarked:
            self._cursors.keep(self._group.name, hold.topic, hold.partition, Kept(hold.settled, hold.epoch))
            hold.marked = hold.settled
            hold.marked_at = lease_clock()

    def unconfirmed(self, holds: Sequence[Hold]) -> int:
        """Hurry; how many holds have acks that are not known to be durable."""
        started = lease_clock()
        for hold in holds:
            if lease_clock() - started > _ASKING_SECONDS:
                break
            if hold.connected and not hold.lapsed:
                self.mark(hold)
                if hold.unconfirmed and lease_clock() - max(hold.acked_at, hold.asked_at) >= _SENT_SECONDS:
                    hold.asked_at = lease_clock()
                    hold.unconfirmed = bool(self._missing(hold))
        return sum(hold.open_acks for hold in holds)

    def finish(self, hold: Hold) -> None:
        """Close the client's consumer, and see that the last acks are durable; ``open_acks`` if they cannot be."""
        try:
            if not hold.lapsed and hold.connected:
                self.mark(hold)
        finally:
            shut(hold.consumer)
        if hold.unconfirmed and not hold.lapsed:
            confirming = self._threads.submit(self._confirm_last_ack, hold)
            try:
                confirming.result(self._settings.request_timeout_seconds)
            except NotYet as error:
                raise Unavailable(
                    f"the last acks of {hold!r} are not confirmed; what they settled may be delivered again",
                    topic=hold.topic,
                    backend="pulsar",
                ) from error

    def _missing(self, hold: Hold) -> Sequence[tuple[int, int]]:
        """The entries that the broker still has as unsettled, of those that were acked."""
        return self._cursors.unsettled_entries(self._group.name, hold.topic, hold.partition, hold.acked)

    def _confirm_last_ack(self, hold: Hold) -> None:
        """After the close: if the last ack was lost, take the partition once more to send it."""
        missing = self._missing(hold)
        if not missing:
            hold.unconfirmed = False
        if not missing or self._succeeded(hold):
            return
        try:
            consumer = self._taking.subscribe(hold.topic, hold.partition)
            try:
                succeeded = self._succeeded(hold)
                if not succeeded:
                    hold.ack_again(missing, consumer)
            finally:
                shut(consumer)
            hold.unconfirmed = succeeded
        except pulsar.ConsumerBusy:
            # The next owner has it already, and gets those records once more.
            return
        except ClientError as error:
            doing = f"settling {hold.topic!r}[{hold.partition}] before it is given back"
            raise translated(error, doing, hold.topic) from error

    def _succeeded(self, hold: Hold) -> bool:
        """Whether somebody took the partition, or moved the position, since: then the old acks say nothing any more."""
        return self._cursors.kept(self._group.name, hold.topic, hold.partition).epoch != hold.epoch

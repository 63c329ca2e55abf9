"""The consumer's thread: polls the backend, fills a bounded buffer, drains wanted partitions and sends acks.

It goes on polling however slow the user is, so a slow user keeps the partitions.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal

from eventbus_core.acks import Acks
from eventbus_core.backend import Assigned, Backend, BackendConsumer, Group, Polled
from eventbus_core.commands import Commands
from eventbus_core.errors import BrokerError, Closed, EventBusError
from eventbus_core.holds import Holds
from eventbus_core.hooks import Hooks
from eventbus_core.outage import Outage
from eventbus_core.ownership import Ownership
from eventbus_core.records import Assignment, Delivery, Record, Where

_log = logging.getLogger("eventbus.consumer")

#: How long one poll may wait; an ack or a seek made meanwhile waits as long at most.
_POLL_SECONDS = 0.05
#: The interface promises a poll at least once a second, also when there is no room for records.
_CHANGES_EVERY_SECONDS = 0.25
_MAX_POLL_RECORDS = 500
_BACKOFF_SECONDS = 0.2
_STUCK_SECONDS = 1.0


class Intake:
    """Owns a backend's consumer. Its methods are for other threads and never touch the broker themselves."""

    def __init__(
        self,
        backend: Backend[Any],
        group: Group,
        *,
        max_unacked: int,
        max_unacked_bytes: int | None = None,
        spare_stuck: bool = False,
        transacts: bool = False,
        on_gap: Literal["continue", "stop"],
        hooks: Hooks,
    ) -> None:
        """Join: blocks until the group's positions exist. Raises what ``Backend.consumer`` raises."""
        self._hooks = hooks
        self._backend_name = backend.name
        self._changed = threading.Condition()
        self._holds = Holds(max_unacked, max_unacked_bytes, stuck_seconds=_STUCK_SECONDS)
        self._ownership = Ownership(self._holds, self._changed, hooks, on_gap=on_gap, backend_name=backend.name)
        delayed = backend.capabilities.ack_delay_seconds > 0
        self._acks = Acks(self._holds, self._changed, transacts=transacts, delayed=delayed)
        self._outage = Outage(hooks, backend.name)
        self._spares_stuck = spare_stuck
        self._awaiting_room = False
        self._commands = Commands()
        self._next_poll = 0.0
        self._failure: EventBusError | None = None
        self._stopping = False
        self._abandoned = False
        self._consumer: BackendConsumer = backend.consumer(group)
        self._thread = threading.Thread(target=self._run, name=f"eventbus-{group.name}", daemon=True)
        self._thread.start()

    # What users' threads call.

    def receive(self, max_records: int, timeout: float) -> list[Delivery]:
        """Take what is buffered, waiting at most ``timeout`` seconds for the first."""
        deadline = time.monotonic() + timeout
        waited = False
        with self._changed:
            while True:
                self._check()
                if received := self._holds.take(max_records):
                    self._offer_room()
                    return received
                remaining = deadline - time.monotonic()
                if waited or remaining <= 0:  # who calls again and again in an outage is to wait between
                    self._outage.report()
                if remaining <= 0:
                    return []
                self._changed.wait(min(remaining, 1.0))
                waited = True

    def ack(self, deliveries: Sequence[Delivery], made: Mapping[Delivery, Sequence[Record]] | None = None) -> None:
        """Note acks; those of ended assignments are dropped and told to the hooks.

        ``made``: the records to be stored together with the ack of a delivery.
        """
        with self._changed:
            self._check()
            if made:
                self._holds.keep(made)
            late = self._holds.settle(deliveries)
            self._offer_room()
        for delivery in late:
            _log.warning(
                "late ack of %r: its partition had gone; it is delivered again to whoever has it now", delivery
            )
            self._hooks.late_ack(delivery)

    def flush(self, timeout: float | None) -> int:
        """Wait until the acks noted so far are durable; in how many partitions some are not.

        Those that went with their partition count in the next answer, and are not waited for.
        """
        deadline = float("inf") if timeout is None else time.monotonic() + timeout
        waited = False
        with self._changed:
            ticket = self._acks.ask()
            while True:
                self._check()
                waiting = self._acks.unanswered(ticket)
                remaining = deadline - time.monotonic()
                if not waiting or remaining <= 0:
                    return waiting + self._holds.take_lost()
                if waited:
                    self._outage.report()
                if self._awaiting_room:
                    self._changed.notify_all()
                self._acks.wait(min(remaining, 1.0))
                waited = True

    def pause(self, partitions: Iterable[tuple[str, int]]) -> None:
        """Hand out nothing more of these until ``resume``; what was buffered of them is kept."""
        with self._changed:
            self._check()
            self._holds.pause(partitions)

    def resume(self, partitions: Iterable[tuple[str, int]]) -> None:
        """End a pause."""
        with self._changed:
            self._check()
            self._holds.resume(partitions)
            self._changed.notify_all()

    def seek(self, partitions: Iterable[tuple[str, int]], to: Where) -> None:
        """Move the group in these partitions; blocks until it is durable."""
        wanted = set(partitions)
        with self._changed:
            self._check()
            future = self._commands.put(lambda: self._seek(wanted, to))
            self._changed.notify_all()
        future.result()

    @property
    def assignments(self) -> frozenset[tuple[str, int]]:
        """The partitions held now, without those that are being given back."""
        with self._changed:
            return frozenset((each.topic, each.partition) for each in self._holds.held())

    @property
    def draining(self) -> list[Assignment]:
        """The assignments that are wanted back: they go when what was received of them is acked or given back."""
        with self._changed:
            return self._holds.draining()

    def give_back(self, assignment: Assignment, last: int) -> None:
        """Of an assignment that is wanted back: what was received after the order ``last`` will not be acked."""
        with self._changed:
            self._holds.give_back(assignment, last)

    @property
    def away(self) -> bool:
        """Whether the broker cannot be reached now."""
        return self._outage.lasts

    def close(self, timeout: float | None) -> None:
        """Send the noted acks, leave and stop. Idempotent; waits at most ``timeout`` seconds."""
        with self._changed:
            self._stopping = True
            self._changed.notify_all()
        if self._thread is not threading.current_thread():
            self._thread.join(timeout)

    def abandon(self) -> None:
        """Stop without a word to the broker, as a killed process does. For tests and demonstrations."""
        with self._changed:
            self._abandoned = True
        self.close(None)

    # With the lock held.

    def _check(self) -> None:
        if self._failure is not None:
            raise self._failure
        if self._stopping:
            raise Closed("this consumer was closed; ask the bus for another", backend=self._backend_name)

    def _offer_room(self) -> None:
        """Wake the thread if it can take more now: not for every ack, as waking it costs more than an ack."""
        if self._awaiting_room and self._holds.room():
            self._changed.notify_all()

    # The thread.

    def _run(self) -> None:
        failure: EventBusError | None = None
        try:
            while not self._stopping:
                self._turn()
        except EventBusError as error:
            failure = error
        except Exception as error:
            failure = BrokerError(f"the backend {self._backend_name!r} broke: {error!r}", backend=self._backend_name)
            failure.__cause__ = error
            raise
        finally:
            self._end(failure)

    def _end(self, failure: EventBusError | None) -> None:
        try:
            if not self._abandoned:
                try:
                    if failure is None:
                        self._acks.send(self._consumer)
                finally:
                    with self._changed:
                        self._holds.end()  # before anybody else can have the partitions
                    self._consumer.close()
        except EventBusError as error:
            _log.warning("leaving the group failed; its partitions move when the broker notices: %s", error)
        finally:
            with self._changed:
                self._failure = failure
                self._stopping = True
                self._holds.clear()
                self._commands.refuse(failure or Closed("this consumer was closed meanwhile"))
                self._changed.notify_all()

    def _turn(self) -> None:
        # Whatever becomes of acks and releases, the poll follows: without it every lease of this member would lapse.
        with self._changed:
            ticket = self._acks.awaited
        trouble = self._settle_up()
        with self._changed:
            if self._spares_stuck:
                self._holds.find_stuck()
            wanted = self._holds.room()
            paused = self._holds.paused()
            if not wanted and not ticket and trouble is None and time.monotonic() < self._next_poll:
                self._awaiting_room = True
                self._changed.wait(min(_POLL_SECONDS, self._next_poll - time.monotonic()))
                self._awaiting_room = False
                return
        polled = Polled()
        try:
            timeout = _POLL_SECONDS if wanted and not ticket else 0.0
            polled = self._consumer.poll(min(wanted, _MAX_POLL_RECORDS), timeout, paused)
            self._next_poll = time.monotonic() + _CHANGES_EVERY_SECONDS
        except EventBusError as error:
            if not error.retryable:
                raise
            trouble = error
        self._apply(polled)
        if trouble is None:
            trouble = self._confirm(ticket)
        if trouble is None:
            # Deliveries may have been fetched before; nobody is given a partition without the broker.
            self._outage.quiet(answered=any(isinstance(each, Assigned) for each in polled.changes))
        else:
            self._outage.note(trouble)
            with self._changed:
                self._changed.notify_all()
                if not self._stopping:
                    self._changed.wait(_BACKOFF_SECONDS)

    def _settle_up(self) -> EventBusError | None:
        """Commands, acks and drains; the retryable error that stood in the way of one, to be tried again."""
        try:
            self._commands.serve()
            self._acks.send(self._consumer)
            self._finish_drains()
        except EventBusError as error:
            if not error.retryable:
                raise
            return error
        return None

    def _confirm(self, ticket: int) -> EventBusError | None:
        with self._changed:
            self._holds.note_poll()
        try:
            self._acks.confirm(self._consumer, ticket)
        except EventBusError as error:
            if not error.retryable:
                raise
            return error
        return None

    def _apply(self, polled: Polled) -> None:
        for change in polled.changes:
            self._ownership.apply(change)
        if polled.deliveries:
            with self._changed:
                self._holds.accept(polled.deliveries)
                self._changed.notify_all()

    def _finish_drains(self) -> None:
        with self._changed:
            drained = self._holds.drained(time.monotonic())
            for assignment in drained:
                assignment.ended = True
        if drained:
            self._acks.send(self._consumer)  # what was acked between the last time and the end
        for assignment in drained:
            self._consumer.release(assignment)
            self._ownership.released(assignment)

    def _seek(self, wanted: set[tuple[str, int]], to: Where) -> None:
        with self._changed:
            held = self._holds.held(wanted)
        for assignment in held:
            moved = self._consumer.seek(assignment, to)
            with self._changed:
                self._holds.drop(assignment, sought=True)
                self._holds.add(moved)
                self._changed.notify_all()

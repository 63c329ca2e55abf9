"""The consumer's thread: polls the backend, keeps a bounded buffer, drains wanted partitions and sends acks.

It goes on polling however slow the user is, so a slow user keeps the partitions.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Future
from typing import Any, Literal

from eventbus_core.backend import Assigned, Backend, BackendConsumer, Change, Gap, Group, Lost, Polled, Revoking
from eventbus_core.errors import BrokerError, Closed, EventBusError, PositionGone, Unavailable
from eventbus_core.hooks import Hooks
from eventbus_core.records import Assignment, Delivery, Where
from eventbus_core.watermark import Watermark

_log = logging.getLogger("eventbus.consumer")

#: How long one poll may wait; an ack or a seek made meanwhile waits as long at most.
_POLL_SECONDS = 0.05
#: The interface promises a poll at least once a second, also when there is no room for records.
_CHANGES_EVERY_SECONDS = 0.25
_MAX_POLL_RECORDS = 500
_BACKOFF_SECONDS = 0.2
#: An outage that lasts longer is raised from ``receive``; the intake goes on trying all the same.
REPORT_OUTAGE_SECONDS = 30.0


class _Hold:
    """What core knows of one assignment."""

    __slots__ = ("deadline", "watermark")

    def __init__(self) -> None:
        self.watermark = Watermark()
        self.deadline: float | None = None  # time.monotonic(), while it is being revoked


class Intake:
    """Owns a backend's consumer. Its methods are for other threads and never touch the broker themselves."""

    def __init__(
        self,
        backend: Backend[Any],
        group: Group,
        *,
        max_unacked: int,
        on_gap: Literal["continue", "stop"],
        hooks: Hooks,
    ) -> None:
        """Join: blocks until the group's positions exist. Raises what ``Backend.consumer`` raises."""
        self._max_unacked = max_unacked
        self._on_gap = on_gap
        self._hooks = hooks
        self._ack_delay = backend.capabilities.ack_delay_seconds
        self._backend_name = backend.name
        self._changed = threading.Condition()
        self._buffer: deque[Delivery] = deque()
        self._holds: dict[Assignment, _Hold] = {}
        self._open = 0
        self._dirty: set[Assignment] = set()
        self._sending_acks = False
        self._durable_at = 0.0
        self._paused: set[tuple[str, int]] = set()
        self._held_back: deque[Delivery] = deque()  # buffered, of paused partitions
        self._commands: deque[tuple[Callable[[], None], Future[None]]] = deque()
        self._next_poll = 0.0
        self._outage_since: float | None = None
        self._outage: EventBusError | None = None
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
        with self._changed:
            while True:
                self._check()
                if received := self._take(max_records):
                    self._changed.notify_all()
                    return received
                self._report_outage()
                remaining = deadline - time.monotonic()
                if remaining <= 0:
                    return []
                self._changed.wait(min(remaining, 1.0))

    def ack(self, deliveries: Iterable[Delivery]) -> None:
        """Note acks; those of ended assignments are dropped and told to the hooks."""
        late: list[Delivery] = []
        with self._changed:
            self._check()
            for delivery in deliveries:
                assignment = delivery.assignment
                hold = None if assignment is None else self._holds.get(assignment)
                if assignment is None or hold is None or assignment.ended:
                    late.append(delivery)
                    continue
                self._open -= hold.watermark.settle(delivery)
                if hold.watermark.pending:
                    self._dirty.add(assignment)
            self._changed.notify_all()
        for delivery in late:
            _log.warning(
                "late ack of %r: its partition had gone; it is delivered again to whoever has it now", delivery
            )
            self._hooks.late_ack(delivery)

    def flush(self, timeout: float | None) -> int:
        """Wait until the acks noted so far are durable; how many partitions still have acks that are not."""
        deadline = float("inf") if timeout is None else time.monotonic() + timeout
        with self._changed:
            while True:
                self._check()
                waiting = len(self._dirty) + self._sending_acks
                now = time.monotonic()
                if not waiting and now >= self._durable_at:
                    return 0
                self._report_outage()
                until = deadline if waiting else min(deadline, self._durable_at)
                if now >= deadline:
                    return max(waiting, 1)
                self._changed.wait(min(until - now, 1.0))

    def pause(self, partitions: Iterable[tuple[str, int]]) -> None:
        """Hand out nothing more of these until ``resume``; what was buffered of them is kept."""
        with self._changed:
            self._check()
            self._paused.update(partitions)
            self._sort_paused()

    def resume(self, partitions: Iterable[tuple[str, int]]) -> None:
        """End a pause."""
        with self._changed:
            self._check()
            self._paused.difference_update(partitions)
            self._sort_paused()
            self._changed.notify_all()

    def seek(self, partitions: Iterable[tuple[str, int]], to: Where) -> None:
        """Move the group in these partitions; blocks until it is durable."""
        wanted = set(partitions)
        future: Future[None] = Future()
        with self._changed:
            self._check()
            self._commands.append((lambda: self._seek(wanted, to), future))
            self._changed.notify_all()
        future.result()

    @property
    def assignments(self) -> frozenset[tuple[str, int]]:
        """The partitions held now, without those that are being given back."""
        with self._changed:
            return frozenset(
                (each.topic, each.partition) for each, hold in self._holds.items() if hold.deadline is None
            )

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

    def _report_outage(self) -> None:
        if self._outage_since is not None and time.monotonic() - self._outage_since > REPORT_OUTAGE_SECONDS:
            raise Unavailable(
                f"no broker for {time.monotonic() - self._outage_since:.0f} s (still trying): {self._outage}",
                backend=self._backend_name,
            ) from self._outage

    def _take(self, max_records: int) -> list[Delivery]:
        received: list[Delivery] = []
        lapsed: list[Delivery] = []  # kept until the backend says Lost: the watermark counts on each of them
        lapsed_holds: set[Assignment | None] = set()
        while self._buffer and len(received) < max_records:
            delivery = self._buffer.popleft()
            if delivery.assignment in lapsed_holds or not delivery.owned:
                lapsed_holds.add(delivery.assignment)
                lapsed.append(delivery)
            else:
                received.append(delivery)
        self._buffer.extendleft(reversed(lapsed))
        return received

    def _is_paused(self, delivery: Delivery) -> bool:
        return (delivery.record.topic, delivery.partition) in self._paused

    def _sort_paused(self) -> None:
        """Part what is buffered anew; what was held back comes first, as it is older."""
        buffered = [*self._held_back, *self._buffer]
        self._held_back = deque(each for each in buffered if self._is_paused(each))
        self._buffer = deque(each for each in buffered if not self._is_paused(each))

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
                        self._send_acks()
                finally:
                    self._end_holds()  # before anybody else can have the partitions
                    self._consumer.close()
        except EventBusError as error:
            _log.warning("leaving the group failed; its partitions move when the broker notices: %s", error)
        finally:
            with self._changed:
                self._failure = failure
                self._stopping = True
                self._buffer.clear()
                self._held_back.clear()
                self._end_holds()
                self._holds.clear()
                self._dirty.clear()
                commands, self._commands = self._commands, deque()
                self._changed.notify_all()
            for _, future in commands:
                future.set_exception(failure or Closed("this consumer was closed meanwhile"))

    def _end_holds(self) -> None:
        with self._changed:
            for assignment in self._holds:
                assignment.ended = True

    def _turn(self) -> None:
        # Whatever becomes of acks and releases, the poll follows: without it every lease of this member would lapse.
        trouble = self._settle_up()
        with self._changed:
            wanted = self._room()
            paused = [each for each in self._holds if (each.topic, each.partition) in self._paused]
            if not wanted and trouble is None and time.monotonic() < self._next_poll:
                self._changed.wait(min(_POLL_SECONDS, self._next_poll - time.monotonic()))
                return
        polled = Polled()
        try:
            polled = self._consumer.poll(wanted, _POLL_SECONDS if wanted else 0.0, paused)
            self._next_poll = time.monotonic() + _CHANGES_EVERY_SECONDS
        except EventBusError as error:
            if not error.retryable:
                raise
            trouble = error
        self._apply(polled)
        if trouble is None:
            self._note_recovery()
        else:
            self._note_outage(trouble)

    def _settle_up(self) -> EventBusError | None:
        """Commands, acks and drains; the retryable error that stood in the way of one, to be tried again."""
        try:
            self._serve()
            self._send_acks()
            self._finish_drains()
        except EventBusError as error:
            if not error.retryable:
                raise
            return error
        return None

    def _room(self) -> int:
        """How many records to ask for; few small polls cost more than one a little later."""
        room = self._max_unacked - self._open + len(self._held_back)
        if room <= 0 or (self._buffer and room < self._max_unacked // 4):
            return 0
        return min(room, _MAX_POLL_RECORDS)

    def _apply(self, polled: Polled) -> None:
        for change in polled.changes:
            self._apply_change(change)
        if polled.deliveries:
            with self._changed:
                self._accept(polled.deliveries)
                self._changed.notify_all()

    def _accept(self, deliveries: Sequence[Delivery]) -> None:
        for delivery in deliveries:
            assignment = delivery.assignment
            hold = None if assignment is None else self._holds.get(assignment)
            if hold is None or hold.deadline is not None:
                continue  # not ours any more: whoever holds the partition next gets it
            hold.watermark.deliver(delivery)
            (self._held_back if self._is_paused(delivery) else self._buffer).append(delivery)
            self._open += 1

    def _apply_change(self, change: Change) -> None:
        assignment = change.assignment
        if isinstance(change, Assigned):
            with self._changed:
                self._holds[assignment] = _Hold()
                self._changed.notify_all()
            self._hooks.assigned(assignment)
        elif isinstance(change, Revoking):
            with self._changed:
                hold = self._holds.get(assignment)
                if hold is not None:
                    hold.deadline = change.deadline
                    self._withdraw(assignment, hold)
            self._hooks.revoking(assignment)
        elif isinstance(change, Lost):
            _log.warning("lost %r: %s", assignment, change.reason)
            self._forget(assignment, unpause=True)
            self._hooks.lost(assignment, change.reason)
        elif isinstance(change, Gap):
            self._hooks.gap(assignment, change.after, change.resume, change.reason)
            message = (
                f"records after {change.after} of {assignment!r} vanished unsettled, next is {change.resume}: "
                f"{change.reason}"
            )
            if self._on_gap == "stop":
                raise PositionGone(message, topic=assignment.topic, backend=self._backend_name)
            _log.error("%s", message)

    def _withdraw(self, assignment: Assignment, hold: _Hold) -> None:
        """Take back from the buffer what nobody has received; with the lock held."""
        taken_back = self._unbuffer(assignment)
        hold.watermark.retract(taken_back)
        self._open -= taken_back

    def _unbuffer(self, assignment: Assignment) -> int:
        before = len(self._buffer) + len(self._held_back)
        self._buffer = deque(each for each in self._buffer if each.assignment is not assignment)
        self._held_back = deque(each for each in self._held_back if each.assignment is not assignment)
        return before - len(self._buffer) - len(self._held_back)

    def _forget(self, assignment: Assignment, *, unpause: bool = False) -> None:
        with self._changed:
            if unpause:  # ``resume`` cannot name a partition that is not held, so the pause ends with the hold
                self._paused.discard((assignment.topic, assignment.partition))
            assignment.ended = True
            hold = self._holds.pop(assignment, None)
            self._dirty.discard(assignment)
            if hold is not None:
                self._open -= len(hold.watermark)
                self._unbuffer(assignment)
            self._changed.notify_all()

    def _send_acks(self) -> None:
        with self._changed:
            if not self._dirty:
                return
            dirty, self._dirty = self._dirty, set()
            prefixes = [hold.watermark.take_prefix() for each in dirty if (hold := self._holds.get(each))]
            settled = [each for each in prefixes if each is not None]
            self._sending_acks = True
        try:
            self._consumer.ack(settled)
        except EventBusError:
            self._restore(settled)
            raise
        finally:
            with self._changed:
                self._sending_acks = False
                self._durable_at = time.monotonic() + self._ack_delay
                self._changed.notify_all()

    def _restore(self, settled: Iterable[Delivery]) -> None:
        """The acks did not get through: send them again with the next ones."""
        with self._changed:
            for delivery in settled:
                assignment = delivery.assignment
                if assignment is not None and (hold := self._holds.get(assignment)):
                    hold.watermark.put_back(delivery)
                    self._dirty.add(assignment)

    def _finish_drains(self) -> None:
        with self._changed:
            now = time.monotonic()
            drained = [
                each
                for each, hold in self._holds.items()
                if hold.deadline is not None and (not len(hold.watermark) or now >= hold.deadline)
            ]
            for assignment in drained:
                assignment.ended = True
        if drained:
            self._send_acks()  # what was acked between the last time and the end
        for assignment in drained:
            self._consumer.release(assignment)
            self._forget(assignment, unpause=True)
            self._hooks.released(assignment)

    def _serve(self) -> None:
        while self._commands:
            command, future = self._commands.popleft()
            try:
                command()
            except Exception as error:
                future.set_exception(error)
                if not (isinstance(error, EventBusError) and error.retryable):
                    raise
            else:
                future.set_result(None)

    def _seek(self, wanted: set[tuple[str, int]], to: Where) -> None:
        with self._changed:
            held = [
                each
                for each, hold in self._holds.items()
                if (each.topic, each.partition) in wanted and not hold.deadline
            ]
        for assignment in held:
            moved = self._consumer.seek(assignment, to)
            self._forget(assignment)
            with self._changed:
                self._holds[moved] = _Hold()

    def _note_outage(self, error: EventBusError) -> None:
        if self._outage_since is None:
            self._outage_since = time.monotonic()
            _log.warning("the broker is away, trying again until it is back: %s", error)
            self._hooks.outage(error)
        self._outage = error
        with self._changed:
            self._changed.notify_all()
            if not self._stopping:
                self._changed.wait(_BACKOFF_SECONDS)

    def _note_recovery(self) -> None:
        if self._outage_since is not None:
            seconds = time.monotonic() - self._outage_since
            self._outage_since = self._outage = None
            _log.warning("the broker is back after %.1f s", seconds)
            self._hooks.recovered(seconds)

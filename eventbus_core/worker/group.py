"""One group of a worker: a thread that receives, offers to the lanes, acks, gives back, reconnects and drains."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence

from eventbus_core.bus import EventBus
from eventbus_core.dead_letters.parking import ParkedKeys
from eventbus_core.errors import Conflict, EventBusError
from eventbus_core.records import Assignment, Delivery
from eventbus_core.subscriptions import Subscription
from eventbus_core.worker.batches import BatchExecutor
from eventbus_core.worker.execution import Executor, Loop, LoopExecutor, ThreadExecutor
from eventbus_core.worker.handling import Handling, log
from eventbus_core.worker.intakes import Intakes
from eventbus_core.worker.joining import Limits, fields, mends, open_intakes, reopen_intakes
from eventbus_core.worker.plan import GroupPlan
from eventbus_core.worker.routing import Routing
from eventbus_core.worker.tasks import Hold

_BUSY_SECONDS = 0.01
"""How long an ack, or a try that is due, may wait for the thread."""
_IDLE_SECONDS = 0.05
"""How long an ack may wait for the thread that had nothing to do, and a redriven event: it waits for others."""
_LOOK_SECONDS = 0.02
_REFRESH_SECONDS = 1.0


class GroupRunner:
    """Owns the consumer of one group. ``failed`` is called once, with what ends the worker."""

    def __init__(
        self, bus: EventBus, plan: GroupPlan, limits: Limits, loop: Loop, failed: Callable[[BaseException], None]
    ) -> None:
        self.plan = plan
        self.name = plan.name
        self._bus = bus
        self._limits = limits
        self._failed = failed
        self._parked = ParkedKeys(bus.admin(), plan.name) if plan.parking else None
        self._handling = Handling(bus, plan, self._parked, failed)
        self._lanes = self._handling.lanes
        self._executors = {each: _executor(each, self._handling, loop) for each in plan.subscriptions}
        queues = {each: executor.queue for each, executor in self._executors.items()}
        self._routing = Routing(plan, queues, counts_deliveries=bus.capabilities.counted_deliveries)
        self._acks_first = plan.first.delivery == "at_most_once"
        self._holds: dict[Assignment, Hold] = {}
        self._intake: Intakes | None = None
        self._start = plan.first.start
        self._next_look = self._next_refresh = 0.0
        self._stop_at: float | None = None
        self._unfinished = 0
        self._thread = threading.Thread(target=self._run, name=f"eventbus-worker-{plan.name}", daemon=True)

    # For the worker.

    def join(self) -> None:
        """The first try to join. Raises what no repetition mends; a broker that is away is tried again later."""
        try:
            self._joined(open_intakes(self._bus, self.plan, self._limits, self._start))
        except EventBusError as error:
            if not error.retryable and not isinstance(error, Conflict):  # somebody reads its dead letters now
                raise
            log.warning("group %s cannot join yet: %s", self.name, error, extra=fields(self.name, error))

    def start(self) -> None:
        """Begin to receive."""
        self._thread.start()

    def stop(self, timeout: float) -> None:
        """Take nothing more; what runs may finish within ``timeout`` seconds. Does not wait."""
        until = time.monotonic() + timeout
        self._stop_at = until if self._stop_at is None else min(until, self._stop_at)

    def wait(self) -> int:
        """Wait for the end; how many handlers still ran then."""
        if self._thread.ident is not None:
            self._thread.join()
        elif self._intake is not None:
            self._intake.close(None)
        return self._unfinished

    @property
    def alive(self) -> bool:
        """Whether the thread runs."""
        return self._thread.is_alive()

    @property
    def ready(self) -> bool:
        """Whether the group is joined and the broker is there."""
        intake = self._intake
        return intake is not None and not intake.away

    @property
    def depth(self) -> tuple[int, int]:
        """How many events wait, and how many run."""
        return self._lanes.waiting, self._lanes.running

    # The thread.

    def _run(self) -> None:
        try:
            while self._stop_at is None:
                self._turn()
        except BaseException as error:
            self._failed(error)
            if not isinstance(error, EventBusError):
                raise
        finally:
            self._end()

    def _turn(self) -> None:
        intake = self._intake
        if intake is None:
            found = reopen_intakes(self._bus, self.plan, self._limits, self._start, lambda: self._stop_at is not None)
            if found is not None:
                self._joined(found)
            return
        try:
            self._serve(intake)
        except EventBusError as error:
            if error.retryable:  # the intake goes on trying, and has said so
                time.sleep(_LOOK_SECONDS)
                return
            if not mends(error):
                raise
            log.error(
                "group %s lost its consumer, opening another: %s", self.name, error, extra=fields(self.name, error)
            )
            self._intake = None
            intake.close(self._bus.settings.drain_seconds)  # the other half of it may work still
            self._forget_ended()
            if self._parked is not None:
                self._parked.forget()  # the topics may be others when they come back

    def _joined(self, intake: Intakes) -> None:
        self._intake = intake
        # Should the positions vanish, the topic was made anew, and nothing in it has been seen.
        self._start = "earliest"
        log.info("group %s has joined", self.name, extra={"group": self.name})

    def _serve(self, intake: Intakes) -> None:
        with self._handling.lock:
            due = self._lanes.wake(time.monotonic())
            settled = self._lanes.take_settled()
            busy = self._lanes.running > 0
            room = self._room()
        self._ack(intake, settled)
        now = time.monotonic()
        if now >= self._next_look:
            self._next_look = now + _LOOK_SECONDS
            self._follow(intake, now)
        wait = _BUSY_SECONDS if busy or settled else _IDLE_SECONDS
        if due is not None:
            wait = max(0.0, min(wait, due - now))
        if room <= 0:
            time.sleep(_BUSY_SECONDS)
            return
        received = intake.receive(room, wait)
        if received:
            self._offer(intake, received)

    def _room(self) -> int:
        """How many records to take into the lanes."""
        if self._acks_first:  # what is taken is acked, and lost if the process dies
            return self._limits.records - self._lanes.waiting - self._lanes.running
        return 0 if self._lanes.bytes >= self._limits.bytes else self._limits.records

    def _ack(self, intake: Intakes, settled: Sequence[Delivery]) -> None:
        if settled:
            if not self._acks_first:
                made = self._handling.made
                intake.ack(settled, {each: made.pop(each) for each in settled if each in made} if made else None)
            self._bus.hooks.acked(self.name, len(settled))

    def _offer(self, intake: Intakes, received: list[Delivery]) -> None:
        for delivery in received:
            self._bus.hooks.received(delivery)
            if delivery.assignment not in self._holds and not self._begin(delivery):
                return  # not acked, so it comes again
        if self._acks_first:
            intake.ack(received)
            if not self._flushed(intake):
                log.error("group %s: %d events may be acked and are not handled", self.name, len(received))
                return
            received = [each for each in received if each.owned]
        with self._handling.lock:
            for delivery in received:
                assert delivery.assignment is not None
                self._routing.put(delivery, self._holds[delivery.assignment], self._lanes)

    def _flushed(self, intake: Intakes) -> bool:
        """Wait until all acks are durable, however long the broker is away; False: the worker must end before."""
        while self._stop_at is None or time.monotonic() < self._stop_at:
            try:
                if not intake.flush(1.0):
                    return True
            except EventBusError as error:
                if not error.retryable:
                    raise
                time.sleep(_LOOK_SECONDS)
        return False

    # Partitions that come and go.

    def _begin(self, delivery: Delivery) -> bool:
        """The first record of an assignment; False: the worker stops before it can be handled."""
        assignment = delivery.assignment
        assert assignment is not None
        self._holds[assignment] = Hold(assignment)
        topic = delivery.record.topic
        if self._parked is None or topic not in self.plan.parking:
            return True
        while self._stop_at is None:
            try:
                self._parked.load(topic, delivery.partition)
            except EventBusError as error:
                if not error.retryable:
                    raise
                log.warning("the parked keys of %s cannot be read yet: %s", topic, error)
                time.sleep(_LOOK_SECONDS * 10)
            else:
                return True
        return False

    def _follow(self, intake: Intakes, now: float) -> None:
        """Give back what a drain need not wait for, forget what is gone, see which keys are released."""
        self._forget_ended()
        for assignment in intake.draining:
            hold = self._holds.get(assignment)
            if hold is not None and not self._acks_first:
                with self._handling.lock:
                    last = self._lanes.give_back(hold)
                intake.give_back(assignment, last)
        if self._parked is not None and now >= self._next_refresh:
            self._next_refresh = now + _REFRESH_SECONDS
            for topic, partition, key in self._parked.refresh():
                log.info("key %r of %s[%d] is released", key, topic, partition, extra={"group": self.name})

    def _forget_ended(self) -> None:
        for assignment in [each for each in self._holds if each.ended]:
            del self._holds[assignment]
            if not self._acks_first:
                with self._handling.lock:
                    self._lanes.forget(assignment)

    # The end.

    def _end(self) -> None:
        """Let what runs finish, ack it, leave."""
        try:
            self._finish()
        finally:
            for executor in self._executors.values():
                executor.stop()
            if self._intake is not None:
                self._intake.close(max(1.0, (self._stop_at or 0.0) - time.monotonic()))
            self._handling.storing.close()

    def _finish(self) -> None:
        intake = self._intake
        while True:
            with self._handling.lock:
                if not self._acks_first:
                    self._lanes.forget()
                settled = self._lanes.take_settled()
                self._lanes.wake(time.monotonic())
                self._unfinished = self._lanes.unfinished
                left = self._lanes.running + self._lanes.waiting
            try:
                if intake is not None:
                    self._ack(intake, settled)
            except EventBusError as error:
                log.warning("group %s could not ack what it finished: %s", self.name, error)
                intake = None
            if not self._unfinished or time.monotonic() >= (self._stop_at or 0.0):
                break
            time.sleep(_LOOK_SECONDS / 4)
        if left and self._acks_first:
            log.error("group %s: %d events were acked and are not handled", self.name, left)


def _executor(subscription: Subscription, handling: Handling, loop: Loop) -> Executor:
    if subscription.batch is not None:
        return BatchExecutor(subscription, subscription.batch, handling, loop)
    if subscription.is_async:
        return LoopExecutor(subscription, handling, loop)
    return ThreadExecutor(subscription, handling)

"""The worker: runs the handlers that were declared with ``@bus.subscribe``."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from types import FrameType
from typing import Self

from eventbus_core.bus import EventBus
from eventbus_core.errors import UsageError
from eventbus_core.worker.execution import Loop
from eventbus_core.worker.group import GroupRunner
from eventbus_core.worker.handling import log
from eventbus_core.worker.joining import Limits
from eventbus_core.worker.plan import plan
from eventbus_core.worker.reporting import Reporter

_SIGNAL_SECONDS = 0.05


class Worker:
    """Runs the handlers of a bus, in threads of its own. Start it once; ``stop``, ``drain`` or ``with`` end it.

    At least once: an event is acked after its handler returned, so one that was being handled when the process died is
    handled again, by this group, elsewhere. Events of one key are handled one at a time, in order; so an event that
    fails keeps later ones of its key waiting while it is tried again, and no others. Attempts are counted in this
    process: where the backend's capability ``counted_deliveries`` is False, they begin anew when the event is handled
    elsewhere.

    Exactly once (``delivery="exactly_once"``, on a backend with the capability ``transactions``): the same, but what
    the handler publishes through its ``Outbox`` (or the dead letter) is stored together with the ack, or neither is and
    the event is handled again. A handler's other effects may happen again.

    Args:
        bus: Whose handlers. Everything that is to run is declared before ``start``.
        groups: Which of its groups to run; none named: all.
        max_unacked: How many records each group takes from the broker and has not handled. With ``at_most_once`` so
            many may be lost when the process dies, or cannot drain in time: they are acked before.
        max_bytes: How many bytes of keys, values and headers they may have, about.
    """

    def __init__(
        self, bus: EventBus, *, groups: Sequence[str] = (), max_unacked: int = 1000, max_bytes: int = 64 << 20
    ) -> None:
        if max_unacked < 1 or max_bytes < 1:
            raise UsageError(f"max_unacked and max_bytes must be at least 1, not {max_unacked} and {max_bytes}")
        self._bus = bus
        self._groups = groups
        self._limits = Limits(max_unacked, max_bytes)
        self._loop = Loop()
        self._runners: list[GroupRunner] = []
        self._reporter: Reporter | None = None
        self._failure: BaseException | None = None
        self._ended = threading.Event()
        self._lock = threading.Lock()
        self._started = False
        self._stopping = threading.Event()
        self._signals: list[int] = []

    def start(self) -> None:
        """Check what was declared, make the groups' own topics, join the groups and begin to handle.

        Blocks for one try to join each group. A broker that is away is no error: the worker goes on trying, and is not
        ``ready`` meanwhile. Raises ``UsageError`` or ``Unsupported`` for what cannot be run, ``NotFound`` for a missing
        topic, ``AccessDenied``.
        """
        with self._lock:
            if self._started:
                raise UsageError("this worker was started before; make another")
            plans = plan(self._bus, self._groups)
            self._started = True
            try:
                for each in plans:
                    runner = GroupRunner(self._bus, each, self._limits, self._loop, self._fail)
                    self._runners.append(runner)
                    runner.join()
            except BaseException:
                self._stopping.set()
                for runner in self._runners:
                    runner.wait()
                self._runners.clear()
                raise
            for runner in self._runners:
                runner.start()
            self._reporter = Reporter(self._bus, self._runners)

    def run(self) -> int:
        """Start, run until SIGTERM or SIGINT, and stop; to be called in the main thread.

        The first signal stops as ``stop()`` does. A second one ends the process at once, whatever it waits for, with
        exit code 1: what was not acked is handled again elsewhere, and what was published and not stored may be lost.
        Returns how many handlers still ran at the end. Raises what ended the worker, if something did.
        """
        with _noting(self._signals):
            self.start()
            while not self._signals and not self._ended.wait(_SIGNAL_SECONDS):
                pass
            if self._signals:
                log.info("stopping: running handlers have %g s", self._bus.settings.drain_seconds)
            self._begin_stop(self._bus.settings.drain_seconds)
            while any(each.alive for each in self._runners):
                time.sleep(_SIGNAL_SECONDS)
            return self.stop(0.0)

    def stop(self, timeout: float | None = None) -> int:
        """Take nothing more, let running handlers finish, ack, and leave the groups. Idempotent, from any thread.

        Waits at most ``timeout`` seconds for handlers (None: the setting ``drain_seconds``), and returns how many still
        ran: their events, and those that waited, are handled again by whoever has their partitions next. Raises what
        ended the worker, if something did.
        """
        self._begin_stop(self._bus.settings.drain_seconds if timeout is None else timeout)
        unfinished = sum(each.wait() for each in self._runners)
        if self._reporter is not None:
            self._reporter.stop()
        self._loop.stop()
        self._ended.set()
        if self._failure is not None:
            raise self._failure
        return unfinished

    def drain(self, timeout: float) -> None:
        """Handle everything that is in the topics now, then stop.

        What was given up as the subscription says counts as handled. Raises ``TimeoutError`` if it is not done within
        ``timeout`` seconds (the worker goes on then), ``BrokerError`` if the broker cannot be asked, and what ended the
        worker, if something did.
        """
        if not self._runners:
            raise UsageError("this worker does not run: start it before it can drain")
        deadline = time.monotonic() + timeout
        left = {(each.name, topic): None for each in self._runners for topic in each.plan.routes}
        ends = {topic: self._bus.admin().describe_topic(topic).ends for _, topic in left}
        while left and self.healthy:
            for group, topic in list(left):
                if all(
                    not lag.records or (end is not None and lag.settled is not None and lag.settled >= end)
                    for lag, end in zip(self._bus.admin().lag(group, topic), ends[topic], strict=True)
                ):
                    del left[group, topic]
            if left and time.monotonic() > deadline:
                raise TimeoutError(f"not handled within {timeout:g} s: {', '.join(f'{t} ({g})' for g, t in left)}")
            if left:
                self._ended.wait(_SIGNAL_SECONDS)
        self.stop()

    def wait_stopping(self) -> None:
        """Wait until it was asked to stop, also while it starts, or ends by itself; from any thread."""
        while not self._stopping.wait(_SIGNAL_SECONDS) and not self._signals:
            pass

    @property
    def healthy(self) -> bool:
        """Whether all its threads run and nothing has happened that ends it. False before ``start`` too."""
        return bool(self._runners) and self._failure is None and all(each.alive for each in self._runners)

    @property
    def ready(self) -> bool:
        """Whether every group has joined and the broker is there."""
        return self.healthy and all(each.ready for each in self._runners)

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def _begin_stop(self, timeout: float) -> None:
        self._stopping.set()
        for runner in self._runners:
            runner.stop(timeout)

    def _fail(self, error: BaseException) -> None:
        """From any thread: this ends the worker."""
        if self._failure is None:
            self._failure = error
            log.error("the worker stops: %s", error)
        self._begin_stop(self._bus.settings.drain_seconds)
        self._ended.set()


@contextmanager
def _noting(received: list[int]) -> Iterator[None]:
    """Signals that come are put into the list: a handler that took a lock could wait for itself."""
    if threading.current_thread() is not threading.main_thread():
        raise UsageError("run() takes signals, so it belongs into the main thread; elsewhere use start() and stop()")

    def receive(number: int, _: FrameType | None) -> None:
        received.append(number)
        if len(received) > 1:
            os.write(2, b"error: stopped at once, by a second signal\n")
            os._exit(1)  # everything else may wait for the broker

    before = {each: signal.getsignal(each) for each in (signal.SIGTERM, signal.SIGINT)}
    for each in before:
        signal.signal(each, receive)
    try:
        yield
    finally:
        for each, handler in before.items():
            signal.signal(each, handler)

"""Tells hooks about lag and depth now and then, in a thread, if any of them listens."""

from __future__ import annotations

import threading
from collections.abc import Sequence

from eventbus_core.bus import EventBus
from eventbus_core.errors import EventBusError
from eventbus_core.hooks import overrides
from eventbus_core.worker.group import GroupRunner
from eventbus_core.worker.handling import log

EVERY_SECONDS = 10.0


class Reporter:
    """Has a thread only if a hook overrides ``lag`` or ``depth``."""

    def __init__(self, bus: EventBus, runners: Sequence[GroupRunner]) -> None:
        self._bus = bus
        self._runners = runners
        self._lag, self._depth = (overrides(bus.hooks, name) for name in ("lag", "depth"))
        self._stopped = threading.Event()
        if self._lag or self._depth:
            threading.Thread(target=self._run, name="eventbus-report", daemon=True).start()

    def stop(self) -> None:
        """Report no more."""
        self._stopped.set()

    def _run(self) -> None:
        while not self._stopped.wait(EVERY_SECONDS):
            for runner in self._runners:
                if self._depth:
                    self._bus.hooks.depth(runner.name, *runner.depth)
                if self._lag:
                    self._report_lag(runner)

    def _report_lag(self, runner: GroupRunner) -> None:
        try:
            for topic in runner.plan.routes:
                for lag in self._bus.admin().lag(runner.name, topic):
                    self._bus.hooks.lag(runner.name, topic, lag.partition, lag.records)
        except EventBusError as error:
            log.debug("the lag of group %s is unknown now: %s", runner.name, error)

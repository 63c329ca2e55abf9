"""A broker that is away while a consumer goes on trying."""

from __future__ import annotations

import logging
import time

from eventbus_core.errors import EventBusError, Unavailable
from eventbus_core.hooks import Hooks

_log = logging.getLogger("eventbus.consumer")

#: An outage that lasts longer is raised from ``receive`` and ``flush``; the consumer goes on trying all the same.
REPORT_OUTAGE_SECONDS = 30.0

#: Without an error for so long, it is over: a poll that brings nothing does not show that the broker is there, and a
#: client that tries to connect says so about once a second.
CALM_SECONDS = 3.0


class Outage:
    """Whether there is one, since when, and what the broker's client said last. Told once, to log and hooks."""

    def __init__(self, hooks: Hooks, backend_name: str) -> None:
        self._hooks = hooks
        self._backend_name = backend_name
        self._now: tuple[float, EventBusError] | None = None  # since when, and the last error
        self._noted_at = 0.0

    @property
    def lasts(self) -> bool:
        """Whether there is one now. From any thread."""
        return self._now is not None

    def note(self, error: EventBusError) -> None:
        """Something failed that may be tried again."""
        began = self._now
        self._noted_at = time.monotonic()
        self._now = (self._noted_at if began is None else began[0], error)
        if began is None:
            _log.warning("the broker is away, trying again until it is back: %s", error)
            self._hooks.outage(error)

    def quiet(self, *, answered: bool) -> None:
        """Nothing failed; ``answered``: and the broker has certainly been heard of."""
        now = time.monotonic()
        if self._now is not None and (answered or now - self._noted_at >= CALM_SECONDS):
            seconds = now - self._now[0]
            self._now = None
            _log.warning("the broker is back after %.1f s", seconds)
            self._hooks.recovered(seconds)

    def report(self) -> None:
        """Raise ``Unavailable`` when it has lasted too long to wait in silence. From any thread."""
        now = self._now
        if now is not None and (seconds := time.monotonic() - now[0]) > REPORT_OUTAGE_SECONDS:
            raise Unavailable(
                f"no broker for {seconds:.0f} s (still trying): {now[1]}", backend=self._backend_name
            ) from now[1]

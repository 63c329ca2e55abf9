"""Changes of ownership, as a backend reports them: applied to the holds, told to the log and the hooks."""

from __future__ import annotations

import logging
from threading import Condition
from typing import Literal

from eventbus_core.backend import Assigned, Change, Gap, Lost, Revoking
from eventbus_core.errors import PositionGone
from eventbus_core.holds import Holds
from eventbus_core.hooks import Hooks
from eventbus_core.records import Assignment

_log = logging.getLogger("eventbus.consumer")


class Ownership:
    """Works for the intake's thread, on holds that are guarded by ``changed``; hooks run without that lock."""

    def __init__(
        self, holds: Holds, changed: Condition, hooks: Hooks, *, on_gap: Literal["continue", "stop"], backend_name: str
    ) -> None:
        self._holds = holds
        self._changed = changed
        self._hooks = hooks
        self._on_gap = on_gap
        self._backend_name = backend_name

    def apply(self, change: Change) -> None:
        """Take in one change. ``PositionGone`` for a gap, when gaps are to stop the consumer."""
        assignment = change.assignment
        if isinstance(change, Assigned):
            with self._changed:
                self._holds.add(assignment)
                self._changed.notify_all()
            self._hooks.assigned(assignment)
        elif isinstance(change, Revoking):
            with self._changed:
                self._holds.revoke(assignment, change.deadline)
            self._hooks.revoking(assignment)
        elif isinstance(change, Lost):
            _log.warning("lost %r: %s", assignment, change.reason)
            with self._changed:
                self._holds.lose(assignment, acks_lost=change.acks_lost)
                self._changed.notify_all()
            self._hooks.lost(assignment, change.reason)
        elif isinstance(change, Gap):
            self._gap(change)

    def released(self, assignment: Assignment) -> None:
        """The backend has given it back."""
        with self._changed:
            self._holds.release(assignment)
            self._changed.notify_all()
        self._hooks.released(assignment)

    def _gap(self, gap: Gap) -> None:
        assignment, after, resume, reason = gap
        self._hooks.gap(assignment, after, resume, reason)
        message = f"records after {after} of {assignment!r} vanished unsettled, next is {resume}: {reason}"
        if self._on_gap == "stop":
            raise PositionGone(message, topic=assignment.topic, backend=self._backend_name)
        _log.error("%s", message)

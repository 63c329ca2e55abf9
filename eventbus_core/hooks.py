"""What happens inside, for metrics and tracing. Core imports no telemetry library; applications subclass this."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from eventbus_core.errors import EventBusError, SendError
from eventbus_core.records import Assignment, Delivery, Position


class Hooks:
    """One method per happening, all doing nothing. They run in the bus's threads: they must be quick and not raise."""

    def send_failed(self, topic: str, error: SendError) -> None:
        """A record was settled as failed or unknown."""

    def assigned(self, assignment: Assignment) -> None:
        """A partition is ours."""

    def revoking(self, assignment: Assignment) -> None:
        """A partition is wanted back; it drains now."""

    def released(self, assignment: Assignment) -> None:
        """A partition was given back, everything acked so far included."""

    def lost(self, assignment: Assignment, reason: str) -> None:
        """A partition is gone without notice; what was not acked is handed out again elsewhere."""

    def gap(self, assignment: Assignment, after: Position | None, resume: Position, reason: str) -> None:
        """Records that the group had not settled vanished from the broker."""

    def late_ack(self, delivery: Delivery) -> None:
        """An ack came after the partition had gone; it was dropped, and the record is handed out again elsewhere."""

    def outage(self, error: EventBusError) -> None:
        """The broker went away; the bus keeps trying."""

    def recovered(self, seconds: float) -> None:
        """The broker is back after so many seconds."""


def fan_out(hooks: Sequence[Hooks]) -> Hooks:
    """One ``Hooks`` that calls them all, in order."""
    if len(hooks) == 1:
        return hooks[0]
    return _FanOut(hooks) if hooks else Hooks()


class _FanOut(Hooks):
    def __init__(self, hooks: Sequence[Hooks]) -> None:
        for name in [name for name in vars(Hooks) if not name.startswith("_")]:
            setattr(self, name, _call_all([getattr(each, name) for each in hooks]))


def _call_all(methods: Sequence[Callable[..., None]]) -> Callable[..., None]:
    def call(*arguments: Any) -> None:
        for method in methods:
            method(*arguments)

    return call

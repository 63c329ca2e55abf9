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

    # The worker. These run in the threads of handlers too, several at a time.

    def received(self, delivery: Delivery) -> None:
        """A group of the worker has taken a record from the broker."""

    def started(self, delivery: Delivery, attempt: int) -> None:
        """A handler begins with an event; ``attempt`` counts from 1."""

    def finished(self, delivery: Delivery, seconds: float) -> None:
        """A handler returned; it took so many seconds."""

    def retried(self, delivery: Delivery, attempt: int, delay_seconds: float, error: Exception) -> None:
        """Try number ``attempt`` failed; the next one follows after the delay."""

    def paused(self, delivery: Delivery, delay_seconds: float, error: Exception) -> None:
        """Something that is needed is away: the partition waits, and this event is tried again after the delay."""

    def resumed(self, delivery: Delivery) -> None:
        """What was away is back: the partition goes on."""

    def dead_lettered(self, delivery: Delivery, error: Exception | None) -> None:
        """A record was given up, and its dead letter is stored. No error: its key is parked."""

    def dropped(self, delivery: Delivery, error: Exception) -> None:
        """A record was given up, and its subscription says to drop it."""

    def acked(self, group: str, count: int) -> None:
        """So many records of a group are handled, and their acks are on the way."""

    def lag(self, group: str, topic: str, partition: int, records: int) -> None:
        """How many records a group has not settled; about every 10 s, and only asked for where this is overridden."""

    def depth(self, group: str, waiting: int, running: int) -> None:
        """How many events wait in the worker, and how many are being handled; about every 10 s."""


def fan_out(hooks: Sequence[Hooks]) -> Hooks:
    """One ``Hooks`` that calls them all, in order."""
    if len(hooks) == 1:
        return hooks[0]
    return _FanOut(hooks) if hooks else Hooks()


def overrides(hooks: Hooks, name: str) -> bool:
    """Whether somebody listens to a happening."""
    return name in vars(hooks) or getattr(type(hooks), name) is not getattr(Hooks, name)


class _FanOut(Hooks):
    def __init__(self, hooks: Sequence[Hooks]) -> None:
        for name in [name for name in vars(Hooks) if not name.startswith("_")]:
            if listening := [getattr(each, name) for each in hooks if overrides(each, name)]:
                setattr(self, name, _call_all(listening))


def _call_all(methods: Sequence[Callable[..., None]]) -> Callable[..., None]:
    def call(*arguments: Any) -> None:
        for method in methods:
            method(*arguments)

    return call

"""One event's way through its handler: decode, call, judge what it raised, store a dead letter.

Any executor calls this, in its threads; the lanes learn of each outcome under their lock.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from typing import Any

from eventbus_core import envelope
from eventbus_core.bus import EventBus
from eventbus_core.dead_letters.letters import Reason, make, without_details
from eventbus_core.dead_letters.parking import ParkedKeys
from eventbus_core.errors import DecodeError, EventBusError, HandlerFailed
from eventbus_core.events import Event
from eventbus_core.failures import Again, Outage, delay, is_refusal, judge
from eventbus_core.hooks import Hooks
from eventbus_core.outbox import Outbox
from eventbus_core.records import Delivery, Record
from eventbus_core.subscriptions import Retry
from eventbus_core.worker.lanes import Lanes
from eventbus_core.worker.plan import GroupPlan
from eventbus_core.worker.storing import Storing
from eventbus_core.worker.tasks import Task

log = logging.getLogger("eventbus.worker")

_STORING = Retry()
"""How often a dead letter that cannot be stored is tried again: for ever, at these delays."""


class Handling:
    """What the executors of one group share. ``fail`` ends the worker with an error."""

    def __init__(
        self, bus: EventBus, plan: GroupPlan, parked: ParkedKeys | None, fail: Callable[[BaseException], None]
    ) -> None:
        self.lock = threading.Lock()
        self.lanes = Lanes()
        self.fail = fail
        self.hooks: Hooks = bus.hooks
        self.parked = parked
        self.made: dict[Delivery, Sequence[Record]] = {}
        """What is to be stored together with the ack of a delivery that is done."""
        self._transacts = plan.first.delivery == "exactly_once"
        self._known_topics: set[str] = set()
        self._bus = bus
        self._group = plan.name
        self._parking = plan.parking
        self._max_bytes = bus.capabilities.max_record_bytes
        self.storing = Storing(bus.producer, fail)

    def begin(self, task: Task) -> Event[Any] | None:
        """The event, if the handler is to be called with it now; otherwise the task has been dealt with."""
        delivery = task.delivery
        subscription = task.queue.subscription
        if not delivery.owned and subscription.delivery != "at_most_once":
            with self.lock:
                self.lanes.drop(task)
            return None
        if task.letter is not None:
            self._store(task, task.letter)
            return None
        if self.parked is not None and self._is_parked(task):
            self._give_up(task, None, "parked")
            return None
        if task.error is not None:  # it was in a batch that failed for good
            self._give_up(task, task.error, "failed")
            return None
        self.hooks.started(delivery, task.attempt)
        try:
            return self.decode(task)
        except DecodeError as error:
            reason: Reason = "undecodable"
            if task.type is None and envelope.peek_type(delivery.record) is not None:
                reason = "unknown"
            self._give_up(task, error, reason)
            return None

    def decode(self, task: Task) -> Event[Any]:
        """The event of a task. ``DecodeError``: also where its type is of no handler."""
        into: type[Any] = task.type or task.queue.subscription.types[0]
        return envelope.decode(task.delivery.record, into, attempt=task.attempt, delivery=task.delivery)

    def takes_alone(self, task: Task) -> bool:
        """Whether a task is not for the handler, so that it cannot be part of a batch."""
        if not task.delivery.owned or task.letter is not None or task.error is not None:
            return True
        return self.parked is not None and self._is_parked(task)

    def succeeded(self, task: Task, seconds: float) -> None:
        """The handler returned; the caller says ``done`` to the lanes."""
        self.hooks.finished(task.delivery, seconds)
        if task.outages:
            self._resumed(task)

    def outbox(self) -> Outbox | None:
        """For the second argument of the handler, if it takes one."""
        return Outbox(self._encode) if self._transacts else None

    def _encode(self, data: object, topic: str | None, key: str | None) -> Record:
        record, _ = self._bus.encode(data, topic, key)
        if record.topic not in self._known_topics:  # in the transaction it would stop every event, not only this one
            self._bus.prepare_topic(record.topic)
            self._bus.admin().describe_topic(record.topic)
            self._known_topics.add(record.topic)
        return record

    def failed(self, task: Task, error: Exception) -> None:
        """The handler raised: judge it, and tell the lanes."""
        subscription = task.queue.subscription
        task.first_failed = task.first_failed or datetime.now(UTC)
        if subscription.delivery == "at_most_once":
            self._give_up(task, error, "failed")
            return
        match judge(error, subscription.retry, attempt=task.attempt, outages=task.outages):
            case Again(seconds):
                self.retry(task, seconds, error)
            case Outage(seconds):
                self._pause(task, seconds, error)
            case _:
                self._give_up(task, error, "failed")

    def retry(self, task: Task, seconds: float, error: Exception) -> None:
        """Try again later, as one more attempt."""
        if task.outages:
            self._resumed(task)
        log.warning(
            "attempt %d of %s failed, trying again in %.1f s: %s",
            *(task.attempt, task.delivery, seconds, _said(error)),
            extra=self._fields(task, error, delay_seconds=seconds),
        )
        self.hooks.retried(task.delivery, task.attempt, seconds, error)
        task.attempt += 1
        with self.lock:
            self.lanes.again(task, time.monotonic() + seconds)

    def _pause(self, task: Task, seconds: float, error: Exception) -> None:
        if not task.outages:
            log.warning(
                "%s waits with its partition, as something it needs is away: %s",
                *(task.delivery, _said(error)),
                extra=self._fields(task, error, delay_seconds=seconds),
            )
        self.hooks.paused(task.delivery, seconds, error)
        task.outages += 1
        with self.lock:
            self.lanes.outage(task, time.monotonic() + seconds)

    def _resumed(self, task: Task) -> None:
        task.outages = 0
        log.warning("%s: what was away is back, its partition goes on", task.delivery, extra=self._fields(task))
        self.hooks.resumed(task.delivery)

    def _give_up(self, task: Task, error: Exception | None, reason: Reason) -> None:
        subscription = task.queue.subscription
        policy: str = subscription.on_failure
        if reason in {"undecodable", "unknown"}:
            policy = subscription.on_undecodable if reason == "undecodable" else subscription.on_unknown
        if task.outages:
            self._resumed(task)
        if error is not None and policy == "stop":
            failure = HandlerFailed(
                f"group {self._group!r} stops at {task.delivery!r} ({subscription.name}, attempt {task.attempt}), "
                f"as its subscription says: {_said(error)}",
                topic=task.delivery.record.topic,
            )
            failure.__cause__ = error
            self._stop(task, failure)
        elif error is not None and policy == "drop":
            log.error("dropped %s: %s", task.delivery, _said(error), extra=self._fields(task, error))
            self.hooks.dropped(task.delivery, error)
            self._done(task)
        else:
            task.error = error
            task.letter = self._letter(task, error, reason)
            self._store(task, task.letter)

    def _letter(self, task: Task, error: Exception | None, reason: Reason) -> Record:
        now = datetime.now(UTC)
        return make(
            task.delivery,
            self._group,
            error,
            reason=reason,
            attempts=task.attempt if reason == "failed" else 0,
            first_at=task.first_failed or now,
            last_at=now,
            build=task.queue.subscription.build,
            max_bytes=self._max_bytes,
            parks=self._parks(task),
        )

    def _store(self, task: Task, letter: Record) -> None:
        """Send the dead letter; the task is done when it is stored, and not before."""
        if self._transacts:  # it is stored with the ack
            self.made[task.delivery] = [letter]
            self._given_up(task, letter)
        else:
            self.storing.send(letter, lambda error: self._told(task, letter, error))

    def _told(self, task: Task, letter: Record, error: EventBusError | None) -> None:
        if error is not None:
            self._not_stored(task, letter, error)
            return
        if task.outages:
            self._resumed(task)
        self._given_up(task, letter)

    def _given_up(self, task: Task, letter: Record) -> None:
        delivery, error = task.delivery, task.error
        key = delivery.record.key
        if self.parked is not None and self._parks(task) and key is not None:
            self.parked.note(delivery.record.topic, delivery.partition, key)
        if error is not None:
            log.error(
                "%s is among the dead letters in %s: %s",
                *(delivery, letter.topic, _said(error)),
                extra=self._fields(task, error),
            )
        self.hooks.dead_lettered(delivery, error)
        self._done(task)

    def _not_stored(self, task: Task, letter: Record, error: EventBusError) -> None:
        if not is_refusal(error):
            self._pause(task, delay(_STORING, task.outages + 1), error)
            return
        bare = without_details(letter)
        if bare != letter:
            task.letter = bare
            self._store(task, bare)
            return
        failure = HandlerFailed(
            f"group {self._group!r} stops at {task.delivery!r}: {letter.topic!r} does not take its dead letter: "
            f"{error}; raise the limit of that topic, or subscribe with on_failure='drop'",
            topic=task.delivery.record.topic,
        )
        failure.__cause__ = error
        self._stop(task, failure)

    def _stop(self, task: Task, failure: HandlerFailed) -> None:
        with self.lock:
            self.lanes.halt(task)
        self.fail(failure)

    def _done(self, task: Task) -> None:
        with self.lock:
            self.lanes.done(task)

    def _is_parked(self, task: Task) -> bool:
        delivery = task.delivery
        return (
            self.parked is not None
            and delivery.record.topic in self._parking
            and self.parked.is_parked(delivery.record.topic, delivery.partition, delivery.record.key)
        )

    def _parks(self, task: Task) -> bool:
        """Whether later events of its key follow it to the dead letters; those of a redriven one do already."""
        follows = task.error is None
        return task.delivery.record.topic in self._parking and (
            follows or task.queue.subscription.on_failure == "park_key"
        )

    def _fields(self, task: Task, error: Exception | None = None, **more: object) -> dict[str, object]:
        delivery = task.delivery
        record = delivery.record
        fields: dict[str, object] = {
            "group": self._group,
            "topic": record.topic,
            "partition": delivery.partition,
            "position": str(delivery.position),
            "key": None if record.key is None else record.key.decode(errors="replace"),
            "event_type": envelope.peek_type(record),
            "event_id": next(
                (value.decode(errors="replace") for name, value in record.headers if name == "ce_id"), None
            ),
            "attempt": task.attempt,
            "handler": task.queue.subscription.name,
            **more,
        }
        if error is not None:
            fields |= {"error": str(error), "error_type": type(error).__name__}
        return fields


def _said(error: Exception | None) -> str:
    return f"{type(error).__name__}: {error}"

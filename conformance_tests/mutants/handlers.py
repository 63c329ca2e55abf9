"""Defects of workers: what they do with handlers that fail, with records that are no events, and at their end."""

from __future__ import annotations

import dataclasses
from typing import Any

from conformance_tests.mutants.mutant import Mutant
from eventbus_core import envelope, failures
from eventbus_core.dead_letters import letters
from eventbus_core.records import Delivery, Record
from eventbus_core.subscriptions import Subscription
from eventbus_core.worker import Worker, execution, handling
from eventbus_core.worker.group import GroupRunner
from eventbus_core.worker.handling import Handling
from eventbus_core.worker.lanes import Lanes
from eventbus_core.worker.tasks import Task


class _Judged(Mutant):
    runs = ("core.test_handlers", "semantics.test_handlers")


class NeverTriesAgain(_Judged):
    """A handler that raises is not called again."""

    @classmethod
    def plant(cls) -> None:
        vars(handling)["judge"] = lambda *_, **__: failures.GiveUp()


class CountsNoAttempts(_Judged):
    """Every attempt is the first, as the handler sees it."""

    @classmethod
    def plant(cls) -> None:
        def decode(self: Handling, task: Task) -> Any:  # noqa: ARG001
            into: Any = task.type or task.queue.subscription.types[0]
            return envelope.decode(task.delivery.record, into, attempt=1, delivery=task.delivery)

        Handling.decode = decode  # type: ignore[method-assign]


class AcksWithoutDeadLetter(_Judged):
    """What is given up is acked, and its dead letter is never stored."""

    @classmethod
    def plant(cls) -> None:
        Handling._store = lambda self, task, letter: self._given_up(task, letter)  # type: ignore[method-assign]


class BareDeadLetters(_Judged):
    """Dead letters lack the headers of the original."""

    @classmethod
    def plant(cls) -> None:
        make = letters.make

        def without_headers(delivery: Delivery, *arguments: Any, **more: Any) -> Record:
            letter = make(delivery, *arguments, **more)
            return letter._replace(headers=letter.headers[len(delivery.record.headers) :])

        vars(handling)["make"] = without_headers


class StopAcks(_Judged):
    """An event that stops the worker is acked before it ends."""

    @classmethod
    def plant(cls) -> None:
        Lanes.halt = Lanes.done  # type: ignore[method-assign]


class DropsInSilence(_Judged):
    """Hooks are not told what is dropped."""

    @classmethod
    def plant(cls) -> None:
        give_up = Handling._give_up

        def quietly(self: Handling, task: Task, error: Exception | None, reason: Any) -> None:
            if task.queue.subscription.on_failure == "drop" and reason == "failed":
                self._done(task)
            else:
                give_up(self, task, error, reason)

        Handling._give_up = quietly  # type: ignore[method-assign]


class StopsAtGarbage(_Judged):
    """A record that is no event ends the worker."""

    @classmethod
    def plant(cls) -> None:
        give_up = Handling._give_up

        def stop(self: Handling, task: Task, error: Exception | None, reason: Any) -> None:
            if reason == "undecodable" and error is not None:
                self.fail(error)
            else:
                give_up(self, task, error, reason)

        Handling._give_up = stop  # type: ignore[method-assign]


class AcksBeforeTheRetry(_Judged):
    """An event is acked when its first attempt failed."""

    @classmethod
    def plant(cls) -> None:
        again = Lanes.again

        def settled(self: Lanes, task: Task, due: float) -> None:
            if task.attempt == 2:  # the next one
                self.settled.append(task.delivery)
            again(self, task, due)

        Lanes.again = settled  # type: ignore[method-assign]


class RetriesAtTheTail(_Judged):
    """An event that failed is tried again behind the later ones of its key."""

    @classmethod
    def plant(cls) -> None:
        again = Lanes.again

        def overtaken(self: Lanes, task: Task, due: float) -> None:
            tasks = task.lane.tasks
            again(self, task, due)
            tasks.rotate(-1)
            tasks[0].due = due
            for at, (when, number, each) in enumerate(self._timers):
                if each is task:
                    self._timers[at] = (when, number, tasks[0])

        Lanes.again = overtaken  # type: ignore[method-assign]


class OneAtATime(_Judged):
    """One slow handler keeps all others waiting."""

    @classmethod
    def plant(cls) -> None:
        start = execution.ThreadExecutor.__init__

        def alone(self: Any, subscription: Subscription, of_group: Handling) -> None:
            start(self, dataclasses.replace(subscription, concurrency=1), of_group)

        execution.ThreadExecutor.__init__ = alone  # type: ignore[method-assign]


class IgnoresConcurrency(_Judged):
    """As many handlers run at once as there are events."""

    @classmethod
    def plant(cls) -> None:
        start = execution.ThreadExecutor.__init__

        def crowd(self: Any, subscription: Subscription, of_group: Handling) -> None:
            start(self, dataclasses.replace(subscription, concurrency=100), of_group)

        execution.ThreadExecutor.__init__ = crowd  # type: ignore[method-assign]


class AcksAllAtTheEnd(_Judged):
    """A worker that stops acks what it has, handled or not."""

    @classmethod
    def plant(cls) -> None:
        end = GroupRunner._end

        def ack_all(self: GroupRunner) -> None:
            with self._handling.lock:
                self._lanes.settled.extend(each.delivery for each in self._lanes.tasks())
            end(self)

        GroupRunner._end = ack_all  # type: ignore[method-assign]


class StopsAtOnce(_Judged):
    """A worker that is stopped waits for no handler."""

    @classmethod
    def plant(cls) -> None:
        stop = Worker.stop
        Worker.stop = lambda self, timeout=None: stop(self, 0.0)  # type: ignore[method-assign]  # noqa: ARG005


class ClaimsTransactions(_Judged, transactions=True):
    """Exactly once is accepted, and comes to nothing."""

"""Handlers that take lists of events, and may fail with some of them."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from itertools import groupby
from operator import attrgetter
from typing import Any

from eventbus_core.errors import BatchFailed, DecodeError
from eventbus_core.events import Event
from eventbus_core.failures import Outage, delay, judge
from eventbus_core.subscriptions import Batch, Subscription
from eventbus_core.worker.execution import Loop
from eventbus_core.worker.handling import Handling
from eventbus_core.worker.tasks import Lane, Queue, Task

_lane_of = attrgetter("lane")


class BatchExecutor:
    """Collects events and runs their handler with lists, in threads; a coroutine function runs in the loop."""

    def __init__(self, subscription: Subscription, batch: Batch, handling: Handling, loop: Loop) -> None:
        self.queue = Queue(subscription, self._grew)
        self._handling = handling
        self._lanes = handling.lanes
        self._size = batch.size
        self._wait = batch.wait.total_seconds()
        self._changed = threading.Condition(handling.lock)
        self._call: Callable[[list[Event[Any]]], object] = subscription.handler
        if subscription.is_async:
            self._call = lambda events: loop.submit(subscription.handler(events)).result()
        self._since = 0.0
        self._threads = 0
        self._idle = 0
        self._stopped = False

    def stop(self) -> None:
        with self._changed:
            self._stopped = True
            self._changed.notify_all()

    def _grew(self) -> None:
        """With the lock held."""
        if len(self.queue.lanes) == 1:
            self._since = time.monotonic()
        if self._idle:
            self._changed.notify()
        elif self._threads < self.queue.subscription.concurrency:
            self._threads += 1
            name = f"eventbus-{self.queue.subscription.group}-{self._threads}"
            threading.Thread(target=self._run, name=name, daemon=True).start()

    def _run(self) -> None:
        try:
            while tasks := self._next():
                self._handle(tasks)
        except BaseException as error:  # a handler's SystemExit, a hook that raises
            self._handling.fail(error)
            raise

    def _next(self) -> list[Task]:
        """The next batch; empty: stop."""
        with self._changed:
            while not self._stopped:
                remaining: float | None = None
                if count := self._lanes.available(self.queue, self._size):
                    remaining = self._since + self._wait - time.monotonic()
                    if count >= self._size or remaining <= 0:
                        self._since = time.monotonic()
                        if tasks := self._lanes.take_batch(self.queue, self._size):
                            return tasks
                        continue
                self._idle += 1
                self._changed.wait(remaining)
                self._idle -= 1
        return []

    def _handle(self, tasks: Sequence[Task]) -> None:
        handled, events, left = self._decode(self._left_after_singles(tasks))
        failed: set[Lane] = set()
        if events:
            began = time.perf_counter()
            try:
                self._call(events)
            except BatchFailed as error:
                failed = self._partly(handled, events, error)
            except Exception as error:  # noqa: BLE001  (whatever it is, it is judged)
                failed = self._wholly(handled, error)
            except BaseException:  # it ends the worker, which need not wait for it
                with self._handling.lock:
                    for task in tasks:
                        self._lanes.halt(task)
                raise
            else:
                seconds = time.perf_counter() - began
                for task in handled:
                    self._handling.succeeded(task, seconds)
                self._done(handled)
        with self._handling.lock:
            for task in left:
                if task.lane not in failed:
                    self._lanes.back(task)

    def _left_after_singles(self, tasks: Sequence[Task]) -> Sequence[Task]:
        """Deal with heads that are not for the handler; what is left of the batch."""
        left: list[Task] = []
        for _, run in groupby(tasks, _lane_of):
            of_lane = list(run)
            if self._handling.takes_alone(of_lane[0]):
                self._single(of_lane[0])
            else:
                left.extend(of_lane)
        return left

    def _single(self, task: Task) -> None:
        with self._handling.lock:
            self._lanes.alone(task)
        if self._handling.begin(task) is not None:  # it changed meanwhile
            with self._handling.lock:
                self._lanes.back(task)

    def _decode(self, tasks: Sequence[Task]) -> tuple[list[Task], list[Event[Any]], list[Task]]:
        """Of each lane the tasks before the first that is no event for the handler, their events, and these firsts."""
        handled: list[Task] = []
        events: list[Event[Any]] = []
        left: list[Task] = []
        for _, run in groupby(tasks, _lane_of):
            for place, task in enumerate(run):
                try:
                    event = self._handling.decode(task)
                except DecodeError:
                    task.alone = True
                    if place == 0:
                        self._single(task)
                    else:
                        left.append(task)
                    break
                self._handling.hooks.started(task.delivery, task.attempt)
                handled.append(task)
                events.append(event)
        return handled, events, left

    def _partly(self, tasks: Sequence[Task], events: Sequence[Event[Any]], failed: BatchFailed) -> set[Lane]:
        """The lanes that are not done."""
        failures = failed.failures
        if not any(event in failures for event in events):
            return self._wholly(tasks, failed)  # it names none of them, so it tells nothing of any
        lanes: set[Lane] = set()
        for lane, run in groupby(zip(tasks, events, strict=True), lambda pair: pair[0].lane):
            for task, event in run:
                error = failures.get(event)
                if error is not None:
                    lanes.add(lane)
                    with self._handling.lock:
                        self._lanes.alone(task)
                    self._handling.failed(task, error)
                    break
                self._handling.succeeded(task, 0.0)
                self._done([task])
        return lanes

    def _wholly(self, tasks: Sequence[Task], error: Exception) -> set[Lane]:
        """Which one it was is not known: try each alone, so that a poisonous one costs only itself."""
        subscription = self.queue.subscription
        heads = [next(run) for _, run in groupby(tasks, _lane_of)]
        outages = max(task.outages for task in heads)
        verdict = judge(error, subscription.retry, attempt=tasks[0].attempt, outages=outages)
        once = subscription.delivery == "at_most_once"
        if once or len(tasks) == 1 or isinstance(verdict, Outage):
            for task in tasks:
                task.error = error if once else None
            for task in heads:
                with self._handling.lock:
                    self._lanes.alone(task)
                self._handling.failed(task, error)
        else:
            for task in tasks:
                task.alone = True
                task.attempt += task not in heads
            for task in heads:
                self._handling.retry(task, delay(subscription.retry, task.attempt), error)
        return {task.lane for task in tasks}

    def _done(self, tasks: Sequence[Task]) -> None:
        with self._handling.lock:
            for task in tasks:
                self._lanes.done(task)

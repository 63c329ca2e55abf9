"""Handlers under test: what they are given, how they fail, and what their workers leave behind."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable
from datetime import timedelta
from typing import Final, NamedTuple, TypeAlias, Unpack

from pydantic import BaseModel

from eventbus_conformance.harness import Bounds
from eventbus_conformance.waiting import wait_until
from eventbus_core import Event, EventBus, EventBusError, Hooks, Retry, Worker, event_type
from eventbus_core.dead_letters.letters import DeadLetter, dlq_topic, parse
from eventbus_core.subscriptions import Options

ATTEMPTS: Final = 3
QUICK: Final = Retry(attempts=ATTEMPTS, first_delay=timedelta(seconds=0.1), max_delay=timedelta(seconds=0.2))


@event_type("org.eventbus.conformance.job", topic="conformance", key="key")
class Job(BaseModel):
    """What handlers are given."""

    key: str
    number: int


Act: TypeAlias = Callable[[Event[Job]], None]


class Call(NamedTuple):
    """One call of a handler. ``ok``: it returned. Times are monotonic."""

    key: str
    number: int
    attempt: int
    ok: bool
    began: float
    ended: float


class Desk:
    """One group in one topic, whose handlers do what a test says, in workers of this process."""

    def __init__(self, url: str, topic: str, group: str, bounds: Bounds, closing: contextlib.ExitStack) -> None:
        self.bus = closing.enter_context(EventBus(url))
        self.topic = topic
        self.group = group
        self._url = url
        self._bounds = bounds
        self._closing = closing
        self._lock = threading.Lock()
        self._calls: list[Call] = []

    def publish(self, *jobs: tuple[str, int]) -> None:
        """Publish jobs by key and number; returns when all are stored."""
        receipts = [self.bus.publish(Job(key=key, number=number), topic=self.topic) for key, number in jobs]
        for receipt in receipts:
            receipt.result(self._bounds.deliver)

    def start(self, act: Act, *hooks: Hooks, **options: Unpack[Options]) -> Worker:
        """A worker whose handler notes each call and does ``act``. Stopped with the test at the latest."""
        bus = self._closing.enter_context(EventBus(self._url, hooks=hooks))

        def handle(event: Event[Job]) -> None:
            began, ok = time.monotonic(), False
            try:
                act(event)
                ok = True
            finally:
                with self._lock:
                    job, ended = event.data, time.monotonic()
                    self._calls.append(Call(job.key, job.number, event.attempt, ok, began, ended))

        chosen: Options = {"topics": [self.topic], "retry": QUICK, **options}
        bus.subscribe(Job, group=self.group, **chosen)(handle)
        worker = Worker(bus)
        self._closing.callback(_stop, worker)
        worker.start()
        return worker

    def calls(self, *numbers: int) -> list[Call]:
        """The calls so far, in the order of their ends; of all jobs, or of these."""
        with self._lock:
            return [each for each in self._calls if not numbers or each.number in numbers]

    def handled(self, key: str | None = None) -> list[int]:
        """The numbers of jobs whose handler returned, in that order; of all keys, or of one."""
        return [each.number for each in self.calls() if each.ok and key in {None, each.key}]

    def wait_handled(self, *numbers: int) -> None:
        """Wait until the handler has returned for each of these."""
        wait_until(
            lambda: set(numbers) <= set(self.handled()),
            self._bounds.deliver,
            what=f"jobs {sorted(numbers)} handled",
        )

    def lag(self) -> int:
        """How many records the group has not settled."""
        with self.bus.admin() as admin:
            return sum(each.records for each in admin.lag(self.group, self.topic))

    def wait_settled(self) -> None:
        """Wait until the group has settled everything."""
        wait_until(lambda: self.lag() == 0, self._bounds.deliver, every=0.1, what=f"all of {self.group} settled")

    def letters(self) -> list[DeadLetter]:
        """The dead letters, partition by partition."""
        found = [
            parse(each.record, self.topic, self.group) for each in self.bus.read(dlq_topic(self.topic, self.group))
        ]
        letters = [each for each in found if isinstance(each, DeadLetter)]
        assert len(letters) == len(found), "something in the topic of dead letters is none"
        return letters


def _stop(worker: Worker) -> None:
    """End it, whatever became of it: the test has judged already."""
    with contextlib.suppress(EventBusError):
        worker.stop(0.0)

"""A backend whose answers the test writes: for core's side of the interface, never for a claim about a broker."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Collection, Iterable, Sequence
from typing import Any

from eventbus_core import EventBusError, NotFound, SendFailed, Stored
from eventbus_core.backend import (
    Backend,
    BackendAdmin,
    BackendConsumer,
    BackendProducer,
    BackendSettings,
    Group,
    Outgoing,
    Polled,
    Settled,
)
from eventbus_core.memory import MemoryBackend
from eventbus_core.records import Assignment, Delivery, Position, Record, Where


class ScriptedProducer(BackendProducer):
    def __init__(self, backend: ScriptedBackend) -> None:
        self.backend = backend
        self.taken: list[Outgoing] = []
        self.open: list[Outgoing] = []
        self.closed = False
        self.trouble: deque[EventBusError] = deque()

    def send(self, outgoing: Sequence[Outgoing]) -> None:
        self.taken.extend(outgoing)
        self.open.extend(outgoing)

    def poll(self, timeout: float) -> Sequence[Settled]:
        if self.trouble:
            raise self.trouble.popleft()
        answers = [(each, self.backend.answer(each)) for each in self.open]
        self.open = [each for each, answer in answers if answer is None]
        settled = [answer for _, answer in answers if answer is not None]
        if not settled:
            threading.Event().wait(timeout)
        return settled

    def close(self) -> None:
        self.closed = True


class ScriptedConsumer(BackendConsumer):
    """Polls return what ``script`` holds, then nothing; deliveries wait until some are wanted. Calls are noted."""

    def __init__(self) -> None:
        self.script: deque[Polled | EventBusError] = deque()
        self.acked: list[Delivery] = []
        self.released: list[Assignment] = []
        self.paused: Collection[Assignment] = ()
        self.calls: list[str] = []
        self.closed = False

    def poll(self, max_records: int, timeout: float, paused: Collection[Assignment]) -> Polled:
        self.paused = paused
        unwanted = not max_records and self.script and isinstance(self.script[0], Polled) and self.script[0].deliveries
        if not self.script or unwanted:
            threading.Event().wait(min(timeout, 0.01))
            return Polled()
        item = self.script.popleft()
        if isinstance(item, EventBusError):
            raise item
        return item

    def ack(self, settled: Sequence[Delivery]) -> None:
        self.acked.extend(settled)
        self.calls.append("ack")

    def seek(self, assignment: Assignment, to: Where) -> Assignment:
        self.calls.append("seek")
        return Assignment(assignment.topic, assignment.partition, assignment.epoch + 1)

    def release(self, assignment: Assignment) -> None:
        self.released.append(assignment)
        self.calls.append("release")

    def close(self) -> None:
        self.closed = True


class ScriptedBackend(Backend[BackendSettings]):
    name = "scripted"
    api_version = 1
    settings_type = BackendSettings
    capabilities = MemoryBackend.capabilities

    def __init__(
        self,
        answer: Callable[[Outgoing], Settled | None] = lambda _: None,
        refuse: EventBusError | None = None,
        **settings: Any,
    ) -> None:
        super().__init__(BackendSettings(**settings))
        self.answer = answer
        self.refuse = refuse
        self.producers: list[ScriptedProducer] = []
        self.scripted_consumer = ScriptedConsumer()

    def producer(self, *, max_records: int, max_bytes: int) -> BackendProducer:
        if self.refuse is not None:
            raise self.refuse
        self.producers.append(ScriptedProducer(self))
        return self.producers[-1]

    def consumer(self, group: Group) -> BackendConsumer:
        return self.scripted_consumer

    def admin(self) -> BackendAdmin:
        raise NotFound("the scripted backend has no admin")

    def close(self) -> None:
        pass


def stored(outgoing: Outgoing) -> Settled:
    """The answer of a broker that stores everything."""
    return Settled(outgoing.token, Stored(outgoing.record.topic, 0, Position(outgoing.token), 1))


def failed(outgoing: Outgoing) -> Settled:
    """The answer of a broker that refuses everything."""
    return Settled(outgoing.token, SendFailed("refused", topic=outgoing.record.topic))


def deliveries(assignment: Assignment, positions: Iterable[int]) -> list[Delivery]:
    return [
        Delivery(Record(assignment.topic, b"v%d" % each), assignment.partition, Position(each), assignment)
        for each in positions
    ]

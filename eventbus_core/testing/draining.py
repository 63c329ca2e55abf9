"""Running a group's handlers in the calling thread, one event after the other."""

from __future__ import annotations

import asyncio
import dataclasses
import random
from collections import defaultdict, deque
from collections.abc import Iterable, Iterator, Sequence
from datetime import UTC, datetime
from itertools import chain, groupby, islice
from typing import Any, Literal, TypeAlias

from eventbus_core import envelope
from eventbus_core.bus import EventBus
from eventbus_core.dead_letters.letters import Reason, make, size_of
from eventbus_core.dead_letters.log import create_topics
from eventbus_core.dead_letters.parking import ParkedKeys
from eventbus_core.errors import BatchFailed, DecodeError, HandlerFailed, NotFound
from eventbus_core.events import Event
from eventbus_core.failures import Again, Outage, judge
from eventbus_core.records import Delivery, Position
from eventbus_core.subscriptions import Subscription
from eventbus_core.worker.plan import GroupPlan

OnError: TypeAlias = Literal["raise", "policy"]


def call(subscription: Subscription, events: Sequence[Event[Any]], runner: asyncio.Runner) -> None:
    """Call a handler with an event, or with a list of them if it takes batches."""
    argument: Any = list(events) if subscription.batch else events[0]
    if subscription.is_async:
        runner.run(subscription.handler(argument))
    else:
        subscription.handler(argument)


def shuffled(deliveries: Sequence[Delivery], seed: int) -> list[Delivery]:
    """Another order that the bus may deliver them in: that of each key stays, records without a key go anywhere."""
    lanes: dict[object, list[Delivery]] = defaultdict(list)
    for each in deliveries:
        lanes[each if each.record.key is None else each.record.key].append(each)
    chooser = random.Random(seed)
    turns = [lane for lane, waiting in lanes.items() for _ in waiting]
    chooser.shuffle(turns)
    return [lanes[lane].pop(0) for lane in turns]


class GroupDrain:
    """One group on a memory bus. Not thread-safe."""

    def __init__(self, bus: EventBus, plan: GroupPlan, on_error: OnError, runner: asyncio.Runner) -> None:
        self._bus = bus
        self._admin = bus.admin()
        self._plan = plan
        self._on_error = on_error
        self._runner = runner
        self._parked = ParkedKeys(self._admin, plan.name)
        self._todo: dict[tuple[str, int], deque[Delivery]] = {}
        self._done: set[Delivery] = set()
        for topic in plan.sources:
            bus.prepare_topic(topic)
            create_topics(self._admin, topic, plan.name)
            self._parked.load(topic, 0)

    def run(self, *, repeat: int, shuffle: int | None) -> int:
        """Handle what is there, ``repeat`` times over; how many deliveries that was. What was handled is settled."""
        for topic in self._plan.routes:
            self._look(topic)
        pending = list(chain.from_iterable(self._todo.values()))
        if shuffle is not None:
            pending = shuffled(pending, shuffle)
        for turn in range(repeat):
            for chunk in self._chunks(pending):
                self._handle(chunk)
                if turn == repeat - 1:
                    self._settle(chunk)
        return len(pending) * repeat

    def _look(self, topic: str) -> None:
        group = self._plan.name
        try:
            lags = self._admin.lag(group, topic)
        except NotFound:
            self._admin.set_position(group, topic, "earliest")
            lags = self._admin.lag(group, topic)
        for lag in lags:
            assert lag.settled is not None
            assert lag.end is not None
            found = self._admin.read_partition(topic, lag.partition, lag.settled, lag.end)
            self._todo[topic, lag.partition] = deque(found)

    def _settle(self, handled: Iterable[Delivery]) -> None:
        """Move the positions as far as there is no gap, as acks do."""
        self._done.update(handled)
        for (topic, partition), waiting in self._todo.items():
            last = None
            while waiting and waiting[0] in self._done:
                last = waiting.popleft()
            if last is not None:
                self._admin.set_position(self._plan.name, topic, Position(last.position[0] + 1), partition=partition)

    def _chunks(self, pending: Iterable[Delivery]) -> Iterator[list[Delivery]]:
        """What is handled by one call: a batch of what follows each other for one batch handler, else one."""
        for subscription, run in groupby(pending, self._subscription):
            if subscription is None or subscription.batch is None:
                yield from ([each] for each in run)
            else:
                while chunk := list(islice(run, subscription.batch.size)):
                    yield chunk

    def _subscription(self, delivery: Delivery) -> Subscription | None:
        known = self._plan.routes[delivery.record.topic].types.get(envelope.peek_type(delivery.record) or "")
        return known and known[0]

    def _handle(self, chunk: Sequence[Delivery]) -> None:
        subscription = self._subscription(chunk[0])
        if subscription is None:
            self._unknown(chunk[0])
            return
        if events := [event for each in chunk if (event := self._event(each, subscription)) is not None]:
            self._call(subscription, events)

    def _event(self, delivery: Delivery, subscription: Subscription) -> Event[Any] | None:
        record = delivery.record
        parks = record.topic in self._plan.parking
        if parks and self._parked.is_parked(record.topic, delivery.partition, record.key):
            self._bury(delivery, subscription, None, "parked", 0)
            return None
        _, into = self._plan.routes[record.topic].types[envelope.peek_type(record) or ""]
        try:
            return envelope.decode(record, into, delivery=delivery)
        except DecodeError as error:
            if self._on_error == "raise":
                raise
            self._give_up(delivery, subscription, error, "undecodable", 0)
            return None

    def _unknown(self, delivery: Delivery) -> None:
        fallback = self._plan.routes[delivery.record.topic].fallback
        kind = envelope.peek_type(delivery.record)
        reason: Reason = "undecodable" if kind is None else "unknown"
        if reason == "undecodable" or fallback.on_unknown != "skip":
            error = DecodeError(f"{delivery!r} is of type {kind!r}, which group {self._plan.name!r} does not handle")
            self._give_up(delivery, fallback, error, reason, 0)

    def _call(self, subscription: Subscription, events: Sequence[Event[Any]]) -> None:
        try:
            call(subscription, events, self._runner)
        except Exception as error:
            if self._on_error == "raise":
                raise
            for event, its_error in _failures(events, error):
                if its_error is None:
                    self._call(subscription, [event])
                else:
                    self._failed(subscription, event, its_error, alone=len(events) == 1)

    def _failed(self, subscription: Subscription, event: Event[Any], error: Exception, *, alone: bool) -> None:
        assert event.delivery is not None
        verdict = judge(error, subscription.retry, attempt=event.attempt, outages=0)
        if isinstance(verdict, Outage):
            raise error  # nothing comes back while this thread waits for it
        if subscription.delivery != "at_most_once" and (isinstance(verdict, Again) or not alone):
            self._call(subscription, [dataclasses.replace(event, attempt=event.attempt + 1)])
        else:
            self._give_up(event.delivery, subscription, error, "failed", event.attempt)

    def _give_up(
        self, delivery: Delivery, subscription: Subscription, error: Exception, reason: Reason, attempts: int
    ) -> None:
        policy: str = subscription.on_failure
        if reason != "failed":
            policy = subscription.on_undecodable if reason == "undecodable" else subscription.on_unknown
        if policy == "stop":
            raise HandlerFailed(f"group {self._plan.name!r} stops at {delivery!r}: {error}") from error
        if policy != "drop":
            self._bury(delivery, subscription, error, reason, attempts)

    def _bury(
        self,
        delivery: Delivery,
        subscription: Subscription,
        error: Exception | None,
        reason: Reason,
        attempts: int,
    ) -> None:
        now = datetime.now(UTC)
        follows = error is None
        parks = delivery.record.topic in self._plan.parking and (follows or subscription.on_failure == "park_key")
        letter = make(
            delivery,
            self._plan.name,
            error,
            reason=reason,
            attempts=attempts,
            first_at=now,
            last_at=now,
            build=subscription.build,
            max_bytes=self._bus.capabilities.max_record_bytes,
            parks=parks,
        )
        with self._bus.producer() as producer:
            producer.send_record(letter, size_of(letter), None).result()
        if parks and delivery.record.key is not None:
            self._parked.note(delivery.record.topic, delivery.partition, delivery.record.key)


def _failures(events: Sequence[Event[Any]], error: Exception) -> Iterator[tuple[Event[Any], Exception | None]]:
    """The events that were not handled, each with its error; None: only an earlier one of its key has one."""
    named = error.failures if isinstance(error, BatchFailed) else {}
    if not any(event in named for event in events):
        yield from ((event, error) for event in events)
        return
    keys: set[bytes] = set()
    for event in events:
        key = None if event.delivery is None else event.delivery.record.key
        if event in named or key in keys:
            keys.update([] if key is None else [key])
            yield event, named.get(event)

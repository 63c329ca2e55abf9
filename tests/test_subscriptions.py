"""What may be declared with `@bus.subscribe`, and what is refused at once."""

from __future__ import annotations

import uuid
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
from pydantic import BaseModel

from eventbus_core import Batch, Event, EventBus, Retry, UsageError, Worker, event_type


@event_type("test.subs.placed.v1", topic="orders", key="order")
class Placed(BaseModel):
    order: str


@event_type("test.subs.paid.v1", topic="payments", key="order")
class Paid(BaseModel):
    order: str


@event_type("test.subs.placed.v1", topic="orders", key="order")
class PlacedToo(BaseModel):
    order: str


@pytest.fixture
def bus() -> EventBus:
    return EventBus(f"memory://{uuid.uuid4().hex}")


def _handle(event: Event[Any]) -> None: ...


def _handle_into(_: Any, __: Any) -> None: ...


def test_the_function_comes_back_unchanged_and_is_declared(bus: EventBus) -> None:
    def handle(event: Event[Placed] | Event[Paid]) -> None: ...

    assert bus.subscribe(Placed, Paid, group="g")(handle) is handle
    (declared,) = bus.subscriptions.all
    assert declared.handler is handle
    assert declared.topics == ("orders", "payments")
    assert (declared.retry.attempts, declared.on_failure, declared.is_async) == (5, "dead_letter", False)
    assert declared.name.endswith("test_subscriptions:" + handle.__qualname__)


def test_stated_topics_replace_the_declared_ones(bus: EventBus) -> None:
    bus.subscribe(Placed, group="g", topics=["a", "b", "a"])(_handle)
    assert bus.subscriptions.all[0].topics == ("a", "b")


def test_coroutine_functions_and_objects_with_one_are_async(bus: EventBus) -> None:
    class Handler:
        async def __call__(self, event: Event[Paid]) -> None: ...

    async def handle(event: Event[Placed]) -> None: ...

    bus.subscribe(Placed, group="g")(handle)
    bus.subscribe(Paid, group="g")(Handler())
    assert [each.is_async for each in bus.subscriptions.all] == [True, True]


@pytest.mark.parametrize(
    ("declare", "message"),
    [
        (lambda bus: bus.subscribe(int, group="g")(_handle), "int is not declared"),
        (lambda bus: bus.subscribe(group="g")(_handle), "at least one event type"),
        (lambda bus: bus.subscribe(Placed, PlacedToo, group="g")(_handle), "same event type"),
        (lambda bus: bus.subscribe(Placed, group="a b")(_handle), "bad group name 'a b'"),
        (lambda bus: bus.subscribe(Placed, group="g", topics="orders")(_handle), "list of names"),
        (lambda bus: bus.subscribe(Placed, group="g", topics=["a b"])(_handle), "bad topic name"),
        (lambda bus: bus.subscribe(Placed, group="g", on_failure="retry")(_handle), "on_failure must be one of"),
        (lambda bus: bus.subscribe(Placed, group="g", concurrency=0)(_handle), "concurrency must be at least 1"),
        (lambda bus: bus.subscribe(Placed, group="g", start="now")(_handle), "bad place 'now'"),
        (lambda bus: bus.subscribe(Placed, group="g", batch=Batch())(_handle), "must take a list of events"),
        (lambda bus: bus.subscribe(Placed, group="g", delivery="exactly_once")(_handle), "an event and an outbox"),
        (lambda bus: bus.subscribe(Placed, group="g")(lambda: None), "must take an event"),
        (
            lambda bus: bus.subscribe(Placed, group="g", delivery="exactly_once", batch=Batch())(_handle_into),
            "batch does not go with",
        ),
        (
            lambda bus: bus.subscribe(Placed, group="g", delivery="exactly_once", on_failure="park_key")(_handle_into),
            "'park_key' does not go with",
        ),
        (
            lambda bus: bus.subscribe(Placed, group="g", delivery="at_most_once", retry=Retry())(_handle),
            "takes no retry",
        ),
        (lambda _: Retry(attempts=0), "at least 1"),
        (lambda _: Retry(first_delay=timedelta(seconds=9), max_delay=timedelta(seconds=1)), "delays must be"),
        (lambda _: Retry(never=(OSError,), outage=(OSError,)), "OSError cannot be both"),
        (lambda _: Batch(size=0), "size must be at least 1"),
        (lambda _: Batch(wait=timedelta(seconds=-1)), "wait must not be negative"),
    ],
)
def test_what_cannot_be_is_refused_with_the_reason(
    bus: EventBus, declare: Callable[[EventBus], object], message: str
) -> None:
    with pytest.raises(UsageError, match=message):
        declare(bus)
    assert bus.subscriptions.all == ()


def test_two_handlers_of_a_type_in_one_group_are_refused_by_name(bus: EventBus) -> None:
    def other(event: Event[Any]) -> None: ...

    bus.subscribe(Placed, Paid, group="g")(_handle)
    with pytest.raises(UsageError, match=r"'test\.subs\.paid\.v1': .*:_handle and .*other"):
        bus.subscribe(Paid, group="g")(other)
    bus.subscribe(Paid, group="h")(other)


@pytest.mark.parametrize(
    ("first", "second", "what"),
    [
        ({}, {"delivery": "at_most_once"}, "delivery"),
        ({}, {"start": "latest"}, "start"),
        ({}, {"topics": ["orders"], "on_unknown": "stop"}, "on_unknown on topic 'orders'"),
        ({}, {"topics": ["orders"], "on_undecodable": "drop"}, "on_undecodable on topic 'orders'"),
    ],
)
def test_handlers_of_one_group_that_disagree_are_refused_at_start_up(
    bus: EventBus, first: dict[str, Any], second: dict[str, Any], what: str
) -> None:
    bus.subscribe(Placed, group="g", **first)(_handle)
    bus.subscribe(Paid, group="g", **second)(_handle)
    with pytest.raises(UsageError, match=f"group 'g': its handlers must agree on {what}"):
        Worker(bus).start()


def test_handlers_of_different_topics_may_have_different_policies(bus: EventBus) -> None:
    bus.subscribe(Placed, group="g", on_unknown="stop")(_handle)
    bus.subscribe(Paid, group="g")(_handle)
    with Worker(bus) as worker:
        assert worker.ready

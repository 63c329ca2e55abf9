"""Errors: which, when, and whether to try again."""

from __future__ import annotations

import time
from collections.abc import Callable

import pytest

from eventbus_conformance.clauses import clause
from eventbus_conformance.fixtures import OpenBus
from eventbus_conformance.harness import Bounds
from eventbus_conformance.receiving import nothing_more
from eventbus_core import EventBus
from eventbus_core.capabilities import Capabilities
from eventbus_core.errors import (
    BrokerError,
    Conflict,
    EventBusError,
    InvalidRecord,
    NotFound,
    SendFailed,
    SendUnknown,
    TooLarge,
    Unavailable,
    UsageError,
)
from eventbus_core.records import Stored

#: The unreachable URL says 2 s for connecting, asking and sending; the rest is for closing, and a busy machine.
STATED_SECONDS = 2.0
SLACK_SECONDS = 8.0


@clause("E1")
def test_an_unknown_topic_is_an_error_at_once(bus: EventBus, topic: str, group: str, bounds: Bounds) -> None:
    missing = f"{topic}-missing"
    started = time.monotonic()
    with pytest.raises(NotFound, match=missing):
        bus.consumer(missing, group=group)
    with pytest.raises(NotFound, match=missing):
        bus.consumer(topic, missing, group=group)
    with bus.producer() as producer:
        receipt = producer.send(missing, b"v", key=b"k")
        with pytest.raises(SendFailed, match=missing):
            receipt.result(bounds.refuse)
        assert isinstance(producer.send(topic, b"v", key=b"k").result(bounds.refuse), Stored), "no longer usable"
    with bus.admin() as admin:
        for call in (admin.describe_topic, admin.delete_topic):
            with pytest.raises(NotFound, match=missing):
                call(missing)
        with pytest.raises(NotFound):
            admin.set_position(group, missing, "earliest")
        with pytest.raises(NotFound):
            admin.lag(f"{group}-missing", topic)
        assert missing not in admin.topics()
    with pytest.raises(NotFound, match=missing):
        list(bus.read(missing))
    assert time.monotonic() - started < bounds.refuse


@clause("E2")
def test_a_broker_that_is_away_at_start_is_reported(
    open_bus: OpenBus, unreachable_url: str, topic: str, group: str
) -> None:
    bus = open_bus(unreachable_url)
    calls: list[Callable[[], object]] = [
        lambda: bus.consumer(topic, group=group),
        lambda: bus.admin().topics(),
    ]
    for call in calls:
        started = time.monotonic()
        with pytest.raises(Unavailable) as raised:
            call()
        assert time.monotonic() - started < STATED_SECONDS + SLACK_SECONDS
        assert raised.value.retryable
        assert raised.value.__cause__ is not None, f"{raised.value!r} does not carry the client's exception"
    started = time.monotonic()
    with bus.producer() as producer:
        receipt = producer.send(topic, b"v")
        with pytest.raises((SendFailed, SendUnknown)):
            receipt.result(STATED_SECONDS + SLACK_SECONDS)
    assert time.monotonic() - started < STATED_SECONDS + SLACK_SECONDS


@clause("E3")
def test_errors_are_of_the_class_that_is_documented_for_them(
    bus: EventBus, topic: str, group: str, capabilities: Capabilities, bounds: Bounds
) -> None:
    missing = f"{topic}-missing"
    with bus.producer() as producer, bus.admin() as admin, bus.consumer(topic, group=group) as consumer:
        assert nothing_more(consumer, bounds.quiet)
        failed = producer.send(missing, b"v")
        expected: list[tuple[Callable[[], object], type[EventBusError], type[EventBusError]]] = [
            (lambda: producer.send("a b", b"v"), InvalidRecord, UsageError),
            (lambda: producer.send(topic, bytes(capabilities.max_record_bytes + 1)), TooLarge, InvalidRecord),
            (lambda: failed.result(bounds.refuse), SendFailed, EventBusError),
            (lambda: bus.consumer(missing, group=group), NotFound, BrokerError),
            (lambda: bus.consumer(topic, group="a b"), UsageError, EventBusError),
            (lambda: consumer.seek("earliest", topic=missing), UsageError, EventBusError),
            (lambda: admin.describe_topic(missing), NotFound, BrokerError),
            (lambda: admin.create_topic(topic, 7), Conflict, BrokerError),
            (lambda: admin.delete_group(group), Conflict, BrokerError),
            (lambda: admin.set_position(group, topic, "earliest", partition=99), NotFound, BrokerError),
        ]
        for call, kind, base in expected:
            with pytest.raises(base) as raised:
                call()
            assert type(raised.value) is kind
            assert not raised.value.retryable
            assert str(raised.value)

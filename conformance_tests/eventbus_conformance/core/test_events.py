"""Events come back with all they say."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone

import pytest
from pydantic import BaseModel

from eventbus_conformance.clauses import clause
from eventbus_conformance.harness import Bounds
from eventbus_conformance.receiving import take
from eventbus_core import EventBus, event_type
from eventbus_core.errors import DecodeError
from eventbus_core.events import Event

TRACE = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


@event_type("org.eventbus.conformance.measured", topic="conformance", key="sensor")
class Measured(BaseModel):
    sensor: str
    values: list[float]


@event_type("org.eventbus.conformance.other", topic="conformance")
class Other(BaseModel):
    sensor: str


@clause("R7")
def test_events_come_back_with_all_attributes(bus: EventBus, topic: str, group: str, bounds: Bounds) -> None:
    zone = timezone(timedelta(hours=5, minutes=45))
    events = [
        Event(Measured(sensor="plain", values=[1.5])),
        Event(
            Measured(sensor="sensor-ключ ☺", values=[0.1, -2e300]),
            id="id with blanks / and ümlauts",
            source="/somewhere/else",
            time=datetime(2024, 2, 29, 23, 59, 59, 999999, tzinfo=zone),
            subject="subject ☺",
            extensions={"traceparent": TRACE, "tracestate": "a=1,b=2", "x1": "e\u0301"},
        ),
        Event(Measured(sensor="stated", values=[]), key="another key", time=datetime.now(UTC)),
    ]
    with bus.consumer(topic, group=group) as consumer:
        stored = [bus.publish(each, topic=topic).result(bounds.deliver) for each in events]
        deliveries = take(consumer, len(events), bounds.deliver, ack=True)
    received = {each.id: each for each in (bus.decode(delivery, Measured) for delivery in deliveries)}
    assert len(received) == len(events)
    for event, place in zip(events, stored, strict=True):
        got = received[event.id]
        assert got.data == event.data
        assert (got.type, got.subject, got.key) == (event.type, event.subject, event.key)
        assert got.source == (event.source or bus.settings.source)
        assert got.time == event.time
        assert dict(got.extensions) == dict(event.extensions)
        assert got.attempt == 1
        assert got.delivery is not None
        assert got.delivery.position is not None
        assert got.delivery.partition == place.partition


@clause("R7")
def test_what_is_no_such_event_is_an_error_and_the_next_one_is_fine(
    bus: EventBus, topic: str, group: str, bounds: Bounds
) -> None:
    with bus.consumer(topic, group=group) as consumer, bus.producer() as producer:
        producer.send(topic, b"\x00\xff no event", key=b"k").result(bounds.deliver)
        producer.send(topic, b"{}", key=b"k", headers=[("ce_id", b"\xff"), ("ce_type", b"x")]).result(bounds.deliver)
        bus.publish(Other(sensor="k"), topic=topic, key="k").result(bounds.deliver)
        bus.publish(Measured(sensor="k", values=[1]), topic=topic).result(bounds.deliver)
        *others, good = take(consumer, 4, bounds.deliver, ack=True)
    for each in others:
        with pytest.raises(DecodeError):
            bus.decode(each, Measured)
    assert bus.decode(good, Measured).data == Measured(sensor="k", values=[1])

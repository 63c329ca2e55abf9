"""Events on real brokers: readable by the official SDK, and the same bytes when copied from one broker to another."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from datetime import UTC, datetime

import pytest
from cloudevents.core.bindings import kafka as sdk
from cloudevents.core.v1.event import CloudEvent
from confluent_kafka import Consumer, Producer
from pydantic import BaseModel

from eventbus_core import Delivery, Event, EventBus, event_type
from tests.brokers import Broker
from tests.bus_urls import bus_url
from tests.waiting import wait_until


@event_type("test.crossing.paid.v1", topic="unused", key="order")
class Paid(BaseModel):
    order: str
    amount: int


@pytest.fixture
def topic() -> str:
    return f"t-{uuid.uuid4().hex[:12]}"


@pytest.fixture
def kafka_bus(kafka_broker: Broker, topic: str) -> Iterator[EventBus]:
    with EventBus(bus_url(kafka_broker)) as bus:
        bus.admin().create_topic(topic, 2)
        yield bus
        bus.admin().delete_topic(topic)


def test_the_official_sdk_reads_from_kafka_what_we_publish(
    kafka_bus: EventBus, kafka_broker: Broker, topic: str
) -> None:
    event = Event(Paid(order="Zoë", amount=3), subject="café", extensions={"traceparent": "00-a"})
    kafka_bus.publish(event, topic=topic).result(20)
    raw = Consumer(
        {"bootstrap.servers": kafka_broker.url, "group.id": uuid.uuid4().hex, "auto.offset.reset": "earliest"}
    )
    raw.subscribe([topic])
    message = wait_until(lambda: raw.poll(0.5), 30, what="the record on Kafka")
    raw.close()
    read = sdk.from_kafka_event(sdk.KafkaMessage(dict(message.headers()), message.key(), message.value()))
    assert isinstance(read, CloudEvent)
    assert read.get_data() == {"order": "Zoë", "amount": 3}
    assert (read.get_id(), read.get_type(), read.get_subject()) == (event.id, "test.crossing.paid.v1", "café")
    assert (read.get_time(), read.get_extension("partitionkey")) == (event.time, "Zoë")


def test_we_handle_what_the_official_sdk_writes_to_kafka(kafka_bus: EventBus, kafka_broker: Broker, topic: str) -> None:
    time = datetime(2026, 1, 2, 3, 4, 5, 678, tzinfo=UTC)
    attributes = {"type": "test.crossing.paid.v1", "source": "/sdk", "id": "9", "time": time, "partitionkey": "k",
                  "datacontenttype": "application/json"}  # fmt: skip
    message = sdk.to_binary_event(CloudEvent(attributes, {"order": "Zoë", "amount": 4}))
    raw = Producer({"bootstrap.servers": kafka_broker.url})
    raw.produce(topic, message.value, key=message.key, headers=list(message.headers.items()))
    assert raw.flush(20) == 0
    with kafka_bus.consumer(topic, group=f"g-{topic}") as consumer:
        (delivery,) = wait_until(lambda: consumer.receive(timeout=0.5), 30, what="the SDK's record")
        event = kafka_bus.decode(delivery, Paid)
        consumer.ack(delivery)
    assert (event.data, event.id, event.source, event.time) == (Paid(order="Zoë", amount=4), "9", "/sdk", time)
    assert event.key == "k"


def test_a_record_copied_across_all_brokers_stays_the_same_bytes(
    kafka_broker: Broker, pulsar_broker: Broker, redis_broker: Broker, topic: str
) -> None:
    buses = [EventBus(bus_url(each)) for each in (redis_broker, kafka_broker, pulsar_broker)]
    for bus in buses:
        bus.admin().create_topic(topic, 2)
    with EventBus(f"memory://{topic}") as memory:
        memory.admin().create_topic(topic, 2)
        memory.publish(Event(Paid(order="Zoë", amount=5), id="7", subject="café"), topic=topic).result(5)
        (first,) = memory.read(topic)
        copied: Delivery = first
        for bus in buses:
            with bus.producer() as producer:
                key, value, headers = copied.record.key, copied.record.value, copied.record.headers
                producer.send(topic, value, key=key, headers=headers).result(20)
            (copied,) = bus.read(topic)
            assert copied.record._replace(timestamp_ms=None) == first.record._replace(timestamp_ms=None)
            assert bus.decode(copied, Paid) == memory.decode(first, Paid)
    for bus in buses:
        bus.admin().delete_topic(topic)
        bus.close()

"""The Kafka backend of the event bus."""

from eventbus_kafka.backend import KafkaBackend
from eventbus_kafka.settings import KafkaSettings

__all__ = ["KafkaBackend", "KafkaSettings"]

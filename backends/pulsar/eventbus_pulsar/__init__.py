"""Apache Pulsar backend of the event bus."""

from eventbus_pulsar.backend import PulsarBackend
from eventbus_pulsar.settings import PulsarSettings

__all__ = ["PulsarBackend", "PulsarSettings"]

"""The group session: how long the coordinator waits for a silent member, and what our own clock makes of it."""

from __future__ import annotations

from typing import NamedTuple

from confluent_kafka.admin import ConfigResource, ResourceType  # type: ignore[attr-defined]

from eventbus_core.errors import BrokerError
from eventbus_kafka.connection import Connection
from eventbus_kafka.settings import KafkaSettings

_BROKER_SESSION_SECONDS = 45.0


class Session(NamedTuple):
    """The coordinator gives a member up ``seconds`` after the last heartbeat it got."""

    seconds: float
    heartbeat_seconds: float

    @property
    def valid_seconds(self) -> float:
        """How long after a sign of life of the coordinator the partitions are certainly still ours.

        The last heartbeat may be as much older as heartbeats are apart; the tenth is for clocks that run unevenly.
        """
        return self.seconds * 0.9 - self.heartbeat_seconds


def expected_seconds(settings: KafkaSettings) -> float:
    """The session as far as the settings tell: that of the consumer protocol is the broker's, 45 s by default."""
    return settings.session_timeout_seconds if settings.group_protocol == "classic" else _BROKER_SESSION_SECONDS


def classic_session(settings: KafkaSettings) -> Session:
    """What we tell the coordinator in the classic protocol."""
    seconds = settings.session_timeout_seconds
    return Session(seconds, min(1.0, seconds / 6))


def session_of(connection: Connection, group: str) -> Session:
    """The session that holds for a group. With the consumer protocol it is the broker's to say, so it is asked."""
    settings = connection.settings
    if settings.group_protocol == "classic":
        return classic_session(settings)
    answer = connection.client.describe_configs(
        [ConfigResource(ResourceType.GROUP, group)], request_timeout=settings.request_timeout_seconds
    )
    config = connection.only(f"asking for the session timeout of group {group!r}", answer)
    try:
        return Session(
            int(config["consumer.session.timeout.ms"].value) / 1000,
            int(config["consumer.heartbeat.interval.ms"].value) / 1000,
        )
    except KeyError as error:
        raise BrokerError(
            f"the brokers do not tell the session timeout of group {group!r}, so they do not know group_protocol "
            "'consumer' (Kafka 4.0 and later do); set group_protocol to 'classic'",
            backend="kafka",
        ) from error

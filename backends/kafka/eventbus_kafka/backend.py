"""The Kafka backend: what the entry point names."""

from __future__ import annotations

import dataclasses
from typing import ClassVar

from eventbus_core.backend import Backend, BackendAdmin, BackendConsumer, BackendProducer, BackendSettings, Group
from eventbus_core.capabilities import Capabilities, Durability, Reach
from eventbus_kafka.admin import KafkaAdmin
from eventbus_kafka.connection import Connection
from eventbus_kafka.consumer import KafkaConsumer
from eventbus_kafka.producer import KafkaProducer
from eventbus_kafka.session import expected_seconds
from eventbus_kafka.settings import KafkaSettings

_TAKEOVER_SLACK_SECONDS = 5.0

_CAPABILITIES = Capabilities(
    ack_delay_seconds=2.0,
    fenced_ack=True,
    announced_moves=True,
    idempotent_send=True,
    stored_position=True,
    counted_deliveries=False,
    seek_by_time=True,
    keeps_unsettled=False,
    durability=Durability.PROCESS,
    reach=Reach.NETWORK,
    max_record_bytes=1_044_480,
    max_takeover_seconds=15.0,
    transactions=True,
    sources={
        "ack_delay_seconds": "the member commits every 0.5 s; a commit refused during a rebalance is repeated",
        "fenced_ack": "this plugin drops acks of an ended hold, the broker refuses commits of members it has given up; "
        "a live member's commit of another's partition it would accept",
        "announced_moves": "cooperative-sticky: on_revoke is held until the drain is released or its deadline passed",
        "idempotent_send": "enable.idempotence with message.timeout.ms=0: none repeated with cut replies and SIGKILL",
        "stored_position": "the delivery report carries it, except for a repeat to a new leader that had the record",
        "counted_deliveries": "Kafka's log keeps no count per group",
        "seek_by_time": "ListOffsets by timestamp",
        "keeps_unsettled": "retention removes by age and size, whatever groups have read",
        "durability": "acks=all without fsync: what replication_factor=1 keeps survives the broker's process only",
        "reach": "brokers are reached over TCP",
        "max_record_bytes": "the broker's default message.max.bytes 1,048,588 less framing; setting max_record_bytes",
        "max_takeover_seconds": "the group session (10 s by default), and the rebalance after it; a member that dies "
        "during that adds its own session; with group_protocol=consumer the broker's default of 45 s, which its "
        "operator may have changed",
        "transactions": "a transactional producer commits the group's offsets with its records; broker 2.5 and later",
        "delayed_send": "Kafka has none",
    },
)


class KafkaBackend(Backend[KafkaSettings]):
    """Kafka 2.4 and later through confluent-kafka. Opens nothing itself, so there is nothing to close."""

    name: ClassVar[str] = "kafka"
    api_version: ClassVar[int] = 1
    settings_type: ClassVar[type[BackendSettings]] = KafkaSettings
    capabilities = _CAPABILITIES

    def __init__(self, settings: KafkaSettings) -> None:
        super().__init__(settings)
        # From three copies on, topics that our admin creates need two in-sync ones for a write.
        replicated = (settings.replication_factor or 1) >= 3
        self.capabilities = dataclasses.replace(
            _CAPABILITIES,
            durability=Durability.REPLICATED if replicated else Durability.PROCESS,
            max_record_bytes=settings.max_record_bytes,
            max_takeover_seconds=expected_seconds(settings) + _TAKEOVER_SLACK_SECONDS,
        )

    def producer(self, *, max_records: int, max_bytes: int) -> BackendProducer:
        Connection(self.settings)
        return KafkaProducer(self.settings, max_records=max_records, max_bytes=max_bytes)

    def consumer(self, group: Group) -> BackendConsumer:
        return KafkaConsumer(self.settings, group)

    def admin(self) -> BackendAdmin:
        return KafkaAdmin(self.settings)

    def close(self) -> None:
        pass

"""The entry point: what the NATS backend promises, and its objects."""

from __future__ import annotations

import dataclasses
from typing import ClassVar

from eventbus_core.backend import Backend, BackendSettings, Group
from eventbus_core.capabilities import Capabilities, Durability, Reach
from eventbus_nats.admin import NatsAdmin
from eventbus_nats.consumer import NatsConsumer
from eventbus_nats.producer import NatsProducer
from eventbus_nats.settings import NatsSettings

_TAKEOVER_SLACK_SECONDS = 3.0
"""A beat of the survivor, and the time to acquire."""

_CAPABILITIES = Capabilities(
    ack_delay_seconds=0.0,
    fenced_ack=True,
    announced_moves=True,
    idempotent_send=True,
    stored_position=True,
    counted_deliveries=False,
    seek_by_time=True,
    keeps_unsettled=True,
    durability=Durability.PROCESS,
    reach=Reach.NETWORK,
    max_record_bytes=(1 << 20) - (4 << 10),
    max_takeover_seconds=10.0 + _TAKEOVER_SLACK_SECONDS,
    sources={
        "ack_delay_seconds": "ack returns when the server has answered the write of the cell",
        "fenced_ack": "a cell is written at the revision its owner has seen, and taking a partition over changes it",
        "announced_moves": "LeasedConsumer: the owner drains and gives the hold back before another acquires it",
        "idempotent_send": "Nats-Msg-Id in a window of 10 minutes; a send is given up after 5 at most (settings)",
        "stored_position": "the server's acknowledgement has the number of the message, also of a repeated one",
        "counted_deliveries": "the log is read by number, which counts nothing",
        "seek_by_time": "each message tells the highest time so far, so places are found by bisection",
        "keeps_unsettled": "streams have no limits, and refuse to delete and to purge",
        "durability": "a file store; with sync_interval: always also the host, but a client cannot ask for that",
        "reach": "a TCP server",
        "max_record_bytes": "max_payload of the server, 1 MiB by default (docs.nats.io, Configuration), less the frame",
        "max_takeover_seconds": "lease_seconds, and one beat of the member that takes over",
        "transactions": "not part of the interface yet",
        "delayed_send": "JetStream has none before 2.12",
    },
)


class NatsBackend(Backend[NatsSettings]):
    """NATS 2.10 or later with JetStream. The log is a stream per partition; all else is a key-value bucket."""

    name: ClassVar[str] = "nats"
    api_version: ClassVar[int] = 1
    settings_type: ClassVar[type[BackendSettings]] = NatsSettings
    capabilities = _CAPABILITIES

    def __init__(self, settings: NatsSettings) -> None:
        super().__init__(settings)
        takeover = settings.lease_seconds + _TAKEOVER_SLACK_SECONDS
        self.capabilities = dataclasses.replace(_CAPABILITIES, max_takeover_seconds=takeover)

    def producer(self, *, max_records: int, max_bytes: int) -> NatsProducer:  # noqa: ARG002  (nothing is queued in a client)
        return NatsProducer(self.settings)

    def consumer(self, group: Group) -> NatsConsumer:
        return NatsConsumer(self.settings, group)

    def admin(self) -> NatsAdmin:
        return NatsAdmin(self.settings)

    def close(self) -> None:
        """Nothing is shared."""

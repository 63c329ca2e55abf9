"""The Pulsar backend: what it can do, and its three roles."""

from __future__ import annotations

import dataclasses
from typing import ClassVar

import pulsar

from eventbus_core.backend import Backend, BackendSettings, Group
from eventbus_core.capabilities import Capabilities, Durability, Reach
from eventbus_pulsar.admin import PulsarAdmin
from eventbus_pulsar.connection import close_client, open_client
from eventbus_pulsar.consumer import PulsarConsumer
from eventbus_pulsar.cursors import Cursors
from eventbus_pulsar.producer import PulsarProducer
from eventbus_pulsar.rest import Rest
from eventbus_pulsar.settings import BROKER_PROBE_SECONDS, PulsarSettings

_MEASURED = "measured on Pulsar 4.0.8"
_TAKEOVER_SLACK_SECONDS = 8.0
"""Beats, and attempts that were refused before."""


class PulsarBackend(Backend[PulsarSettings]):
    """Apache Pulsar over pulsar-client and the admin REST interface."""

    name: ClassVar[str] = "pulsar"
    api_version: ClassVar[int] = 1
    settings_type: ClassVar[type[BackendSettings]] = PulsarSettings
    capabilities = Capabilities(
        ack_delay_seconds=2.0,
        fenced_ack=True,
        announced_moves=True,
        idempotent_send=True,
        stored_position=False,
        counted_deliveries=False,
        seek_by_time=True,
        keeps_unsettled=True,
        durability=Durability.PROCESS,
        reach=Reach.NETWORK,
        max_record_bytes=2 * 1024 * 1024,
        max_takeover_seconds=15.0,
        sources={
            "ack_delay_seconds": "acks leave every 100 ms, a position inside a batch every second, lost acks after 1 s",
            "fenced_ack": f"the broker discards acks of a consumer that lost its Exclusive subscription ({_MEASURED})",
            "announced_moves": "members give partitions up by themselves, after draining",
            "idempotent_send": f"topic deduplication by producer name and sequence ({_MEASURED} with 18 faults)",
            "stored_position": "a deduplicated batch is answered without its position",
            "counted_deliveries": "the broker does not count redeliveries of Exclusive subscriptions durably",
            "seek_by_time": "by publish time on the broker, then read on to the record's own timestamp",
            "keeps_unsettled": "retention concerns settled records only; no TTL and no backlog eviction is set",
            "durability": "shown for a SIGKILL of the broker; a write quorum above 1 gives more, which is not proven",
            "reach": "a network service",
            "max_record_bytes": "5 MiB message limit less headers; bytes that are no text may double in the encoding",
            "max_takeover_seconds": "silent_seconds, the broker's 5 s probe of a frozen owner, and beats",
            "transactions": "not offered",
            "delayed_send": "not offered",
        },
    )

    def __init__(self, settings: PulsarSettings) -> None:
        super().__init__(settings)
        takeover = settings.silent_seconds + BROKER_PROBE_SECONDS + _TAKEOVER_SLACK_SECONDS
        self.capabilities = dataclasses.replace(type(self).capabilities, max_takeover_seconds=takeover)

    def producer(self, *, max_records: int, max_bytes: int) -> PulsarProducer:  # noqa: ARG002  (counted in records)
        rest, client, cursors = self._connect("opening a producer")
        return PulsarProducer(self.settings, client=client, rest=rest, cursors=cursors, max_records=max_records)

    def consumer(self, group: Group) -> PulsarConsumer:
        doing = f"joining group {group.name!r} on {', '.join(map(repr, group.topics))}"
        rest, client, cursors = self._connect(doing, group.topics[0])
        consumer = PulsarConsumer(self.settings, group, client=client, rest=rest, cursors=cursors)
        try:
            consumer.join()
        except BaseException:
            consumer.leave()
            raise
        return consumer

    def admin(self) -> PulsarAdmin:
        rest, client, cursors = self._connect("opening an admin")
        return PulsarAdmin(self.settings, client=client, rest=rest, cursors=cursors)

    def close(self) -> None:
        """Nothing is shared between the roles, so there is nothing left to close."""

    def _connect(self, doing: str, topic: str | None = None) -> tuple[Rest, pulsar.Client, Cursors]:
        rest = Rest(self.settings)
        client: pulsar.Client | None = None
        try:
            # The client answers bad tokens with a timeout; the admin interface says so at once.
            rest.check(doing, topic)
            client = open_client(self.settings)
        except BaseException:
            rest.close()
            if client is not None:
                close_client(client, 1.0)
            raise
        return rest, client, Cursors(self.settings, rest, client)

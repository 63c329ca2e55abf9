"""The entry point: what the NATS backend promises."""

from __future__ import annotations

from typing import ClassVar

from eventbus_core.backend import BackendSettings
from eventbus_core.backend.store.backend import StoreBackend, store_capabilities
from eventbus_core.capabilities import Durability, Reach
from eventbus_nats.settings import NatsSettings
from eventbus_nats.store import NatsStore


class NatsBackend(StoreBackend[NatsSettings]):
    """NATS 2.10 or later with JetStream. The log is a stream per partition; all else is a key-value bucket."""

    name: ClassVar[str] = "nats"
    api_version: ClassVar[int] = 1
    settings_type: ClassVar[type[BackendSettings]] = NatsSettings
    capabilities = store_capabilities(
        keeps_unsettled=True,
        durability=Durability.PROCESS,
        reach=Reach.NETWORK,
        max_record_bytes=(1 << 20) - (4 << 10),
        sources={
            "keeps_unsettled": "streams have no limits, and refuse to delete and to purge",
            "durability": "a file store; with sync_interval: always also the host, but a client cannot ask for that",
            "reach": "a TCP server",
            "max_record_bytes": "max_payload of the server, 1 MiB by default (docs.nats.io), less the frame",
        },
    )

    def store(self) -> NatsStore:
        return NatsStore(self.settings)

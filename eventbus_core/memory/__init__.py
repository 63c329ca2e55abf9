"""The memory backend: the reference implementation of the interface, in one process.

Every guarantee but durability. Buses of one process that use the same URL (``memory://name``) share topics and groups.
Members share partitions by leases as on a real broker, so a member that stops without leaving is replaced after
``lease_seconds``.
"""

from __future__ import annotations

from typing import Any, ClassVar
from urllib.parse import urlsplit

from pydantic import Field

from eventbus_core.backend import Backend, BackendAdmin, BackendProducer, BackendSettings, Group
from eventbus_core.backend.leases import LeasedConsumer
from eventbus_core.capabilities import Capabilities, Durability, Reach
from eventbus_core.memory.admin import MemoryAdmin
from eventbus_core.memory.consumer import MemoryConsumer
from eventbus_core.memory.producer import MAX_RECORD_BYTES, MemoryProducer
from eventbus_core.memory.store import store_of


class MemorySettings(BackendSettings):
    """Settings of the memory backend."""

    name: str = "default"
    """Buses with the same name share their topics."""
    create_topics: bool = True
    lease_seconds: float = Field(default=3.0, gt=0)
    """A member that stops without leaving is replaced after this time."""

    @classmethod
    def fields_of_url(cls, url: str) -> dict[str, Any]:
        name = urlsplit(url).netloc
        return {"name": name} if name else {}


class MemoryBackend(Backend[MemorySettings]):
    """Topics in this process; gone with it."""

    name: ClassVar[str] = "memory"
    api_version: ClassVar[int] = 1
    settings_type: ClassVar[type[BackendSettings]] = MemorySettings
    capabilities = Capabilities(
        ack_delay_seconds=0.0,
        fenced_ack=True,
        announced_moves=True,
        idempotent_send=True,
        stored_position=True,
        counted_deliveries=False,
        seek_by_time=True,
        keeps_unsettled=True,
        durability=Durability.NONE,
        reach=Reach.PROCESS,
        max_record_bytes=MAX_RECORD_BYTES,
        max_takeover_seconds=5.0,
        sources={
            "ack_delay_seconds": "an ack is a store in this process's memory",
            "fenced_ack": "the epoch is compared under the store's lock",
            "announced_moves": "leases are shared by core's LeasedConsumer, which announces",
            "idempotent_send": "a writer's batch is stored once, by its first sequence number",
            "stored_position": "the index in the log",
            "counted_deliveries": "nothing is kept per delivery",
            "seek_by_time": "bisection over the timestamps",
            "keeps_unsettled": "nothing is ever removed but with its topic",
            "durability": "a list in this process",
            "reach": "a list in this process",
            "max_record_bytes": "chosen: far above every broker's limit, below what a mistake would send",
            "max_takeover_seconds": "lease_seconds (3 by default), a beat, and the wait of a poll",
            "transactions": "not implemented",
            "delayed_send": "not implemented",
        },
    )

    def __init__(self, settings: MemorySettings) -> None:
        super().__init__(settings)
        self._store = store_of(settings.name)

    def producer(self, *, max_records: int, max_bytes: int) -> BackendProducer:  # noqa: ARG002  (nothing to size)
        return MemoryProducer(self._store)

    def consumer(self, group: Group) -> LeasedConsumer:
        return MemoryConsumer(self._store, group, self.settings.lease_seconds)

    def admin(self) -> BackendAdmin:
        return MemoryAdmin(self._store)

    def close(self) -> None:
        pass

"""The entry point: what the Redis backend promises, and its objects."""

from __future__ import annotations

import dataclasses
from typing import ClassVar

from eventbus_core.backend import Backend, BackendSettings, Group
from eventbus_core.capabilities import Capabilities, Durability, Reach
from eventbus_redis.admin import RedisAdmin
from eventbus_redis.consumer import RedisConsumer
from eventbus_redis.producer import RedisProducer
from eventbus_redis.settings import RedisSettings

_TAKEOVER_LEASES = 1.5
"""A lease, and half of one more after a silence, in which the server may have been away: see the beat script."""
_TAKEOVER_SLACK_SECONDS = 2.0
"""One beat of the survivor, and the time to acquire."""

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
    max_record_bytes=16 << 20,
    max_takeover_seconds=10.0 * _TAKEOVER_LEASES + _TAKEOVER_SLACK_SECONDS,
    transactions=False,
    delayed_send=False,
    sources={
        "ack_delay_seconds": "ack returns after the script that stores the cursor was answered",
        "fenced_ack": "the ack script compares the token of the lease with the newest one of the partition",
        "announced_moves": "LeasedConsumer: the owner drains and gives the lease back before another acquires it",
        "idempotent_send": "the write script keeps each writer's last batch and answers a repeat with its places",
        "stored_position": "the write script answers with the ordinal of the batch",
        "counted_deliveries": "plain XREAD counts nothing",
        "seek_by_time": "the write script gives an entry the highest record time so far as the first half of its id",
        "keeps_unsettled": "the trim script stops at the lowest cursor of all groups; evicting policies are refused",
        "durability": "with appendonly yes and appendfsync everysec: redis.io, Persistence, AOF advantages",
        "reach": "a TCP server",
        "max_record_bytes": "ours: a script holds a whole batch in memory; the server's own limit is "
        "proto-max-bulk-len, 512 MB (redis.conf)",
        "max_takeover_seconds": "lease_seconds, and one beat of the member that takes over; half of lease_seconds "
        "more where nobody in the group was heard for as long, since the server may have been away",
        "transactions": "not part of the interface yet",
        "delayed_send": "Streams have no delivery time",
    },
)


class RedisBackend(Backend[RedisSettings]):
    """Redis 7.0 or later, one primary. The log is a stream per partition, the group's cursor is a fenced hash."""

    name: ClassVar[str] = "redis"
    api_version: ClassVar[int] = 1
    settings_type: ClassVar[type[BackendSettings]] = RedisSettings
    capabilities = _CAPABILITIES

    def __init__(self, settings: RedisSettings) -> None:
        super().__init__(settings)
        takeover = settings.lease_seconds * _TAKEOVER_LEASES + _TAKEOVER_SLACK_SECONDS
        self.capabilities = dataclasses.replace(_CAPABILITIES, max_takeover_seconds=takeover)

    def producer(self, *, max_records: int, max_bytes: int) -> RedisProducer:  # noqa: ARG002  (nothing is queued in a client)
        return RedisProducer(self.settings)

    def consumer(self, group: Group) -> RedisConsumer:
        return RedisConsumer(self.settings, group)

    def admin(self) -> RedisAdmin:
        return RedisAdmin(self.settings)

    def close(self) -> None:
        """Nothing is shared."""

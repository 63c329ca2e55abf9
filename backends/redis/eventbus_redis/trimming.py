"""Retention: removing what is old and settled by every group. Off unless the settings ask for it."""

from __future__ import annotations

import time
from collections.abc import Sequence

from eventbus_redis.connection import Call, Link
from eventbus_redis.keys import Keys
from eventbus_redis.scripts import TRIM
from eventbus_redis.settings import RedisSettings

_EVERY_SECONDS = 10.0
_PRODUCERS_MS = 24 * 3600 * 1000
_ROUNDS = 10
"""One round removes about 10,000 entries (the default LIMIT of XTRIM ~)."""


class Trimming:
    """Run by the owner of a partition; also sweeps what is remembered of producers that were silent for a day.

    It never passes the cursor of a group, be it ours or native, nor what a native group has pending. Redis removes
    whole nodes of about 100 entries, so up to that many more than asked for stay.
    """

    def __init__(self, settings: RedisSettings, keys: Keys) -> None:
        self._keys = keys
        seconds, records = settings.retention_seconds, settings.retention_records
        self._limits = "" if seconds is None else int(seconds * 1000), "" if records is None else records
        self._next: dict[str, float] = {}

    def run(self, link: Link, topic: str, incarnation: str, partitions: Sequence[int]) -> None:
        """Trim these partitions if it is time."""
        if not partitions or time.monotonic() < self._next.get(topic, 0.0):
            return
        self._next[topic] = time.monotonic() + _EVERY_SECONDS
        for _ in range(_ROUNDS):
            if self.trim(link, topic, incarnation, partitions) < 1000 * len(partitions):
                break

    def trim(self, link: Link, topic: str, incarnation: str, partitions: Sequence[int]) -> int:
        """One round, now; how many entries were removed."""
        raw = link.command("SMEMBERS", self._keys.groups(topic), doing="trimming", topic=topic)
        groups = sorted(name.decode() for name in raw)
        calls = [
            Call(
                TRIM,
                (
                    self._keys.stream(topic, partition),
                    self._keys.meta(topic, partition),
                    *(self._keys.cursor(topic, partition, group) for group in groups),
                ),
                (incarnation, *self._limits, _PRODUCERS_MS),
            )
            for partition in partitions
        ]
        return sum(reply[1] for reply in link.calls(calls, topic=topic) if reply[0] == b"OK")

"""The backend class of a plugin that writes a store, and what all such backends promise."""

from __future__ import annotations

import dataclasses
import time
from abc import abstractmethod
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from typing import Final, TypeVar

from eventbus_core.backend import Backend, Group
from eventbus_core.backend.store import Store, StoreSettings
from eventbus_core.backend.store.admin import StoreAdmin
from eventbus_core.backend.store.consumer import StoreConsumer
from eventbus_core.backend.store.producer import StoreProducer
from eventbus_core.capabilities import Capabilities, Durability, Reach

_TAKEOVER_SLACK_SECONDS: Final = 3.0
"""A beat of the survivor, and the time to acquire."""
_SOURCES: Final = {
    "ack_delay_seconds": "ack returns when the store has answered the write of the cell",
    "fenced_ack": "a cell is written at the revision its owner has seen, and taking a partition over changes it",
    "announced_moves": "LeasedConsumer: the owner drains and gives the hold back before another acquires it",
    "idempotent_send": "a batch is appended behind the end that was seen: one that is repeated finds itself there",
    "stored_position": "the number of the entry, and the offset in it",
    "counted_deliveries": "the log is read by number, which counts nothing",
    "seek_by_time": "each entry tells the highest time so far, so places are found by bisection",
    "max_takeover_seconds": "lease_seconds, and one beat of the member that takes over",
    "transactions": "a log and a cell are not written together",
    "delayed_send": "a log is read in the order in which it was written",
}

S = TypeVar("S", bound=StoreSettings)
T = TypeVar("T")


def store_capabilities(
    *,
    keeps_unsettled: bool,
    durability: Durability,
    reach: Reach,
    max_record_bytes: int,
    sources: Mapping[str, str],
) -> Capabilities:
    """What a backend over a store promises; the plugin says what depends on its broker, and why (``sources``)."""
    return Capabilities(
        ack_delay_seconds=0.0,
        fenced_ack=True,
        announced_moves=True,
        idempotent_send=True,
        stored_position=True,
        counted_deliveries=False,
        seek_by_time=True,
        keeps_unsettled=keeps_unsettled,
        durability=durability,
        reach=reach,
        max_record_bytes=max_record_bytes,
        max_takeover_seconds=_takeover_seconds(StoreSettings()),
        sources={**_SOURCES, **sources},
    )


class StoreBackend(Backend[S]):
    """All but the store. Every object has a connection of its own; nothing is shared."""

    def __init__(self, settings: S) -> None:
        super().__init__(settings)
        self.capabilities = dataclasses.replace(self.capabilities, max_takeover_seconds=_takeover_seconds(settings))

    @abstractmethod
    def store(self) -> Store:
        """A new one; it is opened, and closed, by who asks for it."""

    def producer(self, *, max_records: int, max_bytes: int) -> StoreProducer:  # noqa: ARG002  (nothing is queued below)
        return self._over_a_store(StoreProducer)

    def consumer(self, group: Group) -> StoreConsumer:
        return self._over_a_store(lambda store: StoreConsumer(store, group))

    def admin(self) -> StoreAdmin:
        return self._over_a_store(StoreAdmin)

    def close(self) -> None:
        """Nothing is shared."""

    def _over_a_store(self, build: Callable[[Store], T]) -> T:
        with ExitStack() as failing:
            store = self.store()
            failing.callback(store.close)
            store.deadline = time.monotonic() + self.settings.connect_timeout_seconds
            store.open()
            built = build(store)
            failing.pop_all()
            return built


def _takeover_seconds(settings: StoreSettings) -> float:
    return settings.lease_seconds + _TAKEOVER_SLACK_SECONDS

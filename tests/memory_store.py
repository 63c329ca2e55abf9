"""A store in memory, for tests of what backends over a store are made of; clock and replies are the test's."""

from __future__ import annotations

import bisect
import time
from collections.abc import Callable, Collection, Sequence
from typing import ClassVar, TypeVar

from eventbus_core.backend import BackendSettings
from eventbus_core.backend.store import Append, Cell, End, Entry, Key, Log, Put, Store, StoreSettings
from eventbus_core.backend.store.backend import StoreBackend, store_capabilities
from eventbus_core.capabilities import Durability, Reach
from eventbus_core.errors import EventBusError, SendFailed, Unavailable

Item = TypeVar("Item")
T = TypeVar("T")


class Shelf:
    """What all stores of a test share.

    ``lost_replies``: calls whose replies get lost, each once; ``meanwhile``: what others do just before the next
    ``put``, the next ``get`` of holds, or the next ``keys`` of members.
    """

    def __init__(self) -> None:
        self.logs: dict[Log, list[Entry]] = {}
        self.ends: dict[Log, int] = {}
        self.cells: dict[Key, Cell] = {}
        self.revision = 0
        self.now = 1000.0
        self.lost_replies: list[str] = []
        self.meanwhile: dict[str, Callable[[], object]] = {}
        self.unreadable: set[Log] = set()

    def lost(self, call: str) -> bool:
        if call in self.lost_replies:
            self.lost_replies.remove(call)
            return True
        return False

    def others(self, call: str) -> None:
        if call in self.meanwhile:
            self.meanwhile.pop(call)()

    def batches(self, topic: str, partition: int) -> list[list[bytes | None]]:
        (entries,) = (each for log, each in self.logs.items() if (log.topic, log.number) == (topic, partition))
        return [[record.value for record in entry.batch.records] for entry in entries]

    def remove_first(self, topic: str, partition: int) -> None:
        (entries,) = (each for log, each in self.logs.items() if (log.topic, log.number) == (topic, partition))
        del entries[0]


class MemoryStore(Store):
    backend: ClassVar[str] = "shelf"

    def __init__(self, shelf: Shelf, settings: StoreSettings) -> None:
        super().__init__(settings)
        self.shelf = shelf

    def open(self) -> None:
        pass

    def create(self, logs: Sequence[Log]) -> Sequence[EventBusError | None]:
        self.shelf.logs.update({log: [] for log in logs})
        self.shelf.ends.update(dict.fromkeys(logs, 0))
        return [None for _ in logs]

    def drop(self, logs: Sequence[Log]) -> Sequence[EventBusError | None]:
        for log in logs:
            self.shelf.logs.pop(log, None)
        return [None for _ in logs]

    def append(self, appends: Sequence[Append]) -> Sequence[int | EventBusError | None]:
        return self._replies("append", self._append, appends)

    def read(self, wanted: Sequence[tuple[Log, int]]) -> Sequence[Entry | EventBusError | None]:
        return self._replies("read", self._read, wanted)

    def last(self, logs: Sequence[Log]) -> Sequence[End | EventBusError]:
        return self._replies("last", self._last, logs)

    def get(self, keys: Sequence[Key]) -> Sequence[Cell | EventBusError | None]:
        if any("hold" in key for key in keys):
            self.shelf.others("get")
        return self._replies("get", self.shelf.cells.get, keys)

    def put(self, puts: Sequence[Put]) -> Sequence[int | EventBusError | None]:
        return self._replies("put", self._put, puts)

    def delete(self, key: Key, revision: int | None = None) -> None:
        if key in self.shelf.cells and revision in {None, self.shelf.cells[key].revision}:
            del self.shelf.cells[key]

    def delete_below(self, prefix: Key) -> None:
        for key in self.keys(prefix):
            del self.shelf.cells[key]

    def keys(self, prefix: Key) -> Sequence[Key]:
        if prefix[-1] == "member":
            self.shelf.others("keys")
        return [key for key in self.shelf.cells if len(key) > len(prefix) and key[: len(prefix)] == prefix]

    def appended(self, logs: Sequence[Log], timeout: float) -> Collection[Log]:
        time.sleep(min(timeout, 0.01))
        return logs

    def close(self) -> None:
        pass

    def _replies(
        self, call: str, work: Callable[[Item], T | EventBusError], items: Sequence[Item]
    ) -> list[T | EventBusError]:
        """Do it for all; with ``lost_replies`` the last outcome is not told, or none is."""
        outcomes = [work(item) for item in items]
        if items and self.shelf.lost(f"{call} one"):
            outcomes[-1] = Unavailable("lost")
        if items and self.shelf.lost(call):
            raise Unavailable("lost")
        return outcomes

    def _append(self, append: Append) -> int | EventBusError | None:
        log, behind, batch = append
        if log not in self.shelf.logs:
            return Unavailable("no such log")
        if any(record.value == b"refused" for record in batch.records):
            return SendFailed("refused")
        if self.shelf.ends[log] != behind:
            return None
        self.shelf.ends[log] += 1
        self.shelf.logs[log].append(Entry(self.shelf.ends[log], batch))
        return self.shelf.ends[log]

    def _read(self, wanted: tuple[Log, int]) -> Entry | EventBusError | None:
        log, number = wanted
        if log not in self.shelf.logs or log in self.shelf.unreadable:
            return Unavailable("no such log")
        entries = self.shelf.logs[log]
        at = bisect.bisect_left([entry.number for entry in entries], number)
        return entries[at] if at < len(entries) else None

    def _last(self, log: Log) -> End | EventBusError:
        if log not in self.shelf.logs:
            return Unavailable("no such log")
        entries = self.shelf.logs[log]
        return End(self.shelf.ends[log], entries[-1].batch if entries else None)

    def _put(self, put: Put) -> int | None:
        self.shelf.others("put")
        cell = self.shelf.cells.get(put.key)
        if put.revision not in {None, cell.revision if cell else 0}:
            return None
        self.shelf.revision += 1
        self.shelf.cells[put.key] = Cell(put.value, self.shelf.revision, self.shelf.now)
        return self.shelf.revision


class ShelfBackend(StoreBackend[StoreSettings]):
    name: ClassVar[str] = "shelf"
    api_version: ClassVar[int] = 1
    settings_type: ClassVar[type[BackendSettings]] = StoreSettings
    capabilities = store_capabilities(
        keeps_unsettled=True,
        durability=Durability.NONE,
        reach=Reach.PROCESS,
        max_record_bytes=1 << 20,
        sources=dict.fromkeys(("keeps_unsettled", "durability", "reach", "max_record_bytes"), "a dict of the test's"),
    )

    def __init__(self, settings: StoreSettings | None = None) -> None:
        super().__init__(settings or StoreSettings())
        self.shelf = Shelf()

    def store(self) -> MemoryStore:
        return MemoryStore(self.shelf, self.settings)

"""Stores over an asyncio client: many at once within one deadline, and what becomes of a connection that breaks."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Sequence
from contextlib import suppress
from typing import ClassVar

import pytest

from eventbus_core import AccessDenied, EventBusError, SendFailed, Unavailable
from eventbus_core.backend.store import Append, Cell, End, Entry, Key, Log, Put, StoreSettings, whole
from eventbus_core.backend.store.asynchronous import AsyncStore

_LOGS = [Log("t", "i", number) for number in range(3)]


class ClientError(Exception):
    """What a client raises."""


async def stubborn(seconds: float) -> None:
    """Wait, and go on waiting when it is cancelled, as clients do."""
    with suppress(asyncio.CancelledError):
        await asyncio.sleep(seconds)
    await asyncio.sleep(seconds)


class ScriptedStore(AsyncStore):
    """Only what is asked here does something: ``get``, by key, and signs of new messages."""

    backend: ClassVar[str] = "scripted"
    failures: ClassVar[tuple[type[Exception], ...]] = (ClientError,)

    def __init__(self, seconds: float = 5.0) -> None:
        super().__init__(StoreSettings(request_timeout_seconds=seconds))
        self.connections: list[asyncio.Future[None]] = []
        self.refuses: Exception | None = None
        self.disconnects = 0
        self.hangs = False
        self.watching: list[Log] = []
        self.alive = False

    async def connect(self, gone: asyncio.Future[None]) -> None:
        if self.refuses is not None:
            raise self.refuses
        self.connections.append(gone)
        self.alive = True

    @property
    def connected(self) -> bool:
        return self.alive

    async def disconnect(self) -> None:
        self.disconnects += 1
        while self.hangs:
            await stubborn(0.3)

    def mapped(self, error: Exception) -> EventBusError:
        return Unavailable(f"scripted: {error!r}")

    async def get_cell(self, key: Key) -> Cell | None:
        what = key[0]
        if what == "breaks":
            self.ended(self.connections[-1])
        if what == "dies":
            self.alive = False
        if what == "stubborn":
            await stubborn(3)
        if what in {"breaks", "never"}:
            await asyncio.Event().wait()
        if what == "fails":
            raise ClientError("why")
        if what == "refused":
            raise SendFailed("never")
        if what == "cancelled":
            raise asyncio.CancelledError
        if what == "bug":
            raise KeyError("bug")
        return Cell(what, 1, 0.0)

    async def watch(self, log: Log) -> None:
        self.watching.append(log)

    def tell(self, log: Log) -> None:
        """From another thread, as the broker does."""
        self._loop.call_soon_threadsafe(self.heard, log)

    async def prepare(self) -> None:
        raise NotImplementedError

    async def create_log(self, log: Log) -> None:
        raise NotImplementedError

    async def drop_log(self, log: Log) -> None:
        raise NotImplementedError

    async def append_batch(self, append: Append) -> int | None:
        raise NotImplementedError

    async def read_entry(self, wanted: tuple[Log, int]) -> Entry | None:
        raise NotImplementedError

    async def end_of_log(self, log: Log) -> End:
        raise NotImplementedError

    async def put_cell(self, put: Put) -> int | None:
        raise NotImplementedError

    async def delete_cell(self, key: Key, revision: int | None) -> None:
        raise NotImplementedError

    async def delete_cells_below(self, prefix: Key) -> None:
        raise NotImplementedError

    async def keys_below(self, prefix: Key) -> Sequence[Key]:
        raise NotImplementedError


def outcomes(store: AsyncStore, *whats: str) -> list[object]:
    store.begin()
    return [each.value if isinstance(each, Cell) else each for each in store.get([(what,) for what in whats])]


def test_what_is_late_or_fails_does_not_hide_what_the_others_did() -> None:
    store = ScriptedStore(seconds=0.3)
    began = time.monotonic()
    good, late, failed, refused, cancelled = outcomes(store, "good", "never", "fails", "refused", "cancelled")
    assert time.monotonic() - began < 2
    assert good == "good"
    assert isinstance(late, Unavailable)
    assert isinstance(failed, Unavailable)
    assert isinstance(failed.__cause__, ClientError)
    assert isinstance(refused, SendFailed)
    assert isinstance(cancelled, Unavailable)
    assert outcomes(store, "again") == ["again"]
    assert len(store.connections) == 1
    store.close()


def test_a_call_ends_in_time_also_when_the_client_does_not() -> None:
    store = ScriptedStore(seconds=0.3)
    began = time.monotonic()
    good, late = outcomes(store, "good", "stubborn")
    assert time.monotonic() - began < 2
    assert good == "good"
    assert isinstance(late, Unavailable)
    store.close()


def test_a_connection_that_died_without_a_word_is_made_anew() -> None:
    store = ScriptedStore()
    assert outcomes(store, "dies", "good") == ["dies", "good"]
    assert outcomes(store, "good") == ["good"]
    assert (len(store.connections), store.disconnects) == (2, 1)
    store.close()


def test_a_mistake_of_the_plugin_is_not_taken_for_an_outage() -> None:
    store = ScriptedStore()
    with pytest.raises(KeyError):
        outcomes(store, "good", "bug")
    store.close()


def test_a_connection_that_breaks_ends_what_waits_for_it_and_the_next_call_has_another() -> None:
    store = ScriptedStore(seconds=30)
    began = time.monotonic()
    broken, waiting = outcomes(store, "breaks", "never")
    assert time.monotonic() - began < 5
    assert isinstance(broken, Unavailable)
    assert isinstance(waiting, Unavailable)
    assert outcomes(store, "good") == ["good"]
    assert (len(store.connections), store.disconnects) == (2, 1)
    store.close()


@pytest.mark.parametrize(("refused", "raised"), [(ClientError(), Unavailable), (AccessDenied("no"), AccessDenied)])
def test_a_refused_connection_is_told_and_tried_again_by_the_next_call(
    refused: Exception, raised: type[EventBusError]
) -> None:
    store = ScriptedStore()
    store.refuses = refused
    with pytest.raises(raised):
        outcomes(store, "good")
    assert store.disconnects == 1
    store.refuses = None
    assert outcomes(store, "good") == ["good"]
    store.close()


def test_closing_ends_the_thread_also_when_the_client_hangs() -> None:
    store = ScriptedStore()
    outcomes(store, "good")
    thread = next(each for each in threading.enumerate() if each.name == "eventbus-scripted")
    store.hangs = True
    began = time.monotonic()
    store.close()
    store.close()
    assert time.monotonic() - began < 4
    assert not thread.is_alive()


def test_a_log_is_in_doubt_when_it_is_first_watched_and_then_when_it_was_heard_of() -> None:
    store = ScriptedStore()
    store.begin(60)
    assert set(store.appended(_LOGS[:2], 5)) == set(_LOGS[:2])
    assert not store.appended(_LOGS[:2], 0.02)
    store.tell(_LOGS[2])
    store.tell(_LOGS[0])
    assert set(store.appended(_LOGS[:2], 5)) == {_LOGS[0]}
    assert not store.appended(_LOGS[:2], 0.0)
    timer = threading.Timer(0.1, store.tell, (_LOGS[1],))
    timer.start()
    began = time.monotonic()
    assert set(store.appended(_LOGS[:2], 30)) == {_LOGS[1]}
    assert time.monotonic() - began < 10
    timer.join()
    assert store.watching == [*sorted(_LOGS[:2], key=store.watching.index)]
    store.close()


def test_after_a_reconnection_every_log_is_in_doubt_again() -> None:
    store = ScriptedStore()
    store.begin(60)
    store.appended(_LOGS, 0.0)
    outcomes(store, "breaks")
    assert set(store.appended(_LOGS, 5)) == set(_LOGS)
    assert sorted(store.watching) == sorted([*_LOGS, *_LOGS])
    store.close()


def test_whole_raises_the_first_error() -> None:
    assert whole([1, None]) == [1, None]
    with pytest.raises(Unavailable, match="second"):
        whole([1, Unavailable("second"), Unavailable("third")])

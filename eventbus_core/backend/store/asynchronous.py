"""A store over an asyncio client: its coroutines run on a loop in a thread of the store's own."""

from __future__ import annotations

import asyncio
import threading
import time
from abc import abstractmethod
from collections.abc import Callable, Collection, Coroutine, Sequence
from contextlib import suppress
from functools import partial
from typing import Any, ClassVar, Final, TypeVar

from eventbus_core.backend.store import Append, Cell, End, Entry, Key, Log, Put, Store, StoreSettings, whole
from eventbus_core.errors import EventBusError, Unavailable

_CLOSE_SECONDS: Final = 1.0
Item = TypeVar("Item")
T = TypeVar("T")


class AsyncStore(Store):
    """A plugin writes a coroutine for one thing of each kind; many run at once, within the deadline of the call.

    They run connected, and are cancelled when the time is up or the connection is gone. They may raise what the client
    raises (``failures``). Turn the client's own reconnecting off: it sends what it has buffered after an outage, when
    the caller was long told that it failed.
    """

    failures: ClassVar[tuple[type[Exception], ...]]
    """All that the client raises."""

    def __init__(self, settings: StoreSettings) -> None:
        super().__init__(settings)
        self._failures: tuple[type[Exception], ...] = (*self.failures, TimeoutError)
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name=f"eventbus-{self.backend}", daemon=True)
        self._thread.start()
        self._gone: asyncio.Future[None] | None = None
        self._watched: set[Log] = set()
        self._heard: set[Log] = set()
        self._woken = asyncio.Event()

    @abstractmethod
    async def connect(self, gone: asyncio.Future[None]) -> None:
        """Connect anew; :meth:`ended` is to be called with ``gone`` when this connection is gone."""

    @property
    @abstractmethod
    def connected(self) -> bool:
        """Whether calls can be made. Clients do not always tell when their connection is gone, so it is asked, too."""

    @abstractmethod
    async def disconnect(self) -> None:
        """Close the connection, or what is there of it when ``connect`` failed. Cancelled after a second."""

    @abstractmethod
    def mapped(self, error: Exception) -> EventBusError:
        """The error of ours for one of ``failures`` or a ``TimeoutError``, which becomes its cause."""

    @abstractmethod
    async def prepare(self) -> None:
        """Make what cells need, unless it is there."""

    @abstractmethod
    async def create_log(self, log: Log) -> None:
        """See ``create``."""

    @abstractmethod
    async def drop_log(self, log: Log) -> None:
        """See ``drop``."""

    @abstractmethod
    async def append_batch(self, append: Append) -> int | None:
        """See ``append``."""

    @abstractmethod
    async def read_entry(self, wanted: tuple[Log, int]) -> Entry | None:
        """See ``read``."""

    @abstractmethod
    async def end_of_log(self, log: Log) -> End:
        """See ``last``."""

    @abstractmethod
    async def get_cell(self, key: Key) -> Cell | None:
        """See ``get``."""

    @abstractmethod
    async def put_cell(self, put: Put) -> int | None:
        """See ``put``."""

    @abstractmethod
    async def delete_cell(self, key: Key, revision: int | None) -> None:
        """See ``delete``."""

    @abstractmethod
    async def delete_cells_below(self, prefix: Key) -> None:
        """See ``delete_below``."""

    @abstractmethod
    async def keys_below(self, prefix: Key) -> Sequence[Key]:
        """See ``keys``."""

    @abstractmethod
    async def watch(self, log: Log) -> None:
        """From now on :meth:`heard` is to be called when the log got more, for as long as the connection lives.

        A sign that gets lost costs a second. Where the broker gives none, there is nothing to do.
        """

    def ended(self, gone: asyncio.Future[None]) -> None:
        """For plugins, on the loop: the connection of ``gone`` is gone. May be called again."""
        if not gone.done():
            gone.set_result(None)
        self._woken.set()

    def heard(self, log: Log) -> None:
        """For plugins, on the loop: the log got more."""
        self._heard.add(log)
        self._woken.set()

    def open(self) -> None:
        self._one(self.prepare)

    def create(self, logs: Sequence[Log]) -> Sequence[EventBusError | None]:
        return self._each(self.create_log, logs)

    def drop(self, logs: Sequence[Log]) -> Sequence[EventBusError | None]:
        return self._each(self.drop_log, logs)

    def append(self, appends: Sequence[Append]) -> Sequence[int | EventBusError | None]:
        return self._each(self.append_batch, appends)

    def read(self, wanted: Sequence[tuple[Log, int]]) -> Sequence[Entry | EventBusError | None]:
        return self._each(self.read_entry, wanted)

    def last(self, logs: Sequence[Log]) -> Sequence[End | EventBusError]:
        return self._each(self.end_of_log, logs)

    def get(self, keys: Sequence[Key]) -> Sequence[Cell | EventBusError | None]:
        return self._each(self.get_cell, keys)

    def put(self, puts: Sequence[Put]) -> Sequence[int | EventBusError | None]:
        return self._each(self.put_cell, puts)

    def delete(self, key: Key, revision: int | None = None) -> None:
        self._one(lambda: self.delete_cell(key, revision))

    def delete_below(self, prefix: Key) -> None:
        self._one(lambda: self.delete_cells_below(prefix))

    def keys(self, prefix: Key) -> Sequence[Key]:
        return self._one(lambda: self.keys_below(prefix))

    def appended(self, logs: Sequence[Log], timeout: float) -> Collection[Log]:
        return self._run(self._hear(logs, time.monotonic() + timeout))

    def close(self) -> None:
        if self._loop.is_closed():
            return
        self._run(self._disconnect())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def _one(self, work: Callable[[], Coroutine[Any, Any, T]]) -> T:
        return whole(self._run(self._all([work])))[0]

    def _each(self, work: Callable[[Item], Coroutine[Any, Any, T]], items: Sequence[Item]) -> list[T | EventBusError]:
        return self._run(self._all([partial(work, item) for item in items])) if items else []

    def _run(self, work: Coroutine[Any, Any, T]) -> T:
        try:
            return asyncio.run_coroutine_threadsafe(work, self._loop).result()
        except self._failures as error:
            raise self._ours(error) from error

    async def _all(self, works: Sequence[Callable[[], Coroutine[Any, Any, T]]]) -> list[T | EventBusError]:
        """What came of each; of what was not finished in time, or on this connection, ``Unavailable``."""
        gone = await self._connected()
        tasks = [asyncio.ensure_future(work()) for work in works]
        either: list[asyncio.Future[Any]] = [asyncio.gather(*tasks, return_exceptions=True), gone]
        await asyncio.wait(either, timeout=self._left, return_when=asyncio.FIRST_COMPLETED)
        return [self._outcome(task, gone) for task in tasks]

    def _outcome(self, task: asyncio.Task[T], gone: asyncio.Future[None]) -> T | EventBusError:
        # Who waits does not wait for the cancellation: clients catch it, and go on for a while.
        if not task.done() or task.cancelled():
            task.cancel()
            why = "the connection broke" if gone.done() else "no answer in time"
            return Unavailable(f"{self.backend}: {why}", backend=self.backend)
        try:
            return task.result()
        except EventBusError as error:
            return error
        except self._failures as error:
            return self._ours(error)

    async def _hear(self, logs: Sequence[Log], until: float) -> Collection[Log]:
        gone = await self._connected()
        for log in set(logs) - self._watched:
            await _in_time(self.watch(log), self._left)
            self._watched.add(log)
            self._heard.add(log)  # it may have got more before it was watched
        with suppress(TimeoutError):
            async with asyncio.timeout(min(until - time.monotonic(), self._left)):
                while self._heard.isdisjoint(logs) and not gone.done():
                    self._woken.clear()
                    await self._woken.wait()
        found = self._heard.intersection(logs)
        self._heard -= found
        return found

    async def _connected(self) -> asyncio.Future[None]:
        if self._gone is None or self._gone.done() or not self.connected:
            await self._disconnect()
            self._watched.clear()
            self._gone = self._loop.create_future()
            try:
                await _in_time(self.connect(self._gone), self._left)
            except BaseException:
                await self._disconnect()
                raise
        return self._gone

    async def _disconnect(self) -> None:
        if self._gone is not None:
            self._gone = None
            with suppress(*self._failures):  # some flush first, and a frozen broker takes nothing
                await _in_time(self.disconnect(), _CLOSE_SECONDS)

    @property
    def _left(self) -> float:
        return self.deadline - time.monotonic()

    def _ours(self, error: Exception) -> EventBusError:
        found = self.mapped(error)
        found.__cause__ = error
        return found


async def _in_time(work: Coroutine[Any, Any, None], seconds: float) -> None:
    """Wait for it. TimeoutError, also when it does not let itself be cancelled."""
    task = asyncio.ensure_future(work)
    await asyncio.wait([task], timeout=seconds)
    if not task.done() or task.cancelled():
        task.cancel()
        raise TimeoutError
    task.result()

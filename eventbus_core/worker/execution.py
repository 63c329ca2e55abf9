"""Where handlers run: plain functions in threads, coroutine functions in one event loop."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Coroutine
from concurrent.futures import Future
from contextlib import suppress
from contextvars import copy_context
from typing import Any, Protocol

from eventbus_core.errors import Closed
from eventbus_core.subscriptions import Subscription
from eventbus_core.worker.handling import Handling
from eventbus_core.worker.tasks import Queue, Task

_LOOP_SECONDS = 2.0
"""How long the loop's thread is waited for: a coroutine function that blocks it cannot be cancelled."""


class Executor(Protocol):
    """Takes tasks from its queue as they get ready, at most ``concurrency`` at once."""

    queue: Queue

    def stop(self) -> None:
        """Take no more; does not wait for handlers that run."""


class Loop:
    """One event loop in a thread of its own, started when first used; for all ``async`` handlers of a worker."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None
        self._stopped = False

    def call(self, function: Callable[[], None]) -> None:
        """Call a function in the loop's thread, soon."""
        self._running().call_soon_threadsafe(function)

    def submit(self, coroutine: Coroutine[Any, Any, None]) -> Future[None]:
        """Run a coroutine in the loop."""
        return asyncio.run_coroutine_threadsafe(coroutine, self._running())

    def stop(self) -> None:
        """Cancel what runs in the loop, and end its thread."""
        with self._lock:
            self._stopped = True
            loop, thread = self._loop, self._thread
        if loop is not None and thread is not None:
            loop.call_soon_threadsafe(loop.stop)
            thread.join(_LOOP_SECONDS)

    def _running(self) -> asyncio.AbstractEventLoop:
        with self._lock:
            if self._stopped:
                raise Closed("the worker was stopped")
            if self._loop is None:
                self._loop = asyncio.new_event_loop()
                self._thread = threading.Thread(target=self._run, args=(self._loop,), name="eventbus-loop", daemon=True)
                self._thread.start()
            return self._loop

    def _run(self, loop: asyncio.AbstractEventLoop) -> None:
        asyncio.set_event_loop(loop)
        try:
            while not self._stopped:
                # asyncio lets a SystemExit of a task end the loop; the executor finds it in the task as well.
                with suppress(SystemExit, KeyboardInterrupt):
                    loop.run_forever()
            left = asyncio.all_tasks(loop)
            for task in left:
                task.cancel()
            if left:
                loop.run_until_complete(asyncio.wait(left, timeout=1.0))
            loop.run_until_complete(loop.shutdown_asyncgens())
        finally:
            loop.close()


class ThreadExecutor:
    """Runs a plain function, in threads that are started when there is work for them; each event in its own context."""

    def __init__(self, subscription: Subscription, handling: Handling) -> None:
        self.queue = Queue(subscription, self._grew)
        self._handling = handling
        self._lanes = handling.lanes
        self._changed = threading.Condition(handling.lock)
        self._handler = subscription.handler
        self._threads = 0
        self._idle = 0
        self._taking = False
        self._stopped = False

    def stop(self) -> None:
        with self._changed:
            self._stopped = True
            self._changed.notify_all()

    def _grew(self) -> None:
        """With the lock held: see that somebody takes it."""
        if self._taking:  # the caller does, so waking another would be in vain
            self._taking = False
        elif self._idle:
            self._idle -= 1
            self._changed.notify()
        elif self._threads < self.queue.subscription.concurrency:
            self._threads += 1
            name = f"eventbus-{self.queue.subscription.group}-{self._threads}"
            threading.Thread(target=self._run, name=name, daemon=True).start()

    def _run(self) -> None:
        try:
            task = self._next(None)
            while task is not None:
                task = self._next(task if self._handle(task) else None)
        except BaseException as error:  # a handler's SystemExit, a hook that raises
            self._handling.fail(error)
            raise

    def _next(self, done: Task | None) -> Task | None:
        with self._changed:
            if done is not None:
                self._taking = True
                self._lanes.done(done)
                self._taking = False
            while (task := self._lanes.take(self.queue)) is None:
                if self._stopped:
                    return None
                self._idle += 1
                self._changed.wait()
            return task

    def _handle(self, task: Task) -> bool:
        """Whether the task is done; if not, the lanes know already what becomes of it."""
        event = self._handling.begin(task)
        if event is None:
            return False
        out = self._handling.outbox()
        began = time.perf_counter()
        try:
            if out is None:
                copy_context().run(self._handler, event)
            else:
                copy_context().run(self._handler, event, out)
                self._handling.made[task.delivery] = out.take()
        except Exception as error:  # noqa: BLE001  (whatever it is, it is judged)
            self._handling.failed(task, error)
            return False
        except BaseException:  # it ends the worker, which need not wait for it
            with self._handling.lock:
                self._lanes.halt(task)
            raise
        self._handling.succeeded(task, time.perf_counter() - began)
        return True


class LoopExecutor:
    """Runs a coroutine function, in the worker's event loop; each event in its own context."""

    def __init__(self, subscription: Subscription, handling: Handling, loop: Loop) -> None:
        self.queue = Queue(subscription, self._grew)
        self._handling = handling
        self._lanes = handling.lanes
        self._loop = loop
        self._handler = subscription.handler
        self._running: set[asyncio.Task[None]] = set()
        self._called = False
        self._stopped = False

    def stop(self) -> None:
        self._stopped = True

    def _grew(self) -> None:
        """With the lock held."""
        if not self._called and not self._stopped:
            self._called = True
            self._loop.call(self._take)

    def _take(self) -> None:
        """In the loop: start what is ready."""
        taken: list[Task] = []
        with self._handling.lock:
            self._called = False
            room = self.queue.subscription.concurrency - len(self._running)
            while len(taken) < room and (task := self._lanes.take(self.queue)) is not None:
                taken.append(task)
        for task in taken:
            running = asyncio.get_running_loop().create_task(self._handle(task))
            self._running.add(running)
            running.add_done_callback(self._ended)

    def _ended(self, running: asyncio.Task[None]) -> None:
        self._running.discard(running)
        if not running.cancelled() and (error := running.exception()) is not None:
            self._handling.fail(error)
        elif self.queue.lanes and not self._stopped:
            self._take()

    async def _handle(self, task: Task) -> None:
        event = self._handling.begin(task)
        if event is None:
            return
        out = self._handling.outbox()
        began = time.perf_counter()
        try:
            if out is None:
                await self._handler(event)
            else:
                await self._handler(event, out)
                self._handling.made[task.delivery] = out.take()
        except asyncio.CancelledError:
            if self._stopped:
                raise
            self._handling.failed(task, RuntimeError("the handler was cancelled from within"))
        except Exception as error:  # noqa: BLE001  (whatever it is, it is judged)
            self._handling.failed(task, error)
        except BaseException:  # it ends the worker, which need not wait for it
            with self._handling.lock:
                self._lanes.halt(task)
            raise
        else:
            self._handling.succeeded(task, time.perf_counter() - began)
            with self._handling.lock:
                called, self._called = self._called, True  # whoever ends takes, so calling would be in vain
                self._lanes.done(task)
                self._called = called

"""Opening something in a thread, again and again while the broker is away."""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Generic, TypeVar

from eventbus_core.errors import Unavailable

T = TypeVar("T")


class Opening(Generic[T]):
    """One thing to open: ``work`` blocks, and runs in a thread; ``advance`` never blocks."""

    __slots__ = ("_failures", "_future", "_not_before", "_work")

    def __init__(self, work: Callable[[], T]) -> None:
        self._work = work
        self._future: Future[T] | None = None
        self._failures = 0
        self._not_before = 0.0

    def advance(self, threads: ThreadPoolExecutor) -> T | None:
        """What was opened, or None: not yet. Raises what will not pass by itself."""
        if self._future is None:
            if time.monotonic() >= self._not_before:
                self._future = threads.submit(self._work)
            return None
        if not self._future.done():
            return None
        future, self._future = self._future, None
        try:
            return future.result()
        except Unavailable:
            self._failures = min(self._failures + 1, 6)
            self._not_before = time.monotonic() + 0.05 * 2**self._failures * random.uniform(0.5, 1)
            return None

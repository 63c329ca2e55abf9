"""Holding a lock in another thread."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any


@contextmanager
def held(lock: AbstractContextManager[Any]) -> Iterator[threading.Event]:
    """A thread has the lock until the event that is given is set, at the latest until the end."""
    taken, free = threading.Event(), threading.Event()

    def hold() -> None:
        with lock:
            taken.set()
            free.wait(30)

    thread = threading.Thread(target=hold)
    thread.start()
    taken.wait(5)
    try:
        yield free
    finally:
        free.set()
        thread.join()

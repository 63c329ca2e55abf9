"""What other threads ask a consumer's thread to do, as only that one may call the backend."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from concurrent.futures import Future

from eventbus_core.errors import EventBusError


class Commands:
    """Done in turn; who asked waits for the future. Putting and refusing go under the intake's lock."""

    def __init__(self) -> None:
        self._waiting: deque[tuple[Callable[[], None], Future[None]]] = deque()

    def put(self, command: Callable[[], None]) -> Future[None]:
        """Ask for something."""
        future: Future[None] = Future()
        self._waiting.append((command, future))
        return future

    def serve(self) -> None:
        """Do what waits. What is raised goes to who asked, and, if it cannot be tried again, ends the thread too."""
        while self._waiting:
            command, future = self._waiting.popleft()
            try:
                command()
            except Exception as error:
                future.set_exception(error)
                if not (isinstance(error, EventBusError) and error.retryable):
                    raise
            else:
                future.set_result(None)

    def refuse(self, error: EventBusError) -> None:
        """Nothing is done any more."""
        waiting, self._waiting = self._waiting, deque()
        for _, future in waiting:
            future.set_exception(error)

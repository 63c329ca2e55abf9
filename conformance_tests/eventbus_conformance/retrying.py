"""A worker that dies while an event waits for its next attempt.

``python -m eventbus_conformance.retrying URL TOPIC GROUP NUMBER`` handles jobs, fails with the one of this number, and
kills itself when that is to be tried again. It prints the numbers of those that it has handled.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from datetime import timedelta

from eventbus_conformance.handlers import Desk, Job
from eventbus_conformance.harness import Bounds
from eventbus_core import Event, Hooks, Retry
from eventbus_core.records import Delivery

_LATER = Retry(attempts=5, first_delay=timedelta(seconds=60), max_delay=timedelta(seconds=60))


class _Retried(Hooks):
    def __init__(self, then: Callable[[], None]) -> None:
        self._then = then

    def retried(self, delivery: Delivery, attempt: int, delay_seconds: float, error: Exception) -> None:  # noqa: ARG002
        self._then()


def die_retrying(url: str, topic: str, group: str, number: int, bounds: Bounds, *, process: bool) -> list[int]:
    """Let a worker handle jobs until one waits for its next attempt, and then die; the numbers that it has handled.

    In a process killed by SIGKILL, or in this one, where the worker is stopped without waiting.
    """
    if process:
        command = [sys.executable, "-m", __name__, url, topic, group, str(number)]
        seconds = bounds.rebalance + bounds.deliver
        done = subprocess.run(command, capture_output=True, text=True, timeout=seconds, check=False)
        assert done.returncode == -signal.SIGKILL, done.stdout + done.stderr
        return [int(each) for each in done.stdout.split()]
    waits = threading.Event()
    with contextlib.ExitStack() as closing:
        desk = Desk(url, topic, group, bounds, closing)
        worker = desk.start(_failing(number), _Retried(waits.set), retry=_LATER, concurrency=1)
        assert waits.wait(bounds.deliver), "no event came to its second attempt"
        worker.stop(0.0)
        return desk.handled()


def _failing(number: int) -> Callable[[Event[Job]], None]:
    def act(event: Event[Job]) -> None:
        if event.data.number == number:
            raise ValueError(f"job {number} cannot be done now")

    return act


def main() -> None:
    """Never returns."""
    url, topic, group, number = sys.argv[1:]
    closing = contextlib.ExitStack()
    desk = Desk(url, topic, group, Bounds(), closing)

    def die() -> None:
        os.write(sys.stdout.fileno(), " ".join(map(str, desk.handled())).encode())
        os.kill(os.getpid(), signal.SIGKILL)

    desk.start(_failing(int(number)), _Retried(die), retry=_LATER, concurrency=1)
    threading.Event().wait()


if __name__ == "__main__":
    main()

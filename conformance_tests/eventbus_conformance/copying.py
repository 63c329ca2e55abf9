"""A worker that copies a topic exactly once, and dies while it does.

``python -m eventbus_conformance.copying URL SOURCE TARGET GROUP CALLS`` kills itself in so many calls of its handler.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable

from eventbus_conformance.handlers import QUICK, Job
from eventbus_conformance.harness import Bounds
from eventbus_core import Event, EventBus, Outbox, Worker


def copier(bus: EventBus, source: str, target: str, group: str, called: Callable[[], None] = lambda: None) -> Worker:
    """A worker, not started, whose handler publishes each job of ``source`` to ``target``."""

    @bus.subscribe(Job, group=group, topics=[source], delivery="exactly_once", retry=QUICK, concurrency=4)
    def copy(event: Event[Job], out: Outbox) -> None:
        out.publish(event.data, topic=target)
        called()

    return Worker(bus)


def die_copying(url: str, source: str, target: str, group: str, calls: int, bounds: Bounds, *, process: bool) -> None:
    """Let a worker die in so many calls: a process by SIGKILL, or one in this process, stopped without waiting."""
    if process:
        command = [sys.executable, "-m", __name__, url, source, target, group, str(calls)]
        seconds = bounds.rebalance + bounds.deliver
        done = subprocess.run(command, capture_output=True, text=True, timeout=seconds, check=False)
        assert done.returncode == -signal.SIGKILL, done.stdout + done.stderr
        return
    enough = threading.Event()
    with EventBus(url) as bus:
        worker = copier(bus, source, target, group, _after(calls, enough.set))
        worker.start()
        assert enough.wait(bounds.deliver), f"not {calls} calls"
        worker.stop(0.0)


def _after(calls: int, then: Callable[[], None]) -> Callable[[], None]:
    lock = threading.Lock()
    left = calls

    def called() -> None:
        nonlocal left
        with lock:
            left -= 1
            if left == 0:
                then()

    return called


def main() -> None:
    """Never returns."""
    url, source, target, group, calls = sys.argv[1:]
    die = _after(int(calls), lambda: os.kill(os.getpid(), signal.SIGKILL))
    copier(EventBus(url), source, target, group, die).run()


if __name__ == "__main__":
    main()

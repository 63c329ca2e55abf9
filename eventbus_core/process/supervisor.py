"""Several worker processes under one parent: started, watched, started again, and ended together."""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from types import FrameType

from eventbus_core.process import health
from eventbus_core.process.health import Health

_log = logging.getLogger("eventbus.supervisor")

_TURN_SECONDS = 0.1
_FIRST_RESTART_SECONDS = 1.0
_MAX_RESTART_SECONDS = 30.0
#: A process that lived so long starts again at once, and the next delay begins anew.
_PROVEN_SECONDS = 60.0
_USAGE = 2


class _Child:
    """One place for a process, and what became of those that had it."""

    def __init__(self, name: str, command: Sequence[str], health_file: Path) -> None:
        self.name = name
        self.health_file = health_file
        self._command = [*command, "--health-file", str(health_file)]
        self._restarts = 0
        self._started_at = 0.0
        self.process: subprocess.Popen[bytes] | None = None
        self.start_at = 0.0
        self.was_ready = False

    def start(self) -> None:
        """Start it in a process group of its own: Ctrl-C at a terminal reaches the parent only."""
        self.health_file.unlink(missing_ok=True)
        self.process = subprocess.Popen(self._command, process_group=0)  # noqa: S603  (our own command)
        self._started_at = time.monotonic()
        _log.info("worker %s started as process %d", self.name, self.process.pid, extra={"worker": self.name})

    def look(self) -> int | None:
        """Its exit code, once, if it ended since the last look."""
        if self.process is None:
            return None
        self.was_ready = self.was_ready or health.read(self.health_file).ready
        code = self.process.poll()
        if code is not None:
            self.process = None
        return code

    def plan_restart(self) -> float:
        """When it is to start again: at once after a long life, else later each time; the delay in seconds."""
        if time.monotonic() - self._started_at >= _PROVEN_SECONDS:
            self._restarts = 0
        delay: float = min(_MAX_RESTART_SECONDS, _FIRST_RESTART_SECONDS * 2**self._restarts)
        self._restarts += 1
        self.start_at = time.monotonic() + delay
        return delay

    def tell(self, signal_number: int) -> None:
        """Send it a signal, if it runs."""
        if self.process is not None:
            self.process.send_signal(signal_number)


class Supervisor:
    """Keeps worker processes running until SIGTERM or SIGINT, which they get as SIGTERM: they drain, then it returns.

    A process that ends is started again after 1 s, 2 s, 4 s and so on up to 30 s. A wrong configuration (exit code 2),
    or a process that ends before it was ever ready, ends everything, with its exit code. A second signal kills.
    """

    def __init__(self, command: Sequence[str], workers: int, directory: Path) -> None:
        """``command`` starts one worker; ``directory`` is for health files."""
        self._children = [
            _Child(str(number), command, directory / f"worker-{number}.json") for number in range(1, workers + 1)
        ]
        self._signals: list[int] = []
        self._reload = threading.Event()

    def run(self) -> int:
        """Block until all have ended; the exit code. Only in the main thread."""
        before = {each: signal.signal(each, self._on_signal) for each in (signal.SIGTERM, signal.SIGINT)}
        try:
            return self._run()
        finally:
            for child in self._children:
                child.tell(signal.SIGKILL)
            for each, handler in before.items():
                signal.signal(each, handler)

    def reload(self) -> None:
        """From any thread: end every process and start it again, at once."""
        self._reload.set()

    def health(self) -> Health:
        """Alive while it supervises; ready when every process is."""
        return Health(alive=True, ready=all(health.read(child.health_file).ready for child in self._children))

    def _on_signal(self, number: int, _: FrameType | None) -> None:
        # Nothing that takes a lock: the main thread may be the one that has it.
        self._signals.append(number)

    def _run(self) -> int:
        while not self._signals:
            if self._reload.is_set():
                self._reload.clear()
                self._restart_all()
            for child in self._children:
                if child.process is None and time.monotonic() >= child.start_at:
                    child.start()
                code = child.look()
                if code is not None and (verdict := self._ended(child, code)) is not None:
                    self._end()
                    return verdict
            time.sleep(_TURN_SECONDS)
        return self._end()

    def _ended(self, child: _Child, code: int) -> int | None:
        """A process ended unasked. It is started again (None), or all must end with this code."""
        if code == _USAGE or (code > 0 and not child.was_ready):
            _log.error(
                "worker %s ended with exit code %d before it was ready: ending all", child.name, code,
                extra={"worker": child.name, "exit_code": code},
            )  # fmt: skip
            return code
        delay = child.plan_restart()
        _log.error(
            "worker %s ended unasked with exit code %d; starting it again in %g s", child.name, code, delay,
            extra={"worker": child.name, "exit_code": code},
        )  # fmt: skip
        return None

    def _end(self) -> int:
        """Tell all to drain and wait; the worst exit code, 128 + signal for one that was killed."""
        worst = 0
        for child in self._children:
            child.tell(signal.SIGTERM)
        while any(child.process is not None for child in self._children):
            for child in self._children:
                if len(self._signals) > 1:
                    child.tell(signal.SIGKILL)
                code = child.look()
                if code is not None:
                    # One that had not begun to listen dies of the signal: it had nothing to drain.
                    worst = max(worst, 0 if code == -signal.SIGTERM else code if code >= 0 else 128 - code)
            time.sleep(_TURN_SECONDS)
        return worst

    def _restart_all(self) -> None:
        _log.info("a file changed: starting again")
        self._end()
        for child in self._children:
            child.start_at = 0.0


def end_with_parent(parent: int) -> None:
    """In a worker: behave as on SIGTERM when the parent is gone (killed, it could not say so). Starts a thread."""

    def watch() -> None:
        while os.getppid() == parent:
            threading.Event().wait(1.0)
        _log.error("the supervisor is gone: ending")
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=watch, name="eventbus-parent", daemon=True).start()

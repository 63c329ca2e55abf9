"""The members of the demo: operating-system processes, or threads where the backend does not leave the process."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import threading
from pathlib import Path
from typing import IO, NamedTuple, Protocol

from pydantic import BaseModel

from eventbus_core import EventBus, event_type
from eventbus_core.cli.demo_history import HistoryWriter
from eventbus_core.settings import Settings


@event_type("eventbus.demo.reading", topic="eventbus-demo", key="key")
class Reading(BaseModel):
    """The event of the demo: the ``number``-th of its key."""

    key: str
    number: int
    payload: str = "x" * 100


class Target(NamedTuple):
    """Which bus: a URL, or the configured settings of a backend by name."""

    url: str | None
    backend: str | None

    def open(self) -> EventBus:
        """A bus of one's own."""
        if self.url is not None:
            return EventBus(self.url)
        return EventBus(Settings() if self.backend is None else Settings(backend=self.backend))


class Job(NamedTuple):
    """What a member is told: where to consume, and where to write what it handled."""

    topic: str
    group: str
    member: str
    history: str


def serve(bus: EventBus, job: Job, stopping: threading.Event, died: threading.Event) -> None:
    """Join, handle until ``stopping``, leave. When ``died`` is set, vanish without leaving, as a killed process."""
    history = HistoryWriter(Path(job.history), job.member)
    try:
        consumer = bus.consumer(job.topic, group=job.group)
        history.joined()
        while not stopping.is_set() and not died.is_set():
            for delivery in consumer.receive(200, timeout=0.1):
                if died.is_set():
                    break
                if not delivery.owned:
                    continue
                reading = bus.decode(delivery, Reading).data
                history.handled(delivery.partition, (reading.key, reading.number))
                consumer.ack(delivery)
        if died.is_set():
            consumer._abandon()  # noqa: SLF001  (core's own way to play dead inside one process)
        else:
            consumer.close()
    finally:
        history.close()


class Member(Protocol):
    """A running member, as the demo holds it."""

    job: Job

    def failure(self) -> str | None:
        """Why it ended without being told to; None while all is well."""

    def kill(self) -> None:
        """End it without any chance to say goodbye; returns when it is gone."""

    def stop(self) -> None:
        """Tell it to leave; does not wait."""

    def join(self, timeout: float) -> bool:
        """Wait for its end; whether it came in time."""

    def close(self) -> None:
        """Free what is left of it, after its end."""


class ThreadMember:
    """A member inside this process."""

    def __init__(self, bus: EventBus, job: Job) -> None:
        self.job = job
        self._bus = bus
        self._stopping = threading.Event()
        self._died = threading.Event()
        self._error: Exception | None = None
        self._thread = threading.Thread(target=self._run, name=f"demo-{job.group}-{job.member}", daemon=True)
        self._thread.start()

    def _run(self) -> None:
        try:
            serve(self._bus, self.job, self._stopping, self._died)
        except Exception as error:  # noqa: BLE001  (kept: the demo ends with it)
            self._error = error

    def failure(self) -> str | None:
        return None if self._error is None else f"{type(self._error).__name__}: {self._error}"

    def kill(self) -> None:
        self._died.set()
        self._thread.join()

    def stop(self) -> None:
        self._stopping.set()

    def join(self, timeout: float) -> bool:
        self._thread.join(timeout)
        return not self._thread.is_alive()

    def close(self) -> None:
        """Nothing is left of a thread."""


class ProcessMember:
    """A member that is a process. Told by its standard input: one line of JSON, then end of file means leave.

    So it also leaves when the demo's own process is gone. Addresses go that way too, as command lines are public.
    """

    def __init__(self, target: Target, job: Job) -> None:
        self.job = job
        self._ended = False
        self._stderr: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115  (lives as long as the process)
        self._process = subprocess.Popen(
            [sys.executable, "-c", "from eventbus_core.cli.demo_member import main; main()"],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=self._stderr,
            # Ctrl-C in the terminal is for the demo, which then tells its members.
            start_new_session=True,
        )
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps({"target": target, "job": job}).encode() + b"\n")
        self._process.stdin.flush()

    def failure(self) -> str | None:
        code = self._process.poll()
        if code is None or (self._ended and code == 0):
            return None
        self._stderr.seek(0)
        said = self._stderr.read().decode(errors="replace").strip().splitlines()
        return f"ended with {code}" + (f": {said[-1]}" if said else "")

    def kill(self) -> None:
        self._process.kill()
        self._process.wait()

    def stop(self) -> None:
        self._ended = True
        assert self._process.stdin is not None
        try:
            self._process.stdin.close()
        except BrokenPipeError:
            return  # it is gone already; failure() tells why

    def join(self, timeout: float) -> bool:
        try:
            self._process.wait(timeout)
        except subprocess.TimeoutExpired:
            return False
        return True

    def close(self) -> None:
        self.stop()
        self._stderr.close()


def main() -> None:
    """The member process."""
    told = json.loads(sys.stdin.readline())
    stopping = threading.Event()

    def await_end() -> None:
        os.read(sys.stdin.fileno(), 1)
        stopping.set()

    threading.Thread(target=await_end, daemon=True).start()
    with Target(*told["target"]).open() as bus:
        serve(bus, Job(*told["job"]), stopping, threading.Event())

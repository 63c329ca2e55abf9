"""Senders that tests start, stop and kill: processes, or threads where the bus ends with the process."""

from __future__ import annotations

import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import Protocol

from eventbus_conformance.sender import SendOrders, run


class Sender(Protocol):
    """A running sender."""

    name: str

    def kill(self) -> None:
        """SIGKILL it (processes only)."""

    def stop(self, timeout: float) -> None:
        """Let it send no more; returns when the outcome of everything is noted. Fails the test if that takes longer."""

    def wait(self, timeout: float) -> None:
        """Like ``stop``, and lets it send all its records first."""

    def check(self) -> None:
        """Fail the test if it ended with an error."""

    def clean_up(self) -> None:
        """End it whatever its state."""


class ProcessSender:
    """A sender in an operating system process of its own."""

    def __init__(self, orders: SendOrders, log: Path) -> None:
        self.name = orders.name
        self._log = log
        command = [sys.executable, "-m", "eventbus_conformance.sender", orders.url, orders.topic, str(orders.history)]
        command += ["--name", orders.name, "--keys", str(orders.keys), "--per-second", str(orders.per_second)]
        command += ["--value-bytes", str(orders.value_bytes), "--seed", str(orders.seed)]
        command += [] if orders.records is None else ["--records", str(orders.records)]
        with log.open("wb") as output:
            self._process = subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT)

    def kill(self) -> None:
        assert self._process.poll() is None, f"sender {self.name} had ended before it was killed:\n{self._output()}"
        self._process.kill()
        assert self._process.wait(10) == -signal.SIGKILL

    def stop(self, timeout: float) -> None:
        self._process.terminate()
        self.wait(timeout)

    def wait(self, timeout: float) -> None:
        code = self._process.wait(timeout)
        assert code == 0, f"sender {self.name} ended with {code}:\n{self._output()}"

    def check(self) -> None:
        code = self._process.poll()
        assert code in {None, 0}, f"sender {self.name} ended with {code}:\n{self._output()}"

    def clean_up(self) -> None:
        self._process.kill()
        self._process.wait(10)

    def _output(self) -> str:
        return self._log.read_text(errors="replace")[-4000:]


class ThreadSender:
    """A sender in a thread of this process."""

    def __init__(self, orders: SendOrders) -> None:
        self.name = orders.name
        self._stop = threading.Event()
        self._failure: BaseException | None = None
        self._thread = threading.Thread(target=self._run, args=(orders,), name=orders.name)
        self._thread.start()

    def kill(self) -> None:
        raise NotImplementedError("a thread cannot be killed")

    def stop(self, timeout: float) -> None:
        self._stop.set()
        self.wait(timeout)

    def wait(self, timeout: float) -> None:
        self._thread.join(timeout)
        assert not self._thread.is_alive(), f"sender {self.name} does not end"
        self.check()

    def check(self) -> None:
        assert self._failure is None, f"sender {self.name} failed: {self._failure!r}"

    def clean_up(self) -> None:
        self._stop.set()
        self._thread.join(30)

    def _run(self, orders: SendOrders) -> None:
        try:
            run(orders, self._stop)
        except BaseException as error:
            self._failure = error
            if not isinstance(error, Exception):
                raise


def start_sender(orders: SendOrders, folder: Path, *, processes: bool) -> Sender:
    """Start a sender; what a process prints goes to a file in ``folder``."""
    return ProcessSender(orders, folder / f"{orders.name}.log") if processes else ThreadSender(orders)


class Senders:
    """Starts senders to one topic, all writing the history that the members of its group write."""

    def __init__(
        self, url: str, topic: str, history: Path, *, seed: int, settle_seconds: float, processes: bool
    ) -> None:
        self._url = url
        self._topic = topic
        self._history = history
        self._seed = seed
        self._settle_seconds = settle_seconds
        self._processes = processes
        self._started: list[Sender] = []

    def start(
        self, name: str, *, keys: int = 16, records: int | None = None, per_second: float = 0.0, url: str | None = None
    ) -> Sender:
        """Start a sender; the history must have begun. ``url``: another way to the broker. See ``SendOrders``."""
        orders = SendOrders(
            url or self._url,
            self._topic,
            self._history,
            name,
            keys=keys,
            records=records,
            per_second=per_second,
            seed=self._seed,
        )
        self._started.append(start_sender(orders, self._history.parent, processes=self._processes))
        return self._started[-1]

    def check(self) -> None:
        """Fail the test if one ended with an error."""
        for sender in self._started:
            sender.check()

    def stop(self) -> None:
        """Let them send no more; returns when the outcome of everything is noted."""
        for sender in self._started:
            sender.stop(self._settle_seconds)

    def clean_up(self) -> None:
        """End all that still run."""
        for sender in self._started:
            sender.clean_up()

"""Members of groups that tests start, kill and stop: processes, or threads where the bus ends with the process."""

from __future__ import annotations

import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import Protocol

from eventbus_conformance.history import History
from eventbus_conformance.member import Orders, Signals, Start, run
from eventbus_conformance.waiting import wait_until

JOIN_SECONDS = 40.0
LEAVE_SECONDS = 30.0


class Member(Protocol):
    """A running member."""

    name: str

    def kill(self) -> None:
        """End it without a chance to leave the group: SIGKILL, or polling no more."""

    def leave(self) -> None:
        """Let it leave in good order; returns when it has. Fails the test if it cannot."""

    def freeze(self) -> None:
        """Stop all of its threads where they are (processes only)."""

    def thaw(self) -> None:
        """Let a frozen member go on."""

    def ack_held(self) -> None:
        """Let it ack what it held back; a frozen one does so when it goes on."""

    def check(self) -> None:
        """Fail the test if it ended by itself."""

    def clean_up(self) -> None:
        """End it whatever its state."""


class ProcessMember:
    """A member in an operating system process of its own."""

    def __init__(self, orders: Orders, log: Path) -> None:
        self.name = orders.name
        self._log = log
        command = [sys.executable, "-m", "eventbus_conformance.member"]
        command += [orders.url, orders.topic, orders.group, str(orders.history), "--name", orders.name]
        command += ["--start", orders.start, "--pace-seconds", str(orders.pace_seconds)]
        command += ["--hold-acks"] if orders.hold_acks else []
        with log.open("wb") as output:
            self._process = subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT)

    def kill(self) -> None:
        self.check()
        self._process.kill()
        assert self._process.wait(10) == -signal.SIGKILL

    def leave(self) -> None:
        self.check()
        self._process.terminate()
        code = self._process.wait(LEAVE_SECONDS)
        assert code == 0, f"member {self.name} ended with {code} when told to leave:\n{self._output()}"

    def freeze(self) -> None:
        self.check()
        self._process.send_signal(signal.SIGSTOP)

    def thaw(self) -> None:
        self._process.send_signal(signal.SIGCONT)

    def ack_held(self) -> None:
        self._process.send_signal(signal.SIGUSR1)

    def check(self) -> None:
        code = self._process.poll()
        assert code is None, f"member {self.name} ended by itself with {code}:\n{self._output()}"

    def clean_up(self) -> None:
        self._process.kill()
        self._process.wait(10)

    def _output(self) -> str:
        return self._log.read_text(errors="replace")[-4000:]


class ThreadMember:
    """A member in a thread of this process; a kill is to stop polling without leaving."""

    def __init__(self, orders: Orders) -> None:
        self.name = orders.name
        self._signals = Signals()
        self._failure: BaseException | None = None
        self._thread = threading.Thread(target=self._run, args=(orders,), name=orders.name)
        self._thread.start()

    def kill(self) -> None:
        self.check()
        assert self._signals.abandon is not None, "killed before it joined"
        self._signals.abandon()
        self._thread.join(10)
        assert not self._thread.is_alive()

    def leave(self) -> None:
        self.check()
        self._signals.stop.set()
        self._thread.join(LEAVE_SECONDS)
        assert not self._thread.is_alive(), f"member {self.name} does not leave"
        assert self._failure is None, f"member {self.name} failed: {self._failure!r}"

    def freeze(self) -> None:
        raise NotImplementedError("a thread cannot be frozen")

    def thaw(self) -> None:
        raise NotImplementedError("a thread cannot be frozen")

    def ack_held(self) -> None:
        self._signals.ack_held.set()

    def check(self) -> None:
        assert self._thread.is_alive(), f"member {self.name} ended by itself: {self._failure!r}"

    def clean_up(self) -> None:
        self._signals.stop.set()
        self._thread.join(LEAVE_SECONDS)

    def _run(self, orders: Orders) -> None:
        try:
            run(orders, self._signals)
        except BaseException as error:
            self._failure = error
            if not isinstance(error, Exception):
                raise


class Members:
    """Starts members of one group, all writing one history."""

    def __init__(self, url: str, topic: str, group: str, folder: Path, *, processes: bool) -> None:
        self.history = History(folder / f"{group}.jsonl")
        self.processes = processes
        self._url = url
        self._topic = topic
        self._group = group
        self._folder = folder
        self._started: list[Member] = []

    def start(
        self,
        name: str,
        *,
        start: Start = "earliest",
        pace_seconds: float = 0.0,
        hold_acks: bool = False,
        wait: bool = True,
    ) -> Member:
        """Start a member; with ``wait``, return when it has joined."""
        orders = Orders(
            self._url,
            self._topic,
            self._group,
            self.history.path,
            name,
            start=start,
            pace_seconds=pace_seconds,
            hold_acks=hold_acks,
        )
        log = self._folder / f"{self._group}.{name}.log"
        member: Member = ProcessMember(orders, log) if self.processes else ThreadMember(orders)
        self._started.append(member)
        if wait:
            self.wait_joined(member)
        return member

    def wait_joined(self, *members: Member) -> None:
        """Wait until these have joined."""
        for member in members:

            def joined(member: Member = member) -> bool:
                if self.history.events("joined", member.name):
                    return True
                member.check()
                return False

            wait_until(joined, JOIN_SECONDS, what=f"member {member.name} joins")

    def wait_shared(self, *members: Member, partitions: int) -> None:
        """Wait until these, and only these, hold all partitions and each holds at least one."""
        self.wait_joined(*members)

        def shared() -> bool:
            for member in members:
                member.check()
            held = [self.history.held(member.name) for member in members]
            return all(held) and sorted(each for of in held for each in of) == list(range(partitions))

        wait_until(shared, JOIN_SECONDS, what=f"{[each.name for each in members]} share {partitions} partitions")

    def wait_handled(self, records: int, timeout: float, *running: Member) -> None:
        """Wait until so many different records were handled; ``running`` must not end meanwhile."""

        def handled() -> bool:
            if self.history.count() >= records:
                return True
            for member in running:
                member.check()
            return False

        wait_until(handled, timeout, every=0.05, what=f"{records} records handled ({self.history.path})")

    def clean_up(self) -> None:
        """End all that still run."""
        for member in self._started:
            member.clean_up()

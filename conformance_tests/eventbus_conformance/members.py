"""Members of groups that tests start, kill and stop: processes, or threads where the bus ends with the process."""

from __future__ import annotations

import contextlib
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Protocol

from eventbus_conformance.checker import Expectations, begin
from eventbus_conformance.clauses import NotProven
from eventbus_conformance.harness import Bounds
from eventbus_conformance.history import History, Writer
from eventbus_conformance.member import Orders, Signals, Start, run
from eventbus_conformance.receiving import total_lag
from eventbus_conformance.waiting import wait_until
from eventbus_core import EventBus


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

    @property
    def ended(self) -> bool:
        """Whether it runs no more."""

    def check(self) -> None:
        """Fail the test if it ended by itself."""

    def clean_up(self) -> None:
        """End it whatever its state."""


class ProcessMember:
    """A member in an operating system process of its own."""

    def __init__(self, orders: Orders, log: Path, leave_seconds: float) -> None:
        self.name = orders.name
        self._log = log
        self._leave_seconds = leave_seconds
        command = [sys.executable, "-m", "eventbus_conformance.member"]
        command += [orders.url, orders.topic, orders.group, str(orders.history), "--name", orders.name]
        command += ["--start", orders.start, "--pace-seconds", str(orders.pace_seconds)]
        command += ["--flush-seconds", str(orders.flush_seconds)]
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
        code = self._process.wait(self._leave_seconds)
        assert code == 0, f"member {self.name} ended with {code} when told to leave:\n{self._output()}"

    def freeze(self) -> None:
        self.check()
        self._process.send_signal(signal.SIGSTOP)

    def thaw(self) -> None:
        self._process.send_signal(signal.SIGCONT)

    def ack_held(self) -> None:
        self._process.send_signal(signal.SIGUSR1)

    @property
    def ended(self) -> bool:
        return self._process.poll() is not None

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

    def __init__(self, orders: Orders, leave_seconds: float) -> None:
        self.name = orders.name
        self._leave_seconds = leave_seconds
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
        self._thread.join(self._leave_seconds)
        assert not self._thread.is_alive(), f"member {self.name} does not leave"
        assert self._failure is None, f"member {self.name} failed: {self._failure!r}"

    def freeze(self) -> None:
        raise NotProven("a member in a thread cannot be frozen, and this bus ends with the process")

    def thaw(self) -> None:
        raise NotProven("a member in a thread cannot be frozen, and this bus ends with the process")

    def ack_held(self) -> None:
        self._signals.ack_held.set()

    @property
    def ended(self) -> bool:
        return not self._thread.is_alive()

    def check(self) -> None:
        assert self._thread.is_alive(), f"member {self.name} ended by itself: {self._failure!r}"

    def clean_up(self) -> None:
        self._signals.stop.set()
        self._thread.join(self._leave_seconds)

    def _run(self, orders: Orders) -> None:
        try:
            run(orders, self._signals)
        except BaseException as error:
            self._failure = error
            if not isinstance(error, Exception):
                raise


class Members:
    """Starts members of one group, all writing one history."""

    def __init__(self, url: str, topic: str, group: str, folder: Path, bounds: Bounds, *, processes: bool) -> None:
        self.history = History(folder / f"{group}.jsonl")
        self.processes = processes
        self._url = url
        self._topic = topic
        self._group = group
        self._folder = folder
        self._bounds = bounds
        self._writer: Writer | None = None
        self._started: list[Member] = []

    def expect(self, expectations: Expectations) -> None:
        """Say what this run is to show, before anything else is noted; otherwise it is what ``Expectations()`` says."""
        begin(self.history.path, expectations, topic=self._topic, group=self._group)

    def start(
        self,
        name: str,
        *,
        start: Start = "earliest",
        pace_seconds: float = 0.0,
        hold_acks: bool = False,
        wait: bool = True,
        url: str | None = None,
    ) -> Member:
        """Start a member; with ``wait``, return when it has joined. ``url``: another way to the broker."""
        orders = Orders(
            url or self._url,
            self._topic,
            self._group,
            self.history.path,
            name,
            start=start,
            pace_seconds=pace_seconds,
            hold_acks=hold_acks,
        )
        if not self.history.path.exists():
            self.expect(Expectations())
        log = self._folder / f"{self._group}.{name}.log"
        member: Member = (
            ProcessMember(orders, log, self._bounds.close)
            if self.processes
            else ThreadMember(orders, self._bounds.close)
        )
        self._started.append(member)
        if wait:
            self.wait_joined(member)
        return member

    def wait_joined(self, *members: Member) -> None:
        """Wait until these have joined."""
        for member in members:

            def joined(member: Member = member) -> bool:
                if self.history.events("ready", member.name):
                    return True
                member.check()
                return False

            wait_until(joined, self._bounds.rebalance, what=f"member {member.name} joins")

    def wait_shared(self, *members: Member, partitions: int) -> None:
        """Wait until these, and only these, hold all partitions and each holds at least one."""
        self.wait_joined(*members)

        def shared() -> bool:
            for member in members:
                member.check()
            held = [self.history.held(member.name) for member in members]
            return all(held) and sorted(each for of in held for each in of) == list(range(partitions))

        wait_until(
            shared, self._bounds.rebalance, what=f"{[each.name for each in members]} share {partitions} partitions"
        )

    def wait_handled(self, records: int, *running: Member) -> None:
        """Wait until so many different records were handled; ``running`` must not end meanwhile."""

        def handled() -> bool:
            if self.history.count() >= records:
                return True
            for member in running:
                member.check()
            return False

        what = f"{records} records handled ({self.history.path})"
        wait_until(handled, self._bounds.deliver, every=0.05, what=what)

    def drain(self, bus: EventBus, *running: Member) -> None:
        """Wait until the broker says that the group has settled everything, and note it; then let ``running`` leave."""

        def drained() -> bool:
            for member in running:
                member.check()
            return total_lag(bus, self._group, self._topic) == 0

        handled = -1
        try:
            # A group that goes on handling what is new to it is slow, not stuck.
            while not drained() and handled != self.history.count():
                handled = self.history.count()
                with contextlib.suppress(AssertionError):
                    wait_until(drained, self._bounds.recover, every=0.1, what="drained")
            assert drained(), f"{self._group} is stuck: nothing new in {self._bounds.recover:g} s ({self.history.path})"
        finally:
            self.writer.drained(self._group, total_lag(bus, self._group, self._topic))
        for member in running:
            member.leave()

    def kill(self, member: Member) -> float:
        """Kill a member, and note it. Returns when that was, on the monotonic clock."""
        with self.writer.fault("kill", [member.name]) as fault:
            member.kill()
            fault.saw()
        return time.monotonic()

    @property
    def writer(self) -> Writer:
        """Writes into the history what the test does; what is sent, too."""
        if self._writer is None:
            if not self.history.path.exists():
                self.expect(Expectations())
            self._writer = Writer(self.history.path, "test")
        return self._writer

    def clean_up(self) -> None:
        """End all that still run."""
        for member in self._started:
            member.clean_up()
        if self._writer is not None:
            self._writer.close()

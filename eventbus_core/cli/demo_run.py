"""The run behind ``eventbus demo``: producers, groups of members, one kill midway, and the account of it all."""

from __future__ import annotations

import threading
import time
import uuid
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from eventbus_core import EventBus
from eventbus_core.capabilities import Reach
from eventbus_core.cli.demo_accounting import Account, EventId, account, takeover_seconds
from eventbus_core.cli.demo_history import HistoryReader
from eventbus_core.cli.demo_member import Job, Member, ProcessMember, Target, ThreadMember
from eventbus_core.cli.demo_producer import Producing
from eventbus_core.errors import BrokerError, Conflict, EventBusError, NotFound

_HANDLED_BEFORE_KILL = 0.3
_LEAVE_SECONDS = 30.0


class Plan(NamedTuple):
    """How large the demo is. ``members``: of each group."""

    events: int
    producers: int
    groups: int
    members: int
    partitions: int
    kill: bool
    patience_seconds: float
    """Give up when nothing moves for this long."""


class Kill(NamedTuple):
    """Who was killed, how, and when on ``time.monotonic``."""

    group: str
    member: str
    how: str
    at: float


class Result(NamedTuple):
    """What came out. ``problem``: why the run ended early."""

    backend: str
    topic: str
    failed_sends: int
    unknown_sends: int
    accounts: dict[str, Account]
    kill: Kill | None
    takeover_seconds: float | None
    seconds: float
    problem: str | None
    left_behind: list[str]

    @property
    def good(self) -> bool:
        """Every event is accounted for, and the kill took place if one was wanted."""
        return self.problem is None and all(each.good for each in self.accounts.values())


Progress = Callable[[int, dict[str, int]], None]
"""Called with the number of events sent, and of events handled by each group."""


class Demo:
    """One run. Use :func:`run`."""

    def __init__(self, plan: Plan, target: Target, bus: EventBus, folder: Path) -> None:
        self._plan = plan
        self._target = target
        self._bus = bus
        self._in_process = bus.capabilities.reach is Reach.PROCESS
        token = uuid.uuid4().hex[:8]
        self.topic = f"eventbus-demo-{token}"
        self.groups = {f"demo-{token}-{number}": folder / f"group-{number}" for number in range(1, plan.groups + 1)}
        self._histories = {group: HistoryReader(path) for group, path in self.groups.items()}
        self._members: list[Member] = []
        self._buses: list[EventBus] = []
        self._producers: list[Producing] = []
        self._killed = threading.Event()
        self._kill: Kill | None = None
        self._moved = (0, 0.0)

    def run(self, progress: Progress) -> Result:
        started = time.monotonic()
        problem = None
        with self._bus.admin() as admin:
            admin.create_topic(self.topic, self._plan.partitions)
        try:
            self._start_members()
            self._wait_until(self._all_joined, progress)
            started = time.monotonic()
            self._start_producers()
            self._wait_until(self._all_handled, progress)
        except BrokerError as error:
            problem = str(error)
        finally:
            ended = time.monotonic()
            problem = self._stop() or problem
            left_behind = self._clean_up()
        return self._result(ended - started, problem, left_behind)

    def _start_members(self) -> None:
        for group, path in self.groups.items():
            for number in range(1, self._plan.members + 1):
                job = Job(self.topic, group, f"member-{number}", str(path))
                member = ThreadMember(self._bus, job) if self._in_process else ProcessMember(self._target, job)
                self._members.append(member)

    def _start_producers(self) -> None:
        if not self._plan.kill:
            self._killed.set()
        share, rest = divmod(self._plan.events, self._plan.producers)
        for number in range(self._plan.producers):
            bus = self._bus
            if not self._in_process:
                bus = self._target.open()
                self._buses.append(bus)
            events = share + (number < rest)
            self._producers.append(Producing(bus, self.topic, f"p{number + 1}", events, self._killed))

    def _all_joined(self) -> bool:
        return all(len(history.joined) == self._plan.members for history in self._histories.values())

    def _all_handled(self) -> bool:
        if self._plan.kill and self._kill is None:
            self._maybe_kill()
        if any(producer.thread.is_alive() for producer in self._producers):
            return False
        stored = sum(len(producer.stored) for producer in self._producers)
        return all(len(history.seen) >= stored for history in self._histories.values())

    def _maybe_kill(self) -> None:
        """Kill the busiest member of the first group, once that group is well under way."""
        group, history = next(iter(self._histories.items()))
        if len(history.seen) < self._plan.events * _HANDLED_BEFORE_KILL:
            return
        name, _ = Counter(history.holders.values()).most_common(1)[0]
        victim = next(each for each in self._members if each.job.group == group and each.job.member == name)
        at = time.monotonic()
        victim.kill()
        self._kill = Kill(group, name, "abandoned" if self._in_process else "SIGKILL", at)
        self._members.remove(victim)
        victim.close()
        self._killed.set()

    def _wait_until(self, done: Callable[[], bool], progress: Progress) -> None:
        """Look on until ``done``. Raises BrokerError when a part failed, or nothing moved for too long."""
        while not done():
            for history in self._histories.values():
                history.read()
            sent = sum(producer.sent for producer in self._producers)
            progress(sent, {group: len(history.seen) for group, history in self._histories.items()})
            self._check_parts()
            self._check_movement(sent)
            time.sleep(0.02)

    def _check_parts(self) -> None:
        for member in self._members:
            failure = member.failure()
            if failure is not None:
                raise BrokerError(f"{member.job.member} of group {member.job.group}: {failure}")
        for producer in self._producers:
            if producer.error is not None:
                raise BrokerError(f"a producer failed: {producer.error}") from producer.error

    def _check_movement(self, sent: int) -> None:
        histories = self._histories.values()
        moved = sent + sum(len(each.handled) + len(each.joined) for each in histories) + (self._kill is not None)
        now = time.monotonic()
        if moved != self._moved[0] or not self._moved[1]:
            self._moved = (moved, now)
        elif now - self._moved[1] > self._plan.patience_seconds:
            raise BrokerError(f"no progress for {self._plan.patience_seconds:g} s: gave up")

    def _stop(self) -> str | None:
        """End producers and members; what went wrong with that."""
        problem = None
        for producer in self._producers:
            producer.cancel()
        for producer in self._producers:
            producer.thread.join(_LEAVE_SECONDS)
        for bus in self._buses:
            bus.close(_LEAVE_SECONDS)
        for member in self._members:
            member.stop()
        for member in self._members:
            if not member.join(_LEAVE_SECONDS):
                member.kill()
                problem = f"{member.job.member} of group {member.job.group} did not leave within {_LEAVE_SECONDS:g} s"
            elif failure := member.failure():
                problem = f"{member.job.member} of group {member.job.group}: {failure}"
            member.close()
        for history in self._histories.values():
            history.read()
            history.close()
        return problem

    def _clean_up(self) -> list[str]:
        """Delete groups and topic; what could not be deleted."""
        left = []
        with self._bus.admin() as admin:
            for group in self.groups:
                try:
                    admin.delete_group(group)
                except (NotFound, Conflict):
                    continue  # never made, or still seen with members: it goes with its topic
                except EventBusError as error:
                    left.append(f"group {group}: {error}")
            try:
                admin.delete_topic(self.topic)
            except EventBusError as error:
                left.append(f"topic {self.topic}: {error}")
        return left

    def _result(self, seconds: float, problem: str | None, left_behind: list[str]) -> Result:
        stored: set[EventId] = set()
        unknown: set[EventId] = set()
        for producer in self._producers:
            stored |= producer.stored
            unknown |= producer.unknown
        accounts = {
            group: account(stored, (each.event for each in history.handled), unknown)
            for group, history in self._histories.items()
        }
        takeover = None
        if self._kill is not None:
            killed_in = self._histories[self._kill.group].handled
            takeover = takeover_seconds(killed_in, self._kill.member, self._kill.at)
        return Result(
            backend=self._bus.settings.backend,
            topic=self.topic,
            failed_sends=sum(producer.failed for producer in self._producers),
            unknown_sends=len(unknown),
            accounts=accounts,
            kill=self._kill,
            takeover_seconds=takeover,
            seconds=seconds,
            problem=problem,
            left_behind=left_behind,
        )

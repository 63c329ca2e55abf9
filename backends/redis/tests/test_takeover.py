"""Members are processes here, and are killed."""

from __future__ import annotations

import contextlib
import itertools
import logging
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from eventbus_core.backend import Outgoing
from eventbus_core.records import Record, Stored
from tests.waiting import wait_until

LEASE = 1.5
ROOT = Path(__file__).parents[3]


class Members:
    def __init__(self, bus, log: Path) -> None:
        self.bus, self.log = bus, log
        self.processes: dict[str, subprocess.Popen[bytes]] = {}
        log.touch()

    def start(self, name: str) -> None:
        path = os.pathsep.join([str(ROOT), str(ROOT / "backends" / "redis")])
        self.processes[name] = subprocess.Popen(
            [sys.executable, str(Path(__file__).with_name("member.py")),
             self.bus.url, self.bus.topic, name, str(LEASE), str(self.log)],
            env={**os.environ, "PYTHONPATH": path},
        )  # fmt: skip

    def kill(self, name: str, number: int = signal.SIGKILL) -> None:
        self.processes[name].send_signal(number)

    def lines(self) -> list[tuple[str, int, int, int, str]]:
        found = []
        for line in self.log.read_text().splitlines():
            member, partition, epoch, position, value = line.split(" ")
            found.append((member, int(partition), int(epoch), int(position.partition("-")[2]), value))
        return found

    def close(self) -> None:
        for each in self.processes.values():
            with contextlib.suppress(ProcessLookupError):
                each.send_signal(signal.SIGCONT)
            each.kill()
            each.wait()


@pytest.fixture
def members(make_bus, tmp_path):
    found = Members(make_bus(partitions=4, lease_seconds=LEASE), tmp_path / "deliveries")
    yield found
    found.close()


def judge(lines, sent: int, partitions: int = 4, freezes: int = 0) -> int:
    """Nothing lost; per partition every hold continues in order; epochs only grow. Returns how many repeats.

    The one handling that a freeze interrupts ends when the member wakes up, after its successor's first: nothing can
    fence that. It may start no other.
    """
    assert {value for *_, value in lines} == {str(i) for i in range(sent)}
    late = late_lines(lines)
    assert len(late) <= freezes, f"old holders went on: {late}"
    lines = [line for line in lines if line not in late]
    for partition in range(partitions):
        mine = [line for line in lines if line[1] == partition]
        seen = 0
        for epoch, hold in itertools.groupby(mine, key=lambda line: line[2]):
            ordinals = [line[3] for line in hold]
            assert ordinals == list(range(ordinals[0], ordinals[0] + len(ordinals))), (partition, epoch, ordinals)
            assert ordinals[0] <= seen + 1, f"hole before epoch {epoch} of partition {partition}"
            seen = max(seen, ordinals[-1])
    return len(lines) + len(late) - sent


def late_lines(lines):
    """What was handled under an epoch that a newer one of its partition had replaced."""
    newest: dict[int, int] = {}
    late = []
    for line in lines:
        _, partition, epoch, *_ = line
        if epoch < newest.setdefault(partition, epoch):
            late.append(line)
        newest[partition] = max(newest[partition], epoch)
    return late


def test_a_killed_member_is_replaced_in_order_within_its_lease(members):
    bus = members.bus
    producer = bus.producer()
    for name in ("a", "b"):
        members.start(name)
    sent = itertools.count()

    def send_some() -> None:
        numbers = [next(sent) for _ in range(40)]
        producer.send([Outgoing(i, Record(bus.topic, str(i).encode(), str(i % 16).encode())) for i in numbers])
        settled = []
        while len(settled) < len(numbers):
            settled += producer.poll(1.0)
        assert all(isinstance(each.outcome, Stored) for each in settled)

    def both_work() -> bool:
        send_some()
        return {line[0] for line in members.lines()[-100:]} == {"a", "b"}

    wait_until(both_work, 20, every=0.1, what="both members to work")
    victims = {line[1] for line in members.lines()[-60:] if line[0] == "a"}
    assert victims
    members.kill("a")
    killed = time.monotonic()
    before = len(members.lines())

    def taken_over() -> bool:
        send_some()
        return victims <= {line[1] for line in members.lines()[before:] if line[0] == "b"}

    wait_until(taken_over, 10, every=0.05, what="the survivor to have all")
    took = time.monotonic() - killed
    total = next(sent)
    wait_until(lambda: len({line[4] for line in members.lines()}) == total, 60, what="everything handled")
    judge(members.lines(), total)
    assert took <= bus.backend.capabilities.max_takeover_seconds
    wait_until(lambda: sum(e.records for e in bus.admin.lag("g", bus.topic)) == 0, 5, what="lag 0")


def test_a_member_that_comes_after_a_silence_has_all_within_the_declared_time(make_bus):
    """The silence may be the server's: those who were there before get half a lease to speak again."""
    bus = make_bus(lease_seconds=6.0)
    dead, heir = bus.consumer(member="dead"), bus.consumer(member="heir")
    wait_until(lambda: dead.poll(0, 0.1, ()) and len(dead._held) == 2, 5, what="both partitions")
    died = time.monotonic()
    wait_until(lambda: time.monotonic() > died + 5.4, 10, what="most of the lease to pass")
    wait_until(lambda: heir.poll(0, 0.1, ()) and len(heir._held) == 2, 15, what="the heir to have both")
    assert time.monotonic() - died <= bus.backend.capabilities.max_takeover_seconds


@pytest.mark.timeout(180)
def test_members_killed_and_frozen_under_load_lose_and_reorder_nothing(members):
    bus = members.bus
    producer = bus.producer()
    names = itertools.count()
    alive = [f"m{next(names)}" for _ in range(3)]
    for name in alive:
        members.start(name)
    sent = 0
    seconds = float(os.environ.get("EVENTBUS_CHAOS_SECONDS", "12"))
    end, next_fault = time.monotonic() + seconds, time.monotonic() + 3
    faults = itertools.cycle([signal.SIGKILL, signal.SIGSTOP])
    frozen: list[tuple[float, str]] = []
    done = freezes = 0

    def load() -> bool:
        nonlocal sent, next_fault, done, freezes
        batch = [Outgoing(i, Record(bus.topic, str(i).encode(), str(i % 64).encode())) for i in range(sent, sent + 30)]
        sent += 30
        producer.send(batch)
        settled = []
        while len(settled) < 30:
            settled += producer.poll(1.0)
        assert all(isinstance(each.outcome, Stored) for each in settled)
        now = time.monotonic()
        if now >= next_fault:
            fault, victim = next(faults), alive.pop(0)
            members.kill(victim, fault)
            done += 1
            if fault is signal.SIGSTOP:
                freezes += 1
                frozen.append((now + LEASE + 1, victim))
            alive.append(f"m{next(names)}")
            members.start(alive[-1])
            next_fault = now + 2
        if frozen and now >= frozen[0][0]:
            members.kill(frozen[0][1], signal.SIGCONT)
            alive.append(frozen.pop(0)[1])
        return now >= end

    wait_until(load, seconds + 30, every=0.05, what="the end of the load")
    for _, name in frozen:
        members.kill(name, signal.SIGCONT)
    wait_until(lambda: len({line[4] for line in members.lines()}) == sent, 60, what="everything handled")
    assert done >= 3
    repeats = judge(members.lines(), sent, freezes=freezes)
    assert repeats < sent
    wait_until(lambda: sum(e.records for e in bus.admin.lag("g", bus.topic)) == 0, 10, what="lag 0")
    logging.getLogger(__name__).info("%d sent, %d faults, %d repeats", sent, done, repeats)

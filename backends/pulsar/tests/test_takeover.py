"""Members are processes here; they join, leave, are killed and frozen under load."""

from __future__ import annotations

import contextlib
import itertools
import os
import signal
import subprocess
import sys
import time
from collections import defaultdict
from pathlib import Path

import pytest

from eventbus_core.backend import Outgoing
from eventbus_core.records import Record
from tests.waiting import wait_until

ROOT = Path(__file__).parents[3]
PARTITIONS = 4


class Members:
    def __init__(self, bus, log: Path) -> None:
        self.bus, self.log = bus, log
        self.processes: dict[str, subprocess.Popen[bytes]] = {}
        self.producer = bus.producer()
        self.tokens = itertools.count()
        self.sent = 0
        log.touch()

    def start(self, name: str) -> None:
        path = os.pathsep.join([str(ROOT), str(ROOT / "backends" / "pulsar")])
        broker = self.bus.broker
        self.processes[name] = subprocess.Popen(
            [sys.executable, str(Path(__file__).with_name("member.py")),
             broker.url, broker.admin_url, self.bus.topic, name, str(self.log)],
            env={**os.environ, "PYTHONPATH": path},
        )  # fmt: skip

    def signal(self, name: str, number: int) -> None:
        self.processes[name].send_signal(number)

    def owners(self) -> set[tuple[int, str]]:
        """Who handled what of a fresh round of records, one for every partition."""
        lines = len(self.lines())
        keys = [b"%d" % number for number in range(40)]
        self.producer.send(
            [
                Outgoing(next(self.tokens), Record(self.bus.topic, b"%d" % (self.sent + at), key))
                for at, key in enumerate(keys)
            ]
        )
        self.sent += len(keys)
        confirmed = 0

        def done() -> bool:
            nonlocal confirmed
            confirmed += len(self.producer.poll(0.05))
            return confirmed == len(keys)

        wait_until(done, 10, what="sends are stored")
        with contextlib.suppress(AssertionError):
            wait_until(lambda: len(self.lines()) >= lines + len(keys), 0.5, what="the round is handled")
        return {(partition, member) for member, partition, *_ in self.lines()[lines:]}

    def until_shared_by(self, names: set[str], timeout: float) -> float:
        started = time.monotonic()

        def shared() -> bool:
            owners = self.owners()
            return {name for _, name in owners} == names and len({partition for partition, _ in owners}) == PARTITIONS

        wait_until(shared, timeout, what=f"{sorted(names)} share all partitions")
        return time.monotonic() - started

    def lines(self) -> list[tuple[str, int, int, tuple[int, ...], int]]:
        found = []
        for line in self.log.read_text().rpartition("\n")[0].splitlines():
            member, partition, epoch, position, value = line.split(" ")
            found.append((member, int(partition), int(epoch), tuple(map(int, position.split("-"))), int(value)))
        return found

    def check(self, repeats_allowed: int) -> None:
        """Nothing lost; first handlings in order; a hold that was succeeded handles nothing any more."""
        wait_until(lambda: {line[4] for line in self.lines()} >= set(range(self.sent)), 20, what="all are handled")
        seen: set[int] = set()
        highest: dict[int, tuple[int, ...]] = {}
        epochs: dict[int, int] = defaultdict(int)
        repeats = 0
        for _, partition, epoch, position, value in self.lines():
            assert epoch >= epochs[partition], "two members handled one partition at a time"
            epochs[partition] = epoch
            repeats += value in seen
            if value not in seen:
                assert position > highest.get(partition, ()), "out of order"
                highest[partition] = position
            seen.add(value)
        assert repeats <= repeats_allowed, repeats

    def close(self) -> None:
        for each in self.processes.values():
            with contextlib.suppress(ProcessLookupError):
                each.send_signal(signal.SIGCONT)
            each.kill()
            each.wait()


@pytest.fixture
def members(make_bus, tmp_path):
    found = Members(make_bus(partitions=PARTITIONS), tmp_path / "deliveries")
    yield found
    found.close()


def test_join_and_clean_leave_move_partitions_without_loss_order_break_or_repeat(members, record_property):
    members.start("a")
    members.until_shared_by({"a"}, 15)
    members.start("b")
    joined = members.until_shared_by({"a", "b"}, 10)
    members.signal("b", signal.SIGTERM)
    left = members.until_shared_by({"a"}, 8)
    record_property("seconds", f"join {joined:.1f}, leave {left:.1f}")
    assert members.processes["b"].wait(10) == 0
    members.check(repeats_allowed=0)


@pytest.mark.parametrize(("how", "within"), [(signal.SIGKILL, 6), (signal.SIGSTOP, 14)])
def test_a_dead_or_frozen_member_is_succeeded(members, how, within, record_property):
    members.start("a")
    members.start("b")
    members.until_shared_by({"a", "b"}, 20)
    members.signal("b", how)
    took = members.until_shared_by({"a"}, within)
    record_property("seconds", f"{how.name} {took:.1f}")
    if how == signal.SIGSTOP:
        members.signal("b", signal.SIGCONT)
        members.until_shared_by({"a", "b"}, 15)
    members.check(repeats_allowed=200)

"""What the worker asks of the intake beyond a consumer: bytes, stuck partitions, giving back what has not begun."""

from __future__ import annotations

import time
from collections.abc import Iterator

import pytest

from eventbus_core import Delivery, Hooks, Position, Record
from eventbus_core.backend import Assigned, Group, Polled, Revoking
from eventbus_core.holds import Holds
from eventbus_core.intake import Intake
from eventbus_core.records import Assignment
from tests.scripted import ScriptedBackend, deliveries
from tests.waiting import wait_until


class Rig:
    def __init__(self) -> None:
        backend = ScriptedBackend()
        self.scripted = backend.scripted_consumer
        self.hold = Assignment("t", 0, 1)
        group = Group("g", ("t",), "earliest", "me", 5.0)
        self.intake = Intake(backend, group, max_unacked=100, on_gap="continue", hooks=Hooks())
        self.scripted.script.append(Polled([Assigned(self.hold)]))

    def receive(self, *positions: int) -> list[Delivery]:
        self.scripted.script.append(Polled(deliveries=deliveries(self.hold, positions)))
        return self.intake.receive(100, 5)

    def revoke(self) -> None:
        self.scripted.script.append(Polled([Revoking(self.hold, time.monotonic() + 60)]))
        wait_until(lambda: self.intake.draining == [self.hold], 5, what="the partition to be wanted back")


@pytest.fixture
def rig() -> Iterator[Rig]:
    rig = Rig()
    yield rig
    rig.intake.close(5)


def test_a_drain_does_not_wait_for_what_was_given_back(rig: Rig) -> None:
    first, second, *_ = rig.receive(0, 1, 2, 3)
    rig.revoke()
    rig.intake.give_back(rig.hold, 1)
    assert rig.scripted.released == []
    rig.intake.ack([second, first])
    wait_until(lambda: rig.scripted.released, 5, what="the release")
    assert rig.scripted.acked[-1] is second


def test_with_nothing_begun_all_is_given_back_at_once(rig: Rig) -> None:
    rig.receive(0, 1, 2, 3)
    rig.revoke()
    rig.intake.give_back(rig.hold, -1)
    wait_until(lambda: rig.scripted.released, 5, what="the release")
    assert rig.scripted.acked == []


def test_only_what_is_wanted_back_can_be_given_back(rig: Rig) -> None:
    received = rig.receive(0, 1)
    rig.intake.give_back(rig.hold, -1)
    rig.intake.ack(received)
    wait_until(lambda: rig.scripted.acked, 5, what="the ack")
    assert rig.scripted.acked == [received[1]]


def _some(assignment: Assignment, count: int, size: int) -> list[Delivery]:
    return [Delivery(Record("t", b"x" * size), 0, Position(at), assignment) for at in range(count)]


def test_the_bound_in_bytes_follows_the_size_of_the_records() -> None:
    holds = Holds(1000, 10_000_000)
    assignment = Assignment("t", 0, 1)
    holds.add(assignment)
    assert holds.room() == 9  # nothing is known yet: they may be large
    holds.accept(_some(assignment, 5, 1_000_000))
    holds.settle(holds.take(5))
    assert holds.room() == 9
    for _ in range(12):
        holds.accept(_some(assignment, 5, 100))
        holds.settle(holds.take(5))
    assert holds.room() == 1000
    holds.accept(_some(assignment, 1, 5_000_000))
    holds.settle(holds.take(1))
    assert holds.room() == 1


def test_a_stuck_partition_does_not_use_up_the_room_of_others() -> None:
    holds = Holds(100, stuck_seconds=0.0)
    stuck, other = Assignment("t", 0, 1), Assignment("t", 1, 1)
    holds.add(stuck)
    holds.add(other)
    holds.accept(_some(stuck, 100, 1))
    received = holds.take(100)
    assert holds.room() == 0
    holds.find_stuck()
    assert holds.room() == 100
    assert holds.paused() == [stuck]
    holds.settle(received)
    holds.find_stuck()
    assert holds.room() == 100
    assert holds.paused() == []

"""Core's side of transactions: which records go with which acks, and what becomes of them when it fails."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import pytest

from eventbus_core import Hooks, Unavailable
from eventbus_core.backend import Assigned, Group, Lost, Polled
from eventbus_core.errors import EventBusError
from eventbus_core.intake import Intake
from eventbus_core.records import Assignment, Delivery, Record
from tests.scripted import ScriptedBackend, ScriptedConsumer, deliveries
from tests.waiting import wait_until


class Rig:
    """An intake that transacts, over a backend that notes what it is told, or refuses it."""

    def __init__(self) -> None:
        self.refusals: list[EventBusError] = []
        self.transacted: list[tuple[list[bytes | None], list[int]]] = []
        rig = self

        class Transacting(ScriptedConsumer):
            def transact(self, records: Sequence[Record], settled: Sequence[Delivery]) -> None:
                if rig.refusals:
                    raise rig.refusals.pop(0)
                rig.transacted.append(([each.value for each in records], [each.position[0] for each in settled]))

        backend = ScriptedBackend()
        self.scripted = backend.scripted_consumer = Transacting()
        group = Group("g", ("t",), "earliest", "me", 5.0)
        self.intake = Intake(backend, group, max_unacked=100, transacts=True, on_gap="continue", hooks=Hooks())
        self.hold = Assignment("t", 0, 1)

    def receive(self, *positions: int) -> list[Delivery]:
        self.scripted.script.append(Polled([Assigned(self.hold)], deliveries(self.hold, positions)))
        received = self.intake.receive(100, 5.0)
        assert len(received) == len(positions)
        return received

    def settle(self, *settled: Delivery) -> None:
        """Settle them, with a record each that says its position."""
        self.intake.ack(settled, {each: [Record("out", b"%d" % each.position[0])] for each in settled})

    def wait_transacted(self, count: int) -> None:
        wait_until(lambda: len(self.transacted) >= count, 5, what=f"{count} transactions")


@pytest.fixture
def rig() -> Iterator[Rig]:
    rig = Rig()
    yield rig
    rig.intake.close(5)


def test_records_go_with_the_prefix_that_they_belong_to_in_its_order(rig: Rig) -> None:
    one, two, three, four = rig.receive(1, 2, 3, 4)
    rig.settle(three, two)
    rig.settle(one)
    rig.wait_transacted(1)
    rig.settle(four)
    rig.wait_transacted(2)
    assert rig.transacted == [([b"1", b"2", b"3"], [3]), ([b"4"], [4])]
    assert not rig.scripted.acked


def test_a_refused_transaction_is_tried_again_with_what_came_meanwhile(rig: Rig) -> None:
    rig.refusals = [Unavailable("not now"), Unavailable("nor now")]
    one, two = rig.receive(1, 2)
    rig.settle(one)
    wait_until(lambda: not rig.refusals, 5, what="both refusals")
    rig.settle(two)
    wait_until(lambda: sum(len(values) for values, _ in rig.transacted) == 2, 5, what="both records")
    assert [value for values, _ in rig.transacted for value in values] == [b"1", b"2"]


def test_what_belongs_to_a_lost_assignment_is_stored_by_nobody(rig: Rig) -> None:
    one, two = rig.receive(1, 2)
    transact = rig.scripted.transact

    def unknown(records: Sequence[Record], settled: Sequence[Delivery]) -> None:
        rig.scripted.transact = transact  # type: ignore[method-assign]
        rig.scripted.script.append(Polled([Lost(rig.hold, "the outcome is unknown")]))
        raise Unavailable("the outcome is unknown")

    rig.scripted.transact = unknown  # type: ignore[method-assign]
    rig.settle(one)
    wait_until(lambda: not rig.intake.assignments, 5, what="the loss")
    rig.settle(two)
    rig.hold = Assignment("t", 0, 2)
    (again,) = rig.receive(1)
    rig.settle(again)
    rig.wait_transacted(1)
    assert rig.transacted == [([b"1"], [1])]

"""Core's side of consuming, over polls that the test writes: drains, acks, losses, gaps, outages."""

from __future__ import annotations

import dataclasses
import threading
import time
from collections.abc import Collection, Iterator, Sequence

import pytest

from eventbus_core import (
    BrokerError,
    Closed,
    Consumer,
    Delivery,
    EventBusError,
    Hooks,
    Position,
    PositionGone,
    Unavailable,
    UsageError,
)
from eventbus_core.backend import Assigned, Gap, Group, Lost, Polled, Revoking
from eventbus_core.intake import Intake
from eventbus_core.records import Assignment, Where
from tests.scripted import ScriptedBackend, ScriptedConsumer, deliveries
from tests.waiting import wait_until


class Rig:
    def __init__(self, max_unacked: int = 100, on_gap: str = "continue", ack_delay_seconds: float = 0.0) -> None:
        backend = ScriptedBackend()
        backend.capabilities = dataclasses.replace(backend.capabilities, ack_delay_seconds=ack_delay_seconds)
        self.scripted: ScriptedConsumer = backend.scripted_consumer
        self.late: list[Delivery] = []
        self.told: list[str] = []
        rig = self

        class Telling(Hooks):
            def late_ack(self, delivery: Delivery) -> None:
                rig.late.append(delivery)

            def outage(self, error: EventBusError) -> None:
                rig.told.append("outage")

            def recovered(self, seconds: float) -> None:
                rig.told.append("recovered")

        group = Group("g", ("t",), "earliest", "me", 5.0)
        intake = Intake(backend, group, max_unacked=max_unacked, on_gap=on_gap, hooks=Telling())  # type: ignore[arg-type]
        self.consumer = Consumer(intake, backend.capabilities)
        self.hold = Assignment("t", 0, 1)

    def deliver(self, *positions: int) -> None:
        self.scripted.script.append(Polled(deliveries=deliveries(self.hold, positions)))

    def assign(self) -> None:
        self.scripted.script.append(Polled([Assigned(self.hold)]))


@pytest.fixture
def rig() -> Iterator[Rig]:
    rig = Rig()
    yield rig
    rig.consumer.close()


def test_acks_in_any_order_reach_the_backend_as_prefixes(rig: Rig) -> None:
    rig.assign()
    rig.deliver(0, 1, 2)
    first, second, third = rig.consumer.receive(timeout=5)
    rig.consumer.ack(third)
    assert rig.consumer.flush(0.2) == 0
    assert rig.scripted.acked == []
    rig.consumer.ack(first, second)
    assert rig.consumer.flush(5) == 0
    assert rig.scripted.acked[-1] is third


def test_a_revoked_partition_is_released_only_when_the_user_is_done_with_it(rig: Rig) -> None:
    rig.assign()
    rig.deliver(0, 1, 2, 3)
    received = rig.consumer.receive(max_records=2, timeout=5)
    rig.scripted.script.append(Polled([Revoking(rig.hold, time.monotonic() + 60)]))
    wait_until(lambda: not rig.consumer.assignments, 5, what="the partition being revoked")
    assert rig.consumer.receive(timeout=0.1) == []  # the other two are another's now
    assert rig.scripted.released == []
    assert received[0].owned
    rig.consumer.ack(*received)
    wait_until(lambda: rig.scripted.released, 5, what="the release")
    assert rig.scripted.acked[-1] is received[1]
    assert rig.scripted.calls[-2:] == ["ack", "release"]
    assert not received[0].owned


def test_at_the_deadline_a_revoked_partition_goes_and_late_acks_change_nothing(rig: Rig) -> None:
    rig.assign()
    rig.deliver(0, 1)
    received = rig.consumer.receive(timeout=5)
    rig.consumer.ack(received[0])
    rig.scripted.script.append(Polled([Revoking(rig.hold, time.monotonic() + 0.1)]))
    wait_until(lambda: rig.scripted.released, 5, what="the release at the deadline")
    assert rig.scripted.acked[-1] is received[0]
    rig.consumer.ack(received[1])
    assert rig.late == [received[1]]
    assert received[1] not in rig.scripted.acked


def test_a_lost_partition_takes_its_buffer_along(rig: Rig) -> None:
    rig.assign()
    rig.deliver(0, 1, 2)
    received = rig.consumer.receive(max_records=1, timeout=5)
    rig.scripted.script.append(Polled([Lost(rig.hold, "taken")]))
    wait_until(lambda: not rig.consumer.assignments, 5, what="the loss")
    assert rig.consumer.receive(timeout=0.05) == []
    rig.consumer.ack(*received)
    assert rig.late == received
    assert rig.scripted.acked == []
    assert rig.scripted.released == []


def test_an_expired_hold_hands_out_nothing_even_before_the_loss_is_told(rig: Rig) -> None:
    rig.assign()
    rig.hold.valid_until = 0.0
    rig.deliver(0)
    assert rig.consumer.receive(timeout=0.2) == []


def test_no_more_than_max_unacked_is_taken() -> None:
    rig = Rig(max_unacked=4)
    rig.assign()
    rig.deliver(0, 1, 2, 3)
    received = rig.consumer.receive(timeout=5)
    rig.deliver(4, 5)
    assert rig.consumer.receive(timeout=0.1) == []
    rig.consumer.ack(received[0], received[1])
    assert [each.position for each in rig.consumer.receive(timeout=5)] == [Position(4), Position(5)]
    rig.consumer.close()


def test_paused_partitions_keep_what_was_buffered_for_later_in_order(rig: Rig) -> None:
    rig.assign()
    rig.deliver(0, 1, 2)
    rig.consumer.receive(max_records=1, timeout=5)
    rig.consumer.pause("t", 0)
    rig.deliver(3)
    assert rig.consumer.receive(timeout=0.1) == []
    wait_until(lambda: rig.hold in rig.scripted.paused, 5, what="the backend being told")
    rig.consumer.resume()
    received: list[Delivery] = []

    def all_three() -> bool:
        received.extend(rig.consumer.receive(timeout=0.1))
        return len(received) == 3

    wait_until(all_three, 5, what="the rest")
    assert [each.position[0] for each in received] == [1, 2, 3]


def test_seek_voids_earlier_deliveries(rig: Rig) -> None:
    rig.assign()
    rig.deliver(0)
    received = rig.consumer.receive(timeout=5)
    rig.consumer.seek("earliest")
    assert not received[0].owned
    rig.consumer.ack(*received)
    assert rig.late == received
    with pytest.raises(UsageError, match="holds no partition 7"):
        rig.consumer.seek("earliest", partition=7)


def test_a_gap_stops_the_consumer_when_asked_to() -> None:
    rig = Rig(on_gap="stop")
    rig.assign()
    rig.scripted.script.append(Polled([Gap(rig.hold, Position(3), Position(9), "trimmed")]))
    with pytest.raises(PositionGone, match=r"after 3.*next is 9.*trimmed"):
        rig.consumer.receive(timeout=5)
    rig.consumer.close()
    assert rig.scripted.closed


def test_an_outage_is_survived_and_another_error_ends_the_consumer(rig: Rig) -> None:
    rig.assign()
    rig.scripted.script.append(Unavailable("away"))
    rig.deliver(0)
    assert len(rig.consumer.receive(timeout=5)) == 1
    rig.scripted.script.append(BrokerError("broken"))
    with pytest.raises(BrokerError, match="broken"):
        rig.consumer.receive(timeout=5)


def test_who_receives_again_and_again_in_a_long_outage_waits_between(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("eventbus_core.outage.REPORT_OUTAGE_SECONDS", 0.1)
    rig.assign()
    rig.scripted.script.extend(Unavailable("away") for _ in range(100))
    with pytest.raises(Unavailable, match="still trying"):
        rig.consumer.receive(timeout=5)
    refused, began = 0, time.monotonic()
    while time.monotonic() - began < 1:
        with pytest.raises(Unavailable, match="still trying"):
            rig.consumer.receive(timeout=0.1)
        refused += 1
    assert refused <= 20


def test_polls_that_bring_nothing_do_not_end_an_outage(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("eventbus_core.outage.CALM_SECONDS", 2.5)
    rig.assign()
    for _ in range(3):
        rig.scripted.script.extend([Unavailable("away"), Polled()])
    wait_until(lambda: not rig.scripted.script, 5, what="all of it polled")
    assert rig.told == ["outage"]
    wait_until(lambda: len(rig.told) > 1, 15, what="calm")
    assert rig.told == ["outage", "recovered"]


def test_a_partition_that_is_given_ends_an_outage_at_once(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("eventbus_core.outage.CALM_SECONDS", 60.0)
    rig.scripted.script.append(Unavailable("away"))
    rig.assign()
    wait_until(lambda: len(rig.told) > 1, 5, what="the end of the outage")
    assert rig.told == ["outage", "recovered"]


def test_a_long_outage_is_raised_and_the_consumer_goes_on_trying(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("eventbus_core.outage.REPORT_OUTAGE_SECONDS", 0.1)
    rig.assign()
    rig.scripted.script.extend(Unavailable("away") for _ in range(8))
    with pytest.raises(Unavailable, match="still trying"):
        rig.consumer.receive(timeout=5)
    rig.deliver(0)

    def delivered() -> bool:
        try:
            return bool(rig.consumer.receive(timeout=0.1))
        except Unavailable:
            return False

    wait_until(delivered, 10, what="a delivery after the outage")


def test_close_sends_the_last_acks_and_leaves(rig: Rig) -> None:
    rig.assign()
    rig.deliver(0, 1)
    received = rig.consumer.receive(timeout=5)
    rig.consumer.ack(*received)
    rig.consumer.close()
    rig.consumer.close()
    assert rig.scripted.acked[-1] is received[1]
    assert rig.scripted.closed
    assert not received[0].owned
    with pytest.raises(Closed):
        rig.consumer.receive()


def refuse_acks(_: Sequence[Delivery]) -> None:
    raise Unavailable("away")


def test_close_leaves_even_when_the_last_acks_do_not_get_through(rig: Rig) -> None:
    rig.assign()
    rig.deliver(0)
    received = rig.consumer.receive(timeout=5)
    rig.scripted.ack = refuse_acks  # type: ignore[method-assign]
    rig.consumer.ack(*received)
    rig.consumer.close()
    assert rig.scripted.closed


def test_nothing_is_owned_any_more_when_the_backend_leaves(rig: Rig) -> None:
    rig.assign()
    rig.deliver(0)
    (delivery,) = rig.consumer.receive(timeout=5)
    owned: list[bool] = []
    rig.scripted.close = lambda: owned.append(delivery.owned)  # type: ignore[method-assign]
    rig.consumer.close()
    assert owned == [False]


def test_what_a_lapsed_hold_keeps_back_is_not_lost_should_it_be_renewed(rig: Rig) -> None:
    rig.assign()
    rig.hold.valid_until = 0.0
    rig.deliver(0, 1)
    assert rig.consumer.receive(timeout=0.2) == []
    rig.hold.valid_until = float("inf")
    assert [each.position[0] for each in rig.consumer.receive(timeout=5)] == [0, 1]


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_seek_that_breaks_in_the_backend_does_not_hang(rig: Rig) -> None:
    def seek(assignment: Assignment, to: Where) -> Assignment:
        raise ZeroDivisionError(f"{assignment} {to}")

    rig.assign()
    wait_until(lambda: rig.consumer.assignments, 5, what="the assignment")
    rig.scripted.seek = seek  # type: ignore[method-assign]
    raised: list[BaseException] = []

    def call() -> None:
        try:
            rig.consumer.seek("earliest")
        except ZeroDivisionError as error:
            raised.append(error)

    caller = threading.Thread(target=call, daemon=True)
    caller.start()
    caller.join(5)
    assert raised


def test_the_pause_of_a_partition_ends_when_it_goes_elsewhere(rig: Rig) -> None:
    rig.assign()
    wait_until(lambda: rig.consumer.assignments, 5, what="the assignment")
    rig.consumer.pause()
    rig.scripted.script.append(Polled([Lost(rig.hold, "taken")]))
    wait_until(lambda: not rig.consumer.assignments, 5, what="the loss")
    rig.hold = Assignment("t", 0, 2)
    rig.assign()
    rig.deliver(0)
    assert len(rig.consumer.receive(timeout=5)) == 1


@pytest.fixture
def delayed() -> Iterator[Rig]:
    """Of a backend whose acks are durable some time after it took them."""
    rig = Rig(ack_delay_seconds=1.0)
    yield rig
    rig.consumer.close()


def test_flush_waits_until_the_broker_has_the_acks(delayed: Rig) -> None:
    rig = delayed
    rig.assign()
    rig.deliver(0)
    open_acks = [1]
    rig.scripted.unconfirmed = lambda: open_acks[0]  # type: ignore[method-assign]
    rig.consumer.ack(*rig.consumer.receive(timeout=5))
    assert rig.consumer.flush(0.2) == 1
    assert rig.consumer.flush(0) == 1
    open_acks[0] = 0
    assert rig.consumer.flush(5) == 0
    open_acks[0] = 1
    assert rig.consumer.flush(0) == 0  # nothing was acked since


@pytest.mark.parametrize("released", [False, True])
def test_flush_counts_once_the_acks_that_went_with_their_partition(delayed: Rig, released: bool) -> None:
    rig = delayed
    rig.assign()
    rig.deliver(0)
    (first,) = rig.consumer.receive(timeout=5)
    rig.scripted.unconfirmed = lambda: int(first.owned)  # type: ignore[method-assign]
    rig.consumer.ack(first)
    assert rig.consumer.flush(0.1) == 1
    if released:
        rig.scripted.script.append(Polled([Revoking(rig.hold, time.monotonic() + 60)]))
        wait_until(lambda: rig.scripted.released, 5, what="the release")
    rig.scripted.script.append(Polled([Lost(rig.hold, "cut off", acks_lost=True)]))
    wait_until(lambda: not first.owned and not rig.scripted.script, 5, what="the loss")
    assert [rig.consumer.flush(5), rig.consumer.flush(5)] == [1, 0]


def test_flush_counts_an_ack_that_came_too_late(rig: Rig) -> None:
    rig.assign()
    rig.deliver(0)
    (first,) = rig.consumer.receive(timeout=5)
    rig.scripted.script.append(Polled([Lost(rig.hold, "cut off")]))
    wait_until(lambda: not first.owned, 5, what="the loss")
    rig.consumer.ack(first)
    assert [rig.consumer.flush(5), rig.consumer.flush(5)] == [1, 0]


def test_flush_counts_an_ack_that_the_broker_refused_and_told_in_the_next_poll(rig: Rig) -> None:
    rig.assign()
    rig.deliver(0)
    received = rig.consumer.receive(timeout=5)
    ack = rig.scripted.ack

    def fenced(settled: Sequence[Delivery]) -> None:
        ack(settled)
        rig.scripted.script.append(Polled([Lost(rig.hold, "another has it")]))

    rig.scripted.ack = fenced  # type: ignore[method-assign]
    rig.consumer.ack(*received)
    assert rig.consumer.flush(5) == 1


@pytest.mark.parametrize("ack_delay_seconds", [0.0, 1.0])
def test_a_loss_long_after_the_acks_were_durable_is_not_counted(ack_delay_seconds: float) -> None:
    rig = Rig(ack_delay_seconds=ack_delay_seconds)
    rig.assign()
    rig.deliver(0)
    received = rig.consumer.receive(timeout=5)
    polled = []
    poll = rig.scripted.poll
    rig.scripted.poll = lambda *given: (polled.append(1), poll(*given))[1]  # type: ignore[method-assign, func-returns-value]
    rig.consumer.ack(*received)
    wait_until(lambda: rig.scripted.acked, 5, what="the ack")
    before = len(polled)
    wait_until(lambda: len(polled) > before + 3, 5, what="polls after the ack")
    rig.scripted.script.append(Polled([Lost(rig.hold, "it was idle")]))
    wait_until(lambda: not received[0].owned, 5, what="the loss")
    assert rig.consumer.flush(5) == 0
    rig.consumer.close()


def test_a_flush_that_gave_up_asks_rarely(delayed: Rig) -> None:
    rig = delayed
    asked: list[float] = []
    rig.scripted.unconfirmed = lambda: asked.append(time.monotonic()) or 1  # type: ignore[method-assign, func-returns-value]
    rig.assign()
    rig.deliver(0)
    rig.consumer.ack(*rig.consumer.receive(timeout=5))
    assert rig.consumer.flush(0.1) == 1
    given_up = len(asked)
    wait_until(lambda: len(asked) >= given_up + 2, 5, what="it asks all the same")
    assert asked[-1] - asked[-2] > 0.4


def test_flush_raises_a_long_outage(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("eventbus_core.outage.REPORT_OUTAGE_SECONDS", 0.1)
    rig.assign()
    rig.deliver(0)
    received = rig.consumer.receive(timeout=5)
    rig.scripted.ack = refuse_acks  # type: ignore[method-assign]
    rig.consumer.ack(*received)
    with pytest.raises(Unavailable, match="still trying"):
        rig.consumer.flush(5)


def test_acks_that_do_not_get_through_never_keep_the_consumer_from_polling(rig: Rig) -> None:
    rig.assign()
    rig.deliver(0)
    received = rig.consumer.receive(timeout=5)
    ack, polls = rig.scripted.ack, rig.scripted.poll
    polled: list[int] = []

    def away(_: object) -> None:
        raise Unavailable("away")

    def counted(max_records: int, timeout: float, paused: Collection[Assignment]) -> Polled:
        polled.append(max_records)
        return polls(max_records, timeout, paused)

    rig.scripted.ack = away  # type: ignore[method-assign]
    rig.consumer.ack(*received)
    wait_until(lambda: rig.consumer.flush(0.01) == 1, 5, what="the ack being stuck")
    rig.scripted.poll = counted  # type: ignore[method-assign]
    wait_until(lambda: len(polled) > 2, 5, what="polls meanwhile")
    rig.scripted.ack = ack  # type: ignore[method-assign]
    assert rig.consumer.flush(5) == 0
    assert rig.scripted.acked[-1] is received[0]

"""The producer that users hold: outcomes, deadlines, the bounded buffer, closing."""

from __future__ import annotations

import asyncio
import dataclasses
import threading
import time
from datetime import UTC, datetime

import pytest

from eventbus_core import (
    AccessDenied,
    BrokerError,
    BufferFull,
    Closed,
    EventBus,
    Forked,
    Hooks,
    InvalidRecord,
    Producer,
    Receipt,
    SendError,
    SendFailed,
    SendUnknown,
    Stored,
    TooLarge,
    Unavailable,
    event_type,
)
from eventbus_core.backend import Outgoing, Settled
from eventbus_core.receipts import OpenReceipt
from eventbus_core.records import Record
from tests.forked import exit_code_in_child
from tests.holding import held
from tests.scripted import ScriptedBackend, failed, stored
from tests.waiting import wait_until


def producer_on(backend: ScriptedBackend, *, max_records: int = 100, hooks: Hooks | None = None) -> Producer:
    return Producer(
        backend, max_records=max_records, max_bytes=10_000, wait_seconds=0.2, hooks=hooks or Hooks(), prepare_topic=None
    )


def test_records_reach_the_backend_in_order_and_settle() -> None:
    backend = ScriptedBackend(stored)
    with producer_on(backend, max_records=1000) as producer:
        receipts = [producer.send("t", b"%d" % n, key=b"k") for n in range(500)]
        assert producer.flush(5) == 0
        assert [receipt.result(0).topic for receipt in receipts] == ["t"] * 500
    assert [each.record.value for each in backend.producers[0].taken] == [b"%d" % n for n in range(500)]
    assert backend.producers[0].closed


def test_a_refused_record_fails_and_is_told_to_the_hooks() -> None:
    told: list[tuple[str, SendError]] = []

    class Telling(Hooks):
        def send_failed(self, topic: str, error: SendError) -> None:
            told.append((topic, error))

    with producer_on(ScriptedBackend(failed), hooks=Telling()) as producer:
        receipt = producer.send("t", b"x")
        with pytest.raises(SendFailed):
            receipt.result(5)
    assert [topic for topic, _ in told] == ["t"]


def test_what_was_handed_over_is_unknown_at_the_deadline_and_a_new_backend_producer_goes_on() -> None:
    backend = ScriptedBackend(lambda _: None, send_timeout_seconds=2.0)
    with producer_on(backend) as producer:
        receipt = producer.send("t", b"x")
        with pytest.raises(SendUnknown, match=r"within 2 s"):
            receipt.result(5)
        backend.answer = stored
        assert isinstance(producer.send("t", b"y").result(5), Stored)
    assert backend.producers[0].closed
    assert len(backend.producers) == 2


def test_while_the_broker_cannot_be_reached_a_record_waits_and_then_fails_for_certain() -> None:
    backend = ScriptedBackend(stored, refuse=Unavailable("nobody there"), send_timeout_seconds=3.0)
    with producer_on(backend) as producer:
        with pytest.raises(SendFailed, match=r"within 3 s"):
            producer.send("t", b"x").result(10)
        receipt = producer.send("t", b"y")
        backend.refuse = None
        assert isinstance(receipt.result(5), Stored)


def test_refused_credentials_fail_at_once() -> None:
    backend = ScriptedBackend(stored, refuse=AccessDenied("wrong password"))
    with producer_on(backend) as producer:
        with pytest.raises(SendFailed, match="wrong password") as caught:
            producer.send("t", b"x").result(5)
        assert isinstance(caught.value.__cause__, AccessDenied)


def test_after_a_fatal_error_what_was_handed_over_is_unknown() -> None:
    backend = ScriptedBackend(lambda _: None)
    with producer_on(backend) as producer:
        receipt = producer.send("t", b"x")
        wait_until(lambda: backend.producers and backend.producers[0].taken, 5, what="the record handed over")
        backend.producers[0].trouble.append(BrokerError("fatal"))
        with pytest.raises(SendUnknown, match="fatal"):
            receipt.result(5)


def test_a_full_buffer_makes_send_wait_then_raise_and_takes_nothing() -> None:
    backend = ScriptedBackend(lambda _: None, send_timeout_seconds=60)
    producer = producer_on(backend, max_records=3)
    for n in range(3):
        producer.send("t", b"%d" % n)
    with pytest.raises(BufferFull, match="3 records"):
        producer.send("t", b"3")
    backend.answer = stored
    producer.send("t", b"4", wait_seconds=5)
    producer.close(5)
    assert [each.record.value for each in backend.producers[0].taken] == [b"0", b"1", b"2", b"4"]


def test_many_threads_share_the_bounded_buffer_and_each_keeps_its_order() -> None:
    most = 0

    def counted(outgoing: Outgoing) -> Settled | None:
        nonlocal most
        most = max(most, len(backend.producers[0].open))
        return stored(outgoing)

    backend = ScriptedBackend(counted, send_timeout_seconds=60)
    receipts: list[Receipt] = []

    def send(thread: int) -> None:
        receipts.extend(producer.send("t", b"%d" % n, key=b"%d" % thread, wait_seconds=30) for n in range(300))

    with producer_on(backend, max_records=20) as producer:
        threads = [threading.Thread(target=send, args=(number,)) for number in range(6)]
        for each in threads:
            each.start()
        for each in threads:
            each.join(30)
        assert producer.flush(5) == 0
    assert len([receipt.result(0) for receipt in receipts]) == 1800
    assert most <= 20
    taken = [each.record for each in backend.producers[0].taken]
    for thread in range(6):
        assert [each.value for each in taken if each.key == b"%d" % thread] == [b"%d" % n for n in range(300)]


def test_a_full_buffer_raises_at_once_in_an_event_loop() -> None:
    backend = ScriptedBackend(lambda _: None, send_timeout_seconds=60)
    producer = producer_on(backend, max_records=1)
    producer.send("t", b"0")

    async def send() -> None:
        producer.send("t", b"1", wait_seconds=60)

    with pytest.raises(BufferFull, match="within 0 s"):
        asyncio.run(asyncio.wait_for(send(), 5))
    producer.close(0)


def test_close_settles_everything_and_is_idempotent() -> None:
    backend = ScriptedBackend(lambda _: None, send_timeout_seconds=60)
    producer = producer_on(backend)
    receipt = producer.send("t", b"x")
    wait_until(lambda: backend.producers and backend.producers[0].taken, 5, what="the record handed over")
    producer.close(0.1)
    producer.close(0.1)
    with pytest.raises(SendUnknown, match="closed"):
        receipt.result(0)
    with pytest.raises(Closed):
        producer.send("t", b"y")


def test_a_close_that_meets_the_first_send_settles_its_receipt() -> None:
    producer = producer_on(ScriptedBackend(stored))
    put = producer._buffer.put

    def put_and_close(record: Record, size: int) -> OpenReceipt | None:
        receipt = put(record, size)
        closing = threading.Thread(target=producer.close)
        closing.start()
        closing.join(5)
        assert receipt is not None
        assert receipt.done()
        return receipt

    producer._buffer.put = put_and_close  # type: ignore[method-assign]
    assert isinstance(producer.send("t", b"x").result(5), Stored)


def test_flush_says_how_many_are_open() -> None:
    backend = ScriptedBackend(lambda _: None, send_timeout_seconds=60)
    producer = producer_on(backend)
    for _ in range(4):
        producer.send("t", b"x")
    assert producer.flush(0.05) == 4
    backend.answer = stored
    assert producer.flush(5) == 0
    producer.close()


def test_an_open_receipt_times_out_and_stays_open() -> None:
    backend = ScriptedBackend(lambda _: None, send_timeout_seconds=60)
    with producer_on(backend) as producer:
        receipt = producer.send("t", b"x")
        with pytest.raises(TimeoutError):
            receipt.result(0.05)
        assert not receipt.done()
        backend.answer = stored
        assert isinstance(receipt.result(5), Stored)


def test_callbacks_run_before_and_after_settling() -> None:
    called = threading.Event()
    with producer_on(ScriptedBackend(stored)) as producer:
        receipt = producer.send("t", b"x")
        receipt.add_done_callback(lambda _: called.set())
        assert called.wait(5)
        late: list[object] = []
        receipt.add_done_callback(late.append)
        assert late == [receipt]


def test_a_receipt_can_be_awaited() -> None:
    with producer_on(ScriptedBackend(stored)) as producer:

        async def send() -> Stored:
            return await producer.send("t", b"x")

        assert asyncio.run(asyncio.wait_for(send(), 5)).topic == "t"


def test_a_record_that_no_broker_can_carry_is_refused_before_any_io() -> None:
    backend = ScriptedBackend(stored)
    producer = producer_on(backend)
    limit = backend.capabilities.max_record_bytes
    refused = [
        ("bad topic", b"x", {}),
        ("", b"x", {}),
        ("t-partition-1", b"x", {}),
        ("t", "text", {}),
        ("t", b"x", {"key": "text"}),
        ("t", b"x", {"headers": [("a\0b", b"")]}),
        ("t", b"x", {"headers": [("a", "text")]}),
        ("t", b"x", {"headers": [("\ud800", b"")]}),
        ("t", b"x", {"headers": ["ab"]}),
        ("t", b"x", {"timestamp": datetime(2026, 1, 1)}),  # noqa: DTZ001
        ("t", b"x", {"timestamp": datetime(1969, 1, 1, tzinfo=UTC)}),
    ]
    for topic, value, more in refused:
        with pytest.raises(InvalidRecord):
            producer.send(topic, value, **more)  # type: ignore[arg-type]
    with pytest.raises(TooLarge, match=str(limit)):
        producer.send("t", b"x" * (limit + 1))
    producer.close()
    assert not backend.producers


def test_when_flush_finds_nothing_open_every_receipt_is_done() -> None:
    backend = ScriptedBackend(stored)
    with producer_on(backend) as producer, held(producer._buffer.settlement.condition) as free:
        receipt = producer.send("t", b"x")
        wait_until(lambda: backend.producers and not backend.producers[0].open, 5, what="the broker's answer")
        threading.Timer(0.2, free.set).start()
        assert producer.flush(5) == 0
        assert receipt.done()


def test_a_backend_that_settles_a_record_twice_leaves_no_receipt_open() -> None:
    backend = ScriptedBackend(lambda _: None)
    with producer_on(backend) as producer:
        first, second = producer.send("t", b"1"), producer.send("t", b"2")
        wait_until(lambda: backend.producers and len(backend.producers[0].taken) == 2, 5, what="the hand-over")
        backend.producers[0].poll = lambda _: [stored(backend.producers[0].taken[0])] * 2  # type: ignore[method-assign]
        assert isinstance(first.result(5), Stored)
        with pytest.raises(SendUnknown, match="twice"):
            second.result(5)
        backend.answer = stored
        assert isinstance(producer.send("t", b"3").result(5), Stored)


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_defect_of_a_backend_is_named_and_the_bus_goes_on_with_another_producer() -> None:
    @event_type("tests.producer.noted", topic="t")
    @dataclasses.dataclass
    class Noted:
        text: str

    def broken(timeout: float) -> list[Settled]:
        raise ZeroDivisionError(f"a defect of the plugin, after {timeout} s")

    backend = ScriptedBackend(lambda _: None)
    with EventBus(backend) as bus, bus.producer() as own:
        receipts = [bus.publish(Noted("1")), own.send("t", b"1")]
        wait_until(lambda: sum(len(each.taken) for each in backend.producers) == 2, 5, what="the hand-over")
        for each in backend.producers:
            each.poll = broken  # type: ignore[method-assign]
        for receipt in receipts:
            with pytest.raises(SendUnknown, match="a defect of the plugin"):
                receipt.result(5)
        with pytest.raises(Closed, match="a defect of the plugin"):
            own.send("t", b"2")
        backend.answer = stored
        assert isinstance(bus.publish(Noted("2")).result(5), Stored)


def test_a_callback_that_raises_costs_nobody_else_anything(caplog: pytest.LogCaptureFixture) -> None:
    backend = ScriptedBackend(lambda _: None)
    called = threading.Event()

    def fail(_: object) -> None:
        raise ZeroDivisionError("the user's defect")

    with producer_on(backend) as producer:
        producer.send("t", b"1").add_done_callback(fail)
        producer.send("t", b"2").add_done_callback(lambda _: called.set())
        backend.answer = stored
        assert called.wait(5)
        assert isinstance(producer.send("t", b"3").result(5), Stored)
    assert "the user's defect" in caplog.text


def test_an_open_receipt_refuses_a_callback_in_a_forked_child() -> None:
    producer = producer_on(ScriptedBackend(lambda _: None, send_timeout_seconds=60))
    receipt = producer.send("t", b"x")

    def add() -> int:
        try:
            receipt.add_done_callback(lambda _: None)
        except Forked:
            return 7
        return 0

    with held(producer._buffer.settlement.condition):
        assert exit_code_in_child(add) == 7
    producer.close(0)


def test_the_time_spent_waiting_for_room_does_not_count_towards_the_deadline() -> None:
    backend = ScriptedBackend(lambda _: None, send_timeout_seconds=60)
    with producer_on(backend, max_records=1) as producer:
        producer.send("t", b"0")
        wait_until(lambda: backend.producers and backend.producers[0].taken, 5, what="the hand-over")
        made_room_at: list[float] = []

        def make_room() -> None:
            made_room_at.append(time.monotonic())
            backend.answer = stored

        threading.Timer(0.3, make_room).start()
        receipt = producer.send("t", b"1", wait_seconds=10)
        assert receipt.deadline >= made_room_at[0] + 60
        assert isinstance(receipt.result(5), Stored)

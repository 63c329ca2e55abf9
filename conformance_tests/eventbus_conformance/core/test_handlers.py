"""What becomes of events whose handlers fail, and of records that are no events."""

from __future__ import annotations

import pytest

from eventbus_conformance.clauses import clause, denied
from eventbus_conformance.fixtures import NewTopic, OpenDesk
from eventbus_conformance.handlers import ATTEMPTS, Job
from eventbus_conformance.harness import Bounds, Harness, Raw
from eventbus_conformance.retrying import die_retrying
from eventbus_conformance.waiting import wait_until
from eventbus_core import Event, EventBus, Hooks, Worker
from eventbus_core.capabilities import Capabilities, Reach
from eventbus_core.errors import HandlerFailed, Unsupported
from eventbus_core.records import Assignment, Delivery, Position

TWICE, POISON = 0, 1


def fail(event: Event[Job]) -> None:
    """Jobs fail: 0 twice, 1 always."""
    number = event.data.number
    if number == POISON or (number == TWICE and event.attempt < ATTEMPTS):
        raise ValueError(f"job {number} cannot be done")


class Told(Hooks):
    """What the hooks were told."""

    def __init__(self) -> None:
        self.dropped_errors: list[Exception] = []
        self.gaps = 0

    def dropped(self, delivery: Delivery, error: Exception) -> None:  # noqa: ARG002
        self.dropped_errors.append(error)

    def gap(self, assignment: Assignment, after: Position | None, resume: Position, reason: str) -> None:  # noqa: ARG002
        self.gaps += 1


@clause("W1")
def test_a_failing_handler_is_called_again_until_it_succeeds(topic: str, open_desk: OpenDesk) -> None:
    desk = open_desk(topic)
    others = range(2, 22)
    desk.publish(("a", TWICE), *((f"k{number % 5}", number) for number in others))
    desk.start(fail)
    desk.wait_handled(TWICE, *others)
    desk.wait_settled()
    assert [(each.attempt, each.ok) for each in desk.calls(TWICE)] == [(1, False), (2, False), (3, True)]
    assert sorted((each.number, each.attempt) for each in desk.calls(*others)) == [(number, 1) for number in others]
    assert desk.letters() == []


@clause("W4")
def test_what_is_dropped_is_told_and_gone(topic: str, open_desk: OpenDesk) -> None:
    desk, told = open_desk(topic), Told()
    desk.publish(("k", POISON), ("k", 2), ("k", 3))
    desk.start(fail, told, on_failure="drop")
    desk.wait_handled(2, 3)
    desk.wait_settled()
    assert desk.handled() == [2, 3]
    assert len(desk.calls(POISON)) == ATTEMPTS
    assert [str(error) for error in told.dropped_errors] == ["job 1 cannot be done"]
    assert desk.letters() == []


@clause("W2")
def test_what_a_handler_cannot_handle_is_a_dead_letter_before_it_is_acked(
    new_topic: NewTopic, open_desk: OpenDesk
) -> None:
    topic = new_topic(2)
    desk = open_desk(topic)
    event = Event(Job(key="poison ☠", number=POISON), extensions={"tenant": "café"}, subject="s")
    desk.bus.publish(event, topic=topic).result(30)
    desk.publish(*((f"k{number % 5}", number) for number in range(2, 12)))
    (stored,) = (each for each in desk.bus.read(topic) if each.record.key == "poison ☠".encode())
    seen: list[tuple[int, int]] = []

    class Look(Hooks):
        def dead_lettered(self, delivery: Delivery, error: Exception | None) -> None:  # noqa: ARG002
            seen.append((len(desk.letters()), desk.lag()))

    desk.start(fail, Look())
    desk.wait_handled(*range(2, 12))
    desk.wait_settled()
    (letter,) = desk.letters()
    assert (letter.original.value, letter.original.key) == (stored.record.value, stored.record.key)
    assert letter.original.headers == stored.record.headers
    assert (letter.origin.partition, letter.origin.position) == (stored.partition, stored.position)
    assert (letter.original.topic, letter.group) == (topic, desk.group)
    assert (letter.reason, letter.attempts) == ("failed", ATTEMPTS)
    assert (letter.error_type, letter.error_message) == ("ValueError", "job 1 cannot be done")
    ((letters, lag),) = seen
    assert letters == 1, "told, and not stored"
    assert lag >= 1, "acked before its dead letter was stored"


@clause("W3")
def test_stop_ends_the_worker_at_the_event_and_acks_nothing_behind_it(
    new_topic: NewTopic, open_desk: OpenDesk, bounds: Bounds
) -> None:
    desk = open_desk(new_topic(1))
    desk.publish(("k", 5), ("k", POISON), ("k", 6), ("k", 7))
    worker = desk.start(fail, on_failure="stop")
    wait_until(lambda: not worker.healthy, bounds.deliver, what="the worker stops")
    with pytest.raises(HandlerFailed, match="job 1 cannot be done"):
        worker.stop()
    assert desk.handled() == [5]
    assert len(desk.calls(POISON)) == ATTEMPTS
    assert desk.lag() == 3
    assert desk.letters() == []
    desk.start(lambda _: None)
    desk.wait_handled(POISON, 6, 7)
    assert desk.handled() == [5, POISON, 6, 7]


@clause("W5")
def test_what_is_no_event_is_a_dead_letter_and_the_next_event_is_handled(
    new_topic: NewTopic, open_desk: OpenDesk, harness: Harness, bounds: Bounds
) -> None:
    topic = new_topic(1)
    desk, told = open_desk(topic), Told()
    type_header = ("ce_type", b"org.eventbus.conformance.job")
    bare = [
        Raw(b"\x00\xff no event", b"k", (("x", b"\xff"),)),
        Raw(None, b"k"),
        Raw(b"{}", b"k", (("large", b"h" * 200_000),)),
        Raw(b"{}", None, (type_header, ("ce_id", b"\xff"))),
        Raw(b'{"key": 1', b"k", (type_header, ("ce_specversion", b"1.0"), ("ce_id", b"1"), ("ce_source", b"/"))),
    ]
    desk.publish(("k", 2))
    with desk.bus.producer() as producer:
        for each in bare:
            producer.send(topic, each.value, key=each.key, headers=each.headers).result(bounds.deliver)
    foreign = [Raw(b"\x00\xff foreign", b"k"), Raw(b"{}", b"k", (("foreign", b"h" * 100_000),))]
    for each in foreign:
        harness.raw_send(topic, 0, each)
    desk.publish(("k", 3))
    desk.start(lambda _: None, told)
    desk.wait_handled(2, 3)
    desk.wait_settled()
    assert desk.handled() == [2, 3]
    letters = sorted(desk.letters(), key=lambda each: each.origin)  # without a key nothing waits for another
    assert [each.original.value for each in letters[: len(bare)]] == [each.value for each in bare]
    assert [each.original.key for each in letters[: len(bare)]] == [each.key for each in bare]
    assert [each.original.headers for each in letters[: len(bare)]] == [each.headers for each in bare]
    assert {(each.reason, each.attempts) for each in letters} == {("undecodable", 0)}
    assert len(letters) - len(bare) + told.gaps >= len(foreign), "passed over in silence"


@clause("W6")
def test_what_waited_for_its_next_attempt_when_its_worker_died_is_handled_by_the_next(
    new_topic: NewTopic, open_desk: OpenDesk, bus_url: str, capabilities: Capabilities, bounds: Bounds
) -> None:
    topic = new_topic(1)
    desk = open_desk(topic)
    numbers = list(range(2, 12))
    desk.publish(*(("k" if number % 2 else "other", number) for number in numbers))
    process = capabilities.reach is not Reach.PROCESS
    before = die_retrying(bus_url, topic, desk.group, 7, bounds, process=process)
    assert set(before) >= {3, 5}, "it died before the event's turn: nothing shown"
    assert not set(before) & {7, 9, 11}, "its key did not wait"
    desk.start(lambda _: None)
    desk.wait_handled(*set(numbers) - set(before), 7)
    desk.wait_settled()
    of_key = desk.handled("k")
    assert of_key == sorted(of_key), "out of order"
    assert set(of_key) >= {7, 9, 11}


@denied("transactions")
@clause("P1")
def test_without_transactions_exactly_once_is_refused_at_start_up(bus: EventBus, topic: str, group: str) -> None:
    @bus.subscribe(Job, group=group, topics=[topic], delivery="exactly_once")
    def handle(event: Event[Job], out: object) -> None: ...

    with pytest.raises(Unsupported, match=f"'transactions'.*'{bus.backend_name}'") as raised:
        Worker(bus).start()
    assert raised.value.capability == "transactions"

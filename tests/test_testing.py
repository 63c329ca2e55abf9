"""What authors of applications test with."""

from __future__ import annotations

import asyncio
import threading
import uuid
from collections.abc import Callable, Hashable, Iterator
from datetime import timedelta

import pytest
from pydantic import BaseModel

from eventbus_core import Batch, BatchFailed, Event, EventBus, HandlerFailed, Retry, Unsupported, UsageError, event_type
from eventbus_core.settings import Settings
from eventbus_core.testing import MemoryBus

pytest_plugins = ["eventbus_core.testing.fixtures", "pytester"]


@event_type("tests.shop.ordered", topic="orders", key="customer")
class Ordered(BaseModel):
    number: int
    customer: str = "ada"


@event_type("tests.shop.paid", topic="payments", key="customer")
class Paid(BaseModel):
    number: int
    customer: str = "ada"


@event_type("tests.shop.seen", topic="seen")
class Seen(BaseModel):
    number: int


class Shop:
    """An application: its bus, configured for a broker that is not there, and its handlers."""

    def __init__(self) -> None:
        self.bus = EventBus(Settings(source="shop"))
        self.paid: list[tuple[int, int]] = []
        self.broken = False
        self.threads: set[str] = set()

        @self.bus.subscribe(
            Ordered,
            group="billing",
            retry=Retry(attempts=3, first_delay=timedelta(hours=1), max_delay=timedelta(hours=1)),
        )
        def charge(event: Event[Ordered]) -> None:
            self.paid.append((event.data.number, event.attempt))
            self.threads.add(threading.current_thread().name)
            if self.broken:
                raise ValueError("no money")
            self.bus.publish(Paid(number=event.data.number, customer=event.data.customer))

        @self.bus.subscribe(Paid, group="mail")
        async def thank(event: Event[Paid]) -> None:
            await asyncio.sleep(0)
            self.threads.add(threading.current_thread().name)
            self.bus.publish(Seen(number=event.data.number))


@pytest.fixture
def shop() -> Shop:
    return Shop()


@pytest.fixture
def bus(shop: Shop) -> Iterator[MemoryBus]:
    with MemoryBus(of=shop.bus) as bus:
        yield bus


def numbers(events: list[Event[Ordered]] | list[Event[Paid]] | list[Event[Seen]]) -> list[int]:
    return [event.data.number for event in events]


def test_drain_runs_handlers_and_what_they_publish_in_the_calling_thread(shop: Shop, bus: MemoryBus) -> None:
    for number in range(3):
        shop.bus.publish(Ordered(number=number))
    assert bus.drain() == 6
    assert numbers(bus.published(Paid)) == numbers(bus.published(Seen)) == [0, 1, 2]
    assert shop.threads == {threading.current_thread().name}
    assert bus.drain() == 0


def test_published_events_are_as_consumers_read_them(shop: Shop, bus: MemoryBus) -> None:
    shop.bus.publish(Event(Ordered(number=1), id="mine"), key="else", topic="special")
    shop.bus.publish(Paid(number=2))
    (event,) = bus.published(Ordered)
    assert (event.id, event.key, event.source, event.data) == ("mine", "else", "shop", Ordered(number=1))
    assert event.delivery is not None
    assert event.delivery.record.topic == "special"
    assert [type(each.data) for each in bus.published(Paid, Ordered)] == [Ordered, Paid]
    assert bus.published(Seen) == []
    with pytest.raises(UsageError, match="not declared"):
        bus.published(int)


def test_what_a_handler_raises_comes_out_and_the_event_stays(shop: Shop, bus: MemoryBus) -> None:
    shop.broken = True
    bus.publish(Ordered(number=1))
    with pytest.raises(ValueError, match="no money"):
        bus.drain()
    shop.broken = False
    bus.drain()
    assert shop.paid == [(1, 1), (1, 1)]
    assert numbers(bus.published(Paid)) == [1]


def test_with_policy_it_is_tried_again_without_waiting_and_then_dead(shop: Shop, bus: MemoryBus) -> None:
    shop.broken = True
    bus.publish(Ordered(number=1))
    bus.drain(on_error="policy")
    assert shop.paid == [(1, 1), (1, 2), (1, 3)]
    (letter,) = bus.dead_letters("billing")
    assert (letter.reason, letter.attempts, letter.error_message) == ("failed", 3, "no money")
    assert bus.decode(letter.original, Ordered).data == Ordered(number=1)
    assert bus.dead_letters("mail") == []
    with pytest.raises(UsageError, match="no handler has the group"):
        bus.dead_letters("males")


def test_one_group_can_be_drained_alone(shop: Shop, bus: MemoryBus) -> None:
    bus.publish(Ordered(number=1))
    assert bus.drain("billing") == 1
    assert bus.published(Seen) == []
    assert bus.drain("mail") == 1


def test_everything_twice_as_after_a_death(shop: Shop, bus: MemoryBus) -> None:
    for number in range(2):
        bus.publish(Ordered(number=number))
    assert bus.drain("billing", repeat=2) == 4
    assert [number for number, _ in shop.paid] == [0, 1, 0, 1]
    assert bus.drain("billing") == 0


def test_a_shuffle_keeps_the_order_of_each_key_and_no_other(bus: MemoryBus, shop: Shop) -> None:
    for number in range(60):
        bus.publish(Ordered(number=number, customer=f"c{number % 6}"))
    bus.drain("billing", shuffle=7)
    got = [number for number, _ in shop.paid]
    assert sorted(got) == list(range(60))
    assert got != list(range(60))
    for customer in range(6):
        assert [number for number in got if number % 6 == customer] == list(range(customer, 60, 6))
    assert bus.drain("billing") == 0


def test_a_failure_in_a_shuffle_leaves_what_was_not_handled(bus: MemoryBus, shop: Shop) -> None:
    for number in range(20):
        bus.publish(Ordered(number=number, customer=str(number)))
    shop.broken = True
    with pytest.raises(ValueError, match="no money"):
        bus.drain("billing", shuffle=1)
    shop.broken = False
    bus.drain("billing", shuffle=2)
    assert {number for number, _ in shop.paid} == set(range(20))


def test_deliver_calls_handlers_with_just_these_in_just_this_order(bus: MemoryBus, shop: Shop) -> None:
    first, second = Event(Ordered(number=1), id="a"), Ordered(number=2)
    bus.deliver(second, first, first)
    assert [number for number, _ in shop.paid] == [2, 1, 1]
    assert numbers(bus.published(Ordered)) == []
    with pytest.raises(UsageError, match="no handler takes"):
        bus.deliver(Seen(number=1))
    with pytest.raises(UsageError, match="of group 'mail'"):
        bus.deliver(second, group="mail")


def test_the_applications_bus_is_itself_again_afterwards(shop: Shop) -> None:
    before = set(vars(shop.bus))
    with MemoryBus(of=shop.bus) as bus:
        with pytest.raises(UsageError, match="another MemoryBus"):
            MemoryBus(of=shop.bus)
        shop.bus.publish(Ordered(number=1))
        assert numbers(bus.published(Ordered)) == [1]
    assert set(vars(shop.bus)) == before
    with MemoryBus(of=shop.bus) as other:
        assert other.published(Ordered) == []


def test_a_circle_is_noticed(bus: MemoryBus) -> None:
    @bus.subscribe(Seen, group="circle")
    def again(event: Event[Seen]) -> None:
        bus.publish(Seen(number=event.data.number + 1))

    bus.publish(Seen(number=0))
    with pytest.raises(UsageError, match="more than 50"):
        bus.drain("circle", limit=50)


def test_unknown_and_undecodable_records_go_by_their_policies() -> None:
    with MemoryBus() as bus:
        got: list[int] = []

        @bus.subscribe(Ordered, group="billing", on_unknown="dead_letter", on_undecodable="dead_letter")
        def handle(event: Event[Ordered]) -> None:
            got.append(event.data.number)

        bus.publish(Paid(number=1), topic="orders")
        with bus.producer() as producer:
            producer.send("orders", b"\xff", key=b"k")
            kind = [
                ("ce_type", b"tests.shop.ordered"),
                ("ce_id", b"1"),
                ("ce_source", b"s"),
                ("ce_specversion", b"1.0"),
            ]
            producer.send("orders", b"{}", headers=kind)
        bus.publish(Ordered(number=2))
        bus.drain(on_error="policy")
        assert got == [2]
        reasons = [letter.reason for letter in bus.dead_letters("billing")]
        assert reasons == ["unknown", "undecodable", "undecodable"]


def test_stop_drop_and_park_key() -> None:
    with MemoryBus() as bus:
        got: list[int] = []

        @bus.subscribe(Ordered, group="parks", on_failure="park_key", retry=Retry(attempts=1))
        def parks(event: Event[Ordered]) -> None:
            if event.data.number == 1:
                raise ValueError
            got.append(event.data.number)

        @bus.subscribe(Ordered, group="drops", on_failure="drop", retry=Retry(attempts=1))
        def drops(event: Event[Ordered]) -> None:
            raise ValueError

        @bus.subscribe(Ordered, group="stops", on_failure="stop", retry=Retry(attempts=1))
        def stops(event: Event[Ordered]) -> None:
            raise KeyError

        for number, customer in [(1, "ada"), (2, "ada"), (3, "bob")]:
            bus.publish(Ordered(number=number, customer=customer))
        assert bus.drain("parks", "drops", on_error="policy") == 6
        assert got == [3]
        bus.publish(Ordered(number=4))
        bus.drain("parks", on_error="policy")
        assert [letter.reason for letter in bus.dead_letters("parks")] == ["failed", "parked", "parked"]
        assert bus.dead_letters("drops") == []
        with pytest.raises(HandlerFailed, match="stops at"):
            bus.drain("stops", on_error="policy")


def test_a_key_is_parked_for_every_handler_of_its_topic() -> None:
    with MemoryBus() as bus:
        got: list[object] = []

        @bus.subscribe(Ordered, group="g", topics=["orders"], on_failure="park_key", retry=Retry(attempts=1))
        def parks(event: Event[Ordered]) -> None:
            raise ValueError

        @bus.subscribe(Seen, group="g", topics=["orders"], on_failure="drop")
        def drops(event: Event[Seen]) -> None:
            got.append(event.data)

        bus.publish(Ordered(number=1, customer="ada"), topic="orders")
        bus.publish(Seen(number=1), topic="orders", key="ada")
        bus.drain(on_error="policy")
        assert got == []
        assert [letter.reason for letter in bus.dead_letters("g")] == ["failed", "parked"]


def test_batches_and_what_fails_of_them() -> None:
    with MemoryBus() as bus:
        calls: list[list[tuple[int, int]]] = []

        @bus.subscribe(Ordered, group="billing", batch=Batch(size=3), retry=Retry(attempts=2))
        def handle(events: list[Event[Ordered]]) -> None:
            calls.append([(event.data.number, event.attempt) for event in events])
            bad: dict[Hashable, Exception] = {event: ValueError("bad") for event in events if event.data.number == 1}
            if bad:
                raise BatchFailed(bad)

        for number, customer in [(0, "a"), (1, "b"), (2, "b"), (3, "c")]:
            bus.publish(Ordered(number=number, customer=customer))
        bus.drain(on_error="policy")
        assert calls == [[(0, 1), (1, 1), (2, 1)], [(1, 2)], [(2, 1)], [(3, 1)]]
        assert [letter.attempts for letter in bus.dead_letters("billing")] == [2]
        with pytest.raises(BatchFailed):
            bus.deliver(Ordered(number=1))


def test_what_the_worker_would_refuse_is_refused() -> None:
    with MemoryBus() as bus:
        with pytest.raises(UsageError, match="no handlers"):
            bus.drain()

        def handle(event: Event[Ordered], out: object) -> None:
            pass

        declare: Callable[..., object] = bus.subscribe(Ordered, group="billing", delivery="exactly_once")
        declare(handle)
        with pytest.raises(Unsupported, match="transactions"):
            bus.drain()
        with pytest.raises(UsageError, match="repeat"):
            bus.drain(repeat=0)


def test_memory_buses_share_nothing() -> None:
    with MemoryBus() as one, MemoryBus() as other:
        one.publish(Ordered(number=1)).result()
        assert list(other.admin().topics()) == []


def test_the_fixture_without_an_application(memory_bus: MemoryBus) -> None:
    memory_bus.publish(Ordered(number=1))
    assert numbers(memory_bus.published(Ordered)) == [1]


def test_the_fixture_with_an_application(pytester: pytest.Pytester) -> None:
    name = f"app_{uuid.uuid4().hex}"
    pytester.makepyfile(
        **{
            name: """
                from pydantic import BaseModel
                from eventbus_core import EventBus, event_type
                @event_type("fixture.tested", topic="tested")
                class Tested(BaseModel):
                    number: int
                bus = EventBus()
                got = []
                @bus.subscribe(Tested, group="g")
                def handle(event):
                    got.append(event.data.number)
            """,
            "conftest": f"""
                import pytest
                import {name} as app
                pytest_plugins = ["eventbus_core.testing.fixtures"]
                @pytest.fixture
                def application_bus():
                    return app.bus
            """,
            "test_app": f"""
                import {name} as app
                def test_one(memory_bus):
                    app.bus.publish(app.Tested(number=1))
                    memory_bus.drain()
                    assert app.got == [1]
                def test_next(memory_bus):
                    memory_bus.drain()
                    assert app.got == [1]
            """,
        }
    )
    pytester.runpytest_subprocess("-q").assert_outcomes(passed=2)

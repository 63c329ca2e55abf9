"""Declarations and events."""

from __future__ import annotations

import dataclasses
import os
import pickle
import random
import threading
import time
from datetime import UTC, datetime, timedelta, timezone
from uuid import RFC_4122, UUID

import pytest
from pydantic import BaseModel

from eventbus_core.errors import UsageError
from eventbus_core.events import Event, declaration_of, declarations, event_type
from eventbus_core.ids import uuid7


@event_type("test.events.paid.v1", topic="orders", key="order")
class Paid(BaseModel):
    order: int
    note: str = ""


@event_type("test.events.moved.v1", topic="things", key=lambda moved: moved.thing.lower())
@dataclasses.dataclass(slots=True)
class Moved:
    thing: str


def test_a_declared_class_stays_the_same_class() -> None:
    @event_type("test.events.same.v1", topic="t")
    class Same(BaseModel):
        pass

    assert Same.__name__ == "Same"
    assert Same() == Same()


def test_a_declaration_can_be_looked_up_by_class_and_by_type() -> None:
    declaration = declaration_of(Paid)
    assert (declaration.type, declaration.topic, declaration.cls) == ("test.events.paid.v1", "orders", Paid)
    assert declarations("test.events.paid.v1") == (declaration,)
    assert declarations("test.events.unheard.of") == ()


def test_two_classes_may_read_one_type() -> None:
    @event_type("test.events.shared.v1", topic="t")
    class Whole(BaseModel):
        pass

    @event_type("test.events.shared.v1", topic="t")
    class Part(BaseModel):
        pass

    assert [one.cls for one in declarations("test.events.shared.v1")] == [Whole, Part]


def test_a_subclass_is_not_declared_by_its_base() -> None:
    class Refunded(Paid):
        pass

    with pytest.raises(UsageError, match="Refunded is not declared"):
        declaration_of(Refunded)


def test_a_class_is_declared_once() -> None:
    with pytest.raises(UsageError, match=r"declared already, as 'test\.events\.paid\.v1'"):
        event_type("test.events.other.v1", topic="t")(Paid)


def test_a_misspelt_key_fails_at_the_declaration() -> None:
    with pytest.raises(UsageError, match=r"no attribute 'ordr' .*; it has .*order"):

        @event_type("test.events.typo.v1", topic="t", key="ordr")
        class Typo(BaseModel):
            order: int


def test_an_empty_name_or_topic_is_refused() -> None:
    with pytest.raises(UsageError, match="needs a name and a topic"):
        event_type("", topic="t")
    with pytest.raises(UsageError, match="needs a name and a topic"):
        event_type("x", topic="")


def test_the_key_comes_from_the_attribute_or_the_function() -> None:
    assert Event(Paid(order=7)).key == "7"
    assert Event(Moved("BOX")).key == "box"
    assert Event(Paid(order=7), key="mine").key == "mine"


def test_a_property_can_be_the_key() -> None:
    @event_type("test.events.property.v1", topic="t", key="both")
    class Pair(BaseModel):
        left: str
        right: str

        @property
        def both(self) -> str:
            return self.left + self.right

    assert Event(Pair(left="a", right="b")).key == "ab"


def test_a_key_of_another_kind_is_refused() -> None:
    @event_type("test.events.float.v1", topic="t", key="amount")
    class Amount(BaseModel):
        amount: float

    with pytest.raises(UsageError, match="must be a str, int, UUID or None, not float"):
        Event(Amount(amount=1.5))


def test_an_event_fills_in_id_type_and_time() -> None:
    before = datetime.now(UTC)
    event = Event(Paid(order=1))
    assert UUID(event.id).version == 7
    assert event.type == "test.events.paid.v1"
    assert before <= event.time <= datetime.now(UTC)
    assert (event.source, event.subject, dict(event.extensions), event.attempt) == ("", None, {}, 1)
    assert event.delivery is None


def test_an_event_cannot_be_changed() -> None:
    extensions = {"traceparent": "00"}
    event = Event(Paid(order=1), extensions=extensions)
    with pytest.raises(dataclasses.FrozenInstanceError):
        event.subject = "new"  # type: ignore[misc]
    extensions["traceparent"] = "01"
    assert event.extensions == {"traceparent": "00"}


def test_a_time_without_zone_is_refused() -> None:
    with pytest.raises(UsageError, match="needs a zone"):
        Event(Paid(order=1), time=datetime(2026, 1, 1))  # noqa: DTZ001 - the mistake under test
    zone = timezone(timedelta(hours=2))
    assert Event(Paid(order=1), time=datetime(2026, 1, 1, tzinfo=zone)).time.utcoffset() == timedelta(hours=2)


def test_events_compare_by_what_they_say_not_by_how_they_came() -> None:
    first = Event(Paid(order=1), id="1", time=datetime.now(UTC))
    again = dataclasses.replace(first, attempt=2)
    assert first == again
    assert len({first, again}) == 1
    assert first != dataclasses.replace(first, id="2")


def test_an_event_can_be_pickled_and_its_repr_hides_the_data() -> None:
    event = Event(Paid(order=1, note="secret"), extensions={"a": "b"})
    assert pickle.loads(pickle.dumps(event)) == event
    assert "secret" not in repr(event)


def test_ids_ascend_are_unique_and_have_the_right_form() -> None:
    ids = [uuid7() for _ in range(50_000)]
    assert ids == sorted(ids)
    assert len(set(ids)) == len(ids)
    parsed = UUID(ids[-1])
    assert (parsed.version, parsed.variant) == (7, RFC_4122)
    assert abs((parsed.int >> 80) - time.time() * 1000) < 5000


def test_ids_of_several_threads_are_unique() -> None:
    made: list[list[str]] = []
    threads = [threading.Thread(target=lambda: made.append([uuid7() for _ in range(5000)])) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len({one for ids in made for one in ids}) == 20_000


def test_ids_do_not_depend_on_the_seed_of_the_application() -> None:
    random.seed(1)
    first = uuid7()
    random.seed(1)
    assert uuid7()[24:] != first[24:]


def test_a_forked_child_makes_other_ids() -> None:
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        os.write(writer, " ".join(uuid7() for _ in range(50)).encode())
        os._exit(0)
    mine = [uuid7() for _ in range(50)]
    os.waitpid(child, 0)
    theirs = os.read(reader, 65536).decode().split()
    os.close(reader)
    os.close(writer)
    assert len(theirs) == 50
    assert len({one[24:] for one in mine + theirs}) == 100

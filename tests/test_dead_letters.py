"""What a dead letter keeps and says."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest

from eventbus_core import Delivery, InvalidRecord, Position, Record
from eventbus_core.dead_letters.letters import (
    DeadLetter,
    DeadLetterId,
    Mark,
    dlq_topic,
    make,
    mark,
    parse,
    redriven,
    size_of,
    source_topic,
    stack_hash,
)

EARLIER, LATER = datetime(2030, 1, 1, tzinfo=UTC), datetime(2030, 1, 1, 0, 0, 7, tzinfo=UTC)
ORIGINAL = Record("orders", b"\x00\xff", b"\xfekey", (("x", b"\xff"), ("x", b""), ("ce_id", b"1")), 1234567)


def letter_of(record: Record, error: Exception | None = None, /, **changed: Any) -> Record:
    said: dict[str, Any] = {
        "reason": "failed", "attempts": 3, "first_at": EARLIER, "last_at": LATER,
        "build": "shop.app:handle shop 1.2", "max_bytes": 1 << 20,
    }  # fmt: skip
    partition, position = changed.pop("place", (1, Position(42, 7)))
    return make(Delivery(record, partition, position), "billing", error or ValueError("no"), **said | changed)


def read(record: Record) -> DeadLetter:
    letter = parse(record, "orders", "billing")
    assert isinstance(letter, DeadLetter)
    return letter


def test_the_original_is_untouched_and_comes_first() -> None:
    record = letter_of(ORIGINAL)
    assert (record.topic, record.key, record.value) == ("orders.billing.dlq", ORIGINAL.key, ORIGINAL.value)
    assert record.headers[:3] == ORIGINAL.headers
    assert all(name.startswith("eb-dlq-") for name, _ in record.headers[3:])
    assert read(record).original == ORIGINAL


@pytest.mark.parametrize("value", [None, b""])
@pytest.mark.parametrize("key", [None, b""])
def test_none_and_empty_stay_apart(key: bytes | None, value: bytes | None) -> None:
    original = Record("orders", value, key, (), None)
    assert read(letter_of(original)).original == original


def test_what_happened_can_be_read_back() -> None:
    letter = read(letter_of(ORIGINAL, KeyError("sku")))
    assert (letter.group, letter.origin, letter.reason, letter.attempts) == (
        "billing", DeadLetterId(1, Position(42, 7)), "failed", 3,
    )  # fmt: skip
    assert (letter.error_type, letter.error_message) == ("KeyError", "'sku'")
    assert (letter.first_at, letter.last_at, letter.build) == (EARLIER, LATER, "shop.app:handle shop 1.2")
    assert (letter.parks, letter.again, letter.run) == (False, None, None)


def test_a_key_is_parked_only_when_there_is_one() -> None:
    assert read(letter_of(ORIGINAL, parks=True)).parks
    assert not read(letter_of(ORIGINAL._replace(key=None), parks=True)).parks


def test_a_redriven_event_that_fails_becomes_a_note_on_its_dead_letter() -> None:
    first = DeadLetterId(1, Position(9))
    back = redriven(read(letter_of(ORIGINAL)), first, "run1")
    assert back.topic == "orders.billing.redrive"
    assert (back.key, back.value, back.headers[:-1]) == (ORIGINAL.key, ORIGINAL.value, ORIGINAL.headers)
    note = letter_of(back, place=(0, Position(3)))
    assert note.topic == "orders.billing.dlq"
    letter = read(note)
    assert letter.original.headers == ORIGINAL.headers
    assert (letter.original.topic, letter.origin) == ("orders", DeadLetterId(1, Position(42, 7)))
    assert (letter.again, letter.run) == (first, "run1")


def test_a_header_of_the_same_name_in_the_main_topic_is_the_applications() -> None:
    foreign = ORIGINAL._replace(headers=(("eb-redrive", b"\xff not ours"),))
    assert read(letter_of(foreign)).original == foreign


@pytest.mark.parametrize("foreign", [b"", b"\xff", b"run 1@2", b"run here there", b"run 1@2 x"])
def test_a_record_that_others_put_into_the_redrive_topic_is_like_any_other(foreign: bytes) -> None:
    record = ORIGINAL._replace(topic="orders.billing.redrive", headers=(("eb-redrive", foreign),))
    letter = read(letter_of(record))
    assert (letter.original.headers, letter.again) == (record.headers, None)


def test_a_dead_letter_of_dead_letters_gives_back_the_dead_letter() -> None:
    inner = letter_of(ORIGINAL)
    outer = make(
        Delivery(inner, 0, Position(5)), "watch", ValueError(), reason="failed", attempts=1, first_at=EARLIER,
        last_at=LATER, build="", max_bytes=1 << 20,
    )  # fmt: skip
    letter = parse(outer, inner.topic, "watch")
    assert isinstance(letter, DeadLetter)
    assert letter.original == inner


def test_names_that_lead_to_one_topic_are_told_apart_by_what_the_record_says() -> None:
    assert dlq_topic("a.b", "c") == dlq_topic("a", "b.c")
    record = letter_of(ORIGINAL)
    assert parse(record, "orders", "bill") is None
    assert parse(record, "ord", "billing") is None


def test_the_message_is_cut_and_survives_half_surrogates() -> None:
    letter = read(letter_of(ORIGINAL, ValueError("\ud800" + "é" * 2000)))
    assert letter.error_message is not None
    assert letter.error_message.startswith("\\ud800é")
    assert 1000 < len(letter.error_message.encode()) <= 1024


def test_an_error_whose_message_raises_does_not_cost_the_dead_letter() -> None:
    class Nasty(Exception):
        def __str__(self) -> str:
            raise RuntimeError

    assert "RuntimeError" in (read(letter_of(ORIGINAL, Nasty())).error_message or "")


def test_a_record_without_room_gets_what_is_needed_only() -> None:
    record = letter_of(ORIGINAL, ValueError("m" * 5000), max_bytes=size_of(ORIGINAL))
    letter = read(record)
    assert letter.original._replace(timestamp_ms=1234567) == ORIGINAL
    assert (letter.origin, letter.attempts, letter.error_type) == (DeadLetterId(1, Position(42, 7)), 3, "ValueError")
    assert (letter.error_message, letter.stack_hash, letter.build, letter.first_at) == (None, None, None, None)
    assert size_of(record) - size_of(ORIGINAL) <= 1024


def test_with_the_longest_names_what_is_needed_takes_less_than_a_kilobyte() -> None:
    kind = type("E" * 500, (Exception,), {})
    topic, group = "t" * 90, "g" * 90
    delivery = Delivery(ORIGINAL._replace(topic=topic), 99999, Position(2**63, 2**63, 2**31))
    record = make(
        delivery, group, kind(), reason="undecodable", attempts=10**9, first_at=EARLIER, last_at=LATER,
        build="b" * 500, max_bytes=0, parks=True,
    )  # fmt: skip
    assert size_of(record) - size_of(ORIGINAL) <= 1024


def test_names_too_long_for_a_topic_are_refused() -> None:
    with pytest.raises(InvalidRecord, match="bad topic name"):
        dlq_topic("t" * 100, "g" * 100)


def test_a_mark_names_its_dead_letter() -> None:
    of = DeadLetterId(3, Position(1, 2))
    assert parse(mark(of, "orders", "billing", b"0"), "orders", "billing") == Mark(of)


@pytest.mark.parametrize(
    "broken",
    [
        (),
        (("eb-dlq-group", b"billing"),),
        (("eb-dlq-group", b"\xff"), ("eb-dlq-topic", b"orders")),
        (("eb-dlq-group", b"billing"), ("eb-dlq-topic", b"orders"), ("eb-dlq-done", b"here")),
        (("eb-dlq-group", b"billing"), ("eb-dlq-topic", b"orders"), ("eb-dlq-reason", b"tired")),
    ],
)
def test_what_is_no_dead_letter_is_none(broken: tuple[tuple[str, bytes], ...]) -> None:
    assert parse(Record("orders.billing.dlq", b"", None, broken, 0), "orders", "billing") is None


@pytest.mark.parametrize("text", ["", "1", "@1", "1@", "x@1", "1@x", "-1@2", "²@1"])
def test_what_is_no_id_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="not a"):
        DeadLetterId.parse(text)


def _raised(kind: type[Exception], message: str, *, elsewhere: bool = False) -> Exception:
    def here() -> None:
        raise kind(message)

    def there() -> None:
        raise kind(message)

    try:
        (there if elsewhere else here)()
    except kind as error:
        return error
    raise AssertionError


def test_the_stack_hash_is_of_the_kind_of_failure_not_of_the_message() -> None:
    one = stack_hash(_raised(ValueError, "order 1"))
    assert one == stack_hash(_raised(ValueError, "order 2"))
    assert one != stack_hash(_raised(KeyError, "order 1"))
    assert one != stack_hash(_raised(ValueError, "order 1", elsewhere=True))


def test_the_topic_behind_a_redrive_topic() -> None:
    assert source_topic("orders.billing.redrive", "billing") == source_topic("orders", "billing") == "orders"
    assert source_topic("orders.mail.redrive", "billing") == "orders.mail.redrive"

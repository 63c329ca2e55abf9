"""Events as CloudEvents records, and every way in which a record can be none."""

from __future__ import annotations

import base64
import dataclasses
import json
import random
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta, timezone
from decimal import Decimal
from typing import Any

import pytest
from cloudevents.core.bindings import kafka as sdk
from cloudevents.core.v1.event import CloudEvent
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import BaseModel, field_validator

from eventbus_core.envelope import decode, encode, encode_new, peek_type
from eventbus_core.errors import DecodeError, InvalidRecord, UsageError
from eventbus_core.events import Event, declaration_of, event_type
from eventbus_core.records import Assignment, Delivery, Position, Record
from eventbus_core.structured import parse_structured

TYPE = "test.envelope.paid.v1"


@event_type(TYPE, topic="orders", key="order")
class Paid(BaseModel):
    order: str
    amount: Decimal = Decimal(1)


class _Raw:
    """A codec for bytes that are no JSON."""

    content_type = "application/octet-stream"

    def encode(self, data: object) -> bytes:
        assert isinstance(data, Blob)
        return data.raw

    def decode(self, raw: bytes, into: type[Any]) -> Any:
        if raw == b"boom":
            raise ZeroDivisionError
        return into(raw)


@event_type("test.envelope.blob.v1", topic="blobs", codec=_Raw())
class Blob:
    def __init__(self, raw: bytes) -> None:
        self.raw = raw


_SOLD: set[str] = set()


@event_type("test.envelope.ticket.v1", topic="tickets")
class Ticket(BaseModel):
    seat: str

    @field_validator("seat")
    @classmethod
    def _is_free(cls, seat: str) -> str:
        if seat in _SOLD:
            raise LookupError(seat)
        return seat


def record_of(event: Event[Any], source: str = "/shop") -> Record:
    return encode(event, declaration_of(type(event.data)), source)


def with_headers(record: Record, **changes: str | bytes | None) -> Record:
    headers = {name.replace("-", "_"): (name, value) for name, value in record.headers}
    for name, value in changes.items():
        if value is None:
            headers.pop(name)
        else:
            real = "content-type" if name == "content_type" else name
            headers[name] = (real, value.encode() if isinstance(value, str) else value)
    return record._replace(headers=tuple(headers.values()))


PAID = record_of(Event(Paid(order="7")))


def structured(content_type: str = "application/cloudevents+json", **members: object) -> Record:
    whole = {"specversion": "1.0", "id": "1", "source": "/a", "type": TYPE, "time": "2026-01-02T03:04:05Z", **members}
    value = json.dumps({name: value for name, value in whole.items() if value is not ...}).encode()
    return Record("orders", value, headers=(("content-type", content_type.encode()),))


# What is written


def test_an_event_is_a_record_in_binary_mode() -> None:
    time = datetime(2026, 1, 2, 3, 4, 5, 678, tzinfo=UTC)
    record = record_of(Event(Paid(order="7"), id="1", time=time, subject="s", extensions={"traceparent": "00-a"}))
    assert record == Record(
        "orders",
        b'{"order":"7","amount":"1"}',
        b"7",
        (
            ("ce_specversion", b"1.0"),
            ("ce_type", TYPE.encode()),
            ("ce_source", b"/shop"),
            ("content-type", b"application/json"),
            ("ce_id", b"1"),
            ("ce_time", b"2026-01-02T03:04:05.000678Z"),
            ("ce_subject", b"s"),
            ("ce_partitionkey", b"7"),
            ("ce_traceparent", b"00-a"),
        ),
    )


def test_the_events_own_source_goes_first_and_a_topic_can_be_given() -> None:
    event = Event(Paid(order="7"), source="/mine")
    record = encode(event, declaration_of(Paid), "/bus", topic="prefix.orders", key="other")
    assert dict(record.headers)["ce_source"] == b"/mine"
    assert (record.topic, record.key) == ("prefix.orders", b"other")


def test_an_event_without_key_has_no_key_and_no_partitionkey() -> None:
    record = record_of(Event(Blob(b"\x00")))
    assert record.key is None
    assert "ce_partitionkey" not in dict(record.headers)


@pytest.mark.parametrize(
    "parts",
    [
        {"id": ""},
        {"id": "a\nb"},
        {"subject": "a\x00"},
        {"subject": "\ud800"},
        {"key": "\ud800"},
        {"source": "a\x7f"},
        {"type": ""},
        {"extensions": {"Trace-Parent": "x"}},
        {"extensions": {"id": "x"}},
        {"extensions": {"data": "x"}},
        {"extensions": {"n": 5}},
        {"extensions": {"n": "\x1b"}},
    ],
)
def test_what_cloudevents_cannot_express_is_refused(parts: dict[str, Any]) -> None:
    with pytest.raises(InvalidRecord):
        record_of(Event(Paid(order="7"), **parts))


# Round trips


@given(
    subject=st.none() | st.text(min_size=1).filter(lambda text: text.isprintable()),
    key=st.none() | st.text(),
    time=st.datetimes(timezones=st.just(UTC) | st.just(timezone(timedelta(hours=-5, minutes=-30)))),
    extensions=st.dictionaries(
        st.from_regex(r"[a-z0-9]{1,20}", fullmatch=True).filter(
            lambda name: name not in {"id", "data", "time", "type"}
        ),
        st.text().filter(lambda text: text.isprintable()),
        max_size=4,
    ),
)
@settings(max_examples=300)
def test_every_event_comes_back(
    subject: str | None, key: str | None, time: datetime, extensions: dict[str, str]
) -> None:
    for reserved in ("source", "subject", "specversion", "dataschema", "datacontenttype"):
        extensions.pop(reserved, None)
    event = Event(Paid(order="7"), source="/a", subject=subject, key=key, time=time, extensions=extensions)
    back = decode(record_of(event), Paid)
    if key is not None and extensions.get("partitionkey") == key:
        extensions.pop("partitionkey")  # it says nothing beyond the key
        assert back.extensions == extensions
    else:
        assert back == event


def test_header_values_are_utf8_without_percent_encoding() -> None:
    record = record_of(Event(Paid(order="Zoë"), subject="café 100 %", extensions={"who": "Ωmega"}))
    headers = dict(record.headers)
    assert headers["ce_subject"] == "café 100 %".encode()
    assert headers["ce_partitionkey"] == "Zoë".encode()
    back = decode(record, Paid)
    assert (back.subject, back.key, back.extensions) == ("café 100 %", "Zoë", {"who": "Ωmega"})


def test_a_partitionkey_of_its_own_survives_beside_the_key() -> None:
    event = Event(Paid(order="7"), key="other", extensions={"partitionkey": "tenant-7"})
    record = record_of(event)
    assert (record.key, dict(record.headers)["ce_partitionkey"]) == (b"other", b"tenant-7")
    back = decode(record, Paid)
    assert (back.key, back.extensions) == ("other", {"partitionkey": "tenant-7"})


def test_attempt_and_delivery_are_passed_on() -> None:
    delivery = Delivery(PAID, 0, Position(1), Assignment("orders", 0, 1))
    event = decode(PAID, Paid, attempt=3, delivery=delivery)
    assert event.attempt == 3
    assert event.delivery is delivery


def test_an_event_that_was_received_cannot_be_changed_either() -> None:
    event = decode(PAID, Paid)
    assert type(event) is Event
    with pytest.raises(dataclasses.FrozenInstanceError):
        event.subject = "new"  # type: ignore[misc]


@pytest.mark.parametrize("topic", [None, "elsewhere"])
@pytest.mark.parametrize("key", [None, "k\x01", "ключ"])
def test_new_data_is_written_as_an_event_made_of_it(topic: str | None, key: str | None) -> None:
    paid, declaration = Paid(order="7"), declaration_of(Paid)
    before = datetime.now(UTC)
    new = encode_new(paid, declaration, "/shop", topic=topic, key=key)
    after = datetime.now(UTC)
    read = decode(new, Paid)
    assert before <= read.time <= after
    told = Event(paid, id=read.id, time=read.time)
    assert encode(told, declaration, "/shop", topic=topic, key=key) == new


# Tolerance


def test_without_time_the_record_tells_it() -> None:
    record = with_headers(PAID, ce_time=None)._replace(timestamp_ms=1_000)
    assert decode(record, Paid).time == datetime(1970, 1, 1, 0, 0, 1, tzinfo=UTC)


@pytest.mark.parametrize(
    "text", ["2026-01-02T03:04:05.123456789Z", "2026-01-02t03:04:05z", "2026-01-02T03:04:05+02:00"]
)
def test_other_spellings_of_rfc_3339_are_read(text: str) -> None:
    assert decode(with_headers(PAID, ce_time=text), Paid).time.year == 2026


@pytest.mark.parametrize(
    "text", ["application/json; charset=utf-8", "Application/JSON", "text/json", "application/x+json"]
)
def test_any_json_is_json(text: str) -> None:
    assert decode(with_headers(PAID, content_type=text), Paid).data == Paid(order="7")


def test_header_names_may_be_in_other_case_and_foreign_headers_are_ignored() -> None:
    headers = tuple((name.title(), value) for name, value in PAID.headers)
    record = PAID._replace(headers=(*headers, ("x-hop", b"\xff"), ("x-hop", b"2")))
    assert decode(record, Paid).data == Paid(order="7")


def test_a_key_that_is_not_text_is_no_key_of_the_event() -> None:
    assert decode(PAID._replace(key=b"\xff\x00"), Paid).key is None


# What is refused


@pytest.mark.parametrize(
    ("record", "message"),
    [
        (Record("t", b"{}"), "no CloudEvents event"),
        (with_headers(PAID, ce_id=None), "no 'id'"),
        (with_headers(PAID, ce_source=None), "no 'source'"),
        (with_headers(PAID, ce_type=""), "no 'type'"),
        (with_headers(PAID, ce_specversion=None), "specversion None"),
        (with_headers(PAID, ce_specversion="0.3"), r"specversion '0\.3'"),
        (with_headers(PAID, ce_type="other"), "is of type 'other'"),
        (with_headers(PAID, ce_time="yesterday"), "RFC 3339"),
        (with_headers(PAID, ce_time="2026-01-02T03:04:05"), "without a zone"),
        (with_headers(PAID, ce_time=None), "no timestamp"),
        (with_headers(PAID, ce_time=None)._replace(timestamp_ms=10**18), "impossible timestamp"),
        (with_headers(PAID, ce_subject=b"\xff"), "'ce_subject' that is not UTF-8"),
        (with_headers(PAID, content_type="application/avro"), "holds 'application/avro'"),
        (PAID._replace(headers=(*PAID.headers, ("ce_id", b"2"))), "'ce_id' twice"),
        (PAID._replace(value=None), "no data"),
        (PAID._replace(value=b"{"), "no Paid"),
        (PAID._replace(value=b'{"amount": 1}'), "order: Field required"),
        (structured("application/cloudevents+avro", data={}), "not supported"),
        (structured("application/cloudevents-batch+json", data={}), "not supported"),
        (structured(data={"order": "7"})._replace(value=None), "has no value"),
        (structured(), "no data"),
        (structured(data={}, data_base64="e30="), "both"),
        (structured(data_base64="?"), "not base64"),
        (structured(data_base64=5), "not text"),
        (structured(data={"order": "7"}, subject=[1]), "'subject' is neither"),
        (structured(data={"order": "7"}, specversion="2.0"), "specversion"),
        (structured(data={"order": "7"}, id=None), "no 'id'"),
    ],
)
def test_a_malformed_record_is_a_decode_error_that_says_what_is_wrong(record: Record, message: str) -> None:
    with pytest.raises(DecodeError, match=message) as caught:
        decode(record, Paid)
    assert caught.value.topic == record.topic


@pytest.mark.parametrize(
    "value", [b"", b"[]", b"null", b"{", b'{"a":1,}', b'{"a":1}x', b'{"a":1,"a":2}', b"\xff", b'{"a":' + b"[" * 200_000]
)
def test_a_structured_value_that_is_no_json_object_is_a_decode_error(value: bytes) -> None:
    record = Record("t", value, headers=(("content-type", b"application/cloudevents+json"),))
    with pytest.raises(DecodeError, match="cannot be read"):
        decode(record, Paid)
    assert peek_type(record) is None


def test_what_a_codec_raises_becomes_a_decode_error() -> None:
    with pytest.raises(DecodeError, match="ZeroDivisionError") as caught:
        decode(record_of(Event(Blob(b"boom"))), Blob)
    assert isinstance(caught.value.__cause__, ZeroDivisionError)


def test_what_a_validator_raises_at_publish_is_an_invalid_record_without_the_data() -> None:
    event = Ticket(seat="secret")
    _SOLD.add("secret")
    with pytest.raises(InvalidRecord, match=r"Ticket.*LookupError") as caught:
        encode_new(event, declaration_of(Ticket), "/shop")
    assert isinstance(caught.value.__cause__, LookupError)
    assert "secret" not in str(caught.value)


def test_reading_into_a_class_that_is_not_declared_is_the_callers_mistake() -> None:
    with pytest.raises(UsageError, match="not declared"):
        decode(PAID, dict)


# Structured mode


def test_structured_json_is_read() -> None:
    record = structured(data={"order": "7", "amount": "2.50"}, subject="café", traceparent="00", count=3, flag=True)
    event = decode(record._replace(key=b"k"), Paid)
    assert event.data == Paid(order="7", amount=Decimal("2.50"))
    assert (event.id, event.source, event.subject, event.key) == ("1", "/a", "café", "k")
    assert event.time == datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
    assert event.extensions == {"traceparent": "00", "count": "3", "flag": "true"}


def test_structured_data_reaches_the_codec_byte_for_byte() -> None:
    data = '{ "amount" : 0.1000000000000000000000000000001, "é":"\\u00e9" }'
    whole = f'{{"specversion":"1.0" , "data": {data} , "type":"x"}}'
    attributes, raw = parse_structured("application/cloudevents+json; charset=utf-8", whole.encode())
    assert raw == data.encode()
    assert attributes == {"specversion": "1.0", "type": "x", "datacontenttype": "application/json"}


def test_structured_base64_and_text_are_bytes() -> None:
    for members in ({"data_base64": base64.b64encode(b"\x00\xff").decode()}, {"data": "plain"}):
        record = structured(**members, type="test.envelope.blob.v1", datacontenttype="application/octet-stream")
        assert decode(record, Blob).data.raw in {b"\x00\xff", b"plain"}


def test_a_structured_record_wins_over_headers_that_repeat_it() -> None:
    record = structured(data={"order": "7"})
    record = record._replace(headers=(*record.headers, ("ce_id", b"from the header")))
    assert decode(record, Paid).id == "1"


def test_the_type_can_be_seen_without_reading_the_data() -> None:
    assert peek_type(PAID._replace(value=b"garbage")) == TYPE
    assert peek_type(structured(data={})) == TYPE
    assert peek_type(Record("t", b"{}")) is None
    assert peek_type(with_headers(PAID, ce_type=b"\xff")) is None


# The official SDK as an independent reader and writer


def test_the_official_sdk_reads_what_we_write() -> None:
    event = Event(Paid(order="Zoë"), subject="café", extensions={"traceparent": "00-a"})
    record = record_of(event)
    message = sdk.KafkaMessage(dict(record.headers), record.key, record.value or b"")
    read = sdk.from_kafka_event(message)
    assert isinstance(read, CloudEvent)
    assert read.get_data() == {"order": "Zoë", "amount": "1"}
    assert (read.get_id(), read.get_type(), read.get_source()) == (event.id, TYPE, "/shop")
    assert (read.get_subject(), read.get_time(), read.get_specversion()) == ("café", event.time, "1.0")
    assert (read.get_extension("partitionkey"), read.get_extension("traceparent")) == ("Zoë", "00-a")


@pytest.mark.parametrize("write", [sdk.to_binary_event, sdk.to_structured_event])
def test_we_read_what_the_official_sdk_writes(write: Any) -> None:
    time = datetime(2026, 1, 2, 3, 4, 5, 678, tzinfo=UTC)
    attributes = {"type": TYPE, "source": "/sdk", "id": "9", "time": time, "subject": "café",
                  "datacontenttype": "application/json", "partitionkey": "k", "traceparent": "00-a"}  # fmt: skip
    message = write(CloudEvent(attributes, {"order": "Zoë", "amount": 3}))
    key = message.key.encode() if isinstance(message.key, str) else message.key
    event = decode(Record("orders", message.value, key, tuple(message.headers.items())), Paid)
    assert event.data == Paid(order="Zoë", amount=Decimal(3))
    assert (event.id, event.source, event.time, event.subject, event.key) == ("9", "/sdk", time, "café", "k")
    assert event.extensions == {"traceparent": "00-a"}


# Fuzzing

_NAMES = [
    "ce_id",
    "ce_type",
    "ce_source",
    "ce_specversion",
    "ce_time",
    "ce_subject",
    "content-type",
    "ce_",
    "ce_X-y",
    "x",
]
_BYTES = st.binary(max_size=12) | st.sampled_from(
    [b"1.0", TYPE.encode(), b"application/json", b"application/cloudevents+json"]
)


@given(
    st.builds(
        Record,
        topic=st.just("t"),
        value=st.none() | st.binary() | st.sampled_from([b"{}", PAID.value]),
        key=st.none() | st.binary(max_size=8),
        headers=st.lists(st.tuples(st.sampled_from(_NAMES) | st.text(max_size=8), _BYTES), max_size=8).map(tuple),
        timestamp_ms=st.none() | st.integers(),
    )
)
@settings(max_examples=1000)
def test_any_record_is_an_event_or_a_decode_error(record: Record) -> None:
    _read(record)


def test_mutated_records_are_events_or_decode_errors() -> None:
    chance = random.Random(20261121)
    outcomes = {True: 0, False: 0}
    for record in _mutants(chance, 60_000):
        outcomes[_read(record)] += 1
    assert min(outcomes.values()) > 5_000, f"the mutations exercise one side only: {outcomes}"


def _mutants(chance: random.Random, count: int) -> Iterator[Record]:
    seeds = [PAID._replace(timestamp_ms=1), structured(data={"order": "7"}, traceparent="00")]
    for _ in range(count):
        record = chance.choice(seeds)
        where = chance.randrange(3)
        if where == 0:
            yield record._replace(value=_mutated(chance, record.value or b""))
        elif where == 1:
            headers = list(record.headers)
            at = chance.randrange(len(headers))
            name, value = headers[at]
            headers[at] = (name, _mutated(chance, value))
            yield record._replace(headers=tuple(headers))
        else:
            headers = list(record.headers)
            chance.shuffle(headers)
            yield record._replace(headers=tuple(headers[: chance.randrange(len(headers) + 1)]), key=b"\xfe")


def _mutated(chance: random.Random, raw: bytes) -> bytes:
    buffer = bytearray(raw)
    for _ in range(chance.randrange(1, 4)):
        at = chance.randrange(len(buffer) + 1)
        kind = chance.randrange(3)
        if kind == 0 and at < len(buffer):
            buffer[at] = chance.randrange(256)
        elif kind == 1:
            buffer[at:at] = chance.choice([b"\xff", b"{", b'"', b"[", b"\\ud800", b"0", b"null", b"\x00"])
        else:
            del buffer[at : at + chance.randrange(4)]
    return bytes(buffer)


def _read(record: Record) -> bool:
    peek_type(record)
    try:
        event = decode(record, Paid)
    except DecodeError:
        return False
    assert event.type == TYPE
    assert event.time.utcoffset() is not None
    return True

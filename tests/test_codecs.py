"""Data to bytes and back."""

from __future__ import annotations

import dataclasses
import math
from datetime import UTC, datetime
from decimal import Decimal

import msgspec
import pytest
from pydantic import BaseModel, Field

from eventbus_core.codecs import MsgspecCodec, PydanticCodec, default_codec
from eventbus_core.errors import DecodeError, InvalidRecord, UsageError


class Paid(BaseModel):
    order: int
    amount: Decimal
    at: datetime
    by: str = Field(default="café", alias="paidBy")


@dataclasses.dataclass(frozen=True)
class Moved:
    thing: str
    where: tuple[int, int]


class Fast(msgspec.Struct):
    number: int
    text: str = "x"


class Measured(BaseModel):
    value: float
    last: float | None = None
    note: str | None = None


class MeasuredInWords(BaseModel, ser_json_inf_nan="strings"):
    value: float
    note: str | None = None


@dataclasses.dataclass
class Sampled:
    values: list[float | None]


class FastMeasured(msgspec.Struct):
    value: float
    last: float | None = None


class Renamed(BaseModel):
    number: int = Field(validation_alias="read", serialization_alias="written")


_PAID = Paid(order=1, amount=Decimal("0.10"), at=datetime(2026, 1, 2, tzinfo=UTC), paidBy="Zoë")


@pytest.mark.parametrize(
    ("codec", "data"),
    [
        (PydanticCodec(), _PAID),
        (PydanticCodec(), Moved("box", (3, 4))),
        (MsgspecCodec(), Fast(7)),
        (MsgspecCodec(), Moved("box", (3, 4))),
    ],
)
def test_what_was_written_is_read_back(codec: PydanticCodec | MsgspecCodec, data: object) -> None:
    assert codec.decode(codec.encode(data), type(data)) == data


def test_aliases_are_what_travels() -> None:
    assert b'"paidBy"' in PydanticCodec().encode(_PAID)


def test_a_reader_ignores_fields_it_does_not_know() -> None:
    raw = b'{"thing": "box", "where": [3, 4], "new": true}'
    assert PydanticCodec().decode(raw, Moved) == Moved("box", (3, 4))


@pytest.mark.parametrize("raw", [b"", b"{", b"[]", b"\xff", b'{"number": "many"}', b"[" * 100_000])
def test_wrong_bytes_are_a_decode_error(raw: bytes) -> None:
    with pytest.raises(DecodeError, match="no Moved"):
        PydanticCodec().decode(raw, Moved)
    with pytest.raises(DecodeError, match="no Fast"):
        MsgspecCodec().decode(raw, Fast)


def test_a_decode_error_names_the_field_and_never_quotes_the_data() -> None:
    with pytest.raises(DecodeError, match="order") as caught:
        PydanticCodec().decode(b'{"order": "patient 4711", "amount": 1, "at": 0}', Paid)
    assert "4711" not in str(caught.value)
    assert caught.value.__cause__ is None
    assert caught.value.__suppress_context__


def test_a_field_of_the_wrong_type_is_refused_before_it_is_sent() -> None:
    broken = _PAID.model_copy(update={"order": "not a number"})
    with pytest.raises(InvalidRecord, match="Paid"):
        PydanticCodec().encode(broken)


@pytest.mark.parametrize(
    ("codec", "data"),
    [
        (PydanticCodec(), Measured(value=math.nan)),
        (PydanticCodec(), Measured(value=1.0, last=math.inf, note="NaN")),
        (PydanticCodec(), Sampled([1.0, None, -math.inf])),
        (MsgspecCodec(), FastMeasured(math.nan)),
        (MsgspecCodec(), FastMeasured(1.0, -math.inf)),
    ],
)
def test_numbers_that_json_does_not_have_are_refused_before_they_are_sent(
    codec: PydanticCodec | MsgspecCodec, data: object
) -> None:
    with pytest.raises(InvalidRecord, match=type(data).__qualname__):
        codec.encode(data)


def test_a_class_may_write_nan_and_infinity_as_text() -> None:
    codec = PydanticCodec()
    assert math.isnan(codec.decode(codec.encode(MeasuredInWords(value=math.nan)), MeasuredInWords).value)
    assert codec.decode(codec.encode(Measured(value=1.0, note="NaN")), Measured).note == "NaN"


def test_what_its_own_class_cannot_read_is_refused_before_it_is_sent() -> None:
    with pytest.raises(InvalidRecord, match=r"cannot read back.*read: Field required"):
        PydanticCodec().encode(Renamed(read=1))  # type: ignore[call-arg]


def test_msgspec_refuses_what_it_cannot_write() -> None:
    with pytest.raises(InvalidRecord, match="Fast"):
        MsgspecCodec().encode(Fast(number=1, text=object()))  # type: ignore[arg-type]


def test_the_codec_follows_from_the_kind_of_class() -> None:
    assert isinstance(default_codec(Paid), PydanticCodec)
    assert isinstance(default_codec(Moved), PydanticCodec)
    assert isinstance(default_codec(Fast), MsgspecCodec)


def test_a_plain_class_has_no_codec() -> None:
    with pytest.raises(UsageError, match="neither a pydantic model"):
        default_codec(type("Plain", (), {}))


def test_without_msgspec_the_error_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "msgspec", None)
    with pytest.raises(UsageError, match=r"pip install 'eventbus-core\[msgspec\]'"):
        MsgspecCodec()

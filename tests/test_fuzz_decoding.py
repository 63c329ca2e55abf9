"""Malformed records by the hundred thousand: reading one gives an event or `DecodeError`, and nothing else.

`EVENTBUS_FUZZ_RECORDS=1000000 pytest -s tests/test_fuzz_decoding.py` for more of them, `EVENTBUS_FUZZ_SEED` for the
same ones again.
"""

from __future__ import annotations

import base64
import json
import os
import random
import secrets
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal
from uuid import UUID

import msgspec
import pytest
from pydantic import BaseModel

from eventbus_core import DecodeError, Event, Record, event_type
from eventbus_core.envelope import decode, encode, peek_type
from eventbus_core.events import declaration_of
from eventbus_core.structured import parse_structured

RECORDS = int(os.environ.get("EVENTBUS_FUZZ_RECORDS", "100000"))
SEED = int(os.environ.get("EVENTBUS_FUZZ_SEED") or secrets.randbits(32))


@event_type("fuzz.model", topic="fuzz", key="name")
class Model(BaseModel):
    name: str
    sum: Decimal
    at: datetime
    tags: dict[str, list[int]]
    parent: UUID | None = None


@event_type("fuzz.struct", topic="fuzz")
class Struct(msgspec.Struct):
    name: str
    count: int
    at: datetime


@event_type("fuzz.plain", topic="fuzz")
@dataclass
class Plain:
    name: str
    ratio: float


NOW = datetime(2030, 1, 1, tzinfo=UTC)
DATA: tuple[Model | Struct | Plain, ...] = (
    Model(name="ä", sum=Decimal("1.10"), at=NOW, tags={"a": [1, 2]}),
    Struct(name="b", count=7, at=NOW),
    Plain(name="c", ratio=0.5),
)
VALID = [
    encode(Event(data, subject="s", extensions={"trace": "1"}), declaration_of(type(data)), "/fuzz") for data in DATA
]
TYPES = [type(data) for data in DATA]
PIECES = [
    *(b"", b"\x00", b"\xff", b"\xed\xa0\x80", b"\xef\xbb\xbf", b"null", b"true", b"-", b"1e999", b"NaN", b"9" * 5000),
    *(b"{", b"}", b"[", b"]", b'"', b",", b":", b"\\", b'"\\ud800"', b"\\u0000", b"[" * 3000, b'{"a":' * 3000),
    *(b"1.0", b"fuzz.model", b"2030-13-01T00:00:00Z", b"2030-01-01T00:00:00", b"0001-01-01T00:00:00+23:59", b"=="),
    *(b"application/json", b"application/cloudevents+json", b"application/cloudevents", b"text/plain; charset=x"),
]
NAMES = [
    *("ce_id", "ce_type", "ce_source", "ce_specversion", "ce_time", "ce_subject", "ce_", "ce_\x00", "CE_ID", "ce_data"),
    *("ce_datacontenttype", "content-type", "Content-Type", "", "\u0130", "x", "ce_partitionkey", "ce_dataschema"),
]
MEMBERS = [
    *("specversion", "id", "source", "type", "time", "subject", "datacontenttype", "data", "data_base64", "", "é"),
    "partitionkey",
]


class Fuzzer:
    """Makes records; the same ones for the same seed."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)
        self.kinds: list[Callable[[], Record]] = [self.mutated, self.mutated, self.headers, self.structured, self.text]

    def record(self) -> Record:
        return self.random.choice(self.kinds)()

    def garbled(self, original: bytes) -> bytes:
        """With something cut, put in, flipped or repeated."""
        raw = bytearray(original)
        for _ in range(self.random.choice((1, 1, 1, 2, 5))):
            at = self.random.randrange(len(raw) + 1)
            match self.random.randrange(5):
                case 0:
                    raw[at : at + self.random.randrange(1, 9)] = b""
                case 1:
                    raw[at:at] = self.random.choice(PIECES)
                case 2 if at < len(raw):
                    raw[at] ^= 1 << self.random.randrange(8)
                case 3:
                    raw[at:at] = raw[: self.random.randrange(len(raw) + 1)]
                case _:
                    raw[at:at] = self.random.randbytes(self.random.randrange(1, 5))
        return bytes(raw)

    def mutated(self) -> Record:
        record = self.random.choice(VALID)
        headers = list(record.headers)
        at = self.random.randrange(len(headers))
        match self.random.randrange(8):
            case 0:
                del headers[at]
            case 1:
                headers.append(headers[at])
            case 2:
                headers[at] = headers[at][0], self.garbled(headers[at][1])
            case 3:
                headers[at] = self.random.choice(NAMES), headers[at][1]
            case 4:
                headers[at] = headers[at][0].upper(), self.random.choice(PIECES)
            case 5:
                return record._replace(key=self.random.randbytes(3), timestamp_ms=self.timestamp(), headers=())
            case 6:
                time = [pair for pair in headers if pair[0] != "ce_time"]
                return record._replace(headers=tuple(time), timestamp_ms=self.timestamp())
            case _:
                return record._replace(value=self.value(record.value))
        return record._replace(headers=tuple(headers))

    def timestamp(self) -> int | None:
        return self.random.choice((None, 0, -1, 1, 1 << 40, 1 << 80, -(1 << 62), self.random.randrange(1 << 44)))

    def value(self, original: bytes | None) -> bytes | None:
        return None if self.random.random() < 0.05 else self.garbled(original or b"")

    def headers(self) -> Record:
        """Any headers at all."""
        pairs = [
            (self.random.choice(NAMES), self.random.choice(PIECES) or self.random.randbytes(4))
            for _ in range(self.random.randrange(9))
        ]
        return Record("fuzz", self.value(b"{}"), None, tuple(pairs), self.timestamp())

    def structured(self) -> Record:
        """A structured event, or what is nearly one."""
        model = json.loads(VALID[0].value or b"")
        members: dict[str, object] = {
            "specversion": "1.0", "id": "1", "source": "/f", "type": "fuzz.model", "time": "2030-01-01T00:00:00Z",
            "data": model,
        }  # fmt: skip
        for _ in range(self.random.randrange(3)):
            odd: list[object] = [
                None,
                1,
                -1.5,
                1e308,
                True,
                [],
                {},
                "",
                "\ud800",
                [[]],
                {"a": model},
                self.random.choice(MEMBERS),
            ]
            members[self.random.choice(MEMBERS)] = self.random.choice(odd)
        if self.random.random() < 0.2:
            members["data_base64"] = base64.b64encode(VALID[0].value or b"").decode()
            del members["data"]
        raw = json.dumps(members, ensure_ascii=self.random.random() < 0.5).encode(errors="surrogatepass")
        if self.random.random() < 0.7:
            raw = self.garbled(raw)
        kind = self.random.choice((b"application/cloudevents+json", b"application/cloudevents+json; charset=utf-8"))
        return Record("fuzz", raw, None, (("content-type", kind),), 1)

    def text(self) -> Record:
        """Garbage that claims to be a structured event."""
        raw = b"".join(self.random.choice(PIECES) for _ in range(self.random.randrange(12)))
        kind = self.garbled(b"application/cloudevents+json") if self.random.random() < 0.3 else PIECES[-3]
        return Record("fuzz", raw, None, (("content-type", kind),), 1)


def outcome(record: Record, into: type[Model | Struct | Plain]) -> str:
    """Read a record in every way there is."""
    kind = peek_type(record)
    assert kind is None or isinstance(kind, str)
    try:
        event = decode(record, into)
    except DecodeError as error:
        str(error).encode()  # half a surrogate pair in a message would cost the one who logs it
        return "refused"
    assert isinstance(event.data, into)
    assert kind == event.type
    assert event.time.utcoffset() is not None
    return "event"


@pytest.mark.timeout(60 + RECORDS // 2000)
def test_a_malformed_record_is_a_decode_error_and_nothing_else() -> None:
    print(f"seed {SEED}, {RECORDS} records")
    fuzzer = Fuzzer(SEED)
    counts: Counter[str] = Counter()
    for number in range(RECORDS):
        record = fuzzer.record()
        into = TYPES[number % len(TYPES)]
        try:
            counts[outcome(record, into)] += 1
        except Exception as error:
            raise AssertionError(f"seed {SEED}, record {number} as {into.__name__}: {record!r:.2000}") from error
    # Were all refused for one reason, or none, nothing would have been tried.
    assert counts["event"] > RECORDS * 0.01, counts
    assert counts["refused"] > RECORDS * 0.5, counts


def test_a_malformed_structured_value_is_a_decode_error_and_nothing_else() -> None:
    print(f"seed {SEED}")
    fuzzer = Fuzzer(SEED)
    for number in range(RECORDS // 10):
        value = fuzzer.structured().value or b""
        try:
            attributes, data = parse_structured("application/cloudevents+json", value)
        except DecodeError:
            continue
        except Exception as error:
            raise AssertionError(f"seed {SEED}, value {number}: {value!r:.2000}") from error
        assert all(isinstance(text, str) for text in attributes.values())
        assert data is None or isinstance(data, bytes)

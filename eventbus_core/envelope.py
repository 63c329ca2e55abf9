"""Events as records and back: CloudEvents 1.0 in the binary mode of its Kafka binding, on every broker.

Attributes are headers named ``ce_*`` with UTF-8 values, without percent-encoding (Kafka protocol binding 1.0.2,
§3.2.3); ``datacontenttype`` is the header ``content-type``; the value is the data as the codec wrote it. On reading,
structured JSON (``content-type: application/cloudevents+json``) is understood too.
"""

from __future__ import annotations

import re
import time
from datetime import UTC, datetime
from functools import lru_cache
from typing import Any, TypeVar

from eventbus_core.errors import DecodeError, InvalidRecord
from eventbus_core.events import Declaration, Event, declaration_of, received
from eventbus_core.ids import uuid7
from eventbus_core.records import Delivery, Headers, Record
from eventbus_core.structured import STRUCTURED_PREFIX, parse_structured

T = TypeVar("T")

_RESERVED = frozenset(
    {"specversion", "id", "source", "type", "datacontenttype", "dataschema", "subject", "time", "data", "data_base64"}
)
_EXTENSION_NAME = re.compile(r"[a-z0-9]+")
# What the CloudEvents type system forbids in a string: C0 and C1 control characters.
_STRUCTURED = STRUCTURED_PREFIX.decode()
_FORBIDDEN = re.compile("[\x00-\x1f\x7f-\x9f]")


def encode(
    event: Event[Any], declaration: Declaration, source: str, *, topic: str | None = None, key: str | None = None
) -> Record:
    """The record of an event.

    Args:
        event: Its own source, key and partitionkey, where stated, go before the arguments and the declaration.
        declaration: Of the class of its data.
        source: The CloudEvents source of this bus.
        topic: Instead of the declared one.
        key: Instead of the event's.

    Raises:
        InvalidRecord: An attribute or the data cannot be written.
    """
    if key is None:
        key = event.key
        if key is None and declaration.key_of is not None:
            key = declaration.key_of(event.data)
    moment = event.time.isoformat()
    head: Headers = (
        *_constant_headers(event.type, event.source or source, declaration.codec.content_type),
        ("ce_id", _checked("the CloudEvents attribute 'id'", event.id)),
        ("ce_time", (moment[:-6] + "Z" if moment.endswith("+00:00") else moment).encode()),
    )
    if event.subject:
        head += (("ce_subject", _checked("the CloudEvents attribute 'subject'", event.subject)),)
    extensions = event.extensions
    tail = tuple(_extension_header(name, text) for name, text in extensions.items()) if extensions else ()
    own_key = None if "partitionkey" in extensions else key
    return _record(event.data, declaration, topic, key, head + _partition_key(own_key) + tail)


def encode_new(
    data: object, declaration: Declaration, source: str, *, topic: str | None = None, key: str | None = None
) -> Record:
    """What ``encode`` makes of ``Event(data)``, without making one."""
    if key is None and declaration.key_of is not None:
        key = declaration.key_of(data)
    head: Headers = (
        *_constant_headers(declaration.type, source, declaration.codec.content_type),
        ("ce_id", uuid7().encode()),
        ("ce_time", _now().encode()),
    )
    return _record(data, declaration, topic, key, head + _partition_key(key))


def _record(data: object, declaration: Declaration, topic: str | None, key: str | None, headers: Headers) -> Record:
    try:
        value = declaration.codec.encode(data)
    except (InvalidRecord, MemoryError):
        raise
    except Exception as error:
        # A codec and the validators of a model are foreign code: what they raise is about this event.
        raise InvalidRecord(f"{declaration.cls.__qualname__}: its codec failed with {type(error).__name__}") from error
    return Record(topic or declaration.topic, value, None if key is None else _encoded("the key", key), headers)


@lru_cache(maxsize=4096)
def _constant_headers(type_name: str, source: str, content_type: str) -> Headers:
    return (
        ("ce_specversion", b"1.0"),
        ("ce_type", _checked("the CloudEvents attribute 'type'", type_name)),
        ("ce_source", _checked("the CloudEvents attribute 'source'", source)),
        ("content-type", _checked("the CloudEvents attribute 'datacontenttype'", content_type)),
    )


def _partition_key(key: str | None) -> Headers:
    # A key that CloudEvents cannot express still is the record's key.
    if not key or not (key.isprintable() or not _FORBIDDEN.search(key)):
        return ()
    return (("ce_partitionkey", _encoded("the key", key)),)


def _extension_header(name: str, text: str) -> tuple[str, bytes]:
    if name in _RESERVED or not _EXTENSION_NAME.fullmatch(name):
        raise InvalidRecord(f"{name!r} is no name of a CloudEvents extension: lower-case letters and digits only")
    if not isinstance(text, str) or _FORBIDDEN.search(text):
        raise InvalidRecord(f"the CloudEvents extension {name!r} must be text without control characters: {text!r}")
    return f"ce_{name}", _encoded(f"the CloudEvents extension {name!r}", text)


def _checked(what: str, text: str) -> bytes:
    if not text or not (text.isprintable() or not _FORBIDDEN.search(text)):
        raise InvalidRecord(f"{what} must be text without control characters: {text!r}")
    return _encoded(what, text)


def _encoded(what: str, text: str) -> bytes:
    try:
        return text.encode()
    except UnicodeEncodeError as error:
        raise InvalidRecord(f"{what} is not valid Unicode text ({error.reason})") from error


def _now() -> str:
    """The time in UTC, to the microsecond, as RFC 3339 writes it."""
    seconds, nanoseconds = divmod(time.time_ns(), 1_000_000_000)
    return f"{_second(seconds)}.{nanoseconds // 1000:06d}Z"


@lru_cache(maxsize=4)
def _second(seconds: int) -> str:
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%S")


def decode(record: Record, into: type[T], *, attempt: int = 1, delivery: Delivery | None = None) -> Event[T]:
    """The event in a record. Never waits.

    An event without ``time`` has the record's. An attribute name that CloudEvents does not allow is kept, not refused.

    Raises:
        DecodeError: Whatever is wrong with the record: no event, another type, data that is not one of ``into``.
        UsageError: ``into`` is not declared.
    """
    declaration = declaration_of(into)
    attributes, value = _open(record)
    take = attributes.pop
    name, identity, source = take("type", None), take("id", None), take("source", None)
    if not name or (name == declaration.type and not (identity and source)):
        absent = "type" if not name else "source" if identity else "id"
        raise _failure(record, f"is no CloudEvents event: it has no {absent!r} (header ce_{absent})")
    if name != declaration.type or not identity or not source:
        raise _failure(record, f"is of type {name!r}, not {declaration.type!r} ({into.__qualname__})")
    version = take("specversion", None)
    if version != "1.0":
        raise _failure(record, f"has CloudEvents specversion {version!r}; only '1.0' is understood")
    when = _time(record, take("time", None))
    subject = take("subject", None)
    key = _text_key(record.key)
    if key is not None and attributes.get("partitionkey") == key:
        del attributes["partitionkey"]
    data = _data(record, declaration, take("datacontenttype", None), value)
    return received(data, identity, name, source, when, subject, key, attributes, attempt, delivery)


def peek_type(record: Record) -> str | None:
    """The CloudEvents type, without reading the data of a binary event. None: not an event, or a malformed one."""
    for name, value in record.headers:
        if name == "content-type" and value.startswith(STRUCTURED_PREFIX):
            break
    else:
        for name, value in record.headers:
            if name == "ce_type":
                try:
                    return value.decode() or None
                except UnicodeDecodeError:
                    return None
    try:
        return _open(record)[0].get("type") or None
    except DecodeError:
        return None


def _open(record: Record) -> tuple[dict[str, str], bytes | None]:
    """The attributes by their CloudEvents names, and the bytes of the data."""
    attributes: dict[str, str] = {}
    name = ""
    try:
        for name, value in record.headers:
            attribute = _attribute(name)
            if attribute is not None:
                if attribute in attributes:
                    raise _failure(record, f"has the header {name!r} twice")
                attributes[attribute] = value.decode()
    except UnicodeDecodeError as error:
        raise _failure(record, f"has a header {name!r} that is not UTF-8") from error
    if not _is_structured(attributes.get("datacontenttype")):
        return attributes, record.value
    # Headers may repeat attributes of a structured event (§3.3.3); the envelope is what counts.
    if record.value is None:
        raise _failure(record, "claims to be a structured event but has no value")
    try:
        return parse_structured(attributes["datacontenttype"], record.value)
    except DecodeError as error:
        raise _failure(record, f"is a structured event that cannot be read: {error}") from error


@lru_cache(maxsize=4096)
def _attribute(header: str) -> str | None:
    """The CloudEvents attribute that a header carries, if it does."""
    lower = header.lower()
    if lower.startswith("ce_"):
        return lower[3:]
    return "datacontenttype" if lower == "content-type" else None


@lru_cache(maxsize=1024)
def _is_structured(content_type: str | None) -> bool:
    return content_type is not None and content_type.lower().startswith(_STRUCTURED)


def _time(record: Record, text: str | None) -> datetime:
    if text is None:
        return _record_time(record)
    try:
        when = datetime.fromisoformat(text)
    except ValueError:
        try:
            when = datetime.fromisoformat(text.upper())
        except ValueError as error:
            raise _failure(record, "has a 'time' that is not RFC 3339") from error
    if when.tzinfo is None:
        raise _failure(record, "has a 'time' without a zone")
    return when


def _record_time(record: Record) -> datetime:
    if record.timestamp_ms is None:
        raise _failure(record, "has no 'time', and the record has no timestamp")
    try:
        return datetime.fromtimestamp(record.timestamp_ms / 1000, UTC)
    except (ValueError, OverflowError, OSError) as error:
        raise _failure(record, f"has no 'time', and an impossible timestamp {record.timestamp_ms}") from error


def _text_key(key: bytes | None) -> str | None:
    try:
        return None if key is None else key.decode()
    except UnicodeDecodeError:
        return None


def _data(record: Record, declaration: Declaration, content_type: str | None, value: bytes | None) -> Any:
    if value is None:
        raise _failure(record, f"has no data to make a {declaration.cls.__qualname__} of")
    codec = declaration.codec
    if content_type != codec.content_type and not _readable(content_type, codec.content_type):
        raise _failure(record, f"holds {content_type!r}; the codec of {declaration.type} reads {codec.content_type!r}")
    try:
        return codec.decode(value, declaration.cls)
    except DecodeError as error:
        raise _failure(record, f"of type {declaration.type}: {error}") from error
    except MemoryError:
        raise
    except Exception as error:
        # A codec and the validators of a model are foreign code without I/O: what they raise is about this record.
        raise _failure(record, f"of type {declaration.type}: its codec failed with {type(error).__name__}") from error


@lru_cache(maxsize=1024)
def _readable(content_type: str | None, wanted: str) -> bool:
    if content_type is None:
        return True
    given, own = (text.split(";")[0].strip().lower() for text in (content_type, wanted))
    return given == own or (_is_json(given) and _is_json(own))


def _is_json(media_type: str) -> bool:
    return media_type.endswith(("/json", "+json"))


def _failure(record: Record, problem: str) -> DecodeError:
    return DecodeError(f"a record of topic {record.topic!r} {problem}", topic=record.topic)

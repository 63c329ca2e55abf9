"""Events as records and back: CloudEvents 1.0 in the binary mode of its Kafka binding, on every broker.

Attributes are headers named ``ce_*`` with UTF-8 values, without percent-encoding (Kafka protocol binding 1.0.2,
§3.2.3); ``datacontenttype`` is the header ``content-type``; the value is the data as the codec wrote it. On reading,
structured JSON (``content-type: application/cloudevents+json``) is understood too.
"""

from __future__ import annotations

import re
from datetime import UTC, datetime
from functools import lru_cache
from typing import Any, TypeVar

from eventbus_core.errors import DecodeError, InvalidRecord
from eventbus_core.events import Declaration, Event, declaration_of
from eventbus_core.records import Delivery, Headers, Record
from eventbus_core.structured import STRUCTURED_PREFIX, parse_structured

T = TypeVar("T")

_RESERVED = frozenset(
    {"specversion", "id", "source", "type", "datacontenttype", "dataschema", "subject", "time", "data", "data_base64"}
)
_EXTENSION_NAME = re.compile(r"[a-z0-9]+")
# What the CloudEvents type system forbids in a string: C0 and C1 control characters.
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
    codec = declaration.codec
    if key is None:
        key = event.key
        if key is None and declaration.key_of is not None:
            key = declaration.key_of(event.data)
    value = codec.encode(event.data)
    try:
        headers = _headers(event, codec.content_type, source, key)
        return Record(topic or declaration.topic, value, None if key is None else key.encode(), headers)
    except UnicodeEncodeError as error:
        raise InvalidRecord(
            f"event {event.type}: an attribute or the key is not valid Unicode text ({error.reason})",
            topic=topic or declaration.topic,
        ) from error


def _headers(event: Event[Any], content_type: str, source: str, key: str | None) -> Headers:
    time = event.time.isoformat()
    if time.endswith("+00:00"):
        time = time[:-6] + "Z"
    headers: Headers = (
        *_constant_headers(event.type, event.source or source, content_type),
        ("ce_id", _checked("id", event.id)),
        ("ce_time", time.encode()),
    )
    if event.subject:
        headers += (("ce_subject", _checked("subject", event.subject)),)
    extensions = event.extensions
    # A key that CloudEvents cannot express still is the record's key.
    if key and "partitionkey" not in extensions and not _FORBIDDEN.search(key):
        headers += (("ce_partitionkey", key.encode()),)
    if extensions:
        headers += tuple(_extension_header(name, text) for name, text in extensions.items())
    return headers


@lru_cache(maxsize=4096)
def _constant_headers(type_name: str, source: str, content_type: str) -> Headers:
    return (
        ("ce_specversion", b"1.0"),
        ("ce_type", _checked("type", type_name)),
        ("ce_source", _checked("source", source)),
        ("content-type", _checked("datacontenttype", content_type)),
    )


def _checked(name: str, text: str) -> bytes:
    if not text or _FORBIDDEN.search(text):
        raise InvalidRecord(f"the CloudEvents attribute {name!r} must be text without control characters: {text!r}")
    return text.encode()


def _extension_header(name: str, text: str) -> tuple[str, bytes]:
    if name in _RESERVED or not _EXTENSION_NAME.fullmatch(name):
        raise InvalidRecord(f"{name!r} is no name of a CloudEvents extension: lower-case letters and digits only")
    if not isinstance(text, str) or _FORBIDDEN.search(text):
        raise InvalidRecord(f"the CloudEvents extension {name!r} must be text without control characters: {text!r}")
    return f"ce_{name}", text.encode()


def decode(record: Record, into: type[T], *, attempt: int = 1, delivery: Delivery | None = None) -> Event[T]:
    """The event in a record. Never waits.

    An event without ``time`` has the record's. An attribute name that CloudEvents does not allow is kept, not refused.

    Raises:
        DecodeError: Whatever is wrong with the record: no event, another type, data that is not one of ``into``.
        UsageError: ``into`` is not declared.
    """
    declaration = declaration_of(into)
    attributes, value = _open(record)
    name = _take(record, attributes, "type")
    if name != declaration.type:
        raise _failure(record, f"is of type {name!r}, not {declaration.type!r} ({into.__qualname__})")
    version = attributes.pop("specversion", None)
    if version != "1.0":
        raise _failure(record, f"has CloudEvents specversion {version!r}; only '1.0' is understood")
    identity, source = _take(record, attributes, "id"), _take(record, attributes, "source")
    time = _time(record, attributes.pop("time", None))
    subject = attributes.pop("subject", None)
    key = _text_key(record.key)
    if key is not None and attributes.get("partitionkey") == key:
        del attributes["partitionkey"]
    data = _data(record, declaration, attributes.pop("datacontenttype", None), value)
    return Event(
        data, id=identity, type=name, source=source, time=time, subject=subject, key=key,
        extensions=attributes, attempt=attempt, delivery=delivery,
    )  # fmt: skip


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
    structured = False
    name = ""
    try:
        for name, value in record.headers:
            lower = name.lower()
            if lower[:3] == "ce_":
                attribute = lower[3:]
            elif lower == "content-type":
                attribute = "datacontenttype"
                structured = value.lower().startswith(STRUCTURED_PREFIX)
            else:
                continue
            if attribute in attributes:
                raise _failure(record, f"has the header {name!r} twice")
            attributes[attribute] = value.decode()
    except UnicodeDecodeError as error:
        raise _failure(record, f"has a header {name!r} that is not UTF-8") from error
    if not structured:
        return attributes, record.value
    # Headers may repeat attributes of a structured event (§3.3.3); the envelope is what counts.
    if record.value is None:
        raise _failure(record, "claims to be a structured event but has no value")
    try:
        return parse_structured(attributes["datacontenttype"], record.value)
    except DecodeError as error:
        raise _failure(record, f"is a structured event that cannot be read: {error}") from error


def _take(record: Record, attributes: dict[str, str], name: str) -> str:
    text = attributes.pop(name, None)
    if not text:
        raise _failure(record, f"is no CloudEvents event: it has no {name!r} (header ce_{name})")
    return text


def _time(record: Record, text: str | None) -> datetime:
    if text is None:
        return _record_time(record)
    try:
        time = datetime.fromisoformat(text)
    except ValueError:
        try:
            time = datetime.fromisoformat(text.upper())
        except ValueError as error:
            raise _failure(record, "has a 'time' that is not RFC 3339") from error
    if time.utcoffset() is None:
        raise _failure(record, "has a 'time' without a zone")
    return time


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

"""A record as one blob: the value of the stream entry's only field.

One field is faster than native fields and keeps None, empty, repeated headers and exact bytes apart. Layout,
big-endian: flags, then (as the flags say) timestamp, key, headers; the value is the rest.
"""

from __future__ import annotations

import struct

from eventbus_core.errors import BrokerError
from eventbus_core.records import Headers, Record

FIELD = b"r"
"""The name of the stream entry's only field."""

_KEY, _VALUE, _TIMESTAMP, _HEADERS = 1, 2, 4, 8
_VERSION = 0x10
_LENGTH = struct.Struct(">I")
_TIME = struct.Struct(">q")


def encode(record: Record) -> bytes:
    """The blob of a record; the topic is not in it."""
    flags = _VERSION
    parts: list[bytes] = [b""]
    if record.timestamp_ms is not None:
        flags |= _TIMESTAMP
        parts.append(_TIME.pack(record.timestamp_ms))
    if record.key is not None:
        flags |= _KEY
        parts += (_LENGTH.pack(len(record.key)), record.key)
    if record.headers:
        flags |= _HEADERS
        parts.append(_LENGTH.pack(len(record.headers)))
        for name, value in record.headers:
            raw = name.encode()
            parts += (_LENGTH.pack(len(raw)), raw, _LENGTH.pack(len(value)), value)
    if record.value is not None:
        flags |= _VALUE
        parts.append(record.value)
    parts[0] = flags.to_bytes(1, "big")
    return b"".join(parts)


def decode(topic: str, blob: bytes, stored_ms: int) -> Record:
    """The record of a blob; one that was sent without a timestamp has the time it was stored at.

    Raises ``BrokerError`` for a blob that this backend did not write.
    """
    try:
        flags = blob[0]
        if flags & 0xF0 != _VERSION:
            raise ValueError(f"unknown version {flags >> 4}")  # noqa: TRY301  (one place turns all into ours)
        at = 1
        timestamp_ms = stored_ms
        key: bytes | None = None
        if flags & _TIMESTAMP:
            (timestamp_ms,) = _TIME.unpack_from(blob, at)
            at += 8
        if flags & _KEY:
            key, at = _text(blob, at)
        headers: Headers = ()
        if flags & _HEADERS:
            headers, at = _headers(blob, at)
    except (IndexError, ValueError, struct.error) as error:
        raise BrokerError(f"an entry in topic {topic} was not written by eventbus: {error}", topic=topic) from error
    return Record(topic, blob[at:] if flags & _VALUE else None, key, headers, timestamp_ms)


def _headers(blob: bytes, at: int) -> tuple[Headers, int]:
    (count,) = _LENGTH.unpack_from(blob, at)
    at += 4
    found = []
    for _ in range(count):
        name, at = _text(blob, at)
        value, at = _text(blob, at)
        found.append((name.decode(), value))
    return tuple(found), at


def _text(blob: bytes, at: int) -> tuple[bytes, int]:
    (length,) = _LENGTH.unpack_from(blob, at)
    end = at + 4 + length
    if end > len(blob):
        raise ValueError("it is cut short")
    return blob[at + 4 : end], end

"""A record as one blob: the value of the stream entry's only field.

One field is faster than native fields and keeps None, empty, repeated headers and exact bytes apart. Layout,
big-endian: a prefix of fixed size; the names of the headers (their sizes, then the text); the sizes of the headers'
values; these values; the key; and the record's value, which is the rest. The names are together because they repeat:
records of one event type have the same, so they are written and read through a cache. See
docs/decisions/0005-redis-record-encoding.md.
"""

from __future__ import annotations

import struct
from functools import lru_cache

from eventbus_core.errors import BrokerError
from eventbus_core.records import Headers, Record

FIELD = b"r"
"""The name of the stream entry's only field."""

_VERSION = 0x10
_NO_VALUE, _NO_TIMESTAMP = 1, 2
_PREFIX = struct.Struct(">BqiII")
"""Version and flags, timestamp, size of the key (-1: none), how many headers, bytes of their names."""
# Per record, and half the time of the class's own constructor, which is written in Python.
_tuple = tuple.__new__
_CACHED = 4096
_CACHED_NAMES_BYTES = 1024
"""Longer names that were read are not kept, so that strange headers of others cannot fill the memory."""


def encode(record: Record) -> bytes:
    """The blob of a record; the topic is not in it."""
    _, value, key, headers, timestamp_ms = record
    flags = _VERSION
    if value is None:
        flags |= _NO_VALUE
        value = b""
    if timestamp_ms is None:
        flags |= _NO_TIMESTAMP
        timestamp_ms = 0
    key_size = -1
    if key is None:
        key = b""
    else:
        key_size = len(key)
    if not headers:
        return b"".join((_PREFIX.pack(flags, timestamp_ms, key_size, 0, 0), key, value))
    names, values = zip(*headers, strict=True)
    raw = _names(names)
    count = len(values)
    prefix = _PREFIX.pack(flags, timestamp_ms, key_size, count, len(raw))
    return b"".join((prefix, raw, _sizes(count).pack(*map(len, values)), *values, key, value))


def decode(topic: str, blob: bytes, stored_ms: int) -> Record:
    """The record of a blob; one that was sent without a timestamp has the time it was stored at.

    Raises ``BrokerError`` for a blob that this backend did not write.
    """
    try:
        flags, timestamp_ms, key_size, count, names_size = _PREFIX.unpack_from(blob)
        if flags & 0xF0 != _VERSION:
            raise ValueError(f"unknown version {flags >> 4}")  # noqa: TRY301  (one place turns all into ours)
        at = _PREFIX.size + names_size
        headers: Headers = ()
        if count:
            headers, at = _headers(blob, count, at)
        key: bytes | None = None
        if key_size >= 0:
            key = blob[at : at + key_size]
            at += key_size
        if at > len(blob):
            raise ValueError("it is cut short")  # noqa: TRY301
    except (ValueError, struct.error) as error:
        raise BrokerError(f"an entry in topic {topic} was not written by eventbus: {error}", topic=topic) from error
    if flags & _NO_TIMESTAMP:
        timestamp_ms = stored_ms
    return _tuple(Record, (topic, None if flags & _NO_VALUE else blob[at:], key, headers, timestamp_ms))


def _headers(blob: bytes, count: int, at: int) -> tuple[Headers, int]:
    """The headers, whose names end at ``at``; and where the last value ends."""
    raw = blob[_PREFIX.size : at]
    names = (_cached_names if len(raw) <= _CACHED_NAMES_BYTES else _read_names)(raw, count)
    sizes = _sizes(count)
    found = []
    start = at + sizes.size
    for name, size in zip(names, sizes.unpack_from(blob, at), strict=True):
        end = start + size
        found.append((name, blob[start:end]))
        start = end
    return tuple(found), start


@lru_cache(_CACHED)
def _sizes(count: int) -> struct.Struct:
    return struct.Struct(f">{count}I")


@lru_cache(_CACHED)
def _names(names: tuple[str, ...]) -> bytes:
    raw = [name.encode() for name in names]
    return b"".join((_sizes(len(raw)).pack(*map(len, raw)), *raw))


def _read_names(raw: bytes, count: int) -> tuple[str, ...]:
    sizes = _sizes(count)
    at = sizes.size
    names = []
    for size in sizes.unpack_from(raw):
        names.append(raw[at : at + size].decode())
        at += size
    if at != len(raw):
        raise ValueError("the names of its headers are cut short")
    return tuple(names)


_cached_names = lru_cache(_CACHED)(_read_names)

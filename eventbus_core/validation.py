"""What may be sent and named, the same for every broker; checked before any I/O."""

from __future__ import annotations

import re
import time
from collections.abc import Iterable
from datetime import datetime
from functools import lru_cache
from typing import NoReturn

from eventbus_core.errors import InvalidRecord, TooLarge, UsageError
from eventbus_core.records import Position, Record, Where

# What all brokers allow: Kafka's alphabet and length, and not the name that Pulsar gives to a partition.
_NAME = re.compile(r"(?=.{1,200}\Z)[A-Za-z0-9][A-Za-z0-9._-]*\Z")
_PARTITION_NAME = re.compile(r".*-partition-\d+\Z")
_NAME_RULE = "1 to 200 of A-Z a-z 0-9 . _ -, beginning with a letter or digit, not ending in '-partition-<number>'"


def _is_name(name: object) -> bool:
    return isinstance(name, str) and bool(_NAME.match(name)) and not _PARTITION_NAME.match(name)


@lru_cache(maxsize=4096)
def check_topic(topic: str) -> str:
    """The topic name, or ``InvalidRecord``."""
    if not _is_name(topic):
        raise InvalidRecord(f"bad topic name {topic!r}: use {_NAME_RULE}")
    return topic


def check_group(group: str) -> str:
    """The group name, or ``UsageError``."""
    if not _is_name(group):
        raise UsageError(f"bad group name {group!r}: use {_NAME_RULE}")
    return group


def check_where(where: Where) -> Where:
    """A place to begin at, or ``UsageError``."""
    if where in {"earliest", "latest"} or isinstance(where, Position):
        return where
    if isinstance(where, datetime) and where.tzinfo is not None:
        return where
    raise UsageError(f"bad place {where!r}: use 'earliest', 'latest', an aware datetime or a Position")


def make_record(
    topic: str,
    value: bytes | None,
    key: bytes | None,
    headers: Iterable[tuple[str, bytes]],
    timestamp: datetime | None,
    max_bytes: int,
) -> tuple[Record, int]:
    """A record that every backend can carry, and its size in bytes. ``InvalidRecord``, ``TooLarge``."""
    check_topic(topic)
    if value is not None and type(value) is not bytes:
        _refuse(topic, "value", "bytes or None", value)
    if key is not None and type(key) is not bytes:
        _refuse(topic, "key", "bytes or None", key)
    record = Record(topic, value, key, tuple(headers), _timestamp_ms(topic, timestamp))
    return record, record_size(record, max_bytes)


def record_size(record: Record, max_bytes: int) -> int:
    """Bytes of key, value and headers; ``InvalidRecord`` for a bad header, ``TooLarge`` above ``max_bytes``."""
    topic, value, key, headers, _ = record
    size = (len(value) if value else 0) + (len(key) if key else 0)
    for pair in headers:
        try:
            name, header = pair
            size += _name_size(name) + len(header)
        except (TypeError, ValueError):
            _refuse_header(topic, pair)
        if type(header) is not bytes:
            _refuse(topic, f"value of header {name!r}", "bytes", header)
    if size > max_bytes:
        raise TooLarge(f"record of {size} bytes for {topic!r}: this backend takes at most {max_bytes}", topic=topic)
    return size


def _timestamp_ms(topic: str, timestamp: datetime | None) -> int:
    if timestamp is None:
        return int(time.time() * 1000)
    if not isinstance(timestamp, datetime) or timestamp.tzinfo is None:
        raise InvalidRecord(f"timestamp {timestamp!r} for {topic!r}: use an aware datetime", topic=topic)
    milliseconds = round(timestamp.timestamp() * 1000)
    if milliseconds <= 0:
        # Kafka's client reads 0 as "now" and the broker keeps negative ones out of its time index.
        raise InvalidRecord(f"timestamp {timestamp!r} for {topic!r}: it must be after 1970-01-01", topic=topic)
    return milliseconds


@lru_cache(maxsize=4096, typed=True)
def _name_size(name: str) -> int:
    if type(name) is not str or "\0" in name:
        # A NUL would silently cut the name in the C client of one broker.
        raise ValueError
    return len(name.encode())


def _refuse_header(topic: str, pair: tuple[str, bytes]) -> NoReturn:
    try:
        name, value = pair
    except (TypeError, ValueError):
        _refuse(topic, "header", "a pair (str, bytes)", pair)
    if type(name) is not str or "\0" in name:
        _refuse(topic, "header name", "str without NUL", name)
    if type(value) is not bytes:
        _refuse(topic, f"value of header {name!r}", "bytes", value)
    _refuse(topic, "header name", "encodable as UTF-8", name)


def _refuse(topic: str, what: str, wanted: str, got: object) -> NoReturn:
    raise InvalidRecord(
        f"{what} of a record for {topic!r} must be {wanted}, not {type(got).__name__}: {got!r:.60}", topic=topic
    )

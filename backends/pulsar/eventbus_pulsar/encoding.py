"""Records as Pulsar messages and back, byte for byte, readable with Pulsar's own tools where the bytes are text.

Pulsar has text properties (unordered, unique) and a text key, and does not tell no key from an empty one. So: headers
are properties of the same names if all are UTF-8 and unique, with their order in ``eb.order`` where it is not
alphabetical; otherwise all are in ``eb.headers`` (JSON, values as latin-1). ``eb.key`` marks an empty key and one that
is not UTF-8, ``eb.time`` a timestamp that Pulsar cannot hold.
"""

from __future__ import annotations

import json
from functools import lru_cache
from typing import Any, NamedTuple

import _pulsar

from eventbus_core.records import Headers, Record

_PREFIX = "eb."
_ORDER = "eb.order"
_HEADERS = "eb.headers"
_KEY = "eb.key"
_TIME = "eb.time"


class Encoded(NamedTuple):
    """What the client wants. ``timestamp_ms`` 0: none."""

    content: bytes | None
    key: str
    properties: dict[str, str]
    timestamp_ms: int

    @property
    def size(self) -> int:
        """At most as many bytes as the message takes, without the broker's own fields."""
        texts = sum(_utf8_size(name) + _utf8_size(value) + 8 for name, value in self.properties.items())
        return len(self.content or b"") + _utf8_size(self.key) + texts


def _utf8_size(text: str) -> int:
    return len(text) if text.isascii() else len(text.encode())


@lru_cache(maxsize=4096)
def _order_of(names: tuple[str, ...]) -> str | None:
    """The marker for an order of header names, empty if none is needed; None: they cannot be properties."""
    if len(set(names)) < len(names) or any(name.startswith(_PREFIX) for name in names):
        return None
    return "" if list(names) == sorted(names) else json.dumps(names, ensure_ascii=False, separators=(",", ":"))


@lru_cache(maxsize=4096)
def _names_of(order: str) -> tuple[str, ...]:
    return tuple(json.loads(order))


def _properties(headers: Headers) -> dict[str, str]:
    order = _order_of(tuple([name for name, _ in headers]))
    if order is not None:
        try:
            properties = {name: value.decode() for name, value in headers}
        except UnicodeDecodeError:
            order = None
        else:
            if order:
                properties[_ORDER] = order
            return properties
    return {_HEADERS: json.dumps([(name, value.decode("latin-1")) for name, value in headers], ensure_ascii=False)}


def encode(record: Record, now_ms: int) -> Encoded:
    """The message for a record; one without a timestamp gets ``now_ms``. ``UnicodeError``: a header name is no text."""
    properties = _properties(record.headers) if record.headers else {}
    key = ""
    if record.key is not None:
        try:
            key = record.key.decode()
        except UnicodeDecodeError:
            key = record.key.decode("latin-1")
            properties[_KEY] = "latin-1"
        if not key:
            properties[_KEY] = "empty"
    timestamp = now_ms if record.timestamp_ms is None else record.timestamp_ms
    if timestamp <= 0:
        properties[_TIME] = str(timestamp)
        timestamp = 0
    return Encoded(record.value, key, properties, timestamp)


def message(encoded: Encoded) -> Any:
    """The message as the client's inner producer takes it."""
    builder = _pulsar.MessageBuilder()
    if encoded.content is None:
        builder.set_null_value()
    else:
        builder.content(encoded.content)
    if encoded.key:
        builder.partition_key(encoded.key)
    for name, value in encoded.properties.items():
        builder.property(name, value)
    if encoded.timestamp_ms:
        builder.event_timestamp(encoded.timestamp_ms)
    return builder.build()


def _headers(properties: dict[str, str]) -> Headers:
    if _HEADERS in properties:
        return tuple([(name, value.encode("latin-1")) for name, value in json.loads(properties[_HEADERS])])
    if _ORDER in properties:
        return tuple([(name, properties[name].encode()) for name in _names_of(properties[_ORDER])])
    headers = _plain_headers(properties)
    if _KEY in properties or _TIME in properties:
        return tuple([each for each in headers if each[0][:3] != _PREFIX])
    return headers


def _plain_headers(properties: dict[str, str]) -> Headers:
    return tuple([(name, value.encode()) for name, value in sorted(properties.items())])


def decode(message: Any, topic: str) -> Record:
    """The record of a client message, also of one that another program wrote."""
    properties: dict[str, str] = message.properties()
    key_text: str = message.partition_key()
    key = key_text.encode() if key_text else None
    timestamp: int = message.event_timestamp() or message.publish_timestamp()
    headers: Headers = ()
    if properties:
        try:
            headers = _headers(properties)
            marker = properties.get(_KEY)
            if marker == "latin-1":
                key = key_text.encode("latin-1")
            elif marker == "empty":
                key = b""
            timestamp = int(properties.get(_TIME, timestamp))
        except (ValueError, KeyError, TypeError):
            # Somebody else's properties that look like ours: hand them on as they are rather than lose the record.
            headers = _plain_headers(properties)
            key = key_text.encode() if key_text else None
    value: bytes | None = message.data()
    if not value and message.has_null_value():
        value = None
    return Record(topic, value, key, headers, timestamp)

"""What a topic is on the server: its incarnation and number of partitions; and how a place is put to the scripts."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from eventbus_core.errors import NotFound
from eventbus_core.records import Position, Where
from eventbus_redis.connection import Link
from eventbus_redis.errors import NAME
from eventbus_redis.keys import Keys


def missing(topic: str) -> NotFound:
    """There is no such topic."""
    return NotFound(f"redis: there is no topic {topic}; create it (eventbus topics create)", topic=topic, backend=NAME)


def shape_of(topic: str, fields: list[Any]) -> tuple[str, int]:
    """Incarnation and partitions, from the topic's ``inc``, ``N`` and ``state``. NotFound."""
    incarnation, partitions, state = fields
    if state != b"ready":
        raise missing(topic)
    return incarnation.decode(), int(partitions)


def topic_shape(link: Link, keys: Keys, topic: str) -> tuple[str, int]:
    """Incarnation and partitions of a topic, from the server. NotFound."""
    fields = link.command("HMGET", keys.topic(topic), "inc", "N", "state", doing="reading the topic", topic=topic)
    return shape_of(topic, fields)


def from_id(where: Where) -> str:
    """The place as an argument of scripts: an entry id, ``-`` or ``$``."""
    if where == "earliest":
        return "-"
    if where == "latest":
        return "$"
    if isinstance(where, datetime):
        # Entry ids are cut to milliseconds, so cut here too: rather one record too many than one too few.
        return str(max(0, int(where.timestamp() * 1000)))
    if isinstance(where, Position) and len(where) == 2:
        return str(where)
    raise NotFound(f"redis: {where!r} is no position of this backend: those have two numbers", backend=NAME)


def before(entry: str) -> str:
    """The id to read behind, so that the next entry read is the first one at or after ``entry``."""
    if entry == "-":
        return "0-0"
    ms, _, ordinal = entry.partition("-")
    if ordinal and int(ordinal):
        return f"{ms}-{int(ordinal) - 1}"
    return f"{int(ms) - 1}-{(1 << 64) - 1}" if int(ms) else "0-0"

"""What a topic is on the server: its incarnation and number of partitions; and how a place is put to the scripts."""

from __future__ import annotations

import uuid
from datetime import datetime
from typing import NamedTuple

from eventbus_core.errors import Conflict, NotFound
from eventbus_core.records import Position, Where
from eventbus_redis.connection import Call, Link
from eventbus_redis.errors import NAME
from eventbus_redis.keys import Keys
from eventbus_redis.script import script

_DECLARE = script(
    "declare",
    """
-- KEYS topic; ARGV incarnation, partitions
local seen = redis.call('HMGET', KEYS[1], 'inc', 'N', 'state')
if seen[1] then return {'OLD', seen[1], tonumber(seen[2]), seen[3]} end
redis.call('HSET', KEYS[1], 'inc', ARGV[1], 'N', ARGV[2], 'state', 'creating')
return {'OK', ARGV[1], tonumber(ARGV[2]), 'creating'}
""",
)

_CREATE = script(
    "create",
    """
-- KEYS stream, meta; ARGV incarnation
if redis.call('HGET', KEYS[2], 'inc') == ARGV[1] then return {'OK'} end
redis.call('DEL', KEYS[1], KEYS[2])
redis.call('XGROUP', 'CREATE', KEYS[1], 'eventbus', '$', 'MKSTREAM')
redis.call('XGROUP', 'DESTROY', KEYS[1], 'eventbus')
redis.call('HSET', KEYS[2], 'inc', ARGV[1], 'n', 0, 'ms', 0)
return {'OK'}
""",
)


def missing(topic: str) -> NotFound:
    """There is no such topic."""
    return NotFound(f"redis: there is no topic {topic}; create it (eventbus topics create)", topic=topic, backend=NAME)


class Shape(NamedTuple):
    """A topic on the server. A recreated one has another incarnation."""

    incarnation: str
    partitions: int


def topic_shape(link: Link, keys: Keys, topic: str) -> Shape:
    """The shape of a topic, from the server. NotFound."""
    fields = link.command("HMGET", keys.topic(topic), "inc", "N", "state", doing="reading the topic", topic=topic)
    incarnation, partitions, state = fields
    if state != b"ready":
        raise missing(topic)
    return Shape(incarnation.decode(), int(partitions))


def create(link: Link, keys: Keys, topic: str, partitions: int) -> None:
    """Make the topic, or finish making it. Conflict: it exists with another number of partitions."""
    args = (uuid.uuid4().hex, partitions)
    _, incarnation, count, state = link.call(
        _DECLARE, (keys.topic(topic),), args, doing="creating the topic", topic=topic
    )
    if count != partitions:
        raise Conflict(
            f"redis: topic {topic} has {count} partitions, not {partitions}; the number cannot be changed",
            topic=topic,
            backend=NAME,
        )
    if state == b"ready":
        return
    calls = [
        Call(_CREATE, (keys.stream(topic, each), keys.meta(topic, each)), (incarnation,)) for each in range(partitions)
    ]
    link.exchange(calls, doing="creating the topic", topic=topic)
    link.command("SADD", keys.topics(), topic, doing="creating the topic", topic=topic)
    link.command("HSET", keys.topic(topic), "state", "ready", doing="creating the topic", topic=topic)


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

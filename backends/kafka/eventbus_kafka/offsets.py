"""From the words for a place in a partition to an offset."""

from __future__ import annotations

import time
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from typing import Any, NamedTuple

from confluent_kafka import TopicPartition
from confluent_kafka.admin import OffsetSpec  # type: ignore[attr-defined]

from eventbus_core.errors import NotFound, Unavailable
from eventbus_core.records import Position, Where
from eventbus_kafka.connection import Connection

_RETRY_SECONDS = 0.05


class Bounds(NamedTuple):
    """A partition's first offset and the one after its last."""

    low: int
    high: int


def partition_count(connection: Connection, topic: str) -> int:
    """How many partitions a topic has now. Raises NotFound, AccessDenied, Unavailable."""
    return partition_counts(connection, [topic])[topic]


def partition_counts(connection: Connection, topics: Iterable[str]) -> dict[str, int]:
    """The same of several topics."""
    return {topic: len(connection.metadata(topic).partitions) for topic in topics}


def bounds(connection: Connection, places: Iterable[tuple[str, int]]) -> dict[tuple[str, int], Bounds]:
    """First and end offsets; two exchanges with the brokers, whatever the number of partitions."""
    wanted = list(places)
    lows = _offsets(connection, wanted, OffsetSpec.earliest())  # type: ignore[no-untyped-call]
    highs = _offsets(connection, wanted, OffsetSpec.latest())  # type: ignore[no-untyped-call]
    return {place: Bounds(lows[place], highs[place]) for place in wanted}


def resolve(connection: Connection, places: Iterable[tuple[str, int]], to: Where) -> dict[tuple[str, int], int]:
    """The offset in each partition that ``to`` means: a position outside of the log becomes its nearest end."""
    wanted = list(places)
    limits = bounds(connection, wanted)
    if to == "earliest":
        return {place: limit.low for place, limit in limits.items()}
    if to == "latest":
        return {place: limit.high for place, limit in limits.items()}
    if isinstance(to, Position):
        return {place: min(max(to[0], limit.low), limit.high) for place, limit in limits.items()}
    found = _offsets(connection, wanted, OffsetSpec.for_timestamp(_millis_not_before(to)))
    # -1: no record is that young.
    return {place: found[place] if found[place] >= 0 else limits[place].high for place in wanted}


def _offsets(connection: Connection, places: list[tuple[str, int]], spec: Any) -> dict[tuple[str, int], int]:
    """Asks again while partitions that were just added have no leader, or the client knows them not yet.

    Kafka's client never looks at a topic again by itself here, so it is told to (librdkafka 2.16). Raises NotFound when
    the topic is gone.
    """
    deadline = time.monotonic() + connection.settings.request_timeout_seconds
    while True:
        try:
            return _offsets_now(connection, places, spec)
        except (Unavailable, NotFound):
            if time.monotonic() + _RETRY_SECONDS > deadline:
                raise
        partition_counts(connection, {topic for topic, _ in places})
        time.sleep(_RETRY_SECONDS)


def _offsets_now(connection: Connection, places: list[tuple[str, int]], spec: Any) -> dict[tuple[str, int], int]:
    if not places:
        return {}
    answers = connection.client.list_offsets(
        {TopicPartition(*place): spec for place in places},
        request_timeout=connection.settings.request_timeout_seconds,
    )
    return {
        (place.topic, place.partition): connection.result(
            f"looking up an offset of {place.topic}[{place.partition}]", answer, topic=place.topic
        ).offset
        for place, answer in answers.items()
    }


def _millis_not_before(moment: datetime) -> int:
    return -((datetime(1970, 1, 1, tzinfo=UTC) - moment) // timedelta(milliseconds=1))

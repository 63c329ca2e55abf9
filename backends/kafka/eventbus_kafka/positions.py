"""A group's positions: made before anybody joins, so that nothing sent afterwards can be missed."""

from __future__ import annotations

import time
from collections.abc import Iterable
from typing import Any

from confluent_kafka import Consumer, ConsumerGroupTopicPartitions, KafkaError, KafkaException, TopicPartition

from eventbus_core.backend import Group
from eventbus_core.errors import Conflict, NotFound
from eventbus_kafka.connection import Connection
from eventbus_kafka.errors import CLIENT_ERRORS, CONFLICT, broker_error, refused
from eventbus_kafka.offsets import partition_counts, resolve

Places = dict[tuple[str, int], int]

_ASK_SECONDS = 0.3


def committed(connection: Connection, group: str, places: Iterable[tuple[str, int]]) -> Places:
    """The offsets that a group has committed there; those without one are left out.

    Through a consumer that never joins: where a coordinator is not ready, the admin client's question for a group's
    offsets ends the whole process (librdkafka 2.16: rd_kafka_handle_OffsetFetch in a client without a group).
    """
    what = f"reading positions of group {group!r}"
    settings = connection.settings
    wanted = [TopicPartition(*place) for place in places]
    if not wanted:
        return {}
    refusals: list[KafkaError] = []
    config: dict[str, Any] = {
        **settings.client_config(),
        "group.id": group,
        "enable.auto.commit": False,
        # What is open in a transaction is not committed, and not waited for.
        "isolation.level": "read_uncommitted",
        "error_cb": lambda error: refusals.append(error) if refused(error) else None,
    }
    try:
        reader = Consumer(config)
        try:
            answer = _ask(reader, wanted, time.monotonic() + settings.request_timeout_seconds, refusals)
        finally:
            reader.close()
    except CLIENT_ERRORS as error:
        raise connection.explain(what, error) from error
    for each in answer:
        if each.error is not None:
            raise broker_error(what, each.error, topic=each.topic, user=settings.user)
    return {(each.topic, each.partition): each.offset for each in answer if each.offset >= 0}


def _ask(
    reader: Consumer, wanted: list[TopicPartition], deadline: float, refusals: list[KafkaError]
) -> list[TopicPartition]:
    """A refusal is not among the answers: the client tells it in ``poll``, and goes on trying (librdkafka 2.16)."""
    while True:
        left = deadline - time.monotonic()
        try:
            return reader.committed(wanted, timeout=max(0.01, min(_ASK_SECONDS, left)))
        except CLIENT_ERRORS:
            message = reader.poll(0)
            error = None if message is None else message.error()
            if error is not None and refused(error):
                refusals.append(error)
            if refusals:
                raise KafkaException(refusals[0]) from None
            if left <= 0:
                raise


def topics_of(connection: Connection, group: str) -> set[str]:
    """The topics that a group has committed offsets in. Raises Unavailable while its coordinator is not ready.

    Asks first whether the group exists, for the coordinator's sake: see ``committed``. That one would have to name all
    partitions of the cluster, for each group.
    """
    timeout = connection.settings.request_timeout_seconds
    what = f"reading positions of group {group!r}"
    try:
        connection.only(what, connection.client.describe_consumer_groups([group], request_timeout=timeout))
    except NotFound:
        return set()
    answer = connection.client.list_consumer_group_offsets(
        [ConsumerGroupTopicPartitions(group)], request_timeout=timeout
    )
    found = connection.only(what, answer).topic_partitions or ()
    for each in found:
        if each.error is not None:
            raise broker_error(what, each.error, topic=each.topic, user=connection.settings.user)
    return {each.topic for each in found if each.offset >= 0}


def alter(connection: Connection, group: str, places: Places) -> None:
    """Set the offsets of a group without members; Conflict if it has some."""
    answer = connection.client.alter_consumer_group_offsets(
        [ConsumerGroupTopicPartitions(group, [TopicPartition(*place, offset) for place, offset in places.items()])],
        request_timeout=connection.settings.request_timeout_seconds,
    )
    # An active group raises nothing: the refusal is in each partition's result.
    for each in connection.only(f"setting positions of group {group!r}", answer).topic_partitions or ():
        if each.error is not None and each.error.name() in CONFLICT:
            raise Conflict(
                f"group {group!r} has members now, so its position in {each.topic!r} cannot be set; stop them",
                topic=each.topic,
                backend="kafka",
            )
        if each.error is not None:
            raise broker_error(
                f"setting positions of group {group!r}", each.error, topic=each.topic, user=connection.settings.user
            )


def create_positions(connection: Connection, group: Group) -> Places:
    """Give the group a durable position in every partition of each topic that is new to it.

    ``group.start`` counts for a topic in which the group has no position at all; a partition that appears later starts
    at its beginning (on assignment). Returns what a live group refused: the member commits that once it has joined.
    """
    counts = partition_counts(connection, group.topics)
    places = [(topic, partition) for topic, count in counts.items() for partition in range(count)]
    known_topics = {topic for topic, _ in committed(connection, group.name, places)}
    fresh = [place for place in places if place[0] not in known_topics]
    if not fresh:
        return {}
    wanted = resolve(connection, fresh, group.start)
    try:
        alter(connection, group.name, wanted)
    except Conflict:
        now = committed(connection, group.name, fresh)
        return {place: offset for place, offset in wanted.items() if place not in now}
    return {}

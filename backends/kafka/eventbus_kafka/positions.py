"""A group's positions: made before anybody joins, so that nothing sent afterwards can be missed."""

from __future__ import annotations

from collections.abc import Iterable

from confluent_kafka import ConsumerGroupTopicPartitions, TopicPartition

from eventbus_core.backend import Group
from eventbus_core.errors import Conflict
from eventbus_kafka.connection import Connection
from eventbus_kafka.errors import CONFLICT, broker_error
from eventbus_kafka.offsets import partition_counts, resolve

Places = dict[tuple[str, int], int]


def committed(connection: Connection, group: str, places: Iterable[tuple[str, int]] | None = None) -> Places:
    """The offsets that a group has committed, of ``places`` or of all; those without one are left out."""
    wanted = None if places is None else [TopicPartition(*place) for place in places]
    if wanted == []:
        return {}
    answer = connection.client.list_consumer_group_offsets(
        [ConsumerGroupTopicPartitions(group, wanted)],
        request_timeout=connection.settings.request_timeout_seconds,
    )
    found: Places = {}
    for each in connection.only(f"reading positions of group {group!r}", answer).topic_partitions or ():
        if each.error is not None:
            raise broker_error(f"reading positions of group {group!r}", each.error, topic=each.topic)
        if each.offset >= 0:
            found[each.topic, each.partition] = each.offset
    return found


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
            raise broker_error(f"setting positions of group {group!r}", each.error, topic=each.topic)


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

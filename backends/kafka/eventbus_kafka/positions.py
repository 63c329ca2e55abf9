"""A group's positions: made before anybody joins, so that nothing sent afterwards can be missed."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

from confluent_kafka import Consumer, ConsumerGroupTopicPartitions, KafkaError, KafkaException, TopicPartition

from eventbus_core.backend import Group
from eventbus_core.errors import Conflict, NotFound
from eventbus_kafka.connection import PATIENCE_SECONDS, Connection
from eventbus_kafka.errors import CLIENT_ERRORS, CONFLICT, broker_error, refused
from eventbus_kafka.offsets import partition_counts, resolve
from eventbus_kafka.settings import KafkaSettings

Places = dict[tuple[str, int], int]

_ASK_SECONDS = 0.3
#: The client's poll does not return when it has run a callback.
_TURN_SECONDS = 0.005
_CLOSE_SECONDS = 1.0


def committed(connection: Connection, group: str, places: Iterable[tuple[str, int]]) -> Places:
    """The offsets that a group has committed there; those without one are left out."""
    with _outsider(connection, group) as outsider:
        return outsider.committed(places)


def set_positions(connection: Connection, group: str, places: Places) -> None:
    """Set the offsets of a group without members; Conflict if it has some."""
    with _outsider(connection, group) as outsider:
        outsider.set(places)


@contextmanager
def _outsider(connection: Connection, group: str) -> Iterator[_Outsider]:
    try:
        outsider = _Outsider(connection.settings, group)
        try:
            yield outsider
        finally:
            outsider.close()
    except (*CLIENT_ERRORS, TimeoutError) as error:
        raise connection.explain(f"reading or setting positions of group {group!r}", error) from error


class _Outsider:
    """A consumer that never joins the group whose positions it reads and writes.

    Where a coordinator is not ready, the admin client's requests about groups can end the whole process (librdkafka
    2.16: rd_kafka_handle_OffsetFetch in a client without a group, rd_kafka_enq_once).
    """

    def __init__(self, settings: KafkaSettings, group: str) -> None:
        self._group = group
        self._user = settings.user
        self._seconds = seconds = settings.request_timeout_seconds
        self._refusals: list[KafkaError] = []
        self._written: list[tuple[KafkaError | None, list[TopicPartition]]] = []
        config: dict[str, Any] = {
            **settings.client_config(),
            "group.id": group,
            # So long the client keeps a commit while there is no coordinator (librdkafka 2.16).
            "session.timeout.ms": min(300_000, max(1, int(seconds * 1000))),
            "enable.auto.commit": False,
            # What is open in a transaction is not committed, and not waited for.
            "isolation.level": "read_uncommitted",
            "error_cb": lambda error: self._refusals.append(error) if refused(error) else None,
            "on_commit": lambda error, places: self._written.append((error, places)),
        }
        self._client = Consumer(config)

    def committed(self, places: Iterable[tuple[str, int]]) -> Places:
        """The offsets that the group has committed there. Raises the client's errors too."""
        wanted = [TopicPartition(*place) for place in places]
        answer = self._read(wanted) if wanted else []
        for each in answer:
            if each.error is not None:
                what = f"reading positions of group {self._group!r}"
                raise broker_error(what, each.error, topic=each.topic, user=self._user)
        return {(each.topic, each.partition): each.offset for each in answer if each.offset >= 0}

    def set(self, places: Places) -> None:
        """Commit these offsets; Conflict if the group has members. Raises the client's errors too, and TimeoutError."""
        for each in self._write([TopicPartition(*place, offset) for place, offset in places.items()]):
            if each.error is not None and each.error.name() in CONFLICT:
                raise Conflict(
                    f"group {self._group!r} has members, so its position in {each.topic!r} cannot be set; stop them",
                    topic=each.topic,
                    backend="kafka",
                )
            if each.error is not None:
                what = f"setting positions of group {self._group!r}"
                raise broker_error(what, each.error, topic=each.topic, user=self._user)

    def _read(self, places: list[TopicPartition]) -> list[TopicPartition]:
        deadline = time.monotonic() + self._seconds
        while True:
            left = deadline - time.monotonic()
            try:
                return self._client.committed(places, timeout=max(0.01, min(_ASK_SECONDS, left)))
            except CLIENT_ERRORS:
                self._poll(0)
                self._raise_refusal()
                if left <= 0:
                    raise

    def _write(self, places: list[TopicPartition]) -> list[TopicPartition]:
        deadline = time.monotonic() + self._seconds
        self._written.clear()
        self._client.commit(offsets=places, asynchronous=True)
        while True:
            self._poll(_TURN_SECONDS)
            if self._written:
                break
            self._raise_refusal()
            if time.monotonic() >= deadline:
                raise TimeoutError
        error, written = self._written[0]
        # With an error of the whole request each place may carry its own, which says more.
        if error is not None and not any(each.error for each in written):
            raise KafkaException(error)
        return written

    def close(self) -> None:
        """Close in bounded time: behind a commit that is never answered the client would wait for ever."""
        closing = threading.Thread(target=self._client.close, name="eventbus-kafka-close", daemon=True)
        closing.start()
        closing.join(_CLOSE_SECONDS)

    def _poll(self, seconds: float) -> None:
        message = self._client.poll(seconds)
        error = None if message is None else message.error()
        if error is not None and refused(error):
            self._refusals.append(error)

    def _raise_refusal(self) -> None:
        """A refusal is in no answer: the client tells it in ``poll``, and goes on trying (librdkafka 2.16)."""
        if self._refusals:
            raise KafkaException(self._refusals[0])


def topics_of(connection: Connection, group: str) -> set[str]:
    """The topics that a group has committed offsets in. Raises Unavailable while its coordinator is not ready.

    For operators, so by the admin client: an ``_Outsider`` would have to name all partitions of the cluster. A
    coordinator that moves within the call can end the process, see there.
    """
    what = f"reading positions of group {group!r}"
    try:
        connection.only(what, connection.client.describe_consumer_groups([group], request_timeout=PATIENCE_SECONDS))
    except NotFound:
        return set()
    answer = connection.client.list_consumer_group_offsets(
        [ConsumerGroupTopicPartitions(group)], request_timeout=PATIENCE_SECONDS
    )
    found = connection.only(what, answer).topic_partitions or ()
    for each in found:
        if each.error is not None:
            raise broker_error(what, each.error, topic=each.topic, user=connection.settings.user)
    return {each.topic for each in found if each.offset >= 0}


def create_positions(connection: Connection, group: Group) -> Places:
    """Give the group a durable position in every partition of each topic that is new to it.

    ``group.start`` counts for a topic in which the group has no position at all; a partition that appears later starts
    at its beginning (on assignment). Returns what a live group refused: the member commits that once it has joined.
    """
    counts = partition_counts(connection, group.topics)
    places = [(topic, partition) for topic, count in counts.items() for partition in range(count)]
    with _outsider(connection, group.name) as outsider:
        known_topics = {topic for topic, _ in outsider.committed(places)}
        fresh = [place for place in places if place[0] not in known_topics]
        if not fresh:
            return {}
        wanted = resolve(connection, fresh, group.start)
        try:
            outsider.set(wanted)
        except Conflict:
            now = outsider.committed(fresh)
            return {place: offset for place, offset in wanted.items() if place not in now}
    return {}

"""Operators' verbs over Kafka's admin client."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from functools import partial

from confluent_kafka import Consumer, KafkaException, TopicPartition
from confluent_kafka.admin import ConfigResource, NewTopic, ResourceType  # type: ignore[attr-defined]

from eventbus_core.backend import BackendAdmin, GroupInfo, PartitionLag, TopicInfo
from eventbus_core.errors import Conflict, NotFound, Unavailable
from eventbus_core.records import Delivery, Position, Where
from eventbus_kafka.connection import PATIENCE_SECONDS, Connection
from eventbus_kafka.errors import CLIENT_ERRORS, broker_error, kafka_error, of_exception
from eventbus_kafka.fetching import to_delivery
from eventbus_kafka.offsets import bounds, partition_count, resolve
from eventbus_kafka.positions import committed, set_positions, topics_of
from eventbus_kafka.settings import KafkaSettings

#: The first replication factor at which a second in-sync copy can be required without losing availability.
_REQUIRE_TWO_FROM = 3


class KafkaAdmin(BackendAdmin):
    """Connected when made: blocks for at most ``connect_timeout_seconds``."""

    def __init__(self, settings: KafkaSettings) -> None:
        self._settings = settings
        self._connection = Connection(settings)
        self._reader: Consumer | None = None

    def create_topic(self, topic: str, partitions: int) -> None:
        copies = self._settings.replication_factor
        config = {"min.insync.replicas": "2"} if (copies or 0) >= _REQUIRE_TWO_FROM else {}
        new = NewTopic(topic, num_partitions=partitions, replication_factor=copies or -1, config=config)
        answer = self._connection.client.create_topics([new], request_timeout=self._settings.request_timeout_seconds)
        what = f"creating topic {topic!r}"
        try:
            self._connection.only(what, answer, topic=topic)
        except Conflict as error:
            inner = kafka_error(error.__cause__) if error.__cause__ else None
            if inner is None or inner.name() != "TOPIC_ALREADY_EXISTS":
                raise
            # The same error comes whatever the existing topic looks like.
            count = self._until(what, lambda: self._count(topic))
            if count != partitions:
                raise Conflict(
                    f"topic {topic!r} exists with {count} partitions, not {partitions}; use that number",
                    topic=topic,
                    backend="kafka",
                ) from error
        self._until(what, lambda: self._usable(topic, partitions))

    def delete_topic(self, topic: str) -> None:
        places = [(topic, partition) for partition in self._connection.metadata(topic).partitions]
        touched = [name for name in self._group_names() if committed(self._connection, name, places)]
        answer = self._connection.client.delete_topics([topic], request_timeout=self._settings.request_timeout_seconds)
        what = f"deleting topic {topic!r}"
        self._connection.only(what, answer, topic=topic)
        self._until(what, lambda: self._count(topic) is None)
        # The broker forgets committed offsets a little later; a topic made anew must not inherit them.
        for group in touched:
            self._until(what, partial(self._forgotten, group, places))

    def topics(self) -> Sequence[str]:
        try:
            found = self._connection.client.list_topics(timeout=self._settings.request_timeout_seconds).topics
        except CLIENT_ERRORS as error:
            raise self._connection.explain("listing topics", error) from error
        return sorted(name for name in found if not name.startswith("__"))

    def describe_topic(self, topic: str) -> TopicInfo:
        count = partition_count(self._connection, topic)
        limits = bounds(self._connection, [(topic, partition) for partition in range(count)])
        ordered = [limits[topic, partition] for partition in range(count)]
        answer = self._connection.client.describe_configs(
            [ConfigResource(ResourceType.TOPIC, topic)], request_timeout=self._settings.request_timeout_seconds
        )
        config = self._connection.only(f"describing topic {topic!r}", answer, topic=topic)
        retention = config.get("retention.ms")
        millis = int(retention.value) if retention is not None and retention.value is not None else -1
        return TopicInfo(
            topic,
            count,
            tuple(Position(each.low) for each in ordered),
            tuple(Position(each.high) for each in ordered),
            millis / 1000 if millis >= 0 else None,
        )

    def groups(self) -> Sequence[GroupInfo]:
        return [
            GroupInfo(name, tuple(sorted(topics_of(self._connection, name))), self._members(name))
            for name in self._group_names()
        ]

    def lag(self, group: str, topic: str) -> Sequence[PartitionLag]:
        count = partition_count(self._connection, topic)
        places = [(topic, partition) for partition in range(count)]
        settled = committed(self._connection, group, places)
        if not settled:
            raise NotFound(
                f"group {group!r} has no position in topic {topic!r}; check both names, or start the group",
                topic=topic,
                backend="kafka",
            )
        limits = bounds(self._connection, places)
        return [
            PartitionLag(
                topic,
                place[1],
                Position(settled[place]) if place in settled else None,
                Position(limits[place].high),
                max(0, limits[place].high - max(settled.get(place, 0), limits[place].low)),
            )
            for place in places
        ]

    def set_position(self, group: str, topic: str, partition: int, to: Where) -> None:
        place = self._place(topic, partition)
        set_positions(self._connection, group, resolve(self._connection, [place], to))

    def delete_group(self, group: str) -> None:
        answer = self._connection.client.delete_consumer_groups([group], request_timeout=PATIENCE_SECONDS)
        self._connection.only(f"deleting group {group!r}", answer)

    def read(self, topic: str, partition: int, start: Where, limit: int, timeout: float) -> Sequence[Delivery]:
        what = f"reading {topic}[{partition}]"
        place = self._place(topic, partition)
        offset = resolve(self._connection, [place], start)[place]
        deadline = time.monotonic() + timeout
        found: list[Delivery] = []
        try:
            reader = self._open_reader()
            reader.assign([TopicPartition(topic, partition, offset)])
            while len(found) < limit:
                messages = reader.consume(1, max(0.0, min(0.5, deadline - time.monotonic())))
                messages += reader.consume(limit - len(found) - 1, 0) if messages and limit - len(found) > 1 else []
                at_end = False
                for message in messages:
                    error = message.error()
                    if error is not None and error.name() == "_PARTITION_EOF":
                        at_end = True
                    elif error is not None:
                        raise broker_error(what, error, topic=topic, user=self._settings.user)
                    else:
                        found.append(to_delivery(message, topic, partition, message.offset() or 0, None))
                if (at_end and found) or time.monotonic() >= deadline:
                    break
            reader.unassign()
        except CLIENT_ERRORS as error:
            raise of_exception(what, error, topic=topic, user=self._settings.user) from error
        return found

    def close(self) -> None:
        if self._reader is not None:
            self._reader.close()
            self._reader = None
        self._connection.close()

    def _open_reader(self) -> Consumer:
        if self._reader is None:
            self._reader = Consumer(
                {
                    # The end of a partition is told by a fetch that finds nothing, so it should not wait.
                    "fetch.wait.max.ms": 10,
                    **self._settings.client_config(),
                    # Required by the client and never joined: nothing subscribes and nothing is committed.
                    "group.id": "eventbus-read",
                    "enable.auto.commit": False,
                    "enable.auto.offset.store": False,
                    "auto.offset.reset": "error",
                    "isolation.level": "read_committed",
                    "enable.partition.eof": True,
                }
            )
        return self._reader

    def _place(self, topic: str, partition: int) -> tuple[str, int]:
        count = partition_count(self._connection, topic)
        if not 0 <= partition < count:
            raise NotFound(
                f"topic {topic!r} has partitions 0 to {count - 1}, no {partition}", topic=topic, backend="kafka"
            )
        return topic, partition

    def _group_names(self) -> list[str]:
        timeout = self._settings.request_timeout_seconds
        answer = self._connection.client.list_consumer_groups(request_timeout=timeout)
        listed = self._connection.result("listing groups", answer)
        for error in listed.errors or ():  # not the exceptions that the client's documentation promises (2.16)
            raise self._connection.explain("listing groups", KafkaException(error))
        return sorted(each.group_id for each in listed.valid or ())

    def _members(self, group: str) -> int:
        answer = self._connection.client.describe_consumer_groups([group], request_timeout=PATIENCE_SECONDS)
        try:
            return len(self._connection.only(f"describing group {group!r}", answer).members or ())
        except NotFound:
            return 0

    def _count(self, topic: str) -> int | None:
        try:
            return partition_count(self._connection, topic)
        except NotFound:
            return None

    def _forgotten(self, group: str, places: list[tuple[str, int]]) -> bool:
        return not committed(self._connection, group, places)

    def _usable(self, topic: str, partitions: int) -> bool:
        """Every partition has a leader that answers."""
        if self._count(topic) != partitions:
            return False
        try:
            bounds(self._connection, [(topic, partition) for partition in range(partitions)])
        except (Unavailable, NotFound):
            return False
        return True

    def _until(self, what: str, ready: Callable[[], object]) -> object:
        """Wait for metadata to follow, at most ``request_timeout_seconds``."""
        deadline = time.monotonic() + self._settings.request_timeout_seconds
        while not (value := ready()):
            if time.monotonic() >= deadline:
                raise Unavailable(f"{what}: done, but not all brokers know it yet; try again", backend="kafka")
            time.sleep(0.02)
        return value

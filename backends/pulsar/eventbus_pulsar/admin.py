"""Operators' verbs: over the admin REST interface, and a client reader to read."""

from __future__ import annotations

import time
from collections.abc import Sequence
from datetime import datetime
from urllib.parse import unquote

import pulsar

from eventbus_core.backend import BackendAdmin, GroupInfo, PartitionLag, TopicInfo
from eventbus_core.errors import Conflict, NotFound
from eventbus_core.records import Delivery, Position, Where
from eventbus_pulsar.connection import close_client
from eventbus_pulsar.cursors import Cursors
from eventbus_pulsar.encoding import decode
from eventbus_pulsar.errors import ClientError, translated
from eventbus_pulsar.members import connected_members
from eventbus_pulsar.policies import require_deduplication, set_policies
from eventbus_pulsar.positions import message_id, position_of
from eventbus_pulsar.reading import open_reader, received
from eventbus_pulsar.rest import Rest
from eventbus_pulsar.settings import PulsarSettings


class PulsarAdmin(BackendAdmin):
    """Every call blocks for its requests; what it did is visible to all when it returns."""

    def __init__(self, settings: PulsarSettings, *, client: pulsar.Client, rest: Rest, cursors: Cursors) -> None:
        self._settings = settings
        self._client = client
        self._rest = rest
        self._cursors = cursors

    def create_topic(self, topic: str, partitions: int) -> None:
        doing = f"creating topic {topic!r}"
        path = self._rest.topic(topic) + "/partitions"
        self._rest.call("PUT", path, doing, body=partitions, accept=(409,), topic=topic)
        count = self._cursors.partitions(topic)
        if count != partitions:
            raise Conflict(
                f"topic {topic!r} exists with {count} partitions, not {partitions}", topic=topic, backend="pulsar"
            )
        # Also for one that exists: whoever created it may have died before this.
        set_policies(self._rest, topic, self._settings.retention_minutes)
        require_deduplication(self._rest, topic, count, self._settings.connect_timeout_seconds)

    def delete_topic(self, topic: str) -> None:
        self._cursors.partitions(topic)
        path = self._rest.topic(topic) + "/partitions?force=true"
        self._rest.call("DELETE", path, f"deleting topic {topic!r}", topic=topic)

    def topics(self) -> Sequence[str]:
        found = self._rest.call("GET", self._rest.space + "/partitioned", "listing topics")
        names = [unquote(each.rsplit("/", 1)[1]) for each in found]
        return sorted(name for name in names if not name.startswith("__"))

    def describe_topic(self, topic: str) -> TopicInfo:
        count = self._cursors.partitions(topic)
        extents = [self._cursors.extent(topic, partition) for partition in range(count)]
        path = self._rest.topic(topic) + "/retention?applied=true"
        retention = self._rest.call("GET", path, f"describing {topic!r}", topic=topic) or {}
        minutes = retention.get("retentionTimeInMinutes", 0)
        firsts = tuple(each.first for each in extents)
        ends = tuple(each.end for each in extents)
        return TopicInfo(topic, count, firsts, ends, None if minutes < 0 else minutes * 60.0)

    def groups(self) -> Sequence[GroupInfo]:
        topics_of: dict[str, list[str]] = {}
        for topic in self.topics():
            try:
                names = self._cursors.groups(topic)
            except NotFound:
                # Deleted since it was listed.
                continue
            for name in names:
                topics_of.setdefault(name, []).append(topic)
        return [
            GroupInfo(name, tuple(topics_of[name]), self._members(name, topics_of[name])) for name in sorted(topics_of)
        ]

    def lag(self, group: str, topic: str) -> Sequence[PartitionLag]:
        lags = []
        for partition in range(self._cursors.partitions(topic)):
            self._cursors.require(group, topic, partition)
            end = self._cursors.extent(topic, partition).end
            first, records = self._cursors.unsettled(group, topic, partition)
            lags.append(PartitionLag(topic, partition, first or end, end, records))
        return lags

    def set_position(self, group: str, topic: str, partition: int, to: Where) -> None:
        count = self._cursors.partitions(topic)
        if not 0 <= partition < count:
            raise NotFound(f"{topic!r} has no partition {partition}, but {count}", topic=topic, backend="pulsar")
        self._refuse_members(group, [topic])
        self._cursors.ensure(group, topic, partition, "earliest")
        self._cursors.move(group, topic, partition, to)

    def delete_group(self, group: str) -> None:
        topics = [topic for topic in self.topics() if group in self._cursors.groups(topic)]
        if not topics:
            raise NotFound(f"there is no group {group!r}", backend="pulsar")
        self._refuse_members(group, topics)
        for topic in topics:
            for partition in range(self._cursors.partitions(topic)):
                path = self._rest.group(topic, partition, group)
                self._rest.call("DELETE", path, f"deleting group {group!r}", accept=(404,), topic=topic)

    def read(self, topic: str, partition: int, start: Where, limit: int, timeout: float) -> Sequence[Delivery]:
        count = self._cursors.partitions(topic)
        if not 0 <= partition < count:
            raise NotFound(f"{topic!r} has no partition {partition}, but {count}", topic=topic, backend="pulsar")
        where = self._cursors.locate(topic, partition, start) if isinstance(start, datetime) else start
        if isinstance(where, Position):
            identity, least = message_id(partition, where), where
        else:
            identity = pulsar.MessageId.earliest if where == "earliest" else pulsar.MessageId.latest
            least = Position(-1)
        found: list[Delivery] = []
        reader = open_reader(self._client, self._settings, topic, partition, identity)
        deadline = time.monotonic() + timeout
        try:
            while len(found) < limit:
                # What is stored already is read to its end; only for the first record is there a wait.
                pending = reader.has_message_available() if where != "latest" else bool(found)
                wait = 0.05 if found and not pending else max(0.0, deadline - time.monotonic())
                message = received(reader, max(wait, 1.0) if pending and where != "latest" else wait)
                if message is None:
                    break
                position = position_of(message.message_id())
                if position >= least:
                    found.append(Delivery(decode(message, topic), partition, position))
        except ClientError as error:
            raise translated(error, f"reading {topic!r}[{partition}]", topic) from error
        finally:
            reader.close()
        return found

    def close(self) -> None:
        close_client(self._client, self._settings.request_timeout_seconds)
        self._rest.close()

    def _members(self, group: str, topics: Sequence[str]) -> int:
        return len({name for topic in topics for name in connected_members(self._rest, topic, group)})

    def _refuse_members(self, group: str, topics: Sequence[str]) -> None:
        members = self._members(group, topics)
        if members:
            raise Conflict(f"group {group!r} has {members} members now; stop them first", backend="pulsar")

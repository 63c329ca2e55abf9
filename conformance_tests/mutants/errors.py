"""Mutants that report wrongly, or do not give back what they took."""

from __future__ import annotations

import os
import threading
from collections.abc import Collection, Sequence
from typing import ClassVar

from conformance_tests.mutants.mutant import Mutant
from eventbus_core.backend import Polled, TopicInfo
from eventbus_core.backend.batching import WriteBatch
from eventbus_core.errors import BrokerError, Conflict, EventBusError, NotFound, SendFailed, Unavailable
from eventbus_core.memory.admin import MemoryAdmin
from eventbus_core.memory.consumer import MemoryConsumer
from eventbus_core.memory.producer import MemoryProducer
from eventbus_core.records import Assignment, Position, Stored


class _Judged(Mutant):
    runs: ClassVar[tuple[str, ...]] = ("core.test_errors", "core.test_closing")


class MissingTopicSwallowed(_Judged):
    """A record for a topic that is not there is told stored (swallow-publish-error)."""

    class producer_type(MemoryProducer):
        def partition_count(self, topic: str) -> int:
            return super().partition_count(topic) if topic in self._store.topics else 1

        def _write(self, batch: WriteBatch) -> Sequence[Stored] | EventBusError:
            result = super()._write(batch)
            if isinstance(result, SendFailed):
                return [Stored(batch.topic, batch.partition, Position(0), 0) for _ in batch.records]
            return result


class MissingTopicEndsProducer(_Judged):
    """A record for a topic that is not there ends the producer with all that it has."""

    runs: ClassVar[tuple[str, ...]] = ("core.test_errors", "semantics.test_order")

    class producer_type(MemoryProducer):
        def partition_count(self, topic: str) -> int:
            if topic not in self._store.topics:
                raise BrokerError(f"no topic {topic!r}")
            return super().partition_count(topic)


class MissingTopicIsAnOutage(_Judged):
    """Waits for a topic that is not there as for a broker that is away."""

    class producer_type(MemoryProducer):
        def partition_count(self, topic: str) -> int:
            try:
                return super().partition_count(topic)
            except NotFound as error:
                raise Unavailable(str(error)) from error


class NamelessErrors(_Judged):
    """A missing topic is reported as some error of the broker."""

    class admin_type(MemoryAdmin):
        def describe_topic(self, topic: str) -> TopicInfo:
            try:
                return super().describe_topic(topic)
            except NotFound as error:
                raise BrokerError(str(error)) from error


class ConflictAsOutage(_Judged):
    """A conflict is reported as something that may be tried again."""

    class admin_type(MemoryAdmin):
        def create_topic(self, topic: str, partitions: int) -> None:
            try:
                super().create_topic(topic, partitions)
            except Conflict as error:
                raise Unavailable(str(error)) from error


class LeaksThread(_Judged):
    """Every consumer leaves a thread behind."""

    runs: ClassVar[tuple[str, ...]] = ("core.test_closing",)

    class consumer_type(MemoryConsumer):
        def leave(self) -> None:
            threading.Thread(target=threading.Event().wait, daemon=True).start()
            super().leave()


class LeaksDescriptor(_Judged):
    """Every producer leaves a descriptor behind."""

    runs: ClassVar[tuple[str, ...]] = ("core.test_closing",)

    class producer_type(MemoryProducer):
        def close(self) -> None:
            os.dup(0)
            super().close()


class PollsTooLong(_Judged):
    """A poll lasts until there is something, whatever timeout it was given; so closing takes as long."""

    class consumer_type(MemoryConsumer):
        def poll(self, max_records: int, timeout: float, paused: Collection[Assignment]) -> Polled:
            polled = Polled()
            for _ in range(100):
                polled = super().poll(max_records, timeout, paused)
                if polled.changes or polled.deliveries or not max_records:
                    break
            return polled

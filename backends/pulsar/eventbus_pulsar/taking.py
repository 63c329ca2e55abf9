"""Taking partitions: an Exclusive subscription for each, which the broker grants to one consumer only."""

from __future__ import annotations

import time
from concurrent.futures import Future, ThreadPoolExecutor
from concurrent.futures import TimeoutError as NotYet
from typing import Any, NamedTuple

import pulsar

from eventbus_core.backend import Group
from eventbus_core.records import lease_clock
from eventbus_pulsar.connection import data_topic
from eventbus_pulsar.cursors import Cursors
from eventbus_pulsar.errors import ClientError, translated
from eventbus_pulsar.holds import Hold
from eventbus_pulsar.settings import PulsarSettings

_PROMPT_SECONDS = 0.3
_STALE_SECONDS = 1.5


class _Attempt(NamedTuple):
    future: Future[Hold]
    asked: float


class Taking:
    """The attempts of one member. Its methods are called from one thread; what blocks runs in ``threads``."""

    def __init__(
        self,
        settings: PulsarSettings,
        group: Group,
        *,
        client: pulsar.Client,
        cursors: Cursors,
        threads: ThreadPoolExecutor,
    ) -> None:
        self._settings = settings
        self._group = group
        self._client = client
        self._cursors = cursors
        self._threads = threads
        self._attempts: dict[tuple[str, int], _Attempt] = {}
        self._patience = _PROMPT_SECONDS

    def attempt(self, topic: str, partition: int) -> Hold | None:
        """Try to take a partition, or go on trying. None: somebody has it, or the broker has not answered yet."""
        key = (topic, partition)
        attempt = self._attempts.get(key)
        future = attempt.future if attempt else self._threads.submit(self.take, topic, partition)
        self._attempts[key] = _Attempt(future, lease_clock())
        try:
            hold = future.result(self._patience)
        except NotYet:
            self._patience = 0.0
            if not future.done():
                return None
            del self._attempts[key]
            raise
        except pulsar.ConsumerBusy:
            del self._attempts[key]
            return None
        except ClientError as error:
            del self._attempts[key]
            raise translated(error, f"subscribing to {topic!r}[{partition}]", topic) from error
        except BaseException:
            del self._attempts[key]
            raise
        del self._attempts[key]
        return hold

    def take(self, topic: str, partition: int) -> Hold:
        """Subscribe; then read the mark, as only an owner writes it, and raise the epoch. Blocks; any thread."""
        consumer = self.subscribe(topic, partition)
        try:
            kept = self._cursors.kept(self._group.name, topic, partition)
            # Not below the clock: a write of a former owner that comes late may put an older epoch back.
            epoch = max(kept.epoch + 1, time.time_ns())
            self._cursors.keep(self._group.name, topic, partition, kept._replace(epoch=epoch))
            return Hold(topic, partition, epoch, consumer, kept.settled)
        except BaseException:
            shut(consumer)
            raise

    def subscribe(self, topic: str, partition: int) -> Any:
        """A client consumer of the group. Raises the client's errors, ConsumerBusy if somebody has the partition."""
        return self._client.subscribe(
            data_topic(self._settings, topic, partition),
            self._group.name,
            consumer_type=pulsar.ConsumerType.Exclusive,
            consumer_name=self._group.member,
            receiver_queue_size=self._settings.receiver_queue_records,
            initial_position=pulsar.InitialPosition.Earliest,
        )

    def begin_turn(self, topic: str) -> None:
        """Before a beat's attempts, which wait for ``_PROMPT_SECONDS`` in all.

        Gives back what was obtained after this member had stopped wanting it.
        """
        self._patience = _PROMPT_SECONDS
        now = lease_clock()
        stale = [key for key, (_, asked) in self._attempts.items() if key[0] == topic and now - asked > _STALE_SECONDS]
        for key in stale:
            future = self._attempts[key].future
            if future.done():
                del self._attempts[key]
                if future.exception() is None:
                    self.shut_later(future.result().consumer)

    def shut_later(self, consumer: Any) -> None:
        """Close a client consumer in a thread."""
        self._threads.submit(shut, consumer)


def shut(consumer: Any) -> None:
    """Close a client consumer, which sends its acks; blocks."""
    try:
        consumer.close()
    except pulsar.AlreadyClosed:
        return
    except ClientError as error:
        raise translated(error, "closing a subscription") from error

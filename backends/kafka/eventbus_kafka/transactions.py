"""Storing records and settling what they were made from, together or not at all: one transactional producer.

How it is fenced (KIP-447): offsets go with the group's generation, which the coordinator compares. The generation is
read *before* we see that the partitions are held; so either they are ours for all of the transaction, or the group has
a later generation and the coordinator refuses. Whoever gets a partition next waits for the end of a transaction that
has its offset pending.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any

from confluent_kafka import KafkaError, Message, Producer, TopicPartition

from eventbus_core.errors import EventBusError, Unavailable
from eventbus_core.records import Record
from eventbus_kafka.errors import CLIENT_ERRORS, CONFLICT, broker_error, kafka_error, of_exception
from eventbus_kafka.positions import Places
from eventbus_kafka.producer import producer_config
from eventbus_kafka.settings import KafkaSettings

#: The broker has ended the transaction, as it took too long, or lost this producer's place.
_OVER = frozenset(
    {"_FENCED", "_STATE", "_FATAL", "INVALID_PRODUCER_EPOCH", "PRODUCER_FENCED", "INVALID_TXN_STATE"}
    | {"INVALID_PRODUCER_ID_MAPPING", "UNKNOWN_PRODUCER_ID", "TRANSACTION_ABORTABLE"}
)
_ABORT_SECONDS = 2.0
_AGAIN_SECONDS = 0.005
#: Of the client's queue; a transaction that has more waits for room.
_MAX_RECORDS = 100_000
_MAX_BYTES = 64 << 20


class OutcomeUnknown(Exception):
    """The broker was asked to commit, and did not say whether it has."""


class Transactions:
    """The transactions of one member; opened on first use. Not thread-safe.

    After an error that the broker did not answer with, the next transaction gets another producer with the same
    transactional id: opening it ends what the one before left open, and makes void what of it may still arrive.
    """

    def __init__(self, settings: KafkaSettings, group: str, member: str) -> None:
        self._settings = settings
        self._group = group
        self._what = f"a transaction of group {group!r}"
        self._id = f"{group}-{member}"
        self._producer: Producer | None = None
        self._refused: tuple[KafkaError, str | None] | None = None

    def run(self, records: Sequence[Record], places: Places, metadata: Any) -> None:
        """Store the records and commit the offsets; ``metadata`` is the consumer's, from before its holds were checked.

        Raises ``OutcomeUnknown``; after any other error nothing is stored or committed. Blocks for at most
        ``request_timeout_seconds``, and a little more to abort.
        """
        deadline = time.monotonic() + self._settings.request_timeout_seconds
        self._refused = None
        producer = self._producer or self._open(deadline)
        try:
            producer.begin_transaction()
            self._produce(producer, records, deadline)
            offsets = [TopicPartition(*place, offset) for place, offset in places.items()]
            self._until(deadline, lambda left: producer.send_offsets_to_transaction(offsets, metadata, left))
            # From here on all is sent but the word: what fails before it is asked for has not happened.
            self._flush(producer, deadline)
        except CLIENT_ERRORS as error:
            self._abort(producer, error)
            raise self._explain(error) from error
        except EventBusError:
            self._abort(producer, None)
            raise
        try:
            self._until(deadline, producer.commit_transaction)
        except CLIENT_ERRORS as error:
            inner = kafka_error(error)
            if inner is not None and inner.txn_requires_abort():
                self._abort(producer, error)
                raise self._explain(error) from error
            self._drop(producer)
            raise OutcomeUnknown(str(error)) from error

    def close(self) -> None:
        """Close the producer, if there is one."""
        if self._producer is not None:
            self._drop(self._producer)

    def _open(self, deadline: float) -> Producer:
        settings = self._settings
        config = {
            **producer_config(settings, max_records=_MAX_RECORDS, max_bytes=_MAX_BYTES),
            "transactional.id": self._id,
            # Of a member that dies within a transaction nobody gets the partitions before this is over.
            "transaction.timeout.ms": max(1000, int(settings.session_timeout_seconds * 500)),
            # A transaction waits so long for the end of the one before it; by default ten times as long.
            "retry.backoff.ms": 10,
        }
        try:
            producer = Producer(config)
            self._until(deadline, producer.init_transactions)
        except CLIENT_ERRORS as error:
            raise self._explain(error) from error
        self._producer = producer
        return producer

    def _produce(self, producer: Producer, records: Sequence[Record], deadline: float) -> None:
        for topic, value, key, headers, timestamp_ms in records:
            while True:
                try:
                    producer.produce(
                        topic,
                        value,
                        key,
                        on_delivery=self._delivered,
                        timestamp=timestamp_ms or 0,
                        headers=list(headers) if headers else None,
                    )
                    break
                except BufferError:
                    producer.poll(_AGAIN_SECONDS)
                    if time.monotonic() > deadline:
                        raise Unavailable(
                            f"{self._what}: the brokers take no records now", topic=topic, backend="kafka"
                        ) from None

    def _flush(self, producer: Producer, deadline: float) -> None:
        if left := producer.flush(max(0.1, deadline - time.monotonic())):
            raise Unavailable(
                f"{self._what}: {left} records were not taken in time, so nothing was stored", backend="kafka"
            )

    def _delivered(self, error: KafkaError | None, message: Message) -> None:
        # The first is the cause; that the others were purged follows from it.
        if error is not None and self._refused is None and not error.name().startswith("_PURGE"):
            self._refused = error, message.topic()

    def _until(self, deadline: float, call: Callable[[float], Any]) -> None:
        """Call again for as long as the client says that this is how to go on."""
        while True:
            left = deadline - time.monotonic()
            try:
                call(max(left, 0.1))
            except CLIENT_ERRORS as error:
                inner = kafka_error(error)
                if inner is None or not inner.retriable() or left <= 0:
                    raise
                time.sleep(_AGAIN_SECONDS)
            else:
                return

    def _abort(self, producer: Producer, error: Exception | None) -> None:
        """End the transaction without effect. What fails here, the next producer's opening does."""
        inner = kafka_error(error) if error is not None else None
        # After an answer nothing is under way; without one a request may come late, into the next transaction.
        answered = inner is not None and not inner.name().startswith("_")
        try:
            self._until(time.monotonic() + _ABORT_SECONDS, producer.abort_transaction)
        except CLIENT_ERRORS:
            answered = False
        if not answered:
            self._drop(producer)

    def _drop(self, producer: Producer) -> None:
        self._producer = None
        with suppress(*CLIENT_ERRORS):  # it may be broken; nothing of it counts any more
            producer.purge()
            producer.flush(0.5)
            producer.close()

    def _explain(self, error: Exception) -> EventBusError:
        user = self._settings.user
        if self._refused is not None:
            refused, topic = self._refused
            return broker_error(f"{self._what}, of which nothing was stored", refused, topic=topic, user=user)
        inner = kafka_error(error)
        if inner is not None and inner.name() in CONFLICT | _OVER:
            return Unavailable(
                f"{self._what} was refused, and nothing stored: {inner.str()} [{inner.name()}]; it is tried again",
                backend="kafka",
            )
        return of_exception(f"{self._what}, of which nothing was stored", error, user=user)

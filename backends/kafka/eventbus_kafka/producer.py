"""Sending: librdkafka's idempotent producer, without any deadline of its own."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from functools import partial
from typing import Any

from confluent_kafka import KafkaError, Message, Producer

from eventbus_core.backend import BackendProducer, Outgoing, Settled
from eventbus_core.errors import SendFailed
from eventbus_core.records import Position, Record, Stored
from eventbus_kafka.errors import CLIENT_ERRORS, broker_error, kafka_error, of_exception, send_outcome
from eventbus_kafka.settings import KafkaSettings


def producer_config(settings: KafkaSettings, *, max_records: int, max_bytes: int) -> dict[str, Any]:
    """The client options that order and "stored once" rest on.

    A finite ``message.timeout.ms`` makes holes, duplicates and reordering in spite of idempotence (librdkafka 2.16 with
    a leader SIGKILLed): 0 means none, and deadlines are core's.
    """
    return {
        **settings.client_config(),
        "enable.idempotence": True,
        "message.timeout.ms": 0,
        "partitioner": "murmur2_random",
        "linger.ms": settings.linger_ms,
        "compression.type": settings.compression,
        # An unknown topic is refused after this long, not after 30 s.
        "topic.metadata.propagation.max.ms": 1500,
        # The client counts a record's framing too, so it needs more room than core's bounds.
        "queue.buffering.max.messages": max(1, max_records) + 1000,
        "queue.buffering.max.kbytes": min(2_147_483_647, max_bytes // 1024 + max_records // 4 + 4096),
    }


class KafkaProducer(BackendProducer):
    """One idempotent producer. Records of one key go to one partition, as Kafka's Java client places them.

    After a fatal client error (the broker refuses the producer id) :meth:`poll` raises, and core opens another.
    """

    def __init__(self, settings: KafkaSettings, *, max_records: int, max_bytes: int) -> None:
        self._settled: list[Settled] = []
        self._waiting: deque[Outgoing] = deque()
        self._disturbances = 0
        self._fatal: KafkaError | None = None
        config = producer_config(settings, max_records=max_records, max_bytes=max_bytes)
        try:
            self._client = Producer({**config, "error_cb": self._on_error})
        except CLIENT_ERRORS as error:
            raise of_exception("opening a Kafka producer", error) from error

    def send(self, outgoing: Sequence[Outgoing]) -> None:
        if self._waiting:
            self._waiting.extend(outgoing)
            return
        for index, each in enumerate(outgoing):
            if not self._hand_over(each):
                # Later records wait behind it, or they would overtake it.
                self._waiting.extend(outgoing[index:])
                return

    def poll(self, timeout: float) -> Sequence[Settled]:
        if self._settled:
            timeout = 0.0
        self._client.poll(timeout)
        while self._waiting and self._hand_over(self._waiting[0]):
            self._waiting.popleft()
        settled, self._settled = self._settled, []
        if not settled and self._fatal is not None:
            raise broker_error("the Kafka producer ended", self._fatal)
        return settled

    def close(self) -> None:
        self._waiting.clear()
        try:
            # close() flushes without any limit while the broker is away, so nothing may be left by then.
            self._client.purge()
            self._client.flush(1.0)
            self._client.close()
        except CLIENT_ERRORS as error:
            raise of_exception("closing a Kafka producer", error) from error

    def _hand_over(self, outgoing: Outgoing) -> bool:
        """Give one record to the client; False: its queue is full. What it refuses for good is settled as failed."""
        token, record = outgoing
        optional: dict[str, Any] = {}
        if record.headers:
            optional["headers"] = list(record.headers)
        if record.timestamp_ms is not None:
            if record.timestamp_ms == 0:
                self._refuse(token, record, "timestamp_ms=0 means 'now' to Kafka's client; use 1 or None", None)
                return True
            optional["timestamp"] = record.timestamp_ms
        try:
            self._client.produce(
                record.topic,
                record.value,
                record.key,
                on_delivery=partial(self._delivered, token, self._disturbances),
                **optional,
            )
        except BufferError:
            return False
        except (*CLIENT_ERRORS, TypeError, ValueError, OverflowError) as error:
            inner = kafka_error(error)
            if inner is not None and inner.fatal():
                self._fatal = inner
            self._refuse(token, record, str(error), error)
        return True

    def _refuse(self, token: int, record: Record, why: str, cause: Exception | None) -> None:
        failed = SendFailed(f"send to {record.topic!r}: {why}", topic=record.topic, backend="kafka")
        failed.__cause__ = cause if cause is None else of_exception("send", cause, topic=record.topic)
        self._settled.append(Settled(token, failed))

    def _delivered(self, token: int, disturbances: int, error: KafkaError | None, message: Message) -> None:
        if error is None:
            place = Stored(
                message.topic(),  # type: ignore[arg-type]
                message.partition(),  # type: ignore[arg-type]
                tuple.__new__(Position, (message.offset(),)),
                message.timestamp()[1],
            )
            self._settled.append(Settled(token, place))
            return
        if error.fatal():
            self._fatal = error
        disturbed = disturbances != self._disturbances
        self._settled.append(Settled(token, send_outcome(error, message.topic() or "", disturbed=disturbed)))

    def _on_error(self, error: KafkaError) -> None:
        self._disturbances += 1
        if error.fatal():
            self._fatal = error

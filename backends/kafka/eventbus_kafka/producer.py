"""Sending: librdkafka's idempotent producer, without any deadline of its own."""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import suppress
from functools import partial
from typing import Any

from confluent_kafka import KafkaError, Message, Producer

from eventbus_core.backend import BackendProducer, Outgoing, Settled
from eventbus_core.errors import SendFailed
from eventbus_core.records import Position, Stored
from eventbus_kafka.errors import CLIENT_ERRORS, broker_error, kafka_error, of_exception, refused, send_outcome
from eventbus_kafka.settings import KafkaSettings

#: The client itself asks again for its producer id this long after it was made (librdkafka 2.16).
_ID_TIMER_SECONDS = 0.5
_ASK_SECONDS = 0.02


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


class _Haste:
    """Has a new client ask for its producer id as soon as it is connected, by asking about a topic.

    By itself it asks when it is made, before it has a connection, then on a timer, and also after every answer about a
    topic (``rd_kafka_parse_Metadata``), if just then a broker is connected that it knows by more than its address. So
    the first record is stored after 0.06 s instead of 0.5 s.
    """

    def __init__(self, client: Producer) -> None:
        self._client = client
        self._topic: str | None = None
        self._next = self._end = 0.0

    def begin(self, topic: str) -> None:
        """There is something to send. Only the first time counts."""
        if self._topic is None:
            self._topic = topic
            self._next = time.monotonic()
            self._end = self._next + _ID_TIMER_SECONDS

    def end(self) -> None:
        """The client has its id."""
        self._end = 0.0

    def ask(self, timeout: float) -> bool:
        """Ask, if it is time to, and wait for the answer for at most ``timeout`` seconds; whether it did."""
        if self._topic is None or not self._next <= time.monotonic() < self._end:
            return False
        self._next = time.monotonic() + _ASK_SECONDS
        # A late answer does it too. A topic that does not exist, or is no name at all, fails with its records.
        with suppress(*CLIENT_ERRORS, TypeError, ValueError):
            self._client.list_topics(self._topic, timeout=timeout)
        return True


class KafkaProducer(BackendProducer):
    """One idempotent producer. Records of one key go to one partition, as Kafka's Java client places them.

    After a fatal client error (the broker refuses the producer id) or refused credentials :meth:`poll` raises, and core
    opens another.
    """

    def __init__(self, settings: KafkaSettings, *, max_records: int, max_bytes: int) -> None:
        self._settled: list[Settled] = []
        self._waiting: list[Outgoing] = []
        self._disturbances = 0
        self._ended_by: KafkaError | None = None
        self._user = settings.user
        config = producer_config(settings, max_records=max_records, max_bytes=max_bytes)
        try:
            self._client = Producer({**config, "error_cb": self._on_error})
        except CLIENT_ERRORS as error:
            raise of_exception("opening a Kafka producer", error, user=self._user) from error
        self._haste = _Haste(self._client)

    def send(self, outgoing: Sequence[Outgoing]) -> None:
        if self._waiting:
            # Later records wait behind earlier ones, or they would overtake them.
            self._waiting.extend(outgoing)
        else:
            self._waiting.extend(outgoing[self._hand_over(outgoing) :])
        if outgoing:
            self._haste.begin(outgoing[0].record.topic)

    def poll(self, timeout: float) -> Sequence[Settled]:
        if self._settled:
            timeout = 0.0
        self._client.poll(0.0 if self._haste.ask(timeout) else timeout)
        if self._waiting:
            del self._waiting[: self._hand_over(self._waiting)]
        settled, self._settled = self._settled, []
        if settled and isinstance(settled[-1].outcome, Stored):
            self._haste.end()
        if not settled and self._ended_by is not None:
            raise broker_error("the Kafka producer ended", self._ended_by, user=self._user)
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

    def _hand_over(self, outgoing: Sequence[Outgoing]) -> int:
        """Give records to the client; how many it took before its queue was full.

        What it refuses for good is settled as failed.
        """
        produce, delivered, disturbances = self._client.produce, self._delivered, self._disturbances
        taken = 0
        for token, (topic, value, key, headers, timestamp_ms) in outgoing:
            if timestamp_ms == 0:
                self._refuse(token, topic, "timestamp_ms=0 means 'now' to Kafka's client; use 1 or None", None)
            else:
                try:
                    produce(
                        topic,
                        value,
                        key,
                        on_delivery=partial(delivered, token, disturbances),
                        timestamp=timestamp_ms or 0,
                        headers=list(headers) if headers else None,
                    )
                except BufferError:
                    return taken
                except (*CLIENT_ERRORS, TypeError, ValueError, OverflowError) as error:
                    inner = kafka_error(error)
                    if inner is not None and inner.fatal():
                        self._ended_by = inner
                    self._refuse(token, topic, str(error), error)
            taken += 1
        return taken

    def _refuse(self, token: int, topic: str, why: str, cause: Exception | None) -> None:
        failed = SendFailed(f"send to {topic!r}: {why}", topic=topic, backend="kafka")
        failed.__cause__ = cause if cause is None else of_exception("send", cause, topic=topic)
        self._settled.append(Settled(token, failed))

    def _delivered(self, token: int, disturbances: int, error: KafkaError | None, message: Message) -> None:
        if error is None:
            # One call for every record: built without the constructors' checks.
            offset = message.offset()
            # A new leader may know that it has the record already, and not where.
            position = None if offset is None else tuple.__new__(Position, (offset,))
            stored = tuple.__new__(Stored, (message.topic(), message.partition(), position, message.timestamp()[1]))
            self._settled.append(tuple.__new__(Settled, (token, stored)))
            return
        if error.fatal():
            self._ended_by = error
        outcome = send_outcome(
            error, message.topic() or "", disturbed=disturbances != self._disturbances, user=self._user
        )
        self._settled.append(Settled(token, outcome))

    def _on_error(self, error: KafkaError) -> None:
        self._disturbances += 1
        # Refused credentials are never fatal to the client: it would go on trying for ever, silently.
        if error.fatal() or refused(error):
            self._ended_by = error

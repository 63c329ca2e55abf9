"""Sending to one partition: a client producer, and what was handed to it, settled by polling the client's own mark."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from typing import Any

import _pulsar

from eventbus_core.backend import Outgoing, Settled
from eventbus_core.errors import BrokerError, InvalidRecord, SendFailed, SendUnknown, TooLarge
from eventbus_core.records import Stored
from eventbus_pulsar.encoding import Encoded, encode, message
from eventbus_pulsar.opening import Opening

MAX_MESSAGE_BYTES = 5 * 1024 * 1024 - 10 * 1024
"""The broker's default ``maxMessageSize`` less room for its own fields; above it the client fails a record silently."""
_LARGE_BYTES = 64 * 1024
"""From this size on a record has a callback: a broker whose ``maxMessageSize`` is lower refuses it all alone, which the
client's mark passes over."""
_STALLED_SECONDS = 0.5


class Lane:
    """One partition: what waits for its producer, and what was handed to the client, in order."""

    __slots__ = (
        "_checked", "_client", "_flushed", "_large", "_mark", "_raw", "_ready", "_results", "_sent", "opening",
        "partition", "topic", "waiting",
    )  # fmt: skip

    def __init__(self, topic: str, partition: int, opening: Opening[Any]) -> None:
        self.topic = topic
        self.partition = partition
        self.opening = opening
        self.waiting: deque[Outgoing] = deque()
        self._client: Any = None
        self._raw: Any = None
        """The client's inner producer; None where it lacks what is needed: then every send has a callback."""
        self._sent: deque[tuple[int, int]] = deque()
        self._results: deque[Any] = deque()
        self._large: dict[int, list[Any]] = {}
        """Per token of a large record the client's answer, once it is there."""
        self._mark = -1
        self._ready = 0
        self._checked = 0.0
        self._flushed: list[Any] | None = None

    @property
    def is_open(self) -> bool:
        """Whether it has a client producer."""
        return self._client is not None

    @property
    def idle(self) -> bool:
        """Whether everything it got is settled."""
        return not self._sent and not self.waiting

    @property
    def connected(self) -> bool:
        """Whether the client reaches the broker, as far as it knows."""
        return bool(self._client.is_connected())

    def open(self, client: Any, settled: list[Settled]) -> None:
        """Begin with a client producer: hand over what waited."""
        self._client, self._raw = client, inner_producer(client)
        self._checked = time.monotonic()
        now_ms = time.time_ns() // 1_000_000
        while self.waiting:
            self.hand_over(self.waiting.popleft(), now_ms, settled)

    def hand_over(self, outgoing: Outgoing, now_ms: int, settled: list[Settled]) -> None:
        """Give a record to the client; a bad one is settled as failed."""
        token, record = outgoing
        try:
            encoded = encode(record, now_ms)
            size = _checked_size(encoded)
            if self._raw is None:
                self._send_public(encoded)
            else:
                self._raw.send_async(message(encoded), self._answer_to(token) if size >= _LARGE_BYTES else None)
        except (TooLarge, InvalidRecord, UnicodeError, TypeError, ValueError) as error:
            settled.append(Settled(token, failed(record.topic, error)))
        else:
            self._sent.append((token, now_ms if record.timestamp_ms is None else record.timestamp_ms))

    def settle(self, settled: list[Settled]) -> bool:
        """Append what the broker confirmed. False: nothing for long, so that somebody should ask what is wrong.

        Raises BrokerError: the broker ended this producer.
        """
        if not self._sent:
            self._checked = time.monotonic()
            return True
        self._ready += self._confirmed()
        if self._ready:
            self._take_ready(settled)
            self._checked = time.monotonic()
        elif time.monotonic() - self._checked > _STALLED_SECONDS:
            self._checked = time.monotonic()
            self._ask_if_alive()
            return False
        return True

    def _take_ready(self, settled: list[Settled]) -> None:
        topic, partition, take = self.topic, self.partition, self._sent.popleft
        while self._ready:
            answers = self._large.get(self._sent[0][0]) if self._large else None
            if answers is not None and not answers:
                break
            token, stamp = take()
            self._ready -= 1
            if answers and self._large.pop(token)[0] != _pulsar.Result.Ok:
                settled.append(Settled(token, _refused(topic, answers[0])))
            else:
                settled.append(Settled(token, Stored(topic, partition, None, stamp)))

    def _confirmed(self) -> int:
        """How many more of the records handed over are stored."""
        if self._raw is not None:
            mark: int = self._raw.last_sequence_id()
            fresh, self._mark = mark - self._mark, mark
            return fresh
        fresh = 0
        while self._results:
            result = self._results.popleft()
            if result != _pulsar.Result.Ok:
                if fresh:
                    self._results.appendleft(result)
                    break
                raise self._ended(result)
            fresh += 1
        return fresh

    def _answer_to(self, token: int) -> Callable[[Any, Any], None]:
        answers: list[Any] = []
        self._large[token] = answers
        return lambda result, _identity: answers.append(result)

    def _send_public(self, encoded: Encoded) -> None:
        self._client.send_async(
            encoded.content,
            lambda result, _identity: self._results.append(result),
            properties=encoded.properties or None,
            partition_key=encoded.key or None,
            event_timestamp=encoded.timestamp_ms or None,
        )

    def _ask_if_alive(self) -> None:
        """A producer that the broker ended for good says so only to who asks: have it flush, look at it later."""
        if self._raw is None:
            return
        if self._flushed is None:
            answers: list[Any] = []
            self._flushed = answers
            self._raw.flush_async(answers.append)
        elif self._flushed:
            result, self._flushed = self._flushed[0], None
            if result != _pulsar.Result.Ok:
                raise self._ended(result)

    def _ended(self, result: Any) -> BrokerError:
        return BrokerError(
            f"the broker ended the producer of {self.topic!r}[{self.partition}] ({result}): "
            "was the topic deleted or terminated?",
            topic=self.topic,
            backend="pulsar",
        )


def inner_producer(client: Any) -> Any | None:
    """The client's inner producer if it works without a callback per record, else None.

    ``_producer`` and its ``None`` callback are not public; a Python callback per record costs five times the time.
    """
    inner = getattr(client, "_producer", None)
    builder = getattr(_pulsar, "MessageBuilder", None)
    wanted = ("send_async", "flush_async", "last_sequence_id")
    if inner is None or builder is None or not all(hasattr(inner, name) for name in wanted):
        return None
    return inner if inner.last_sequence_id() == -1 else None


def _checked_size(encoded: Encoded) -> int:
    size = encoded.size
    if size > MAX_MESSAGE_BYTES:
        raise TooLarge(f"the message has {size} bytes; Pulsar takes {MAX_MESSAGE_BYTES}")
    return size


def failed(topic: str, cause: BaseException) -> SendFailed:
    """The outcome of a record that was never handed over."""
    error = SendFailed(f"not sent to {topic!r}: {cause}", topic=topic, backend="pulsar")
    error.__cause__ = cause
    return error


def _refused(topic: str, result: Any) -> SendFailed | SendUnknown:
    kind = SendFailed if result == _pulsar.Result.MessageTooBig else SendUnknown
    return kind(f"not sent to {topic!r}: the broker takes no record so large ({result})", topic=topic, backend="pulsar")

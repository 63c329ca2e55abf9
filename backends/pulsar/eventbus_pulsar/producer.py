"""Sending: one deduplicated, batching client producer per partition, settled by polling the client's own mark."""

from __future__ import annotations

import contextlib
import random
import time
import uuid
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, TypeVar

import _pulsar
import pulsar

from eventbus_core.backend import BackendProducer, Outgoing, Settled
from eventbus_core.errors import (
    BrokerError,
    EventBusError,
    InvalidRecord,
    SendFailed,
    SendUnknown,
    TooLarge,
    Unavailable,
)
from eventbus_core.records import Stored
from eventbus_pulsar.connection import close_client, data_topic
from eventbus_pulsar.cursors import Cursors
from eventbus_pulsar.encoding import Encoded, encode
from eventbus_pulsar.errors import ClientError, translated
from eventbus_pulsar.partitioning import partition_of
from eventbus_pulsar.policies import require_deduplication
from eventbus_pulsar.rest import Rest
from eventbus_pulsar.settings import PulsarSettings

MAX_MESSAGE_BYTES = 5 * 1024 * 1024 - 10 * 1024
"""The broker's default ``maxMessageSize`` less room for its own fields; above it the client fails a record silently."""
_LARGE_BYTES = 64 * 1024
"""From this size on a record has a callback: a broker whose ``maxMessageSize`` is lower refuses it all alone, which the
client's mark passes over."""
_POLL_SECONDS = 0.001
_STALLED_SECONDS = 0.5

T = TypeVar("T")


class _Opening:
    """Something opened in a thread, again and again while the broker is away."""

    __slots__ = ("failures", "future", "not_before", "work")

    def __init__(self, work: Callable[[], Any]) -> None:
        self.work = work
        self.future: Future[Any] | None = None
        self.failures = 0
        self.not_before = 0.0

    def advance(self, threads: ThreadPoolExecutor) -> Any | None:
        """What was opened, or None: not yet. Raises what will not pass by itself."""
        if self.future is None:
            if time.monotonic() >= self.not_before:
                self.future = threads.submit(self.work)
            return None
        if not self.future.done():
            return None
        future, self.future = self.future, None
        try:
            return future.result()
        except Unavailable:
            self.failures = min(self.failures + 1, 6)
            self.not_before = time.monotonic() + 0.05 * 2**self.failures * random.uniform(0.5, 1)
            return None


class _Lane:
    """One partition: what waits for its producer, and what was handed to the client, in order."""

    __slots__ = (
        "checked",
        "client",
        "flushed",
        "inquiry",
        "large",
        "mark",
        "opening",
        "partition",
        "raw",
        "ready",
        "results",
        "sent",
        "topic",
        "waiting",
    )

    def __init__(self, topic: str, partition: int, opening: _Opening) -> None:
        self.topic = topic
        self.partition = partition
        self.opening = opening
        self.client: Any = None
        self.raw: Any = None
        """The client's inner producer; None where it lacks what is needed: then every send has a callback."""
        self.waiting: deque[Outgoing] = deque()
        self.sent: deque[tuple[int, int]] = deque()
        self.results: deque[Any] = deque()
        self.large: dict[int, list[Any]] = {}
        """Per token of a large record the client's answer, once it is there."""
        self.mark = -1
        self.ready = 0
        self.checked = 0.0
        self.flushed: list[Any] | None = None
        self.inquiry: Future[int] | None = None


class PulsarProducer(BackendProducer):
    """A record of one key is stored after all earlier ones of it; a lost reply never stores one twice.

    Batches repeat unchanged until the broker answers, which knows them by producer name and sequence. Positions are not
    reported: the broker does not tell them for a repeated batch.
    """

    def __init__(
        self, settings: PulsarSettings, *, client: pulsar.Client, rest: Rest, cursors: Cursors, max_records: int
    ) -> None:
        self._settings = settings
        self._client = client
        self._rest = rest
        self._cursors = cursors
        self._max_records = max_records
        self._threads = ThreadPoolExecutor(4, thread_name_prefix="eventbus-pulsar")
        self._topics: dict[str, list[_Lane]] = {}
        self._openings: dict[str, _Opening] = {}
        self._arrived: dict[str, deque[Outgoing]] = {}
        self._settled: list[Settled] = []
        self._turn = random.randrange(1 << 16)

    def send(self, outgoing: Sequence[Outgoing]) -> None:
        now_ms = time.time_ns() // 1_000_000
        self._turn += 1
        for each in outgoing:
            lanes = self._topics.get(each.record.topic)
            if lanes is None:
                self._arrived.setdefault(each.record.topic, deque()).append(each)
            else:
                self._place(lanes, each, now_ms)

    def poll(self, timeout: float) -> Sequence[Settled]:
        deadline = time.monotonic() + timeout
        while True:
            self._open_topics()
            for lanes in list(self._topics.values()):
                for lane in lanes:
                    self._advance(lane)
            if self._settled:
                settled, self._settled = self._settled, []
                return settled
            remaining = deadline - time.monotonic()
            if remaining <= 0:
                return ()
            time.sleep(min(_POLL_SECONDS, remaining))

    def close(self) -> None:
        self._threads.shutdown(wait=False, cancel_futures=True)
        self._topics.clear()
        self._arrived.clear()
        close_client(self._client, self._settings.request_timeout_seconds)
        self._rest.close()

    def _place(self, lanes: list[_Lane], outgoing: Outgoing, now_ms: int) -> None:
        key = outgoing.record.key
        lane = lanes[self._turn % len(lanes) if key is None else partition_of(key, len(lanes))]
        if lane.client is None:
            lane.waiting.append(outgoing)
        else:
            self._hand_over(lane, outgoing, now_ms)

    def _hand_over(self, lane: _Lane, outgoing: Outgoing, now_ms: int) -> None:
        token, record = outgoing
        try:
            encoded = encode(record, now_ms)
            _check_size(encoded)
            stamp = now_ms if record.timestamp_ms is None else record.timestamp_ms
            if lane.raw is None:
                _send_public(lane, encoded)
            else:
                lane.raw.send_async(_message(encoded), _answered(lane, token, encoded))
        except (TooLarge, InvalidRecord, UnicodeError, TypeError, ValueError) as error:
            self._fail(outgoing, error)
        else:
            lane.sent.append((token, stamp))

    def _fail(self, outgoing: Outgoing, cause: BaseException) -> None:
        topic = outgoing.record.topic
        failed = SendFailed(f"not sent to {topic!r}: {cause}", topic=topic, backend="pulsar")
        failed.__cause__ = cause
        self._settled.append(Settled(outgoing.token, failed))

    def _open_topics(self) -> None:
        """Look up the topics of what arrived, in threads; then place it in the order it came."""
        for topic in [name for name in self._arrived if name not in self._topics]:
            opening = self._openings.get(topic)
            if opening is None:
                opening = self._openings[topic] = _Opening(lambda topic=topic: self._look_up(topic))  # type: ignore[misc]
            try:
                count = opening.advance(self._threads)
            except EventBusError as error:
                # Nothing of these was handed over, so they certainly failed; the next send looks again.
                del self._openings[topic]
                for each in self._arrived.pop(topic):
                    self._fail(each, error)
                continue
            if count is not None:
                del self._openings[topic]
                lanes = [_Lane(topic, each, self._lane_opening(topic, each)) for each in range(count)]
                self._topics[topic] = lanes
                for each in self._arrived.pop(topic):
                    self._place(lanes, each, 0)

    def _look_up(self, topic: str) -> int:
        count = self._cursors.partitions(topic)
        require_deduplication(self._rest, topic, count, self._settings.request_timeout_seconds)
        return count

    def _lane_opening(self, topic: str, partition: int) -> _Opening:
        return _Opening(lambda: self._open(topic, partition))

    def _open(self, topic: str, partition: int) -> Any:
        try:
            return self._client.create_producer(
                data_topic(self._settings, topic, partition),
                # The broker knows repeats by this name, so no other producer may ever bear it; nor may the next attempt
                # to open this one, which the broker would refuse as busy while it holds what is left of the first.
                producer_name=f"eventbus-{uuid.uuid4().hex}",
                send_timeout_millis=0,
                max_pending_messages=self._max_records + 1,
                max_pending_messages_across_partitions=0x7FFFFFFF,
                block_if_queue_full=True,
                batching_enabled=True,
                batching_max_messages=self._settings.batch_records,
                batching_max_allowed_size_in_bytes=self._settings.batch_bytes,
                batching_max_publish_delay_ms=self._settings.batch_delay_milliseconds,
            )
        except (ClientError, ValueError) as error:
            raise translated(error, f"opening a producer for {topic!r}[{partition}]", topic) from error

    def _advance(self, lane: _Lane) -> None:
        """Open the lane if something waits for it; settle what the broker confirmed."""
        if lane.client is None:
            if lane.waiting:
                self._advance_opening(lane)
            return
        if not lane.sent:
            lane.checked = time.monotonic()
            return
        lane.ready += self._confirmed(lane)
        if lane.ready:
            topic, partition, take = lane.topic, lane.partition, lane.sent.popleft
            while lane.ready:
                answers = lane.large.get(lane.sent[0][0]) if lane.large else None
                if answers is not None and not answers:
                    break
                token, stamp = take()
                lane.ready -= 1
                if answers and lane.large.pop(token)[0] != _pulsar.Result.Ok:
                    self._settled.append(Settled(token, _refused(topic, answers[0])))
                else:
                    self._settled.append(Settled(token, Stored(topic, partition, None, stamp)))
            lane.checked = time.monotonic()
        elif time.monotonic() - lane.checked > _STALLED_SECONDS:
            lane.checked = time.monotonic()
            _ask_if_alive(lane)
            if not lane.client.is_connected():
                self._ask_if_there(lane)

    def _advance_opening(self, lane: _Lane) -> None:
        try:
            client = lane.opening.advance(self._threads)
        except EventBusError as error:
            while lane.waiting:
                self._fail(lane.waiting.popleft(), error)
            # Look the topic up again: it may be gone, or come back in another shape.
            if not any(each.sent or each.waiting for each in self._topics[lane.topic]):
                del self._topics[lane.topic]
            return
        if client is not None:
            lane.client, lane.raw = client, inner_producer(client)
            lane.checked = time.monotonic()
            now_ms = time.time_ns() // 1_000_000
            while lane.waiting:
                self._hand_over(lane, lane.waiting.popleft(), now_ms)

    def _ask_if_there(self, lane: _Lane) -> None:
        """The client tries for ever to reach a deleted topic; look in a thread, and raise NotFound if it is gone."""
        if lane.inquiry is None:
            lane.inquiry = self._threads.submit(self._cursors.partitions, lane.topic)
        elif lane.inquiry.done():
            inquiry, lane.inquiry = lane.inquiry, None
            with contextlib.suppress(Unavailable):
                inquiry.result()

    def _confirmed(self, lane: _Lane) -> int:
        """How many more of the records handed over are stored."""
        if lane.raw is not None:
            mark: int = lane.raw.last_sequence_id()
            fresh, lane.mark = mark - lane.mark, mark
            return fresh
        fresh = 0
        while lane.results:
            result = lane.results.popleft()
            if result != _pulsar.Result.Ok:
                if fresh:
                    lane.results.appendleft(result)
                    break
                raise _ended(lane, result)
            fresh += 1
        return fresh


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


def _check_size(encoded: Encoded) -> None:
    if encoded.size > MAX_MESSAGE_BYTES:
        raise TooLarge(f"the message has {encoded.size} bytes; Pulsar takes {MAX_MESSAGE_BYTES}")


def _message(encoded: Encoded) -> Any:
    builder = _pulsar.MessageBuilder()
    if encoded.content is None:
        builder.set_null_value()
    else:
        builder.content(encoded.content)
    if encoded.key:
        builder.partition_key(encoded.key)
    for name, value in encoded.properties.items():
        builder.property(name, value)
    if encoded.timestamp_ms:
        builder.event_timestamp(encoded.timestamp_ms)
    return builder.build()


def _answered(lane: _Lane, token: int, encoded: Encoded) -> Callable[[Any, Any], None] | None:
    if encoded.size < _LARGE_BYTES:
        return None
    answers: list[Any] = []
    lane.large[token] = answers
    return lambda result, _identity: answers.append(result)


def _refused(topic: str, result: Any) -> SendFailed | SendUnknown:
    kind = SendFailed if result == _pulsar.Result.MessageTooBig else SendUnknown
    return kind(f"not sent to {topic!r}: the broker takes no record so large ({result})", topic=topic, backend="pulsar")


def _send_public(lane: _Lane, encoded: Encoded) -> None:
    lane.client.send_async(
        encoded.content,
        lambda result, _identity: lane.results.append(result),
        properties=encoded.properties or None,
        partition_key=encoded.key or None,
        event_timestamp=encoded.timestamp_ms or None,
    )


def _ask_if_alive(lane: _Lane) -> None:
    """A producer that the broker ended for good says so only to who asks: have it flush, look at the answer later."""
    if lane.raw is None:
        return
    if lane.flushed is None:
        answers: list[Any] = []
        lane.flushed = answers
        lane.raw.flush_async(answers.append)
    elif lane.flushed:
        result, lane.flushed = lane.flushed[0], None
        if result != _pulsar.Result.Ok:
            raise _ended(lane, result)


def _ended(lane: _Lane, result: Any) -> BrokerError:
    return BrokerError(
        f"the broker ended the producer of {lane.topic!r}[{lane.partition}] ({result}): "
        "was the topic deleted or terminated?",
        topic=lane.topic,
        backend="pulsar",
    )

"""Sending: one deduplicated, batching client producer per partition."""

from __future__ import annotations

import contextlib
import random
import time
import uuid
from collections import deque
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import pulsar

from eventbus_core.backend import BackendProducer, Outgoing, Settled
from eventbus_core.errors import EventBusError, Unavailable
from eventbus_pulsar.connection import close_client, data_topic
from eventbus_pulsar.cursors import Cursors
from eventbus_pulsar.errors import ClientError, translated
from eventbus_pulsar.lanes import Lane, failed
from eventbus_pulsar.opening import Opening
from eventbus_pulsar.partitioning import partition_of
from eventbus_pulsar.policies import require_deduplication
from eventbus_pulsar.rest import Rest
from eventbus_pulsar.settings import PulsarSettings

COUNT_SECONDS = 5.0
"""How often a producer that sends asks whether a topic has grown."""
_POLL_SECONDS = 0.001


class _Topic:
    """The partitions of a topic, and the question that is under way whether it is there and has grown."""

    __slots__ = ("asked_at", "grown_to", "inquiry", "lanes")

    def __init__(self, lanes: list[Lane]) -> None:
        self.lanes = lanes
        self.grown_to = 0
        self.inquiry: Future[int] | None = None
        self.asked_at = time.monotonic()

    @property
    def idle(self) -> bool:
        return all(lane.idle for lane in self.lanes)


class PulsarProducer(BackendProducer):
    """A record of one key is stored after all earlier ones of it; a lost reply never stores one twice.

    Batches repeat unchanged until the broker answers, which knows them by producer name and sequence. Positions are not
    reported: the broker does not tell them for a repeated batch.

    A topic that grows is noticed within ``COUNT_SECONDS`` of sending. What was sent by then is stored first; from there
    on a key may belong to another partition than before, as with every client of Pulsar.
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
        self._topics: dict[str, _Topic] = {}
        self._openings: dict[str, Opening[int]] = {}
        self._arrived: dict[str, deque[Outgoing]] = {}
        """Of topics that are looked up, or that wait for what was sent before they grew."""
        self._settled: list[Settled] = []
        self._turn = random.randrange(1 << 16)

    def send(self, outgoing: Sequence[Outgoing]) -> None:
        now_ms = time.time_ns() // 1_000_000
        self._turn += 1
        for each in outgoing:
            topic = self._topics.get(each.record.topic)
            if topic is None or topic.grown_to:
                self._arrived.setdefault(each.record.topic, deque()).append(each)
            else:
                self._place(topic.lanes, each, now_ms)

    def poll(self, timeout: float) -> Sequence[Settled]:
        deadline = time.monotonic() + timeout
        while True:
            self._open_topics()
            for name, topic in list(self._topics.items()):
                for lane in topic.lanes:
                    self._advance(topic, lane)
                if self._topics.get(name) is topic:
                    self._watch(name, topic)
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

    def _place(self, lanes: list[Lane], outgoing: Outgoing, now_ms: int) -> None:
        key = outgoing.record.key
        lane = lanes[self._turn % len(lanes) if key is None else partition_of(key, len(lanes))]
        if lane.is_open:
            lane.hand_over(outgoing, now_ms, self._settled)
        else:
            lane.waiting.append(outgoing)

    def _open_topics(self) -> None:
        """Look up the topics of what arrived, in threads; then place it in the order it came."""
        for name in [name for name in self._arrived if name not in self._topics]:
            opening = self._openings.get(name)
            if opening is None:
                opening = self._openings[name] = Opening(lambda name=name: self._look_up(name))  # type: ignore[misc]
            try:
                count = opening.advance(self._threads)
            except EventBusError as error:
                # Nothing of these was handed over, so they certainly failed; the next send looks again.
                del self._openings[name]
                self._settled.extend(Settled(each.token, failed(name, error)) for each in self._arrived.pop(name))
                continue
            if count is not None:
                del self._openings[name]
                self._topics[name] = topic = _Topic([])
                self._grow(name, topic, count)

    def _grow(self, name: str, topic: _Topic, count: int) -> None:
        """Add the partitions that are new, and place what waited for them."""
        topic.lanes += [
            Lane(name, each, Opening(lambda each=each: self._open(name, each)))  # type: ignore[misc]
            for each in range(len(topic.lanes), count)
        ]
        topic.grown_to = 0
        for each in self._arrived.pop(name, ()):
            self._place(topic.lanes, each, 0)

    def _look_up(self, topic: str) -> int:
        count = self._cursors.partitions(topic)
        require_deduplication(self._rest, topic, count, self._settings.request_timeout_seconds)
        return count

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

    def _advance(self, topic: _Topic, lane: Lane) -> None:
        """Open the lane if something waits for it; settle what the broker confirmed."""
        if not lane.is_open:
            if lane.waiting:
                self._advance_opening(topic, lane)
        elif not lane.settle(self._settled) and not lane.connected:
            # The client tries for ever to reach a deleted topic.
            self._ask(lane.topic, topic)

    def _advance_opening(self, topic: _Topic, lane: Lane) -> None:
        try:
            client = lane.opening.advance(self._threads)
        except EventBusError as error:
            while lane.waiting:
                self._settled.append(Settled(lane.waiting.popleft().token, failed(lane.topic, error)))
            # Look the topic up again: it may be gone, or come back in another shape.
            if topic.idle:
                self._topics.pop(lane.topic, None)
            return
        if client is not None:
            lane.open(client, self._settled)

    def _watch(self, name: str, topic: _Topic) -> None:
        """Notice that the topic has grown, or raise NotFound: it is gone."""
        if topic.inquiry is not None and topic.inquiry.done():
            inquiry, topic.inquiry = topic.inquiry, None
            with contextlib.suppress(Unavailable):
                count = inquiry.result()
                if count > len(topic.lanes):
                    topic.grown_to = count
        if topic.grown_to:
            # No record of a key may overtake an earlier one that is still under way to its old partition.
            if topic.idle:
                self._grow(name, topic, topic.grown_to)
        elif time.monotonic() - topic.asked_at >= COUNT_SECONDS and not topic.idle:
            self._ask(name, topic)

    def _ask(self, name: str, topic: _Topic) -> None:
        if topic.inquiry is None:
            topic.asked_at = time.monotonic()
            topic.inquiry = self._threads.submit(self._look_up, name)

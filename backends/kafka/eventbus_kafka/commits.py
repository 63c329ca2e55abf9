"""Making durable what is settled: in the background, and at once where a hold ends."""

from __future__ import annotations

import time
from collections.abc import Iterable

from confluent_kafka import Consumer, KafkaError, TopicPartition

from eventbus_core.errors import EventBusError
from eventbus_kafka.errors import ACCESS_DENIED, CLIENT_ERRORS, broker_error, of_exception
from eventbus_kafka.holds import Hold, Holds
from eventbus_kafka.positions import Places

COMMIT_SECONDS = 0.5
_COMMIT_ANSWER_SECONDS = 10.0


class Commits:
    """The commits of one client; for the member's thread.

    Only one background commit is under way at a time: Kafka's client queues them behind each other.
    """

    def __init__(self, client: Consumer, holds: Holds, group: str, user: str) -> None:
        self._client = client
        self._holds = holds
        self._what = f"committing positions of group {group!r}"
        self._user = user
        self._sent: dict[Hold, int] = {}
        self._sent_at = 0.0
        self._next = 0.0
        self.in_callback = False
        """Whether the client is inside another callback: it serves none until that ends, so answers are waited for."""

    def in_background(self) -> None:
        """Commit what is settled, if it is time to."""
        now = time.monotonic()
        under_way = self._sent and now - self._sent_at < _COMMIT_ANSWER_SECONDS
        if now < self._next or (under_way and not self.in_callback):
            return
        dirty = self._dirty(self._holds.snapshot().values())
        if not dirty:
            return
        self._next = now + COMMIT_SECONDS
        if self.in_callback:
            try:
                self.now(dirty)
            except EventBusError as error:
                if not error.retryable:
                    self._holds.fail(error)
                # Else it heals: the next commit says the same again.
        else:
            self._sent, self._sent_at = dirty, now
            self._client.commit(
                offsets=[TopicPartition(*hold.place, offset) for hold, offset in dirty.items()], asynchronous=True
            )

    def answered(self, error: KafkaError | None, places: list[TopicPartition]) -> None:
        """The client's callback for a background commit."""
        # The offsets of the answer, not of what was sent last: it may be the late answer to an earlier commit.
        offsets = {(each.topic, each.partition): each.offset for each in places if each.error is None}
        for hold in self._sent:
            if error is None and hold.place in offsets:
                hold.committed = max(hold.committed, min(offsets[hold.place], hold.settled))
        self._sent = {}
        # Others (a rebalance under way, a coordinator that moves) heal: the next commit says the same again.
        if error is not None and error.name() in ACCESS_DENIED:
            self._holds.fail(broker_error(self._what, error, user=self._user))

    def now(self, holds: Iterable[Hold]) -> None:
        """Commit what is settled of these, and wait for the answer."""
        dirty = self._dirty(holds)
        self.places({hold.place: offset for hold, offset in dirty.items()})
        for hold, offset in dirty.items():
            hold.committed = max(hold.committed, offset)

    def places(self, places: Places) -> None:
        """Commit these offsets, backwards too, and wait for the answer."""
        if not places:
            return
        try:
            done = self._client.commit(
                offsets=[TopicPartition(*place, offset) for place, offset in places.items()], asynchronous=False
            )
        except (*CLIENT_ERRORS, RuntimeError) as error:
            raise of_exception(self._what, error, user=self._user) from error
        for each in done or ():
            if each.error is not None:
                raise broker_error(self._what, each.error, topic=each.topic, user=self._user)

    def _dirty(self, holds: Iterable[Hold]) -> dict[Hold, int]:
        with self._holds.changed:
            return {hold: hold.settled for hold in holds if hold.uncommitted}

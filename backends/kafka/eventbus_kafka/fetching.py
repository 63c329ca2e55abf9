"""From the client's messages to deliveries of the holds, and what to do where the log does not go on."""

from __future__ import annotations

from confluent_kafka import Consumer, KafkaError, Message, TopicPartition

from eventbus_core.backend import Assigned
from eventbus_core.records import Delivery, Headers, Position, Record
from eventbus_kafka.connection import Connection
from eventbus_kafka.errors import broker_error
from eventbus_kafka.holds import Hold, Holds
from eventbus_kafka.offsets import bounds

_BATCH = 500


def to_delivery(message: Message, topic: str, partition: int, offset: int, hold: Hold | None) -> Delivery:
    """The record in a client's message, as a delivery. The many values are built without their constructors' checks."""
    headers: Headers = tuple(message.headers() or ())  # type: ignore[arg-type]
    fields = (topic, message.value(), message.key(), headers, message.timestamp()[1])
    return Delivery(tuple.__new__(Record, fields), partition, tuple.__new__(Position, (offset,)), hold)


class Fetching:
    """What one client fetches; for the member's thread."""

    def __init__(self, client: Consumer, holds: Holds, connection: Connection, group: str) -> None:
        self._client = client
        self._holds = holds
        self._connection = connection
        self._what = f"consuming as group {group!r}"

    def turn(self, wait: float, wait_without_room: float) -> None:
        """Let the client run its callbacks and take what it has; waits for room, then for records, so long each."""
        room = self._holds.room(wait)
        self._pause_and_resume(stalled=room <= 0)
        self._holds.turn += 1
        first = self._client.poll(wait if room > 0 else wait_without_room)
        if first is not None:
            more = self._client.consume(min(room, _BATCH) - 1, 0) if room > 1 else []
            self._accept([first, *more])

    def move(self, hold: Hold, offset: int) -> None:
        """Fetch a held partition from elsewhere; a plain seek is refused where the position was lost."""
        place = TopicPartition(*hold.place)
        if hold.client_paused:
            self._client.resume([place])
            hold.client_paused = False
        self._client.incremental_unassign([place])
        self._client.incremental_assign([TopicPartition(*hold.place, offset)])

    def _pause_and_resume(self, *, stalled: bool) -> None:
        pause, resume = self._holds.to_pause_and_resume(stalled=stalled)
        if pause:
            self._client.pause([TopicPartition(*hold.place) for hold in pause])
        if resume:
            self._client.resume([TopicPartition(*hold.place) for hold in resume])
        for hold in pause + resume:
            hold.client_paused = not hold.client_paused

    def _accept(self, messages: list[Message]) -> None:
        held = self._holds.snapshot()
        fetched: dict[Hold, list[Delivery]] = {hold: [] for hold in held.values()}
        restart: set[Hold] = set()
        broken: list[tuple[KafkaError, Hold | None]] = []
        for message in messages:
            hold = held.get((message.topic(), message.partition()))  # type: ignore[arg-type]
            error = message.error()
            if error is not None:
                broken.append((error, hold))
                continue
            offset: int = message.offset()  # type: ignore[assignment]
            if hold is None or hold.revoking or offset < hold.next:
                continue
            if hold.turn == self._holds.turn:
                # Assigned within this very batch: the record may be of the hold before.
                restart.add(hold)
                continue
            hold.next = offset + 1
            fetched[hold].append(to_delivery(message, hold.topic, hold.partition, offset, hold))
        self._holds.offer(fetched)
        for hold in restart:
            self._client.seek(TopicPartition(*hold.place, hold.next))
        for error, hold in broken:
            self._on_message_error(error, hold)

    def _on_message_error(self, error: KafkaError, hold: Hold | None) -> None:
        name = error.name()
        if name == "_AUTO_OFFSET_RESET":
            if hold is not None and not hold.revoking:
                self._resume_after_gap(hold, error.str())
        elif name not in {"_MAX_POLL_EXCEEDED", "_PARTITION_EOF"}:
            self._holds.fail(broker_error(self._what, error, user=self._connection.settings.user))

    def _resume_after_gap(self, hold: Hold, reason: str) -> None:
        low, high = bounds(self._connection, [hold.place])[hold.place]
        if low <= hold.next <= high:
            # Only a leader that was still catching up said otherwise.
            self.move(hold, hold.next)
            return
        if low < hold.next:
            self._resume_shorter_log(hold, low)
            return
        self.move(hold, low)
        self._holds.offer_gap(hold, hold.next, low, reason)
        hold.next = low

    def _resume_shorter_log(self, hold: Hold, low: int) -> None:
        """The log ends before the position: it was made anew or lost its end. Kept, the position would skip records."""
        self._holds.lose([hold], f"the log ends before offset {hold.next}; the group goes on at {low}")
        successor = self._holds.new_hold(*hold.place, low)
        # To be committed, though nothing is settled yet.
        successor.committed = low - 1
        successor.client_paused = hold.client_paused
        with self._holds.changed:
            self._holds.held[hold.place] = successor
            self._holds.report(Assigned(successor))
        self.move(successor, low)

"""One member of a consumer group: a thread that owns the client, since Kafka's callbacks run inside its poll."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any

from confluent_kafka import Consumer, KafkaError, Message, TopicPartition

from eventbus_core.backend import Assigned, Gap, Group, Revoking
from eventbus_core.errors import EventBusError, Unavailable
from eventbus_core.records import Delivery, Position, Record, Where
from eventbus_kafka.connection import Connection
from eventbus_kafka.errors import ACCESS_DENIED, CLIENT_ERRORS, broker_error, of_exception
from eventbus_kafka.holds import Hold, Holds
from eventbus_kafka.offsets import bounds, resolve
from eventbus_kafka.positions import Places
from eventbus_kafka.settings import KafkaSettings

COMMIT_SECONDS = 0.5
_COMMIT_ANSWER_SECONDS = 10.0
_TURN_SECONDS = 0.1
_BATCH = 500


def heartbeat_seconds(settings: KafkaSettings) -> float:
    """How often the client tells the coordinator that it lives (classic protocol)."""
    return min(1.0, settings.session_timeout_seconds / 3)


def consumer_config(settings: KafkaSettings, group: Group) -> dict[str, Any]:
    """The client options of a group member. Positions are made and committed by us, never by the client."""
    classic = {
        "partition.assignment.strategy": "cooperative-sticky",
        "session.timeout.ms": int(settings.session_timeout_seconds * 1000),
        "heartbeat.interval.ms": int(heartbeat_seconds(settings) * 1000),
    }
    return {
        "fetch.wait.max.ms": 200,
        "topic.metadata.refresh.interval.ms": 5000,
        "queued.max.messages.kbytes": 16384,
        **settings.client_config(),
        "group.id": group.name,
        "client.id": group.member,
        "group.protocol": settings.group_protocol,
        "enable.auto.commit": False,
        "enable.auto.offset.store": False,
        "auto.offset.reset": "error",
        "isolation.level": "read_committed",
        # Also the rebalance timeout of the classic protocol: a drain, and the answer to it, must fit in.
        "max.poll.interval.ms": int(2000 * group.drain_seconds) + 30_000,
        **(classic if settings.group_protocol == "classic" else {}),
    }


def to_record(message: Message) -> Record:
    """The record in a client's message."""
    return Record(
        message.topic() or "",
        message.value(),
        message.key(),
        tuple(message.headers() or ()),  # type: ignore[arg-type]
        message.timestamp()[1],
    )


class Member(threading.Thread):
    """Joins in its own thread and stays until :meth:`stop`; after a fatal client error it joins anew.

    While a revoke drains, the thread stays in the client's callback, because returning from it would give the
    partitions up. Partitions that are kept are then served from what was fetched before.
    """

    def __init__(self, connection: Connection, group: Group, holds: Holds, pending: Places) -> None:
        super().__init__(name=f"eventbus-kafka-{group.name}", daemon=True)
        self.joined = threading.Event()
        self.close_error: EventBusError | None = None
        self._connection = connection
        self._settings = connection.settings
        self._group = group
        self._holds = holds
        self._pending = pending
        self._stopping = False
        self._rejoin = False
        self._turn = 0
        self._commands: deque[tuple[Callable[[], Hold], Future[Hold]]] = deque()
        self._sent: dict[Hold, int] = {}
        self._sent_at = 0.0
        self._next_commit = 0.0
        self._deadline = 0.0
        self._open()

    @property
    def known(self) -> bool:
        """Whether the coordinator has given this member an id: it waits for its share, behind somebody's drain."""
        return bool(self._client.memberid())

    def _open(self) -> None:
        config = consumer_config(self._settings, self._group)
        try:
            self._client = Consumer({**config, "error_cb": self._on_error, "on_commit": self._on_commit})
            self._client.subscribe(
                list(self._group.topics), on_assign=self._on_assign, on_revoke=self._on_revoke, on_lost=self._on_lost
            )
        except CLIENT_ERRORS as error:
            raise of_exception(f"joining group {self._group.name!r}", error) from error

    def stop(self) -> None:
        """Commit and leave; returns at once, :meth:`join` waits."""
        with self._holds.changed:
            self._stopping = True
            self._holds.changed.notify_all()

    def call(self, command: Callable[[], Hold]) -> Future[Hold]:
        """Have something done by the thread, also while it drains a revoke."""
        answer: Future[Hold] = Future()
        with self._holds.changed:
            self._commands.append((command, answer))
            self._holds.changed.notify_all()
        return answer

    def run(self) -> None:
        try:
            while not self._stopping:
                try:
                    if self._rejoin or self._holds.stopped_too_long:
                        self._start_anew()
                    else:
                        self._take_turn()
                except (*CLIENT_ERRORS, RuntimeError) as error:
                    self._holds.fail(of_exception(f"consuming as group {self._group.name!r}", error))
                    self._rejoin = True
                except EventBusError as error:
                    if not error.retryable:
                        raise
                    self._holds.fail(error)
                    self._rejoin = True
        except EventBusError as error:
            self._holds.fail(error)
        except Exception as error:
            # Without its thread a consumer would just be silent for ever.
            self._holds.fail(of_exception(f"consuming as group {self._group.name!r}", error))
            raise
        finally:
            self._leave()

    def _start_anew(self) -> None:
        self._holds.lose(list(self._holds.held.values()), "the Kafka client had to join anew")
        self._client.close()
        self._rejoin = self._holds.stopped_too_long = False
        with self._holds.changed:
            self._holds.changed.wait_for(lambda: self._stopping, timeout=0.2)
        if not self._stopping:
            self._sent = {}
            self._open()

    def _leave(self) -> None:
        try:
            self._commit_now(list(self._holds.held.values()))
        except EventBusError as error:
            self.close_error = error
        try:
            self._client.close()
        except (*CLIENT_ERRORS, RuntimeError) as error:
            self.close_error = self.close_error or of_exception(f"leaving group {self._group.name!r}", error)

    def _take_turn(self) -> None:
        self._turn += 1
        self._holds.beat()
        self._serve()
        self._commit_due()
        room = self._holds.room(_TURN_SECONDS)
        self._pause_and_resume(stalled=room <= 0)
        first = self._client.poll(_TURN_SECONDS if room > 0 else 0.02)
        if first is not None:
            more = self._client.consume(min(room, _BATCH) - 1, 0) if room > 1 else []
            self._accept([first, *more])

    def _serve(self) -> None:
        while self._commands:
            command, answer = self._commands.popleft()
            if not answer.set_running_or_notify_cancel():
                continue
            try:
                answer.set_result(command())
            except EventBusError as error:
                answer.set_exception(error)
            except CLIENT_ERRORS as error:
                answer.set_exception(of_exception(f"group {self._group.name!r}", error))

    def _pause_and_resume(self, *, stalled: bool) -> None:
        wanted = self._holds.to_pause(stalled=stalled)
        held = list(self._holds.held.values())
        pause = [hold for hold in held if hold in wanted and not hold.client_paused]
        resume = [hold for hold in held if hold not in wanted and hold.client_paused]
        if pause:
            self._client.pause([TopicPartition(*hold.place) for hold in pause])
        if resume:
            self._client.resume([TopicPartition(*hold.place) for hold in resume])
        for hold in pause + resume:
            hold.client_paused = hold in wanted

    def _accept(self, messages: list[Message]) -> None:
        restart: set[Hold] = set()
        broken: list[tuple[KafkaError, Hold | None]] = []
        held = self._holds.held
        with self._holds.changed:
            for message in messages:
                error = message.error()
                hold = held.get((message.topic(), message.partition()))  # type: ignore[arg-type]
                if error is not None:
                    broken.append((error, hold))
                    continue
                offset: int = message.offset()  # type: ignore[assignment]
                if hold is None or hold.revoking or offset < hold.next:
                    continue
                if hold.turn == self._turn:
                    # Assigned within this very batch: the record may be of the hold before.
                    restart.add(hold)
                    continue
                hold.next = offset + 1
                self._holds.offer(hold, Delivery(to_record(message), hold.partition, Position(offset), hold))
            self._holds.changed.notify_all()
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
            self._holds.fail(broker_error(f"consuming as group {self._group.name!r}", error))

    def _resume_after_gap(self, hold: Hold, reason: str) -> None:
        low, high = bounds(self._connection, [hold.place])[hold.place]
        if low <= hold.next <= high:
            # Only a leader that was still catching up said otherwise.
            self._reassign(hold, hold.next)
            return
        if low < hold.next:
            self._resume_shorter_log(hold, low)
            return
        self._reassign(hold, low)
        self._add_gap(hold, hold.next, low, reason)
        hold.next = low

    def _resume_shorter_log(self, hold: Hold, low: int) -> None:
        """The log ends before the position: it was made anew or lost its end. Kept, the position would skip records."""
        self._holds.lose([hold], f"the log ends before offset {hold.next}; the group goes on at {low}")
        successor = self._holds.new_hold(*hold.place, low, self._turn)
        # To be committed, though nothing is settled yet.
        successor.committed = low - 1
        successor.client_paused = hold.client_paused
        with self._holds.changed:
            self._holds.held[hold.place] = successor
            self._holds.report(Assigned(successor))
        self._reassign(successor, low)

    def _reassign(self, hold: Hold, offset: int) -> None:
        # A plain seek is refused for a partition whose position was lost.
        place = TopicPartition(*hold.place)
        if hold.client_paused:
            self._client.resume([place])
            hold.client_paused = False
        self._client.incremental_unassign([place])
        self._client.incremental_assign([TopicPartition(*hold.place, offset)])

    def _add_gap(self, hold: Hold, wanted: int, low: int, reason: str) -> None:
        after = Position(wanted - 1) if wanted > 0 else None
        with self._holds.changed:
            hold.queue.append(Gap(hold, after, Position(low), reason))
            self._holds.changed.notify_all()

    def _commit_due(self) -> None:
        now = time.monotonic()
        if now < self._next_commit or (self._sent and now - self._sent_at < _COMMIT_ANSWER_SECONDS):
            return
        with self._holds.changed:
            dirty = {hold: hold.settled for hold in self._holds.held.values() if hold.settled > hold.committed}
        if dirty:
            self._next_commit = now + COMMIT_SECONDS
            self._sent, self._sent_at = dirty, now
            self._client.commit(
                offsets=[TopicPartition(*hold.place, offset) for hold, offset in dirty.items()], asynchronous=True
            )

    def _on_commit(self, error: KafkaError | None, places: list[TopicPartition]) -> None:
        refused = {(each.topic, each.partition) for each in places if each.error is not None}
        for hold, offset in self._sent.items():
            if error is None and hold.place not in refused:
                hold.committed = max(hold.committed, offset)
        self._sent = {}
        # Others (a rebalance under way, a coordinator that moves) heal: the next commit says the same again.
        if error is not None and error.name() in ACCESS_DENIED:
            self._holds.fail(broker_error(f"committing as group {self._group.name!r}", error))

    def _commit_now(self, holds: list[Hold]) -> None:
        with self._holds.changed:
            wanted = {hold: hold.settled for hold in holds if hold.settled > hold.committed}
        self._commit_places({hold.place: offset for hold, offset in wanted.items()})
        for hold, offset in wanted.items():
            hold.committed = max(hold.committed, offset)

    def _commit_places(self, places: Places) -> None:
        if not places:
            return
        what = f"committing positions of group {self._group.name!r}"
        try:
            done = self._client.commit(
                offsets=[TopicPartition(*place, offset) for place, offset in places.items()], asynchronous=False
            )
        except (*CLIENT_ERRORS, RuntimeError) as error:
            raise of_exception(what, error) from error
        for each in done or ():
            if each.error is not None:
                raise broker_error(what, each.error, topic=each.topic)

    def _on_assign(self, client: Consumer, parts: list[TopicPartition]) -> None:
        try:
            self._assign(client, [(part.topic, part.partition) for part in parts])
        except CLIENT_ERRORS as error:
            self._holds.fail(of_exception(f"joining group {self._group.name!r}", error))
            self._rejoin = True
        except EventBusError as error:
            self._holds.fail(error)
            self._rejoin = True
        else:
            self.joined.set()

    def _assign(self, client: Consumer, places: list[tuple[str, int]]) -> None:
        wanted = list(dict.fromkeys([*places, *self._pending]))
        timeout = self._settings.request_timeout_seconds
        found: Places = {}
        for each in client.committed([TopicPartition(*place) for place in wanted], timeout=timeout) if wanted else ():
            if each.error is not None:
                raise broker_error("reading committed positions", each.error, topic=each.topic)
            if each.offset >= 0:
                found[each.topic, each.partition] = each.offset
        limits = bounds(self._connection, places)
        created = {
            place: self._pending[place] if place in self._pending else limits[place].low
            for place in wanted
            if place not in found
        }
        self._commit_places(created)
        self._pending = {}
        positions = {**found, **created}
        start = {place: max(positions[place], limits[place].low) for place in places}
        client.incremental_assign([TopicPartition(*place, offset) for place, offset in start.items()])
        for place in places:
            hold = self._holds.new_hold(*place, start[place], self._turn)
            with self._holds.changed:
                self._holds.held[place] = hold
            self._holds.report(Assigned(hold))
            if positions[place] < limits[place].low:
                self._add_gap(
                    hold, positions[place], limits[place].low, "records were removed before they were settled"
                )

    def _on_revoke(self, client: Consumer, parts: list[TopicPartition]) -> None:  # noqa: ARG002
        self._deadline = deadline = time.monotonic() + self._group.drain_seconds
        places = [(part.topic, part.partition) for part in parts]
        with self._holds.changed:
            for hold in self._of(places):
                hold.revoking = True
                self._holds.drop_queue(hold)
                self._holds.report(Revoking(hold, deadline))
        while self._of(places) and not self._stopping and time.monotonic() < deadline:
            self._holds.beat()
            self._serve()
            self._let_go([hold for hold in self._of(places) if hold.released])
            self._commit_due()
            with self._holds.changed:
                self._holds.changed.wait_for(
                    lambda: self._stopping or self._commands or any(hold.released for hold in self._of(places)),
                    timeout=0.05,
                )
        late = self._of(places)
        self._let_go(late, lost="the drain took longer than drain_seconds")

    def _of(self, places: list[tuple[str, int]]) -> list[Hold]:
        return [hold for place in places if (hold := self._holds.held.get(place)) is not None]

    def _let_go(self, holds: list[Hold], lost: str = "") -> None:
        """Commit what is settled and end the holds; if that fails, their unsettled work comes again elsewhere."""
        if not holds:
            return
        try:
            self._commit_now(holds)
        except EventBusError as error:
            lost = lost or f"the last commit was refused: {error}"
        with self._holds.changed:
            if lost:
                self._holds.lose(holds, lost)
            for hold in holds:
                if self._holds.held.get(hold.place) is hold:
                    del self._holds.held[hold.place]
                hold.done = True
            self._holds.changed.notify_all()

    def _on_lost(self, client: Consumer, parts: list[TopicPartition]) -> None:  # noqa: ARG002
        self._holds.lose(
            self._of([(part.topic, part.partition) for part in parts]),
            "the group gave this member up (session timeout)",
        )

    def _on_error(self, error: KafkaError) -> None:
        if error.fatal():
            self._rejoin = True
        if error.name() in ACCESS_DENIED:
            self._holds.fail(broker_error(f"consuming as group {self._group.name!r}", error))
        elif error.name() == "_ALL_BROKERS_DOWN":
            self._holds.fail(Unavailable(f"no Kafka broker can be reached: {error.str()}", backend="kafka"))

    def move(self, hold: Hold, to: Where) -> Hold:
        """Runs in the thread: move the durable position and hold the partition anew."""
        if self._holds.held.get(hold.place) is not hold:
            return hold
        offset = resolve(self._connection, [hold.place], to)[hold.place]
        self._commit_places({hold.place: offset})
        with self._holds.changed:
            successor = self._holds.new_hold(*hold.place, offset, self._turn - 1)
            self._holds.drop_queue(hold)
            self._holds.held[hold.place] = successor
            successor.revoking = hold.revoking
        if hold.revoking:
            self._holds.report(Revoking(successor, self._deadline))
        else:
            successor.client_paused = hold.client_paused
            self._reassign(successor, offset)
        return successor

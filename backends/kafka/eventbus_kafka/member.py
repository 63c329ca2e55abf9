"""One member of a consumer group: a thread that owns the client, since Kafka's callbacks run inside its poll."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any

from confluent_kafka import Consumer, KafkaError, TopicPartition

from eventbus_core.backend import Group, Revoking
from eventbus_core.errors import EventBusError, Unavailable
from eventbus_core.records import Where
from eventbus_kafka.commits import Commits
from eventbus_kafka.connection import Connection
from eventbus_kafka.errors import CLIENT_ERRORS, broker_error, of_exception, refused
from eventbus_kafka.fetching import Fetching
from eventbus_kafka.holds import Hold, Holds
from eventbus_kafka.listening import Listening
from eventbus_kafka.moves import Moves, has_generation
from eventbus_kafka.offsets import resolve
from eventbus_kafka.positions import Places
from eventbus_kafka.session import classic_session
from eventbus_kafka.settings import KafkaSettings

_TURN_SECONDS = 0.1
_TURN_SECONDS_WITHOUT_ROOM = 0.02
_METADATA_SECONDS = 1.0


def consumer_config(settings: KafkaSettings, group: Group) -> dict[str, Any]:
    """The client options of a group member. Positions are made and committed by us, never by the client."""
    session = classic_session(settings)
    classic = {
        "partition.assignment.strategy": "cooperative-sticky",
        "session.timeout.ms": int(session.seconds * 1000),
        "heartbeat.interval.ms": int(session.heartbeat_seconds * 1000),
    }
    return {
        "fetch.wait.max.ms": 200,
        "topic.metadata.refresh.interval.ms": 5000,
        "queued.max.messages.kbytes": 16384,
        # The bytes above are those of keys and values alone: of small records the client would queue 100 MiB.
        "queued.min.messages": 10_000,
        # With a shorter queue the default of a second between a full queue and the next look would starve the reader.
        "fetch.queue.backoff.ms": 5,
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


class Member(threading.Thread):
    """Joins in its own thread and stays until :meth:`stop`; after a fatal client error it joins anew."""

    def __init__(self, connection: Connection, group: Group, holds: Holds, pending: Places) -> None:
        super().__init__(name=f"eventbus-kafka-{group.name}", daemon=True)
        self.close_error: EventBusError | None = None
        self.known = False
        """Whether the coordinator has given this member an id: it waits for its share, behind somebody's drain."""
        self._connection = connection
        self._settings = connection.settings
        self._group = group
        self._holds = holds
        self._stopping = False
        self._rejoin = False
        self._commands: deque[tuple[Callable[[], Hold], Future[Hold]]] = deque()
        self._transacts = False
        self._metadata: Any = None
        self._listening = Listening(self._settings, group.name, group.topics[0], holds)
        self._open(pending)

    @property
    def joined(self) -> threading.Event:
        """Set when the first share of partitions has come, which may be empty."""
        return self._moves.joined

    def group_metadata(self) -> Any:
        """What a transaction tells the coordinator of this member, its generation included. From any thread.

        It may be a turn old: then the coordinator refuses the transaction. Raises Unavailable: not in the group now.
        """
        with self._holds.changed:
            self._transacts = True
            self._holds.changed.wait_for(lambda: self._metadata is not None, timeout=_METADATA_SECONDS)
            if self._metadata is None:
                raise Unavailable("this member is not in its group now; it joins anew", backend="kafka")
            return self._metadata

    def _note_metadata(self) -> None:
        """In this thread only: Kafka's client can stand still for ever when another one asks (librdkafka 2.16).

        Without a generation the coordinator would not check at all.
        """
        metadata = self._client.consumer_group_metadata()
        with self._holds.changed:
            self._metadata = metadata if has_generation(metadata) else None
            self._holds.changed.notify_all()

    def _open(self, pending: Places) -> None:
        config = consumer_config(self._settings, self._group)
        callbacks = {
            "error_cb": self._on_error,
            "on_commit": self._on_commit,
            "stats_cb": self._listening.note_statistics,
            "statistics.interval.ms": self._listening.statistics_milliseconds,
        }
        name, user = self._group.name, self._settings.user
        try:
            self._client = client = Consumer({**config, **callbacks})
            self._commits = Commits(client, self._holds, name, user)
            self._fetching = Fetching(client, self._holds, self._connection, name)
            self._moves = moves = Moves(
                self._holds, self._commits, self._connection, self._group, self._meanwhile, pending
            )
            client.subscribe(
                list(self._group.topics), on_assign=moves.assigned, on_revoke=moves.revoked, on_lost=moves.lost
            )
        except CLIENT_ERRORS as error:
            raise of_exception(f"joining group {name!r}", error, user=user) from error

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
                    if self._rejoin or self._holds.lapsed or self._moves.failed:
                        self._start_anew()
                    else:
                        self._take_turn()
                except (*CLIENT_ERRORS, RuntimeError) as error:
                    self._holds.fail(self._explain(error))
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
            self._holds.fail(self._explain(error))
            raise
        finally:
            self._leave()

    def _explain(self, error: Exception) -> EventBusError:
        return of_exception(f"consuming as group {self._group.name!r}", error, user=self._settings.user)

    def _start_anew(self) -> None:
        self._holds.lose(list(self._holds.snapshot().values()), "the Kafka client had to join anew")
        with self._holds.changed:
            self._metadata = None
        self._client.close()
        self._rejoin = self._holds.lapsed = False
        with self._holds.changed:
            self._holds.changed.wait_for(lambda: self._stopping, timeout=0.2)
        if not self._stopping:
            self._open(self._moves.pending)

    def _leave(self) -> None:
        try:
            self._commits.now(self._holds.snapshot().values())
        except EventBusError as error:
            self.close_error = error
        try:
            self._listening.close()
            self._client.close()
        except (*CLIENT_ERRORS, RuntimeError) as error:
            leaving = of_exception(f"leaving group {self._group.name!r}", error, user=self._settings.user)
            self.close_error = self.close_error or leaving

    def _take_turn(self) -> None:
        if self._meanwhile():
            self._fetching.turn(_TURN_SECONDS, _TURN_SECONDS_WITHOUT_ROOM)

    def _meanwhile(self) -> bool:
        """What has to be done all the time, also while a revoke drains; False when this client is not to go on."""
        self._holds.expire()
        if self._stopping or self._holds.lapsed:
            return False
        if not self.joined.is_set():
            # In this thread only: Kafka's client stood still for minutes when another one asked (librdkafka 2.16).
            self.known = bool(self._client.memberid())
        if self._transacts:
            self._note_metadata()
        self._serve()
        self._listening.turn(self._client)
        self._commits.in_background()
        return True

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
                answer.set_exception(self._explain(error))

    def _on_error(self, error: KafkaError) -> None:
        if error.fatal():
            self._rejoin = True
        if refused(error):
            what = f"consuming as group {self._group.name!r}"
            self._holds.fail(broker_error(what, error, user=self._settings.user))
        elif error.name() == "_ALL_BROKERS_DOWN":
            self._holds.fail(Unavailable(f"no Kafka broker can be reached: {error.str()}", backend="kafka"))

    def _on_commit(self, error: KafkaError | None, places: list[TopicPartition]) -> None:
        self._commits.answered(error, places)

    def move(self, hold: Hold, to: Where) -> Hold:
        """Runs in the thread: move the durable position and hold the partition anew."""
        if self._holds.snapshot().get(hold.place) is not hold:
            return hold
        offset = resolve(self._connection, [hold.place], to)[hold.place]
        self._commits.places({hold.place: offset})
        with self._holds.changed:
            if self._holds.held.get(hold.place) is not hold:
                return hold
            successor = self._holds.new_hold(*hold.place, offset)
            self._holds.drop_queue(hold)
            self._holds.held[hold.place] = successor
            successor.revoking = hold.revoking
        if hold.revoking:
            self._holds.report(Revoking(successor, self._moves.deadline))
        else:
            successor.client_paused = hold.client_paused
            self._fetching.move(successor, offset)
        return successor

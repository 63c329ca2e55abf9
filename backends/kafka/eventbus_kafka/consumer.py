"""Consuming as a member of a group: core's side of the member's thread."""

from __future__ import annotations

import time
from collections.abc import Collection, Sequence
from concurrent.futures import Future

from eventbus_core.backend import Assigned, BackendConsumer, Group, Lost, Polled
from eventbus_core.errors import EventBusError, Unavailable
from eventbus_core.records import Assignment, Delivery, Record, Where
from eventbus_kafka.connection import Connection
from eventbus_kafka.holds import Hold, Holds
from eventbus_kafka.member import Member
from eventbus_kafka.positions import Places, create_positions
from eventbus_kafka.session import session_of
from eventbus_kafka.settings import KafkaSettings
from eventbus_kafka.transactions import OutcomeUnknown, Transactions


class KafkaConsumer(BackendConsumer):
    """Joined when it is made: blocks for at most ``connect_timeout_seconds``. NotFound: a topic is missing.

    A member whose share is still being drained by another one is joined too; its partitions come later.
    """

    def __init__(self, settings: KafkaSettings, group: Group) -> None:
        deadline = time.monotonic() + settings.connect_timeout_seconds
        self._settings = settings
        self._connection = Connection(settings)
        pending = self._create_positions(group, deadline)
        self._holds = Holds(session_of(self._connection, group.name).valid_seconds)
        self._member = Member(self._connection, group, self._holds, pending)
        self._transactions = Transactions(settings, group.name, group.member)
        self._member.start()
        self._await_join(group, deadline)

    def _create_positions(self, group: Group, deadline: float) -> Places:
        """A coordinator that is still loading (a fresh or restarted broker) gets the rest of the time."""
        while True:
            try:
                return create_positions(self._connection, group)
            except Unavailable:
                if time.monotonic() + 0.2 > deadline:
                    raise
                time.sleep(0.1)

    def _await_join(self, group: Group, deadline: float) -> None:
        refusal: EventBusError | None = None
        while not self._member.joined.wait(0.02):
            error = self._holds.error()
            refusal = error or refusal
            late = time.monotonic() >= deadline
            if late and self._member.known and refusal is None:
                return
            if late or (error is not None and not error.retryable):
                self._member.stop()
                raise refusal or Unavailable(
                    f"group {group.name!r} let this member not in within {self._settings.connect_timeout_seconds:g} s; "
                    "check that its coordinator is up",
                    backend="kafka",
                )

    def poll(self, max_records: int, timeout: float, paused: Collection[Assignment]) -> Polled:
        return self._holds.take(max_records, timeout, paused)

    def ack(self, settled: Sequence[Delivery]) -> None:
        self._holds.settle(settled)

    def unconfirmed(self) -> int:
        return self._holds.uncommitted()

    def transact(self, records: Sequence[Record], settled: Sequence[Delivery]) -> None:
        metadata = self._member.group_metadata()  # before the check: see eventbus_kafka.transactions
        places = self._holds.to_settle(settled)
        if places is None:
            raise Unavailable("a partition of this transaction is no longer ours; nothing was stored", backend="kafka")
        try:
            self._transactions.run(records, places, metadata)
        except OutcomeUnknown as error:
            reason = f"the broker did not say whether a transaction was committed: {error}"
            self._holds.give_up(reason)
            raise Unavailable(f"{reason}; the group goes on from where it decided", backend="kafka") from error
        self._holds.settled(settled)

    def seek(self, assignment: Assignment, to: Where) -> Assignment:
        if not isinstance(assignment, Hold):
            raise TypeError(f"not an assignment of the Kafka backend: {assignment!r}")
        answer = self._member.call(lambda: self._member.move(assignment, to))
        try:
            return answer.result(self._settings.request_timeout_seconds)
        except TimeoutError as error:
            if not answer.cancel():
                # Under way already: when it succeeds after all, the partition comes back as a new assignment.
                answer.add_done_callback(lambda late: self._moved_late(assignment, late))
            raise Unavailable(
                f"seek in {assignment.topic!r}: the broker did not confirm the new position in time; try again",
                topic=assignment.topic,
                backend="kafka",
            ) from error

    def _moved_late(self, assignment: Hold, answer: Future[Hold]) -> None:
        if answer.exception() is None and answer.result() is not assignment:
            lost = Lost(assignment, "a seek took effect after its time", acks_lost=assignment.uncommitted)
            self._holds.report(lost, Assigned(answer.result()))

    def release(self, assignment: Assignment) -> None:
        if not isinstance(assignment, Hold):
            raise TypeError(f"not an assignment of the Kafka backend: {assignment!r}")
        with self._holds.changed:
            assignment.released = True
            self._holds.changed.notify_all()
            self._holds.changed.wait_for(
                lambda: assignment.done or self._holds.held.get(assignment.place) is not assignment,
                timeout=self._settings.request_timeout_seconds,
            )

    def close(self) -> None:
        self._member.stop()
        self._transactions.close()
        self._member.join(self._settings.request_timeout_seconds)
        if self._member.is_alive():
            raise Unavailable(
                "the broker did not confirm that this member left; it will notice by itself", backend="kafka"
            )
        self._connection.close()
        if self._member.close_error is not None:
            raise self._member.close_error

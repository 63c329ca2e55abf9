"""The consumer that users hold."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from datetime import datetime
from typing import Self

from eventbus_core.capabilities import Capabilities
from eventbus_core.errors import Closed, Unsupported, UsageError
from eventbus_core.forking import generation, refuse_fork
from eventbus_core.intake import Intake
from eventbus_core.records import Delivery, Where
from eventbus_core.validation import check_where


class Consumer:
    """A member of a group. Opened by ``EventBus.consumer``; its own thread polls, so a slow user keeps its partitions.

    It belongs to the thread that first uses it; only ``close`` may come from another. At least once: what was not acked
    when a partition moves is delivered again to whoever holds it then. Any call raises what ended the consumer, if
    something did, ``Closed`` after ``close``, ``Forked`` in a child process.
    """

    def __init__(self, intake: Intake, capabilities: Capabilities) -> None:
        self._intake = intake
        self._capabilities = capabilities
        self._opened_in = generation()
        self._user: int | None = None

    def receive(self, max_records: int = 500, timeout: float = 1.0) -> list[Delivery]:
        """The next deliveries, in order per partition; waits at most ``timeout`` seconds for the first.

        Raises ``Unavailable`` when the broker has been away for more than 30 s; the consumer goes on trying, and the
        call may be repeated.
        """
        self._mine()
        if max_records < 1:
            raise UsageError(f"max_records must be at least 1, not {max_records}")
        return self._intake.receive(max_records, timeout)

    def __iter__(self) -> Iterator[Delivery]:
        """Deliveries one by one, until ``close``."""
        while True:
            try:
                received = self.receive()
            except Closed:
                return
            yield from received

    def ack(self, *deliveries: Delivery) -> None:
        """Settle deliveries, in any order; does not wait for the broker (see ``flush``).

        The broker learns of gap-free prefixes only: an ack behind an unacked delivery of its partition waits for that.
        An ack of a partition that has gone is dropped, logged and told to the hooks.
        """
        self._mine()
        self._intake.ack(deliveries)

    def flush(self, timeout: float | None = None) -> int:
        """Wait until the acks so far are durable; in how many partitions some are not after ``timeout`` seconds.

        Acks that went with their partition before they were durable count once, in the next answer; what they settled
        may be delivered again. An ack behind a record that is not acked waits for that one, and does not count.
        Raises ``Unavailable`` like ``receive``.
        """
        self._mine()
        return self._intake.flush(timeout)

    def pause(self, topic: str | None = None, partition: int | None = None) -> None:
        """Receive nothing more of the matching partitions held now (None: of all) until ``resume``.

        The pause of a partition ends when the partition goes elsewhere.
        """
        self._mine()
        self._intake.pause(self._matching(topic, partition))

    def resume(self, topic: str | None = None, partition: int | None = None) -> None:
        """End a pause."""
        self._mine()
        self._intake.resume(self._matching(topic, partition))

    def seek(self, to: Where, *, topic: str | None = None, partition: int | None = None) -> None:
        """Move the group in the matching partitions that this member holds; blocks until that is durable.

        Earlier deliveries of them are no longer owned. Raises ``UsageError`` when no partition matches.
        """
        self._mine()
        check_where(to)
        if isinstance(to, datetime) and not self._capabilities.seek_by_time:
            raise Unsupported("this backend cannot seek to a point in time", capability="seek_by_time")
        self._intake.seek(self._matching(topic, partition), to)

    @property
    def assignments(self) -> frozenset[tuple[str, int]]:
        """Topic and number of each partition held now."""
        refuse_fork(self._opened_in, "consumer")
        return self._intake.assignments

    def close(self, timeout: float | None = None) -> None:
        """Make the acks durable and leave; other members take over at once. Idempotent, from any thread."""
        if self._opened_in == generation():
            self._intake.close(timeout)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _abandon(self) -> None:
        """Stop as a killed process does, without leaving."""
        self._intake.abandon()

    def _matching(self, topic: str | None, partition: int | None) -> frozenset[tuple[str, int]]:
        matching = frozenset(
            held for held in self._intake.assignments if topic in {None, held[0]} and partition in {None, held[1]}
        )
        if not matching:
            raise UsageError(f"this consumer holds no partition {partition} of {topic!r} now (see assignments)")
        return matching

    def _mine(self) -> None:
        refuse_fork(self._opened_in, "consumer")
        thread = threading.get_ident()
        if self._user is None:
            self._user = thread
        elif self._user != thread:
            raise UsageError(
                "this consumer belongs to another thread; open one for each thread, or hand results back to its thread"
            )

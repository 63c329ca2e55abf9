"""The two consumers of a group, for its topics and for what is sent back to it, as if they were one.

They are two because a broker may share out the partitions of all topics of a consumer as one lot, as Kafka's assignors
do: a member could get partitions of the redrive topics only, and have nothing to do.
"""

from __future__ import annotations

import time
from collections.abc import Collection, Mapping, Sequence

from eventbus_core.errors import Unavailable
from eventbus_core.intake import Intake
from eventbus_core.records import Assignment, Delivery, Record


class Intakes:
    """Thread-safe like what it holds. Raises what either of them raises."""

    def __init__(self, main: Intake, redrive: Intake, redrive_topics: Collection[str]) -> None:
        self._main = main
        self._redrive = redrive
        self._redrive_topics = redrive_topics

    def receive(self, max_records: int, timeout: float) -> list[Delivery]:
        """What was sent back, if there is any; else what the topics have, waiting at most ``timeout`` seconds."""
        try:
            returned = self._redrive.receive(max_records, 0.0)
        except Unavailable:  # if that is so of all topics, the other one says it too
            returned = []
        return returned or self._main.receive(max_records, timeout)

    def ack(self, deliveries: Sequence[Delivery], made: Mapping[Delivery, Sequence[Record]] | None = None) -> None:
        """Note acks, with the records to be stored together with them."""
        returned = [each for each in deliveries if each.record.topic in self._redrive_topics]
        if returned:
            self._redrive.ack(returned, made)
            deliveries = [each for each in deliveries if each.record.topic not in self._redrive_topics]
        if deliveries:
            self._main.ack(deliveries, made)

    def flush(self, timeout: float) -> int:
        """Wait until the acks are durable; in how many partitions some are not."""
        return self._main.flush(timeout) + self._redrive.flush(timeout)

    @property
    def draining(self) -> list[Assignment]:
        """The assignments that are wanted back."""
        return self._main.draining + self._redrive.draining

    def give_back(self, assignment: Assignment, last: int) -> None:
        """What was received of an assignment after the order ``last`` will not be acked."""
        intake = self._redrive if assignment.topic in self._redrive_topics else self._main
        intake.give_back(assignment, last)

    @property
    def away(self) -> bool:
        """Whether the broker cannot be reached now."""
        return self._main.away or self._redrive.away

    def close(self, timeout: float | None) -> None:
        """Send the acks and leave, both at the same time; waits at most ``timeout`` seconds."""
        deadline = None if timeout is None else time.monotonic() + timeout
        for each in (self._main, self._redrive):
            each.close(0.0)
        for each in (self._main, self._redrive):
            each.close(None if deadline is None else max(0.0, deadline - time.monotonic()))

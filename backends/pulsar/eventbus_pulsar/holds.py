"""One hold of a partition: what was fetched of it, and what was settled."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import pulsar

from eventbus_core.backend import Gap
from eventbus_core.records import Assignment, Delivery, Position, lease_clock
from eventbus_pulsar.encoding import decode
from eventbus_pulsar.positions import batch_size, entry_id, position_of


class Hold(Assignment):
    """One hold of a partition with its client consumer and how far it got."""

    __slots__ = (
        "_delivered", "_former", "_receive", "_skip", "acked", "acked_at", "asked_at", "consumer", "inside", "marked",
        "marked_at", "settled", "unconfirmed",
    )  # fmt: skip

    def __init__(self, topic: str, partition: int, epoch: int, consumer: Any, skip: Position | None) -> None:
        super().__init__(topic, partition, epoch)
        self.consumer = consumer
        # The client's inner consumer, where there is one, gives messages that are not wrapped once more.
        self._receive = getattr(consumer, "_consumer", consumer).receive
        self._delivered = Position(-1)
        self._former: dict[int, tuple[int, int]] = {}  # the last entry of the ledger before, where a ledger began
        self._skip = skip
        self.settled = Position(-1)
        self.inside = False
        """Whether ``settled`` is inside a batch, which the broker's cursor cannot express."""
        self.marked = skip
        self.marked_at = 0.0
        self.acked = Position(-1, -1)
        """The last entry that was acked."""
        self.acked_at = self.asked_at = 0.0
        self.unconfirmed = False
        """Whether it is open that the broker has got the last ack: one under way when a connection breaks is lost."""

    @property
    def lapsed(self) -> bool:
        """Whether the lease ran out."""
        return lease_clock() >= self.valid_until

    @property
    def connected(self) -> bool:
        """Whether the broker still has this consumer, as far as the client knows."""
        return bool(self.consumer.is_connected())

    @property
    def unmarked(self) -> bool:
        """Whether it got to a place inside a batch that is not durable."""
        return self.inside and self.settled != self.marked

    @property
    def open_acks(self) -> bool:
        """Whether acks may not be durable."""
        return self.unconfirmed or self.unmarked

    def drain(self, found: list[Delivery | Gap], most: int, wait_ms: int) -> None:
        """Take what the client has, waiting for the first for ``wait_ms``. Raises the client's errors."""
        receive, topic, partition = self._receive, self.topic, self.partition
        while len(found) < most:
            try:
                message = receive(wait_ms)
            except pulsar.Timeout:
                return
            wait_ms = 0
            identity = message.message_id()
            position = position_of(identity)
            # The client connected again and the broker repeats what was not settled; or this is before the mark.
            if position <= self._delivered or (self._skip is not None and self._skips(position)):
                continue
            if position[0] != self._delivered[0] and len(self._delivered) > 1:
                self._former[position[0]] = self._delivered[0], self._delivered[1]
            self._delivered = position
            found.append(Delivery(decode(message, topic), partition, position, self, 1, identity))

    def _skips(self, position: Position) -> bool:
        """Whether it was settled before this hold: only the batch of the mark counts."""
        if self._skip is not None and position[:2] == self._skip[:2]:
            return position <= self._skip
        self._skip = None
        return False

    def ack(self, position: Position, identity: Any) -> None:
        """Settle everything up to here. Raises the client's errors."""
        ledger, entry, index = position
        self.settled = position
        self.inside = index + 1 < batch_size(identity)
        entry -= self.inside
        if entry < 0:
            ledger, entry = self._former.get(ledger, (ledger, entry))
        if entry >= 0:
            self.consumer.acknowledge_cumulative(entry_id(self.partition, ledger, entry))
            self.acked, self.acked_at, self.unconfirmed = Position(ledger, entry), lease_clock(), True

    def ack_again(self, entries: Iterable[tuple[int, int]], consumer: Any) -> None:
        """Ack these entries singly: the client drops a cumulative ack that it has sent before. Raises its errors."""
        for ledger, entry in entries:
            consumer.acknowledge(entry_id(self.partition, ledger, entry))
        self.acked_at = lease_clock()

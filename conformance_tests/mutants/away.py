"""Mutants for what happens while a broker is away: the memory backend, as if it were somewhere.

They claim to reach other processes, or nothing could be away, and are judged only by tests that need no others.
"""

from __future__ import annotations

import time
from typing import ClassVar

from conformance_tests.mutants.mutant import Mutant
from eventbus_core.backend import BackendAdmin, BackendProducer, Group
from eventbus_core.backend.leases import LeasedConsumer
from eventbus_core.capabilities import Reach
from eventbus_core.errors import BrokerError, Unavailable
from eventbus_core.memory.producer import MemoryProducer
from eventbus_core.sendbuffer import SendBuffer


class _Away(Mutant, reach=Reach.HOST):
    """Nobody is at ``nowhere``."""

    runs: ClassVar[tuple[str, ...]] = (
        "core.test_errors::test_a_broker_that_is_away_at_start_is_reported",
        "core.test_sending::test_flush_counts_what_is_still_open",
        "core.test_closing::test_closing_ends_a_send_that_waits_for_room",
    )

    def producer(self, *, max_records: int, max_bytes: int) -> BackendProducer:
        self.connect()
        return super().producer(max_records=max_records, max_bytes=max_bytes)

    def consumer(self, group: Group) -> LeasedConsumer:
        self.connect()
        return super().consumer(group)

    def admin(self) -> BackendAdmin:
        self.connect()
        return super().admin()

    def connect(self) -> None:
        if self.settings.name == "nowhere":
            self.refuse()

    def refuse(self) -> None:
        raise Unavailable("nobody is there") from ConnectionRefusedError()


class Away(_Away):
    """No defect."""


class AwayWithoutCause(_Away):
    """Does not tell what the client said."""

    def refuse(self) -> None:
        raise Unavailable("nobody is there")


class AwayForGood(_Away):
    """Takes a broker that is away for one that refuses."""

    def refuse(self) -> None:
        raise BrokerError("nobody is there") from ConnectionRefusedError()


class AwayTooLong(_Away):
    """Waits much longer than its settings say."""

    runs = ("core.test_errors::test_a_broker_that_is_away_at_start_is_reported",)

    def refuse(self) -> None:
        time.sleep(self.settings.connect_timeout_seconds + 10)
        super().refuse()


class TakesWhatItCannotSend(_Away):
    """Has a producer without a connection, which takes records all the same."""

    def producer(self, *, max_records: int, max_bytes: int) -> BackendProducer:
        return Mutant.producer(self, max_records=max_records, max_bytes=max_bytes)

    class producer_type(MemoryProducer):
        def partition_count(self, topic: str) -> int:
            if topic not in self._store.topics:
                raise Unavailable("nobody is there") from ConnectionRefusedError()
            return super().partition_count(topic)


class WaitsForRoomForEver(_Away):
    """A defect of core: who waits for room is not told that the producer was closed."""

    @classmethod
    def plant(cls) -> None:
        wait = SendBuffer.wait_for_room

        def wait_on(self: SendBuffer, topic: str, size: int, deadline: float, allowed: float) -> None:
            while time.monotonic() < deadline + 60:
                time.sleep(0.01)
            wait(self, topic, size, deadline, allowed)

        SendBuffer.wait_for_room = wait_on  # type: ignore[method-assign]

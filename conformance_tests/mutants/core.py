"""Defects of core, for clauses that hold whatever a backend does; each is planted in the process of its run."""

from __future__ import annotations

import time
from collections.abc import Generator, Iterable
from typing import Any, ClassVar

from conformance_tests.mutants.mutant import Mutant
from eventbus_core import producer as producers
from eventbus_core.consumer import Consumer
from eventbus_core.errors import EventBusError, SendError, SendUnknown
from eventbus_core.holds import Holds
from eventbus_core.intake import Intake
from eventbus_core.producer import Producer
from eventbus_core.receipts import OpenReceipt, Receipt
from eventbus_core.records import Record, Stored
from eventbus_core.sendbuffer import SendBuffer


class _Judged(Mutant):
    runs: ClassVar[tuple[str, ...]] = ("core.test_records", "core.test_sending", "core.test_closing")


class TakesBadRecords(_Judged):
    """Nothing is checked when it is sent."""

    @classmethod
    def plant(cls) -> None:
        def unchecked(
            topic: str,
            value: bytes | None,
            key: bytes | None,
            headers: Iterable[tuple[str, bytes]],
            timestamp: Any,
            max_bytes: int,  # noqa: ARG001
        ) -> tuple[Record, int]:
            at = int((time.time() if timestamp is None else timestamp.timestamp()) * 1000)
            return Record(topic, value, key, tuple(headers), at), 1

        vars(producers)["make_record"] = unchecked


class ClosesAtOnce(_Judged):
    """Closing a producer waits for nothing."""

    @classmethod
    def plant(cls) -> None:
        close = Producer.close
        Producer.close = lambda self, timeout=None: close(self, 0.0)  # type: ignore[method-assign]  # noqa: ARG005


class LeavesReceiptsOpen(_Judged):
    """Closing a producer settles nothing."""

    @classmethod
    def plant(cls) -> None:
        def close(self: Producer, timeout: float | None = None) -> None:  # noqa: ARG001
            self._stop_at = 0.0
            self._buffer.close("closed")

        Producer.close = close  # type: ignore[method-assign]


class WorksAfterClose(_Judged):
    """A closed consumer answers as if there were nothing to receive."""

    runs: ClassVar[tuple[str, ...]] = (
        "core.test_closing",
        "core.test_acks",
    )

    @classmethod
    def plant(cls) -> None:
        Intake._check = lambda self: None  # type: ignore[method-assign]  # noqa: ARG005


class DropsOldest(_Judged):
    """A full buffer gives up what it took first."""

    @classmethod
    def plant(cls) -> None:
        put = SendBuffer.put

        def put_or_drop(self: SendBuffer, record: Record, size: int) -> OpenReceipt | None:
            if self._is_full(size) and self._arrived:
                self._arrived.popleft()
                self._settled_records += 1
            return put(self, record, size)

        SendBuffer.put = put_or_drop  # type: ignore[method-assign]


class CancelIsAnOutcome(_Judged):
    """Giving up waiting for a receipt settles it."""

    @classmethod
    def plant(cls) -> None:
        wait, settle = Receipt.__await__, OpenReceipt.settle

        def wait_or_settle(self: Receipt) -> Generator[object, None, Stored]:
            try:
                return (yield from wait(self))
            except BaseException as error:
                if self._outcome is None and not isinstance(error, EventBusError):
                    self._outcome = SendUnknown("cancelled")
                raise

        def settle_once(self: OpenReceipt, outcome: Stored | SendError) -> bool:
            return settle(self, outcome if self._outcome is None else self._outcome)

        Receipt.__await__ = wait_or_settle  # type: ignore[method-assign]
        OpenReceipt.settle = settle_once  # type: ignore[method-assign]


class AnyThread(_Judged):
    """A consumer works in any thread."""

    runs: ClassVar[tuple[str, ...]] = ("core.test_acks",)

    @classmethod
    def plant(cls) -> None:
        Consumer._mine = lambda self: None  # type: ignore[method-assign]  # noqa: ARG005


class PauseIgnored(_Judged):
    """What is paused is handed out all the same."""

    runs: ClassVar[tuple[str, ...]] = ("semantics.test_pausing",)

    @classmethod
    def plant(cls) -> None:
        Holds.pause = lambda self, partitions: None  # type: ignore[method-assign]  # noqa: ARG005


class AcksWhatRaised(_Judged):
    """Leaving a consumer's block by an exception acks all that was received."""

    runs: ClassVar[tuple[str, ...]] = ("core.test_acks",)

    @classmethod
    def plant(cls) -> None:
        receive = Intake.receive
        received: dict[int, list[Any]] = {}

        def note(self: Intake, max_records: int, timeout: float) -> list[Any]:
            found = receive(self, max_records, timeout)
            received.setdefault(id(self), []).extend(found)
            return found

        def leave(self: Consumer, kind: object = None, *_: object) -> None:
            if kind is not None:
                self.ack(*received.get(id(self._intake), []))
            self.close()

        Intake.receive = note  # type: ignore[method-assign]
        Consumer.__exit__ = leave  # type: ignore[method-assign]

"""Mutants whose receipts, logs or places are wrong."""

from __future__ import annotations

import itertools
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar

from conformance_tests.mutants.mutant import Mutant, chosen
from eventbus_core.backend import Outgoing, Settled, batching
from eventbus_core.backend.batching import WriteBatch
from eventbus_core.errors import EventBusError, SendFailed, Unavailable
from eventbus_core.memory.producer import MemoryProducer
from eventbus_core.memory.store import Store
from eventbus_core.records import Position, Record, Stored


class _Judged(Mutant):
    runs: ClassVar[tuple[str, ...]] = ("core.test_records", "core.test_sending", "core.test_delivery")


class NotesWhatItStores(_Judged):
    """No defect: writes into its working directory what it stored, one line for each record."""

    notes = Path("stored.txt")

    class producer_type(MemoryProducer):
        def _write(self, batch: WriteBatch) -> Sequence[Stored] | EventBusError:
            with NotesWhatItStores.notes.open("a") as lines:
                lines.writelines(f"{each.key!r} {zlib.crc32(each.value or b'')}\n" for each in batch.records)
            return super()._write(batch)


class LosesSome(_Judged):
    """Some records are told stored and are not."""

    class producer_type(MemoryProducer):
        def _write(self, batch: WriteBatch) -> Sequence[Stored] | EventBusError:
            places = super()._write(batch)
            partition = self._store.partition(batch.topic, batch.partition)
            for at in reversed(range(len(partition.records))):
                if chosen(partition.records[at]):
                    del partition.records[at], partition.times[at]
            return places


class StoresSomeTwice(_Judged):
    """Some records are stored twice (dup-always)."""

    class producer_type(MemoryProducer):
        def _write(self, batch: WriteBatch) -> Sequence[Stored] | EventBusError:
            twice = [each for record in batch.records for each in ([record, record] if chosen(record) else [record])]
            places = super()._write(batch._replace(records=twice))
            if isinstance(places, EventBusError):
                return places
            first = itertools.accumulate((2 if chosen(each) else 1 for each in batch.records), initial=0)
            return [places[at] for at, _ in zip(first, batch.records, strict=False)]


class Phantoms(_Judged):
    """Writes marks of its own between the records, and delivers them."""

    class producer_type(MemoryProducer):
        def _write(self, batch: WriteBatch) -> Sequence[Stored] | EventBusError:
            places = super()._write(batch)
            partition = self._store.partition(batch.topic, batch.partition)
            if batch.first == 0:
                partition.records.append(Record(batch.topic, b"-1", b"mark", (), partition.times[-1]))
                partition.times.append(partition.times[-1])
            return places


class CrossTopic(_Judged):
    """A new record is also seen in the other topics of its name's length, as by a prefix that is too short."""

    runs: ClassVar[tuple[str, ...]] = ("core.test_groups",)

    class producer_type(MemoryProducer):
        def _write(self, batch: WriteBatch) -> Sequence[Stored] | EventBusError:
            places = super()._write(batch)
            for name, partitions in self._store.topics.items():
                if name != batch.topic and len(name) == len(batch.topic) and batch.partition < len(partitions):
                    other = partitions[batch.partition]
                    for each in batch.records:
                        other.records.append(each._replace(topic=name, timestamp_ms=each.timestamp_ms or 1))
                        other.times.append(max(each.timestamp_ms or 1, *other.times[-1:], 1))
            return places


class ReceiptBeforeStored(_Judged):
    """Says stored when it has taken the record, and stores it with the next ones, or at close."""

    class producer_type(MemoryProducer):
        late: dict[tuple[str, int], WriteBatch]

        def __init__(self, store: Store) -> None:
            super().__init__(store)
            self.late = {}

        def _write(self, batch: WriteBatch) -> Sequence[Stored] | EventBusError:
            self.catch_up()
            partition = self._store.topics.get(batch.topic)
            if partition is None:
                return super()._write(batch)
            self.late[batch.topic, batch.partition] = batch
            begin = len(partition[batch.partition].records)
            return [
                Stored(batch.topic, batch.partition, Position(at), each.timestamp_ms or 0)
                for at, each in enumerate(batch.records, begin)
            ]

        def catch_up(self) -> None:
            late, self.late = self.late, {}
            for batch in late.values():
                super()._write(batch)

        def close(self) -> None:
            with self._store.changed:
                self.catch_up()
                self._store.changed.notify_all()
            super().close()


class LosesOnClose(_Judged):
    """As the one before, and what it still has when it is closed is lost (drop-on-close)."""

    class producer_type(ReceiptBeforeStored.producer_type):
        def close(self) -> None:
            self.late = {}


class DropsWhenFull(_Judged):
    """Has half the buffer that it was told to have, and fails what does not fit."""

    def producer(self, *, max_records: int, max_bytes: int) -> MemoryProducer:  # noqa: ARG002
        return self.producer_type(self._store, max_records // 2)

    class producer_type(MemoryProducer):
        def __init__(self, store: Store, room: int) -> None:
            super().__init__(store)
            self.room = room
            self.refused: list[Settled] = []

        def send(self, outgoing: Sequence[Outgoing]) -> None:
            super().send(outgoing[: self.room])
            self.refused += [Settled(each.token, SendFailed("the queue is full")) for each in outgoing[self.room :]]

        def poll(self, timeout: float) -> Sequence[Settled]:
            refused, self.refused = self.refused, []
            return [*refused, *super().poll(timeout)]


class _LostReply(MemoryProducer):
    """The reply to the first batch in each partition is lost, so that it comes again."""

    def __init__(self, store: Store) -> None:
        super().__init__(store)
        self.lost: set[tuple[str, int]] = set()

    def _write(self, batch: WriteBatch) -> Sequence[Stored] | EventBusError:
        places = super()._write(batch)
        if isinstance(places, EventBusError) or batch[:2] in self.lost:
            return places
        self.lost.add(batch[:2])
        return self.reply_lost(batch)

    def reply_lost(self, batch: WriteBatch) -> EventBusError:  # noqa: ARG002
        return Unavailable("the connection was lost")


class LostReplies(_Judged):
    """No defect: the same trouble, and every batch is stored once."""

    producer_type = _LostReply


class LostReplyStoredTwice(_Judged):
    """Claims that a batch which comes again is stored once; it is stored twice (dup-on-reconnect, for senders)."""

    class producer_type(_LostReply):
        def reply_lost(self, batch: WriteBatch) -> EventBusError:
            self._store.partition(batch.topic, batch.partition).writers.clear()
            return super().reply_lost(batch)


class FailedThoughStored(_Judged):
    """A lost reply is told as certainly not stored (fail-instead-of-unknown)."""

    class producer_type(_LostReply):
        def reply_lost(self, batch: WriteBatch) -> EventBusError:
            return SendFailed("the connection was lost", topic=batch.topic)


class ScatteredKeys(_Judged):
    """Places records in turn, whatever their key."""

    runs: ClassVar[tuple[str, ...]] = ("core.test_sending",)

    @classmethod
    def plant(cls) -> None:
        turn = itertools.count()
        vars(batching)["partition_of"] = lambda _, count: next(turn) % count


class SwapsNeighbours(_Judged):
    """The fourth and the fifth record of each key change places, as when a lost batch is repeated too late."""

    class producer_type(MemoryProducer):
        def _write(self, batch: WriteBatch) -> Sequence[Stored] | EventBusError:
            places = super()._write(batch)
            records = self._store.partition(batch.topic, batch.partition).records
            for key in {each.key for each in batch.records if each.value == b"4"}:
                at = {each.value: number for number, each in enumerate(records) if each.key == key}
                if at.get(b"3", len(records)) < at[b"4"]:
                    records[at[b"3"]], records[at[b"4"]] = records[at[b"4"]], records[at[b"3"]]
            return places


class _WrongPlace(MemoryProducer):
    """Stores well and tells something else."""

    def told(self, place: Stored, partitions: int) -> Stored:
        raise NotImplementedError

    def _write(self, batch: WriteBatch) -> Sequence[Stored] | EventBusError:
        places = super()._write(batch)
        if isinstance(places, EventBusError):
            return places
        return [self.told(each, len(self._store.topic(batch.topic))) for each in places]


class TellsWrongPartition(_Judged):
    """Counts partitions from one in its receipts."""

    class producer_type(_WrongPlace):
        def told(self, place: Stored, partitions: int) -> Stored:
            return place._replace(partition=(place.partition + 1) % partitions)


class TellsWrongPosition(_Judged):
    """Counts positions from one in its receipts."""

    class producer_type(_WrongPlace):
        def told(self, place: Stored, partitions: int) -> Stored:  # noqa: ARG002
            return place._replace(position=Position((place.position or (0,))[0] + 1))


class TellsWrongTime(_Judged):
    """Its receipts tell a time that is not the record's."""

    class producer_type(_WrongPlace):
        def told(self, place: Stored, partitions: int) -> Stored:  # noqa: ARG002
            return place._replace(timestamp_ms=place.timestamp_ms + 1)

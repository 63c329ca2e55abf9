"""Mutants that change what they carry."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from conformance_tests.mutants.mutant import Mutant
from eventbus_core.backend import Gap
from eventbus_core.backend.batching import WriteBatch
from eventbus_core.errors import EventBusError
from eventbus_core.memory.admin import MemoryAdmin
from eventbus_core.memory.consumer import MemoryConsumer
from eventbus_core.memory.producer import MemoryProducer
from eventbus_core.records import Assignment, Delivery, Record, Stored, Where

_ENVELOPE = b"acme1:"


class _Judged(Mutant):
    runs: ClassVar[tuple[str, ...]] = ("core.test_records", "core.test_events", "semantics.test_limits")


class _Rewriting(MemoryProducer):
    """Stores something else than was sent."""

    def rewrite(self, record: Record) -> Record:
        raise NotImplementedError

    def _write(self, batch: WriteBatch) -> Sequence[Stored] | EventBusError:
        return super()._write(batch._replace(records=[self.rewrite(each) for each in batch.records]))


def _text(raw: bytes) -> bytes:
    return raw.decode(errors="replace").encode()


class TextBodies(_Judged):
    """Takes every value for text (str-decode-body)."""

    class producer_type(_Rewriting):
        def rewrite(self, record: Record) -> Record:
            return record if record.value is None else record._replace(value=_text(record.value))


class TextKeys(_Judged):
    """Takes every key for text."""

    class producer_type(_Rewriting):
        def rewrite(self, record: Record) -> Record:
            return record if record.key is None else record._replace(key=_text(record.key))


class EmptyBecomesNone(_Judged):
    """Cannot tell an empty value from none."""

    class producer_type(_Rewriting):
        def rewrite(self, record: Record) -> Record:
            return record._replace(value=record.value or None)


class LowercaseHeaders(_Judged):
    """Takes header names for HTTP's."""

    class producer_type(_Rewriting):
        def rewrite(self, record: Record) -> Record:
            return record._replace(headers=tuple((name.lower(), value) for name, value in record.headers))


class HeadersReordered(_Judged):
    """Keeps headers sorted by name."""

    class producer_type(_Rewriting):
        def rewrite(self, record: Record) -> Record:
            return record._replace(headers=tuple(sorted(record.headers, key=lambda pair: pair[0])))


class HeadersAsTable(_Judged):
    """Keeps one header of each name, the last."""

    class producer_type(_Rewriting):
        def rewrite(self, record: Record) -> Record:
            return record._replace(headers=tuple(dict(record.headers).items()))


class CoarseTimestamps(_Judged):
    """Keeps timestamps to a hundredth of a second."""

    class producer_type(_Rewriting):
        def rewrite(self, record: Record) -> Record:
            stated = record.timestamp_ms
            return record if stated is None else record._replace(timestamp_ms=stated // 10 * 10)


class OwnTimestamps(_Judged):
    """Dates records by its own clock, whatever is stated."""

    class producer_type(_Rewriting):
        def rewrite(self, record: Record) -> Record:
            return record._replace(timestamp_ms=None)


class CutsLargeValues(_Judged):
    """Stores the first million bytes."""

    class producer_type(_Rewriting):
        def rewrite(self, record: Record) -> Record:
            return record._replace(value=record.value and record.value[:1_000_000])


class TracesAnew(_Judged):
    """Puts its client's own trace in the place of the event's."""

    class producer_type(_Rewriting):
        def rewrite(self, record: Record) -> Record:
            anew = b"00-00000000000000000000000000000001-0000000000000001-00"
            replaced = {"ce_traceparent": anew, "traceparent": anew}
            return record._replace(headers=tuple((name, replaced.get(name, value)) for name, value in record.headers))


class WrapsValues(_Judged):
    """Stores values in an envelope of its own, which only it can read."""

    class producer_type(_Rewriting):
        def rewrite(self, record: Record) -> Record:
            return record if record.value is None else record._replace(value=_ENVELOPE + record.value)

    class consumer_type(MemoryConsumer):
        def fetch(
            self, assignments: Sequence[Assignment], max_records: int, timeout: float
        ) -> Sequence[Delivery | Gap]:
            return [_unwrapped(each) for each in super().fetch(assignments, max_records, timeout)]

    class admin_type(MemoryAdmin):
        def read(self, topic: str, partition: int, start: Where, limit: int, timeout: float) -> Sequence[Delivery]:
            found = super().read(topic, partition, start, limit, timeout)
            for each in found:
                _unwrapped(each)
            return found


def _unwrapped(item: Delivery | Gap) -> Delivery | Gap:
    if isinstance(item, Delivery) and item.record.value is not None:
        item.record = item.record._replace(value=item.record.value.removeprefix(_ENVELOPE))
    return item

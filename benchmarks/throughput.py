"""Events per second and CPU time per record, beside the client library's usual loops in the same run.

    python -m benchmarks.throughput --url redis://127.0.0.1:6379 --url kafka://127.0.0.1:9092

Each figure is the median of the rounds; within a round all ways take turns, so that a slow moment of the machine hits
them alike. Publishing is timed with opening and closing, receiving from the first record to the last, for the bus and
for the raw client. CPU is that of this process, all threads, kernel included; the broker's is not.
"""

from __future__ import annotations

import argparse
import gc
import json
import statistics
import sys
import uuid
from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, datetime
from functools import partial
from typing import NamedTuple
from urllib.parse import urlsplit

from pydantic import BaseModel

from benchmarks.raw_clients import Clock, Message, RawClient, raw_client
from eventbus_core import EventBus, event_type

_VALUE_BYTES = 200
_KEYS = 1000
_TYPE = "benchmark.reading"
_WAYS = ("raw", "raw typed", "bare", "typed")


@event_type(_TYPE, topic="benchmark", key="key")
class Reading(BaseModel):
    """An event whose JSON has about 200 bytes."""

    key: str
    number: int
    text: str = "x" * 155


class Figure(NamedTuple):
    """One measurement."""

    per_second: float
    cpu_us: float


def written_by_hand(events: list[Reading]) -> Iterator[Message]:
    """Events as an application without the bus writes them: the same envelope, by hand."""
    for event in events:
        headers = {
            "ce_specversion": "1.0",
            "ce_type": _TYPE,
            "ce_source": "benchmark",
            "ce_id": str(uuid.uuid4()),
            "ce_time": datetime.now(UTC).isoformat(),
            "content-type": "application/json",
        }
        yield Message(event.key.encode(), event.model_dump_json().encode(), headers)


def read_by_hand(value: bytes, headers: Mapping[str, str]) -> Reading:
    """The event of a message, its type checked, its time and identity read."""
    if headers["ce_type"] != _TYPE:
        raise ValueError(headers["ce_type"])
    _identity, _time = headers["ce_id"], datetime.fromisoformat(headers["ce_time"])
    return Reading.model_validate_json(value)


class Ways:
    """Everything that is measured on one backend."""

    def __init__(self, url: str, count: int, partitions: int) -> None:
        self._url = url
        self._count = count
        self._partitions = partitions
        self._raw = raw_client(url, partitions)
        keys = [f"key-{number}".encode() for number in range(_KEYS)]
        self._messages = [Message(keys[number % _KEYS], b"x" * _VALUE_BYTES, {}) for number in range(count)]
        self._events = [Reading(key=f"key-{number % _KEYS}", number=number) for number in range(count)]
        gc.collect()
        gc.freeze()  # or every way would pay for the garbage collector's walks over what is to be sent

    def round(self) -> dict[str, Figure]:
        """Publish and consume once in each way, on fresh topics."""
        names = {way: f"bench-{way.replace(' ', '-')}-{uuid.uuid4().hex[:8]}" for way in _WAYS}
        publish: dict[str, Figure] = {}
        receive: dict[str, Figure] = {}
        with EventBus(self._url) as bus, bus.admin() as admin:
            for way in ("bare", "typed"):
                admin.create_topic(names[way], self._partitions)
            if self._raw is not None:
                self._round_raw(self._raw, names, publish, receive)
            publish["bare"] = self._whole(lambda: self._publish_bare(bus, names["bare"]))
            publish["typed"] = self._whole(lambda: self._publish_typed(bus, names["typed"]))
            receive["bare"] = self._timed(lambda clock: self._receive(bus, names["bare"], clock, typed=False))
            receive["typed"] = self._timed(lambda clock: self._receive(bus, names["typed"], clock, typed=True))
            for way in ("bare", "typed"):
                admin.delete_topic(names[way])
        measured = {"publish": publish, "receive": receive}
        return {f"{work} {way}": figure for work, ways in measured.items() for way, figure in ways.items()}

    def _round_raw(
        self, raw: RawClient, names: dict[str, str], publish: dict[str, Figure], receive: dict[str, Figure]
    ) -> None:
        for way, event in (("raw", None), ("raw typed", read_by_hand)):
            topic = names[way]
            raw.create(topic)
            publish[way] = self._whole(partial(self._publish_raw, raw, topic, typed=event is not None))
            receive[way] = self._timed(partial(raw.consume, topic, self._count, event=event))
            raw.delete(topic)

    def _whole(self, work: Callable[[], None]) -> Figure:
        def timed(clock: Clock) -> None:
            clock.start()
            work()
            clock.stop()

        return self._timed(timed)

    def _timed(self, work: Callable[[Clock], None]) -> Figure:
        clock = Clock()
        work(clock)
        return Figure(self._count / clock.wall_seconds, clock.cpu_seconds / self._count * 1e6)

    def _publish_raw(self, raw: RawClient, topic: str, *, typed: bool) -> None:
        stored = raw.publish(topic, written_by_hand(self._events) if typed else self._messages)
        if stored != self._count:
            raise RuntimeError(f"the raw client stored {stored} of {self._count} records")

    def _publish_bare(self, bus: EventBus, topic: str) -> None:
        with bus.producer() as producer:
            receipts = [producer.send(topic, value, key=key) for key, value, _ in self._messages]
            producer.flush()
        for receipt in receipts:
            receipt.result(0)

    def _publish_typed(self, bus: EventBus, topic: str) -> None:
        receipts = [bus.publish(event, topic=topic) for event in self._events]
        for receipt in receipts:
            receipt.result()

    def _receive(self, bus: EventBus, topic: str, clock: Clock, *, typed: bool) -> None:
        received = 0
        with bus.consumer(topic, group=f"g-{topic}", max_unacked=5000) as consumer:
            while received < self._count:
                batch = consumer.receive(500)
                if batch:
                    clock.start()
                for delivery in batch:
                    if typed:
                        bus.decode(delivery, Reading)
                    else:
                        _topic, _value, _key, _headers, _timestamp = delivery.record
                consumer.ack(*batch)
                received += len(batch)
            clock.stop()
            consumer.flush()


def measure(url: str, count: int, partitions: int, rounds: int) -> dict[str, Figure]:
    """The medians over the rounds, by work and way."""
    ways = Ways(url, count, partitions)
    measured = [ways.round() for _ in range(rounds)]
    return {
        name: Figure(
            statistics.median(each[name].per_second for each in measured),
            statistics.median(each[name].cpu_us for each in measured),
        )
        for name in measured[0]
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--url", action="append", help="a bus; may be repeated (default: memory://)")
    parser.add_argument("--records", type=int, default=60_000)
    parser.add_argument("--partitions", type=int, default=4)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    results = {}
    for url in options.url or ["memory://"]:
        backend = urlsplit(url).scheme
        results[backend] = found = measure(url, options.records, options.partitions, options.rounds)
        if not options.json:
            show(backend, found)
    if options.json:
        json.dump(
            {name: {way: each._asdict() for way, each in found.items()} for name, found in results.items()}, sys.stdout
        )
        print()


def show(backend: str, found: dict[str, Figure]) -> None:
    """A table: each way, and its rate as a multiple of those of the raw client."""
    print(f"{backend:8} {'':18} {'records/s':>10} {'CPU us':>8} {'of raw':>8} {'of raw typed':>13}")
    for name, figure in found.items():
        work, _, way = name.partition(" ")
        against = [found.get(f"{work} raw"), found.get(f"{work} raw typed") if way == "typed" else None]
        ratios = [f"{figure.per_second / each.per_second:.2f}" if each else "-" for each in against]
        print(
            f"{'':8} {name:18} {figure.per_second:10,.0f} {figure.cpu_us:8.1f} {ratios[0]:>8} {ratios[1]:>13}",
            flush=True,
        )


if __name__ == "__main__":
    main()

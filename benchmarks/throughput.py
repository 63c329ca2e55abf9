"""Events per second and CPU time per record, beside the client library's usual loop in the same run.

    python -m benchmarks.throughput --url redis://127.0.0.1:6379 --url kafka://127.0.0.1:9092

Each figure is the median of the rounds; within a round all ways take turns, so that a slow moment of the machine hits
them alike. Publishing is timed with opening and closing, receiving from the first record to the last, for the bus and
for the raw client. CPU is that of this process, all threads, kernel included; the broker's is not.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import uuid
from collections.abc import Callable
from typing import NamedTuple
from urllib.parse import urlsplit

from pydantic import BaseModel

from benchmarks.raw_clients import Clock, Pair, raw_client
from eventbus_core import EventBus, event_type

_VALUE_BYTES = 200
_KEYS = 1000


@event_type("benchmark.reading", topic="benchmark", key="key")
class Reading(BaseModel):
    """An event whose JSON has about 200 bytes."""

    key: str
    number: int
    text: str = "x" * 155


class Figure(NamedTuple):
    """One measurement."""

    per_second: float
    cpu_us: float


class Ways:
    """Everything that is measured on one backend."""

    def __init__(self, url: str, count: int, partitions: int) -> None:
        self._url = url
        self._count = count
        self._partitions = partitions
        self._raw = raw_client(url, partitions)
        keys = [f"key-{number}".encode() for number in range(_KEYS)]
        self._pairs: list[Pair] = [(keys[number % _KEYS], b"x" * _VALUE_BYTES) for number in range(count)]
        self._events = [Reading(key=f"key-{number % _KEYS}", number=number) for number in range(count)]

    def round(self) -> dict[str, Figure]:
        """Publish and consume once in each way, on fresh topics."""
        names = {way: f"bench-{way}-{uuid.uuid4().hex[:8]}" for way in ("raw", "bare", "typed")}
        measured = {}
        with EventBus(self._url) as bus, bus.admin() as admin:
            for way in ("bare", "typed"):
                admin.create_topic(names[way], self._partitions)
            if self._raw is not None:
                self._raw.create(names["raw"])
                measured["publish raw"] = self._whole(lambda: self._raw.publish(names["raw"], self._pairs))
            measured["publish bare"] = self._whole(lambda: self._publish_bare(bus, names["bare"]))
            measured["publish typed"] = self._whole(lambda: self._publish_typed(bus, names["typed"]))
            if self._raw is not None:
                measured["receive raw"] = self._timed(lambda clock: self._raw.consume(names["raw"], self._count, clock))
            measured["receive bare"] = self._timed(lambda clock: self._receive(bus, names["bare"], clock, typed=False))
            measured["receive typed"] = self._timed(lambda clock: self._receive(bus, names["typed"], clock, typed=True))
            for way in ("bare", "typed"):
                admin.delete_topic(names[way])
        return measured

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

    def _publish_bare(self, bus: EventBus, topic: str) -> None:
        with bus.producer() as producer:
            receipts = [producer.send(topic, value, key=key) for key, value in self._pairs]
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
                if typed:
                    for delivery in batch:
                        bus.decode(delivery, Reading)
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
    """A table: each way, and its rate as a multiple of the raw client's."""
    print(f"{backend:8} {'':14} {'records/s':>10} {'CPU us':>8} {'of raw':>7}")
    for name, figure in found.items():
        raw = found.get(f"{name.split()[0]} raw")
        ratio = f"{figure.per_second / raw.per_second:7.2f}" if raw else "      -"
        print(f"{'':8} {name:14} {figure.per_second:10,.0f} {figure.cpu_us:8.1f} {ratio}", flush=True)


if __name__ == "__main__":
    main()

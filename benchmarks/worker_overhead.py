"""What the worker costs per event above a bare consumer loop: ``python -m benchmarks.worker_overhead``.

Memory backend, one process, a handler that does nothing. Both sides receive, decode and ack the same events; the
figure is CPU time, as other processes of the machine do not count in it. The rounds of the sides alternate.
"""

from __future__ import annotations

import argparse
import statistics
import time
import uuid
from collections.abc import Callable
from datetime import timedelta

from pydantic import BaseModel

from eventbus_core import Batch, Event, EventBus, Worker, event_type


@event_type("bench.worker.v1", topic="bench", key="key")
class Sample(BaseModel):
    key: str
    number: int


def filled(events: int, keys: int) -> EventBus:
    """A new bus with a backlog."""
    bus = EventBus(f"memory://{uuid.uuid4().hex}")
    bus.admin().create_topic("bench", 4)
    for number in range(events):
        receipt = bus.publish(Sample(key=f"k{number % keys}", number=number))
    receipt.result(60)
    return bus


def bare(bus: EventBus, events: int) -> None:
    """The loop of the README, with acks in batches."""
    left = events
    with bus.consumer("bench", group="g") as consumer:
        while left:
            received = consumer.receive()
            for delivery in received:
                bus.decode(delivery, Sample)
            consumer.ack(*received)
            left -= len(received)
        consumer.flush(10)


def worker(**options: object) -> Callable[[EventBus, int], None]:
    def run(bus: EventBus, _: int) -> None:
        if options.get("asynchronous"):

            async def handle_async(event: Event[Sample]) -> None: ...

            bus.subscribe(Sample, group="g")(handle_async)
        elif options.get("batch"):

            def handle_batch(batch: list[Event[Sample]]) -> None: ...

            bus.subscribe(Sample, group="g", batch=Batch(wait=timedelta(seconds=0.01)))(handle_batch)
        else:

            def handle(event: Event[Sample]) -> None: ...

            bus.subscribe(Sample, group="g")(handle)
        running = Worker(bus)
        running.start()
        running.drain(120)

    return run


SIDES: dict[str, Callable[[EventBus, int], None]] = {
    "bare loop": bare,
    "worker": worker(),
    "worker, async": worker(asynchronous=True),
    "worker, batches": worker(batch=True),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--events", type=int, default=50_000)
    parser.add_argument("--keys", type=int, default=1000)
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    micros: dict[str, list[float]] = {name: [] for name in SIDES}
    for _ in range(arguments.rounds):
        for name, run in SIDES.items():
            bus = filled(arguments.events, arguments.keys)
            began = time.process_time()
            run(bus, arguments.events)
            micros[name].append((time.process_time() - began) / arguments.events * 1e6)
            bus.close()
    base = statistics.median(micros["bare loop"])
    print(f"{arguments.events} events of {arguments.keys} keys, {arguments.rounds} rounds; CPU us per event")
    for name, values in micros.items():
        median = statistics.median(values)
        print(f"{name:16} {median:6.1f} ({min(values):.1f}..{max(values):.1f})  above the loop: {median - base:6.1f}")


if __name__ == "__main__":
    main()

"""What one lone send costs above the backend's own work: handing it to the sending thread, and the outcome back.

    python -m benchmarks.handover

On memory: the time of ``producer.send(…).result()`` less that of the backend's ``send`` and ``poll`` called directly.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time

from eventbus_core import EventBus, Record, Settings
from eventbus_core.backend import Outgoing
from eventbus_core.loading import load


def through_the_bus(count: int) -> list[float]:
    """Seconds of each send that waits for its outcome."""
    with EventBus("memory://") as bus, bus.producer() as producer:
        bus.admin().create_topic("handover", 1)
        producer.send("handover", b"first").result()
        taken = []
        for _ in range(count):
            started = time.perf_counter()
            producer.send("handover", b"value", key=b"key").result()
            taken.append(time.perf_counter() - started)
    return taken


def directly(count: int) -> list[float]:
    """Seconds of the same work in the backend, in this thread."""
    settings = Settings.from_url("memory://")
    backend = load("memory")(settings.backend_settings())
    backend.admin().create_topic("handover", 1)
    producer = backend.producer(max_records=1000, max_bytes=1 << 20)
    taken = []
    for token in range(count):
        started = time.perf_counter()
        producer.send([Outgoing(token, Record("handover", b"value", b"key"))])
        while not producer.poll(0.005):
            pass
        taken.append(time.perf_counter() - started)
    producer.close()
    backend.close()
    return taken


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--sends", type=int, default=5000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    rounds = [(through_the_bus(options.sends), directly(options.sends)) for _ in range(options.rounds)]
    bus_us = statistics.median(statistics.median(bus) for bus, _ in rounds) * 1e6
    direct_us = statistics.median(statistics.median(direct) for _, direct in rounds) * 1e6
    if options.json:
        print(json.dumps({"bus_us": bus_us, "direct_us": direct_us, "handover_us": bus_us - direct_us}))
    else:
        print(f"through the bus {bus_us:.1f} us, directly {direct_us:.1f} us, handing over {bus_us - direct_us:.1f} us")


if __name__ == "__main__":
    main()

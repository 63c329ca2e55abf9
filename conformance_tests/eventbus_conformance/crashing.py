"""A member that receives, acks some of what it received, and is killed at that moment.

``python -m eventbus_conformance.crashing URL TOPIC GROUP RECORDS ACKS`` prints what it received as its last word.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from typing import Literal, NamedTuple, TypeAlias, get_args

from eventbus_conformance.harness import Bounds
from eventbus_conformance.receiving import take
from eventbus_core import EventBus
from eventbus_core.consumer import Consumer
from eventbus_core.records import Delivery

Acks: TypeAlias = Literal["none", "first half", "all but first", "all"]


class Received(NamedTuple):
    """What the member received: where it lies, its value, and whether it was acked."""

    partition: int
    position: str
    value: str
    acked: bool


def crash(
    url: str, topic: str, group: str, records: int, acks: Acks, bounds: Bounds, *, process: bool
) -> list[Received]:
    """Let a new member of the group receive, ack, wait until the acks are durable, and die without leaving.

    In a process killed by SIGKILL, or in a thread that stops polling.
    """
    if process:
        command = [sys.executable, "-m", __name__, url, topic, group, str(records), acks, str(bounds.deliver)]
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=bounds.rebalance + bounds.deliver, check=False
        )
        assert done.returncode == -signal.SIGKILL, done.stdout + done.stderr
        return [Received(*each) for each in json.loads(done.stdout)]
    found: list[Received] = []
    thread = threading.Thread(target=lambda: found.extend(_in_thread(url, topic, group, records, acks, bounds.deliver)))
    thread.start()
    thread.join(bounds.rebalance + bounds.deliver)
    assert len(found) == records
    return found


def _in_thread(url: str, topic: str, group: str, records: int, acks: Acks, seconds: float) -> list[Received]:
    with EventBus(url) as bus:
        consumer = bus.consumer(topic, group=group)
        received = _receive(consumer, records, acks, seconds)
        consumer._abandon()  # noqa: SLF001  (private to users, made for this)
        return received


def _receive(consumer: Consumer, records: int, acks: Acks, seconds: float) -> list[Received]:
    deliveries = take(consumer, records, seconds)
    acked = _chosen(deliveries, acks)
    consumer.ack(*acked)
    assert consumer.flush(seconds) == 0
    done = {id(each) for each in acked}
    return [
        Received(each.partition, str(each.position), (each.record.value or b"").decode(), id(each) in done)
        for each in deliveries
    ]


def _chosen(deliveries: list[Delivery], acks: Acks) -> list[Delivery]:
    match acks:
        case "none":
            return []
        case "first half":
            return deliveries[: len(deliveries) // 2]
        case "all but first":
            return deliveries[1:]
        case "all":
            return deliveries


def main() -> None:
    """Never returns."""
    url, topic, group, records, acks, seconds = sys.argv[1:]
    chosen = next(each for each in get_args(Acks) if each == acks)
    consumer = EventBus(url).consumer(topic, group=group)
    received = _receive(consumer, int(records), chosen, float(seconds))
    os.write(sys.stdout.fileno(), json.dumps(received).encode())
    os.kill(os.getpid(), signal.SIGKILL)


if __name__ == "__main__":
    main()

"""Seconds until another member first delivers from a partition of a member that is gone.

    python -m benchmarks.takeover --url redis://127.0.0.1:6379

Two members share a topic that is written to all the time. One is then ended in one of three ways: SIGKILL, SIGSTOP (it
is frozen, its connections stay open), or a clean leave. Measured from the signal until the other member has a record of
the first, and of the last, of its partitions. On memory the members are threads: one is abandoned, or closes.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import signal
import statistics
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Callable
from typing import Any, Protocol
from urllib.parse import urlsplit

from eventbus_core import Consumer, EventBus, Reach

_LIMIT_SECONDS = 90.0


class Member(Protocol):
    """A member of the group; ``seen``: when each partition last delivered something to it (``time.monotonic``)."""

    seen: dict[int, float]
    since: dict[int, float]

    def end(self, way: str) -> None:
        """Go, in this way."""

    def finish(self) -> None:
        """Be gone for certain."""


class Board:
    """When a member first and last had a record of each partition, in its present hold."""

    def __init__(self) -> None:
        self.seen: dict[int, float] = {}
        self.since: dict[int, float] = {}

    def note(self, partition: int, at: float) -> None:
        self.since.setdefault(partition, at)
        self.seen[partition] = at


class ThreadMember(Board):
    """On memory."""

    def __init__(self, bus: EventBus, topic: str) -> None:
        super().__init__()
        self._way = threading.Event()
        self._how = "leave"
        self._thread = threading.Thread(target=self._run, args=(bus, topic), daemon=True)
        self._thread.start()

    def _run(self, bus: EventBus, topic: str) -> None:
        consumer = bus.consumer(topic, group="takeover")
        consume(consumer, self.note, self._way.is_set)
        if self._how == "leave":
            consumer.close()
        else:
            consumer._abandon()

    def end(self, way: str) -> None:
        self._how = way
        self._way.set()
        self._thread.join()

    def finish(self) -> None:
        self.end("leave")


class ProcessMember(Board):
    """Everywhere else: it prints each batch's partitions and the time; closing its input makes it leave."""

    def __init__(self, url: str, topic: str) -> None:
        super().__init__()
        command = [sys.executable, "-m", "benchmarks.takeover", "--member", topic]
        environment = {**os.environ, "EVENTBUS_URL": url}
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment, start_new_session=True
        )
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            partition, at = line.split()
            self.note(int(partition), float(at))

    def end(self, way: str) -> None:
        assert self._process.stdin is not None
        match way:
            case "kill":
                self._process.kill()
            case "stop":
                self._process.send_signal(signal.SIGSTOP)
            case "leave":
                self._process.stdin.close()

    def finish(self) -> None:
        self._process.kill()
        self._process.wait()


def consume(consumer: Consumer, note: Callable[[int, float], None], ended: Callable[[], bool]) -> None:
    """Receive and ack until ``ended``."""
    while not ended():
        batch = consumer.receive(200, timeout=0.1)
        now = time.monotonic()
        for partition in {delivery.partition for delivery in batch if delivery.owned}:
            note(partition, now)
        consumer.ack(*batch)


def serve(topic: str) -> None:
    """The member process."""
    ended = threading.Event()

    def await_end() -> None:
        os.read(sys.stdin.fileno(), 1)
        ended.set()

    threading.Thread(target=await_end, daemon=True).start()

    def note(partition: int, at: float) -> None:
        os.write(sys.stdout.fileno(), f"{partition} {at!r}\n".encode())

    with EventBus() as bus, bus.consumer(topic, group="takeover") as consumer:
        consume(consumer, note, ended.is_set)


def feed(bus: EventBus, topic: str, ended: threading.Event) -> None:
    """Keep records coming for every partition: with few keys some brokers would leave one empty."""
    with bus.producer() as producer:
        for turn in itertools.count():
            if ended.wait(0.01):
                return
            for number in range(8):
                producer.send(topic, b"x", key=b"%d" % (turn % 8 * 8 + number))


def wait_until(done: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + _LIMIT_SECONDS
    while not done():
        if time.monotonic() > deadline:
            raise SystemExit(f"error: not within {_LIMIT_SECONDS:g} s: {what}")
        time.sleep(0.01)


def holds(member: Board) -> set[int]:
    """The partitions that delivered something to the member within the last second."""
    now = time.monotonic()
    return {partition for partition, at in list(member.seen.items()) if now - at < 1.0}


def once(url: str, way: str, partitions: int) -> tuple[float, float]:
    """Seconds until the first, and until the last, of the partitions delivers to the other member."""
    topic = f"takeover-{uuid.uuid4().hex[:8]}"
    with EventBus(url) as bus:
        bus.admin().create_topic(topic, partitions)
        inside = bus.capabilities.reach is Reach.PROCESS
        ended = threading.Event()
        feeding = threading.Thread(target=feed, args=(bus, topic, ended), daemon=True)
        feeding.start()
        members: list[Any] = [ThreadMember(bus, topic) if inside else ProcessMember(url, topic) for _ in range(2)]
        leaver, stayer = members
        try:

            def shared() -> bool:
                mine, others = holds(leaver), holds(stayer)
                return bool(mine and others) and not mine & others and len(mine | others) == partitions

            wait_until(shared, "both members share all the partitions")
            moving = holds(leaver)
            for partition in moving:
                stayer.since.pop(partition, None)
            at = time.monotonic()
            leaver.end(way)
            wait_until(lambda: moving <= stayer.since.keys(), f"takeover of partitions {sorted(moving)}")
            taken = [stayer.since[partition] - at for partition in moving]
        finally:
            for member in members:
                member.finish()
            ended.set()
            feeding.join()
        bus.admin().delete_topic(topic)
    return min(taken), max(taken)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--url", action="append", help="a bus; may be repeated (default: memory://)")
    parser.add_argument("--partitions", type=int, default=4)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--member", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.member:
        serve(options.member)
        return
    results: dict[str, dict[str, dict[str, float]]] = {}
    for url in options.url or ["memory://"]:
        backend = urlsplit(url).scheme
        for way in ("kill", "leave") if backend == "memory" else ("kill", "stop", "leave"):
            times = [once(url, way, options.partitions) for _ in range(options.rounds)]
            figures = {
                "first_seconds": statistics.median(first for first, _ in times),
                "last_seconds": statistics.median(last for _, last in times),
                "worst_seconds": max(last for _, last in times),
            }
            results.setdefault(backend, {})[way] = figures
            if not options.json:
                shown = ", ".join(f"{name.removesuffix('_seconds')} {each:.2f} s" for name, each in figures.items())
                print(f"{backend:8} {way:6} {shown}", flush=True)
    if options.json:
        print(json.dumps(results))


if __name__ == "__main__":
    main()

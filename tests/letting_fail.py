"""Members of a group whose handler may fail, in a thread of the test or in a process that can be killed.

As a program: `python -m tests.letting_fail URL TOPIC GROUP DIRECTORY [--park] [--lose-acks]`.
"""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Callable, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any, Self

from eventbus_core import Delivery, Event, EventBus, event_type
from eventbus_core.intake import Intake
from eventbus_core.producer import Producer
from eventbus_core.subscriptions import Retry
from eventbus_core.worker import Worker

HEADERS = (
    ("ce_specversion", b"1.0"),
    ("ce_type", b"tests.raw"),
    ("ce_source", b"tests"),
    ("ce_time", b"2030-01-01T00:00:00Z"),
    ("x", b"\xff"),
    ("x", b""),
)
"""Of an event whose data is any bytes; to be followed by ``ce_id``."""


class _AsItIs:
    content_type = "application/octet-stream"

    def encode(self, data: Any) -> bytes:
        return bytes(data.value)

    def decode(self, raw: bytes, into: Any) -> Any:
        return into(raw)


@event_type("tests.raw", topic="unused", codec=_AsItIs())
class Raw:
    def __init__(self, value: bytes) -> None:
        self.value = value


def send(producer: Producer, topic: str, values: Sequence[bytes], *, key: bytes | None) -> None:
    """Send events of one key, and wait until they are stored."""
    receipts = [
        producer.send(topic, value, key=key, headers=(*HEADERS, ("ce_id", b"%d" % number)))
        for number, value in enumerate(values)
    ]
    for receipt in receipts:
        receipt.result(30)


class Member:
    """A worker in this process."""

    def __init__(
        self, url: str, topic: str, group: str, handle: Callable[[Delivery], None], *, park: bool = False
    ) -> None:
        self._bus = EventBus(url)

        def handler(event: Event[Raw]) -> None:
            assert event.delivery is not None
            handle(event.delivery)

        self._bus.subscribe(
            Raw,
            group=group,
            topics=(topic,),
            retry=Retry(attempts=1, first_delay=timedelta(milliseconds=1)),
            on_failure="park_key" if park else "dead_letter",
        )(handler)
        self.worker = Worker(self._bus)

    def __enter__(self) -> Self:
        self.worker.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.worker.stop()
        self._bus.close()


class MemberProcess:
    """A worker in a process of its own. It fails for the values in ``bad``."""

    def __init__(
        self, url: str, topic: str, group: str, directory: Path, *, park: bool = False, lose_acks: bool = False
    ) -> None:
        flags = ["--park"] * park + ["--lose-acks"] * lose_acks
        self._command = [sys.executable, "-m", "tests.letting_fail", url, topic, group, str(directory), *flags]

    def __enter__(self) -> Self:
        self._process = subprocess.Popen(
            self._command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=Path(__file__).parent.parent
        )
        assert self._process.stdout is not None
        assert self._process.stdout.readline() == b"started\n"
        return self

    def __exit__(self, *_: object) -> None:
        self._process.communicate(timeout=60)  # the end of its input stops it

    def kill(self) -> None:
        """SIGKILL: it acks nothing more and tells nobody."""
        self._process.kill()
        self._process.communicate(timeout=30)


class Noted:
    """What members in processes share: which values are bad, and what was handled."""

    def __init__(self, directory: Path) -> None:
        self._bad = directory / "bad"
        self._done = directory / "done"
        self._done.touch()

    def set_bad(self, *values: bytes) -> None:
        self._bad.write_bytes(b"\n".join(values))

    def handle(self, delivery: Delivery) -> None:
        value = delivery.record.value or b""
        if value in self._bad.read_bytes().split(b"\n"):
            raise ValueError(value)
        with self._done.open("ab", buffering=0) as done:
            done.write((delivery.record.key or b"").hex().encode() + b" " + value + b"\n")

    def done(self, key: bytes) -> list[int]:
        """The numbers that were handled of a key, in order."""
        pairs = [line.split(" ") for line in self._done.read_text().splitlines()]
        return [int(number) for of, number in pairs if of == key.hex()]

    def firsts(self, key: bytes) -> list[int]:
        """The same without repeats."""
        return list(dict.fromkeys(self.done(key)))


def _main(url: str, topic: str, group: str, directory: str, *flags: str) -> None:
    if "--lose-acks" in flags:
        Intake.ack = lambda *_: None  # type: ignore[method-assign]
    with Member(url, topic, group, Noted(Path(directory)).handle, park="--park" in flags):
        sys.stdout.write("started\n")
        sys.stdout.flush()
        watching = threading.Thread(target=sys.stdin.read)
        watching.start()
        watching.join()


if __name__ == "__main__":
    _main(*sys.argv[1:])

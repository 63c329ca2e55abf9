"""What the members of a group did, as they wrote it down, and the judgement of it.

A history is a file of JSON lines. Every member appends with one ``write`` per line to a file opened with ``O_APPEND``,
so lines of several processes never mix and their order in the file is the order in which they were written.
"""

from __future__ import annotations

import json
import os
import threading
import time
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Self

from eventbus_core.records import Delivery, Position


class Handled(NamedTuple):
    """One handling of one record. ``at``: seconds on the monotonic clock, comparable between processes of a host."""

    member: str
    pid: int
    key: str
    seq: int
    partition: int
    position: Position
    at: float


class Writer:
    """Appends to a history. Each line is one system call, so a killed writer leaves whole lines only."""

    def __init__(self, path: Path, member: str) -> None:
        self._file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
        self._member = member

    def handled(self, delivery: Delivery) -> None:
        """Note a record whose key is text and whose value is its number within the key."""
        assert delivery.record.key is not None
        assert delivery.record.value is not None
        self.note(
            "handled",
            key=delivery.record.key.decode(),
            seq=int(delivery.record.value),
            partition=delivery.partition,
            position=str(delivery.position),
        )

    def note(self, event: str, **fields: Any) -> None:
        """Note anything else."""
        line = {"event": event, "member": self._member, "pid": os.getpid(), "at": time.monotonic(), **fields}
        os.write(self._file, json.dumps(line).encode() + b"\n")

    def close(self) -> None:
        """Close the file."""
        os.close(self._file)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class History:
    """Reads a history while it is written: each call takes in what was appended since the last. Thread-safe."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._events: list[dict[str, Any]] = []
        self._handled: list[Handled] = []
        self._read_to = 0
        self._lock = threading.Lock()

    def events(self, event: str, member: str | None = None) -> list[dict[str, Any]]:
        """All lines of one kind, of one member or of all."""
        self._read_on()
        return [each for each in self._events if each["event"] == event and member in {None, each["member"]}]

    def handled(self, member: str | None = None) -> Sequence[Handled]:
        """All handlings in order, of one member or of all."""
        self._read_on()
        return [each for each in self._handled if member in {None, each.member}]

    def handled_by(self) -> Counter[str]:
        """How many handlings each member has."""
        return Counter(each.member for each in self.handled())

    def count(self) -> int:
        """How many different records were handled."""
        return len({(each.key, each.seq) for each in self.handled()})

    def held(self, member: str) -> frozenset[int]:
        """The partitions that a member said last it holds."""
        said = self.events("holds", member)
        return frozenset(said[-1]["partitions"]) if said else frozenset()

    def _read_on(self) -> None:
        with self._lock:
            if not self.path.exists():
                return
            with self.path.open("rb") as file:
                file.seek(self._read_to)
                lines = file.read()
            whole = lines[: lines.rfind(b"\n") + 1]
            self._read_to += len(whole)
            for line in whole.splitlines():
                event = json.loads(line)
                self._events.append(event)
                if event["event"] == "handled":
                    fields = {**event, "position": Position.parse(event["position"])}
                    del fields["event"]
                    self._handled.append(Handled(**fields))


def lost(sent: Iterable[tuple[str, int]], handled: Iterable[Handled]) -> list[tuple[str, int]]:
    """What was sent and never handled."""
    return sorted(set(sent) - {(each.key, each.seq) for each in handled})


def phantoms(sent: Iterable[tuple[str, int]], handled: Iterable[Handled]) -> list[tuple[str, int]]:
    """What was handled and never sent."""
    return sorted({(each.key, each.seq) for each in handled} - set(sent))


def duplicated(handled: Iterable[Handled]) -> list[tuple[str, int]]:
    """What was handled more than once."""
    times = Counter((each.key, each.seq) for each in handled)
    return sorted(which for which, count in times.items() if count > 1)


def stored_twice(handled: Iterable[Handled]) -> list[tuple[str, int]]:
    """What lies in the log at more than one place."""
    places = {(each.key, each.seq, each.partition, each.position) for each in handled}
    times = Counter((key, seq) for key, seq, _, _ in places)
    return sorted(which for which, count in times.items() if count > 1)


def reordered(handled: Iterable[Handled]) -> list[str]:
    """First handlings that came after the handling of a later record of their key. Repeats may go back."""
    found: list[str] = []
    highest: dict[str, int] = {}
    seen: set[tuple[str, int]] = set()
    for each in handled:
        top = highest.get(each.key, -1)
        if each.seq < top and (each.key, each.seq) not in seen:
            found.append(f"{each.key}: {each.seq} first handled (by {each.member}) after {top}")
        highest[each.key] = max(top, each.seq)
        seen.add((each.key, each.seq))
    return found

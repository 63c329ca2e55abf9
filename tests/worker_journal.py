"""What handlers did, written by all processes of a test into one file: a line for each begin and end."""

from __future__ import annotations

import json
import time
from collections import defaultdict
from pathlib import Path
from typing import NamedTuple

from pydantic import BaseModel

from eventbus_core import Event, event_type


@event_type("test.worker.job.v1", topic="unused", key="key")
class Job(BaseModel):
    """An event of the tests. ``do`` tells the handler what to do with it."""

    key: str | None
    seq: int
    do: str = ""


class Entry(NamedTuple):
    """``what``: begin, end or failed. ``at``: monotonic seconds, comparable between the processes of a host."""

    what: str
    member: str
    key: str | None
    seq: int
    attempt: int
    event_id: str
    at: float


class Journal:
    """Appends with one system call a line, so a killed writer leaves whole lines; reads everything anew.

    A handler that outlives its test finds the journal closed, and cannot write into the next one.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._file = path.open("ab", buffering=0)

    def note(self, what: str, member: str, event: Event[Job]) -> None:
        entry = Entry(what, member, event.data.key, event.data.seq, event.attempt, event.id, time.monotonic())
        self._file.write(json.dumps(entry).encode() + b"\n")

    def entries(self, what: str | None = None, member: str | None = None) -> list[Entry]:
        whole, _, _ = self.path.read_text().rpartition("\n")  # a line may be seen while it is written
        lines = [Entry(*json.loads(line)) for line in whole.splitlines()]
        return [each for each in lines if what in {None, each.what} and member in {None, each.member}]

    def seqs(self, what: str = "end", member: str | None = None) -> list[int]:
        return [each.seq for each in self.entries(what, member)]

    def handled(self) -> set[tuple[str | None, int]]:
        return {(each.key, each.seq) for each in self.entries("end")}

    def close(self) -> None:
        self._file.close()


def overlaps(entries: list[Entry], *, killed: frozenset[str] = frozenset()) -> list[str]:
    """Where an event of a key began while another of that key ran. What a killed member had begun has no end."""
    running: dict[str | None, Entry] = {}
    found = []
    for each in entries:
        if each.what != "begin":
            running.pop(each.key, None)
            continue
        other = running.get(each.key)
        if other is not None and other.member not in killed:
            found.append(f"{each.key}: {each.seq} ({each.member}) began while {other.seq} ({other.member}) ran")
        running[each.key] = each
    return found


def reordered(entries: list[Entry]) -> list[str]:
    """First handlings after that of a later event of their key; repeats may go back."""
    highest: dict[str | None, int] = {}
    seen: dict[str | None, set[int]] = defaultdict(set)
    found = []
    for each in (entry for entry in entries if entry.what == "end"):
        if each.seq < highest.get(each.key, -1) and each.seq not in seen[each.key]:
            found.append(f"{each.key}: {each.seq} ({each.member}) after {highest[each.key]}")
        highest[each.key] = max(each.seq, highest.get(each.key, -1))
        seen[each.key].add(each.seq)
    return found

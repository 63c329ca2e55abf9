"""What the members of one group handled, in the order in which they did: one file that all of them append to."""

from __future__ import annotations

import os
import time
from pathlib import Path

from eventbus_core.cli.demo_accounting import EventId, Handled


class HistoryWriter:
    """A member's end. Each line is one ``write`` in append mode, so lines of several processes never mix.

    A line is in the file when the call returns: it outlives the process, whatever ends it.
    """

    def __init__(self, path: Path, member: str) -> None:
        self._file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
        self._member = member

    def joined(self) -> None:
        """The member is ready to handle."""
        os.write(self._file, f"joined {self._member}\n".encode())

    def handled(self, partition: int, event: EventId) -> None:
        """The member handled an event. Call it before the ack."""
        key, number = event
        os.write(self._file, f"handled {self._member} {partition} {key} {number} {time.monotonic()!r}\n".encode())

    def close(self) -> None:
        """Close the file."""
        os.close(self._file)


class HistoryReader:
    """The demo's end: reads on from where it was."""

    def __init__(self, path: Path) -> None:
        path.touch(mode=0o600)
        self._file = path.open("rb")
        self._rest = b""
        self.joined: set[str] = set()
        self.handled: list[Handled] = []
        self.seen: set[EventId] = set()
        self.holders: dict[int, str] = {}
        """Who handled the last event of each partition."""

    def read(self) -> None:
        """Take in what was appended since the last call."""
        *lines, self._rest = (self._rest + self._file.read()).split(b"\n")
        for line in lines:
            match line.decode().split(" "):
                case ["joined", member]:
                    self.joined.add(member)
                case ["handled", member, partition, key, number, at]:
                    handled = Handled((key, int(number)), member, int(partition), float(at))
                    self.handled.append(handled)
                    self.seen.add(handled.event)
                    self.holders[handled.partition] = member
                case _:
                    raise ValueError(f"not a line of a history: {line!r}")

    def close(self) -> None:
        """Close the file."""
        self._file.close()

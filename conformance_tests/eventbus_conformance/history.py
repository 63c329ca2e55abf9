"""What senders, members and the test did and saw, as they wrote it down.

A history is one file of JSON lines, shared by all processes of a run. Each line is one ``write`` to a file opened with
``O_APPEND``, made before the act where it announces one, so a killed process leaves what it had begun. Every line has
``event``, ``by`` (who wrote it; unique in the run, also after a restart), ``pid`` and ``at``: seconds on
``CLOCK_MONOTONIC``, comparable between the processes of a host.

==============  ======================================================================================================
event           further fields
==============  ======================================================================================================
expectations    always the first line. ``version``, ``expectations``; ``about``: what was run, for people
send-invoke     ``topic``, ``id``, ``key``, ``kseq``, ``sha256``: about to be sent; again, if the buffer was full
send-ok         ``id``, ``topic``, ``partition``, ``position`` (null where a receipt does not tell it)
send-failed     ``id``, ``error``: certainly not stored
send-unknown    ``id``, ``error``: perhaps stored. So is a send-invoke without any outcome
join            ``group``, ``start``: about to join
ready           ``group``: has joined; with start "latest", what is sent from here on belongs to the group
holds           ``group``, ``partitions``: what the member holds from here on
lost            ``group``, ``topic``, ``partition``, ``reason``: was told that it holds this no more
leave           ``group``: has left in good order
deliver         ``group``, ``topic``, ``partition``, ``position``, ``id``, ``key``, ``kseq``, ``sha256``: was received
handle-start    ``group``, ``topic``, ``partition``, ``position``, ``id``: is about to be handled; the record was owned
handle-end      the same: was handled with success
handle-failed   the same: was not; it is handled again, or never settles
ack-invoke      ``group``, ``topic``, ``partition``, ``positions``: about to be acked
flush           ``group``, ``open``: partitions of which some acks are not durable, though flush has come back
ack-ok          as ack-invoke: a flush after the ack came back, and the member still held the partition
fault-begin     ``fault`` (its number), ``kind``, ``members`` (whom it touches; null: all): about to be caused
fault-end       ``fault``, ``seen`` (effects that whoever caused it saw: processes ended, connections broken): about to
                be healed; for a kill, the process has ended
stored          as deliver, without ``group``: was read from the log itself, in its order
read-back       ``topic``: all of it that lay in the log was noted as stored
drained         ``group``, ``lag``: what the broker said; more than 0 when the time to recover was up
note            ``what`` and anything: for people, never judged
==============  ======================================================================================================

Positions are ``str(Position)``. :mod:`eventbus_conformance.checker` judges a history.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple, Self, TypeAlias

from eventbus_conformance.numbered import Numbered, read_numbered
from eventbus_core.records import Assignment, Delivery, Position, Stored

VERSION = 1

_BEGIN = b'{"event": '

Line: TypeAlias = dict[str, Any]

FaultKind: TypeAlias = Literal[
    "kill", "freeze", "broker-kill", "broker-stop", "broker-pause", "network", "group-forgotten", "other"
]
"""``kill`` and ``freeze`` are done to members. After ``group-forgotten`` acks from before it count no more."""


class Writer:
    """Appends to a history under one name. Each line is one system call, so lines of processes never mix.

    Thread-safe. Raises ``OSError`` when the file cannot be written; it must be there (see ``checker.begin``), so that
    its first line says what was expected.
    """

    def __init__(self, path: Path, by: str) -> None:
        self._file = os.open(path, os.O_WRONLY | os.O_APPEND)
        self._by = by

    def line(self, event: str, **fields: Any) -> None:
        """Append one line."""
        line = {"event": event, "by": self._by, "pid": os.getpid(), "at": time.monotonic(), **fields}
        data = json.dumps(line).encode() + b"\n"
        if os.write(self._file, data) != len(data):
            raise OSError("a line of the history was written in part; is the disk full?")

    def note(self, what: str, **fields: Any) -> None:
        """Write something for people."""
        self.line("note", what=what, **fields)

    def send_invoke(self, topic: str, record: Numbered) -> None:
        """About to send."""
        self.line("send-invoke", topic=topic, **record._asdict())

    def send_ok(self, record_id: str, stored: Stored) -> None:
        """The receipt says stored."""
        position = None if stored.position is None else str(stored.position)
        self.line("send-ok", id=record_id, topic=stored.topic, partition=stored.partition, position=position)

    def send_failed(self, record_id: str, error: BaseException) -> None:
        """The receipt says not stored."""
        self.line("send-failed", id=record_id, error=repr(error))

    def send_unknown(self, record_id: str, error: BaseException) -> None:
        """The receipt does not know."""
        self.line("send-unknown", id=record_id, error=repr(error))

    def holds(self, group: str, partitions: Iterable[tuple[str, int]]) -> None:
        """What this member holds now: topics and numbers of partitions."""
        self.line("holds", group=group, partitions=sorted(partitions))

    def lost(self, group: str, assignment: Assignment, reason: str) -> None:
        """This member was told that it lost a partition, without notice."""
        self.line("lost", group=group, topic=assignment.topic, partition=assignment.partition, reason=reason)

    def deliver(self, group: str, delivery: Delivery) -> None:
        """It was received."""
        self.line("deliver", group=group, **_place(delivery), **read_numbered(delivery.record)._asdict())

    def handle_start(self, group: str, delivery: Delivery) -> None:
        """It is about to be handled; call it only for what is ``owned``."""
        self.line("handle-start", group=group, **_place(delivery), id=read_numbered(delivery.record).id)

    def handle_end(self, group: str, delivery: Delivery) -> None:
        """It was handled with success."""
        self.line("handle-end", group=group, **_place(delivery), id=read_numbered(delivery.record).id)

    def handle_failed(self, group: str, delivery: Delivery) -> None:
        """Its handling failed."""
        self.line("handle-failed", group=group, **_place(delivery), id=read_numbered(delivery.record).id)

    def ack_invoke(self, group: str, deliveries: Iterable[Delivery]) -> None:
        """They are about to be acked. One line per partition."""
        self._acks("ack-invoke", group, deliveries)

    def ack_ok(self, group: str, deliveries: Iterable[Delivery]) -> None:
        """Their acks are durable.

        Only if ``flush`` returned 0 after them, they are still ``owned`` after it, and no earlier delivery of their
        partition is unacked: an ack behind a gap waits, and ``flush`` does not count it.
        """
        self._acks("ack-ok", group, deliveries)

    @contextlib.contextmanager
    def fault(self, kind: FaultKind, members: Iterable[str] | None = None) -> Iterator[Fault]:
        """Note a fault around what causes it; heal it after this, and tell :meth:`Fault.saw` what was seen of it."""
        fault = Fault()
        named = None if members is None else sorted(members)
        self.line("fault-begin", fault=fault.number, kind=kind, members=named)
        try:
            yield fault
        finally:
            self.line("fault-end", fault=fault.number, seen=fault.seen)

    def read_back(self, topic: str, log: Iterable[Delivery]) -> None:
        """Note all that lies in a topic, as it is read without a group."""
        for delivery in log:
            self.line("stored", **_place(delivery), **read_numbered(delivery.record)._asdict())
        self.line("read-back", topic=topic)

    def drained(self, group: str, lag: int) -> None:
        """What the broker says is unsettled: 0, or what was left when the time to recover was up."""
        self.line("drained", group=group, lag=lag)

    def close(self) -> None:
        """Close the file."""
        os.close(self._file)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _acks(self, event: str, group: str, deliveries: Iterable[Delivery]) -> None:
        positions: dict[tuple[str, int], list[str]] = defaultdict(list)
        for each in deliveries:
            positions[each.record.topic, each.partition].append(str(each.position))
        for (topic, partition), of in positions.items():
            self.line(event, group=group, topic=topic, partition=partition, positions=of)


class Fault:
    """A fault that lasts. ``seen``: how many effects of it were seen so far."""

    _numbers = itertools.count(1)

    def __init__(self) -> None:
        self.number = f"{os.getpid()}-{next(self._numbers)}"
        self.seen = 0

    def saw(self, effects: int = 1) -> None:
        """Effects were seen: a process ended, connections were broken, replies were dropped."""
        self.seen += effects


def _place(delivery: Delivery) -> Line:
    return {
        "topic": delivery.record.topic,
        "partition": delivery.partition,
        "position": str(delivery.position),
    }


class Handled(NamedTuple):
    """The begin of one handling of one record."""

    member: str
    pid: int
    key: str
    seq: int
    partition: int
    position: Position
    at: float


class History:
    """Reads a history while it is written: each call takes in what was appended since the last. Thread-safe.

    A process killed inside a ``write`` may leave a torn line, on which the next writer's line follows directly; that
    line is read, the torn one is left out and counted in ``torn``.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.torn = 0
        self._lines: list[Line] = []
        self._events: dict[str, list[Line]] = defaultdict(list)
        self._handled: list[Handled] = []
        self._delivered: dict[str | None, Line] = {}
        self._read_to = 0
        self._lock = threading.Lock()

    def lines(self) -> Sequence[Line]:
        """All lines so far, in the order of writing."""
        self._read_on()
        return tuple(self._lines)

    def events(self, event: str, by: str | None = None) -> list[Line]:
        """All lines of one kind, of one writer or of all."""
        self._read_on()
        return [each for each in self._events.get(event, ()) if by in {None, each["by"]}]

    def handled(self, member: str | None = None) -> Sequence[Handled]:
        """All handlings of numbered records in the order of their begin, of one member or of all."""
        self._read_on()
        return [each for each in self._handled if member in {None, each.member}]

    def handled_by(self) -> Counter[str]:
        """How many handlings each member has begun."""
        return Counter(each["by"] for each in self.events("handle-start"))

    def count(self) -> int:
        """How many different records were handled, at least to the begin."""
        return len({each["id"] for each in self.events("handle-start")})

    def held(self, member: str) -> frozenset[int]:
        """The partitions that a member of a group with one topic said last it holds."""
        said = self.events("holds", member)
        return frozenset(partition for _, partition in said[-1]["partitions"]) if said else frozenset()

    def _read_on(self) -> None:
        with self._lock:
            if not self.path.exists():
                return
            with self.path.open("rb") as file:
                file.seek(self._read_to)
                data = file.read()
            whole = data[: data.rfind(b"\n") + 1]
            self._read_to += len(whole)
            for raw in whole.splitlines():
                line, torn = _parse(raw)
                self.torn += torn
                if line is not None:
                    self._take(line)

    def _take(self, line: Line) -> None:
        self._lines.append(line)
        self._events[line["event"]].append(line)
        if line["event"] == "deliver":
            self._delivered[line.get("id")] = line
        elif line["event"] == "handle-start" and line.get("id") in self._delivered:
            delivered = self._delivered[line["id"]]
            position = Position.parse(line["position"])
            by, pid, at = line["by"], line["pid"], line["at"]
            key, seq = delivered["key"], delivered["kseq"]
            self._handled.append(Handled(by, pid, key, seq, line["partition"], position, at))


def _parse(raw: bytes) -> tuple[Line | None, bool]:
    with contextlib.suppress(ValueError):
        return json.loads(raw), False
    # Quotes inside strings are escaped, so this can only be the begin of a line.
    start = raw.rfind(_BEGIN)
    if start > 0:
        with contextlib.suppress(ValueError):
            return json.loads(raw[start:]), True
    return None, True

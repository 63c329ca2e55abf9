"""A history as the checker sees it: sendings, groups and faults, in the order of time."""

from __future__ import annotations

import dataclasses
import math
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from typing import Literal, NamedTuple, TypeAlias

from eventbus_conformance.history import FaultKind, Line

SendOutcome: TypeAlias = Literal["ok", "failed", "unknown"]


class Place(NamedTuple):
    """Where a record lies."""

    topic: str
    partition: int
    position: str

    def __str__(self) -> str:
        return f"{self.topic}[{self.partition}]@{self.position}"


@dataclasses.dataclass
class Sending:
    """One sending; unknown until something else is noted, so also when its sender was killed."""

    invoke: Line
    outcome: SendOutcome = "unknown"
    settled: Line | None = None

    @property
    def id(self) -> str:
        return str(self.invoke["id"])

    def by(self, moment: float) -> bool:
        """Whether it had been settled at that moment, or sent if it never was."""
        return float((self.settled or self.invoke)["at"]) <= moment


class Delivered(NamedTuple):
    """One delivery."""

    line: Line
    at: float
    member: str
    id: str | None
    place: Place


@dataclasses.dataclass
class Handling:
    """One handling. ``until``: when it ended, or the last moment at which it certainly had not."""

    line: Line
    at: float
    member: str
    id: str | None
    place: Place
    until: float
    ended: Line | None = None
    success: bool = False


class Hold(NamedTuple):
    """What a member says it holds from now on."""

    at: float
    member: str
    partitions: frozenset[tuple[str, int]]


class Loss(NamedTuple):
    """A member was told that a partition went elsewhere without notice."""

    line: Line
    at: float
    member: str
    partition: tuple[str, int]


@dataclasses.dataclass
class Group:
    """What one group did."""

    name: str
    from_latest: bool = False
    ready_at: float = math.inf
    deliveries: list[Delivered] = dataclasses.field(default_factory=list)
    handlings: list[Handling] = dataclasses.field(default_factory=list)
    acks_invoked: dict[Place, Line] = dataclasses.field(default_factory=dict)
    acks_ok: dict[Place, Line] = dataclasses.field(default_factory=dict)
    holds: list[Hold] = dataclasses.field(default_factory=list)
    losses: list[Loss] = dataclasses.field(default_factory=list)
    changes: list[float] = dataclasses.field(default_factory=list)
    drained: Line | None = None

    @property
    def is_drained(self) -> bool:
        """Whether the broker said at the end that nothing is unsettled."""
        return self.drained is not None and self.drained["lag"] == 0


@dataclasses.dataclass
class Fault:
    """Something that was done to members or to the broker. ``end`` is infinite while it is not healed."""

    line: Line
    kind: FaultKind
    members: frozenset[str] | None
    begin: float
    end: float = math.inf
    seen: int = 0

    @property
    def number(self) -> str:
        return str(self.line["fault"])

    def touches(self, member: str) -> bool:
        """Whether it is done to this member; what is done to the broker is done to all."""
        return self.members is None or member in self.members


class Run:
    """All that was noted, put in order. Raises ``ValueError`` for a line that belongs to no history."""

    def __init__(self, lines: Iterable[Line]) -> None:
        self.sendings: dict[str, Sending] = {}
        self.groups: dict[str, Group] = {}
        self.faults: dict[str, Fault] = {}
        self.log: list[Delivered] = []
        self.read_back: dict[str, Line] = {}
        self.last_line: dict[str, float] = {}
        self._open: dict[tuple[str, str, Place], Handling] = {}
        readers = self._readers()
        for line in sorted(lines, key=lambda each: float(each["at"])):
            try:
                readers[line["event"]](line)
            except (KeyError, TypeError) as error:
                raise ValueError(f"no line of a history ({error!r}): {line}") from error
            self.last_line[line["by"]] = line["at"]
        self._bound_unfinished()

    @property
    def seen(self) -> Iterator[Delivered]:
        """What was delivered to any group, or read from the log."""
        yield from self.log
        for group in self.groups.values():
            yield from group.deliveries

    def unexplained(self, group: Group) -> list[Loss]:
        """Losses of members to which nothing had been done."""
        faults = self.faults.values()
        return [
            loss
            for loss in group.losses
            if not any(fault.touches(loss.member) and fault.begin <= loss.at for fault in faults)
        ]

    def _readers(self) -> dict[str, Callable[[Line], None]]:
        return {
            "expectations": lambda _: None,
            "note": lambda _: None,
            "flush": lambda _: None,
            "send-invoke": self._send_invoke,
            "send-ok": lambda line: self._settle(line, "ok"),
            "send-failed": lambda line: self._settle(line, "failed"),
            "send-unknown": lambda line: self._settle(line, "unknown"),
            "join": self._join,
            "ready": self._ready,
            "holds": self._hold,
            "lost": self._lost,
            "leave": lambda line: self._group(line).changes.append(line["at"]),
            "deliver": self._deliver,
            "handle-start": self._handle_start,
            "handle-end": lambda line: self._handle_stop(line, success=True),
            "handle-failed": lambda line: self._handle_stop(line, success=False),
            "ack-invoke": lambda line: _take_acks(line, self._group(line).acks_invoked),
            "ack-ok": lambda line: _take_acks(line, self._group(line).acks_ok),
            "fault-begin": self._fault_begin,
            "fault-end": self._fault_end,
            "stored": lambda line: self.log.append(_delivered(line)),
            "read-back": lambda line: self.read_back.update({line["topic"]: line}),
            "drained": self._drained,
        }

    def _group(self, line: Line) -> Group:
        name = line["group"]
        if name not in self.groups:
            self.groups[name] = Group(name)
        return self.groups[name]

    def _send_invoke(self, line: Line) -> None:
        before = self.sendings.setdefault(line["id"], Sending(line))
        again = all(before.invoke[name] == line[name] for name in ("topic", "key", "kseq", "sha256"))
        if before.settled is not None or not again:
            raise ValueError(f"the id {line['id']!r} was given to two records; ids are unique in a run")

    def _settle(self, line: Line, outcome: SendOutcome) -> None:
        sending = self.sendings[line["id"]]
        sending.outcome = outcome
        sending.settled = line

    def _join(self, line: Line) -> None:
        group = self._group(line)
        if not group.changes:
            group.from_latest = line["start"] == "latest"
        group.changes.append(line["at"])

    def _ready(self, line: Line) -> None:
        group = self._group(line)
        group.ready_at = min(group.ready_at, line["at"])

    def _hold(self, line: Line) -> None:
        partitions = frozenset((topic, number) for topic, number in line["partitions"])
        group = self._group(line)
        group.holds.append(Hold(line["at"], line["by"], partitions))
        group.changes.append(line["at"])

    def _lost(self, line: Line) -> None:
        self._group(line).losses.append(Loss(line, line["at"], line["by"], (line["topic"], line["partition"])))

    def _deliver(self, line: Line) -> None:
        self._group(line).deliveries.append(_delivered(line))

    def _handle_start(self, line: Line) -> None:
        handling = Handling(line, line["at"], line["by"], line["id"], _place(line), line["at"])
        self._open[line["group"], line["by"], handling.place] = handling
        self._group(line).handlings.append(handling)

    def _handle_stop(self, line: Line, *, success: bool) -> None:
        handling = self._open.pop((line["group"], line["by"], _place(line)))
        handling.ended, handling.until, handling.success = line, line["at"], success

    def _fault_begin(self, line: Line) -> None:
        members = None if line["members"] is None else frozenset(line["members"])
        self.faults[line["fault"]] = Fault(line, line["kind"], members, line["at"])

    def _fault_end(self, line: Line) -> None:
        fault = self.faults[line["fault"]]
        fault.end, fault.seen = line["at"], line["seen"]

    def _drained(self, line: Line) -> None:
        self._group(line).drained = line

    def _bound_unfinished(self) -> None:
        # A killed member was at it until the kill at least; of others only the begin is known.
        kills = defaultdict(list)
        for fault in self.faults.values():
            if fault.kind == "kill":
                for member in fault.members or ():
                    kills[member].append(fault.begin)
        for handling in self._open.values():
            handling.until = min((at for at in kills[handling.member] if at >= handling.at), default=handling.at)


def _place(line: Line) -> Place:
    return Place(line["topic"], line["partition"], line["position"])


def _delivered(line: Line) -> Delivered:
    return Delivered(line, line["at"], line["by"], line["id"], _place(line))


def _take_acks(line: Line, acks: dict[Place, Line]) -> None:
    for position in line["positions"]:
        acks.setdefault(Place(line["topic"], line["partition"], position), line)

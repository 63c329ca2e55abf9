"""What the checker says."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from enum import Enum
from typing import Literal, NamedTuple, TypeAlias

from eventbus_conformance.history import Line

Outcome: TypeAlias = Literal["valid", "invalid", "unknown"]


class Kind(Enum):
    """A kind of broken promise."""

    LOST = "lost"
    """Reported stored, and never delivered to a group that is drained."""
    PHANTOM = "phantom"
    """Delivered, and never sent."""
    ABORTED = "aborted"
    """Reported not stored, and delivered."""
    CORRUPT = "corrupt"
    """Delivered with another value, key or number than was sent."""
    HOLE = "hole"
    """Delivered, and neither handled to the end nor acked as failed, though the group is drained."""
    UNSTUCK = "unstuck ack"
    """Delivered again though its ack was durable before the fault or move that brought it back."""
    REORDERED = "reordered"
    """A handling that skips a record of its key, passes one that failed, or goes back but not to the oldest unacked."""
    OVERLAP = "overlap"
    """Two records of one key were handled at the same time."""
    STORED_TWICE = "stored twice"
    """One sending lies at two positions."""
    DUPLICATES = "duplicates above bound"
    """Delivered more often than faults and moves explain."""
    STUCK = "stuck"
    """Still unsettled when the time to recover was up."""


class Finding(NamedTuple):
    """One broken promise. ``lines``: the lines of the history that show it."""

    kind: Kind
    message: str
    lines: tuple[Line, ...] = ()


@dataclasses.dataclass(frozen=True)
class Verdict:
    """The judgement of a history.

    ``findings`` make it invalid. ``doubts`` say what was not shown (too few records, a fault without effect, members
    that never shared); with doubts and no finding the outcome is unknown, which is never a pass. ``counts``: records
    sent, stored, failed, unknown, delivered, handled, repeated; members, partitions, moves, faults; takeover seconds.
    """

    findings: Sequence[Finding]
    doubts: Sequence[str]
    counts: Mapping[str, float]

    @property
    def outcome(self) -> Outcome:
        """One word."""
        if self.findings:
            return "invalid"
        return "unknown" if self.doubts else "valid"

    @property
    def kinds(self) -> frozenset[Kind]:
        """The kinds of broken promises."""
        return frozenset(each.kind for each in self.findings)

    def explain(self, most: int = 10) -> str:
        """The outcome and why, for people: at most so many findings of each kind."""
        said: list[str] = [self.outcome]
        for kind in Kind:
            of = [each for each in self.findings if each.kind is kind]
            said += [f"{kind.value}: {each.message}" for each in of[:most]]
            if len(of) > most:
                said.append(f"{kind.value}: {len(of) - most} more")
        said += [f"not shown: {each}" for each in self.doubts]
        said.append(", ".join(f"{name} {count:g}" for name, count in self.counts.items()))
        return "\n".join(said)

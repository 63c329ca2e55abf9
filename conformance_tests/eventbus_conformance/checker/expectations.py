"""What a run was to show, kept in the first line of its history."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any, Literal, Self, TypeAlias, cast

from eventbus_conformance.history import VERSION, Line, Writer
from eventbus_core.capabilities import Capabilities

Overlap: TypeAlias = Literal["never", "at freeze", "allowed"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Expectations:
    """What was promised, and how much must have happened for the promise to be shown.

    ``of`` takes the promises from a backend's capabilities.
    """

    # How much must have happened; with less the verdict is unknown.

    min_events: int = 1
    """Different records handled, in each group."""
    min_members: int = 1
    """Members that handled something, in the group that has most."""
    min_partitions: int = 1
    """Partitions of which something was handled, in each group."""
    min_moves: int = 0
    """Times a partition was held by another member than before, all groups together."""
    min_faults: int = 0
    """Faults of which an effect was seen."""
    min_unknown_sends: int = 0
    """Sendings whose outcome is not known: the fault met sendings in flight."""
    min_redelivered: int = 0
    """Handlings of what had been handled before."""

    # What is promised.

    ordered: bool = True
    """Each key is handled in the order of sending, and goes back only to its oldest unacked record."""
    overlap: Overlap = "at freeze"
    """Whether two members may handle one key at once. At freeze: only a handling that was in progress, or about to
    begin, when its member was frozen (a check of ``owned`` cannot see what happens after it)."""
    stored_once: bool = True
    """One sending lies at one position, whatever was lost (capability ``idempotent_send``)."""
    announced_moves: bool = True
    """A move without a fault repeats nothing."""
    max_in_flight: int | None = None
    """The most that one fault may repeat for each member it touches; None: whatever it touches (see ``repeats``)."""
    retries: int = 0
    """How often a failing handling is repeated in place."""
    handlers: int = 1
    """How many records a member handles at once."""

    @classmethod
    def of(cls, capabilities: Capabilities, **expected: Any) -> Self:
        """What a backend with these capabilities promises, and what else is expected."""
        promised: dict[str, Any] = {
            "stored_once": capabilities.idempotent_send,
            "announced_moves": capabilities.announced_moves,
            "overlap": "at freeze" if capabilities.announced_moves else "allowed",
        }
        return cls(**promised | expected)

    @classmethod
    def read(cls, first: Line) -> Self:
        """Read the first line of a history. Raises ``ValueError`` when it is another, or of another version."""
        if first.get("event") != "expectations":
            raise ValueError("the history does not begin with its expectations (see checker.begin)")
        if first.get("version") != VERSION:
            raise ValueError(f"the history has version {first.get('version')}, this checker reads version {VERSION}")
        return cls(**cast("dict[str, Any]", first["expectations"]))


def begin(path: Path, expectations: Expectations, **about: Any) -> None:
    """Begin a history with what it is to show. Raises ``FileExistsError`` when there is one already."""
    path.touch(exist_ok=False)
    with Writer(path, "test") as writer:
        writer.line("expectations", version=VERSION, expectations=dataclasses.asdict(expectations), about=about)

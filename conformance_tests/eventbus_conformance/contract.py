"""The clauses of ``contract.md``, which is the only place where they are written."""

from __future__ import annotations

import re
from functools import cache
from importlib.resources import files
from typing import Final, Literal, NamedTuple, TypeAlias, get_args

Level: TypeAlias = Literal["core", "semantics", "faults"]
LEVELS: Final[tuple[Level, ...]] = get_args(Level)

_CLAUSE = re.compile(
    r"^\*\*(?P<id>[A-Z]\d+)\*\* "
    r"\((?P<level>[a-z]+)(?:, if (?P<capability>\w+))?(?:, with (?P<control>\w+))?\) (?P<text>.+)"
)


class Clause(NamedTuple):
    """One sentence of the contract.

    ``capability``: holds only where the backend declares it. ``control``: shown only where the harness has it.
    """

    id: str
    level: Level
    capability: str | None
    control: str | None
    text: str

    @property
    def gate(self) -> str:
        """What it depends on, as the contract writes it; empty: on nothing."""
        parts = [f"if {self.capability}" if self.capability else "", f"with {self.control}" if self.control else ""]
        return ", ".join(filter(None, parts))


@cache
def contract() -> dict[str, Clause]:
    """All clauses by id, in the order in which they are written."""
    return parse(files("eventbus_conformance").joinpath("contract.md").read_text("utf-8"))


def parse(text: str) -> dict[str, Clause]:
    """The clauses of a contract. ``ValueError``: a paragraph that begins like a clause and is none, or an id twice."""
    found: dict[str, Clause] = {}
    for paragraph in re.split(r"\n\s*\n", text):
        if not paragraph.startswith("**"):
            continue
        match = _CLAUSE.match(" ".join(paragraph.split()))
        if match is None:
            raise ValueError(f"not a clause: {paragraph[:60]!r}; write '**X1** (level, if capability, with control) …'")
        level = next((each for each in LEVELS if each == match["level"]), None)
        if level is None:
            raise ValueError(f"clause {match['id']}: no level {match['level']!r}; there are {', '.join(LEVELS)}")
        clause = Clause(match["id"], level, match["capability"], match["control"], match["text"])
        if clause.id in found:
            raise ValueError(f"clause {clause.id} is written twice")
        found[clause.id] = clause
    return found

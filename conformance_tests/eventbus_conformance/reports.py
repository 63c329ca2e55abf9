"""Reports of runs, read back from JSON to be compared."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final, NamedTuple, cast, get_args

from eventbus_conformance.outcomes import Outcome
from eventbus_conformance.report import FORMAT

TAKEOVERS: Final = ("takeover", "worst takeover seconds")
"""What reports call the time until another member had the partitions of one that died."""


class Told(NamedTuple):
    """The outcome of a clause in one report, and why where it is no pass. ``outcome`` None: its level was not run."""

    outcome: Outcome | None
    reason: str


class ClauseText(NamedTuple):
    """A clause as a report has it."""

    id: str
    level: str
    gate: str
    text: str


class Unfit(ValueError):
    """Reports that cannot be compared; the message says which and why."""


class Report:
    """One backend with one way of running its broker.

    ``Unfit``: it is of another format, or of a run that is incomplete.
    """

    def __init__(self, document: Mapping[str, Any], name: str) -> None:
        if document.get("format") != FORMAT:
            raise Unfit(f"{name} is no report of format {FORMAT}; run the suite again with --eventbus-report")
        if not document["complete"]:
            raise Unfit(f"{name} is of an incomplete run, which gives no verdict; run the whole suite")
        if document["capabilities"] is None:
            raise Unfit(f"{name} is of a run whose broker never came up; run the suite again")
        self.document = document
        self.backend: str = document["backend"]
        self.profile: str = document["profile"]
        self.profile_is: str = document["profile_is"]
        self.ended: str = document["ended"]
        self.minutes: float = document["seconds"] / 60
        self.levels: Sequence[str] = document["levels"]
        self.seed: int = document["seed"]
        self.versions: Mapping[str, str] = document["versions"]
        self.counts: Mapping[str, int] = document["counts"]
        self.worst: Mapping[str, float] = document["worst_seconds"]
        self.capabilities: Mapping[str, Mapping[str, Any]] = document["capabilities"]
        self.clauses = {
            each["id"]: ClauseText(each["id"], each["level"], each["gate"], each["text"])
            for each in document["clauses"]
        }
        self._told = {each["id"]: Told(each["outcome"], each["reason"]) for each in document["clauses"]}
        unknown = {each.outcome for each in self._told.values()} - set(get_args(Outcome))
        if unknown:
            raise Unfit(f"{name} has outcomes that the suite does not give: {', '.join(map(str, unknown))}")

    def told(self, clause: str) -> Told:
        """The outcome of a clause."""
        return self._told.get(clause, Told(None, "its level was not run"))

    def passes(self, *clauses: str) -> bool:
        """Whether all of these clauses were shown to hold."""
        return all(self.told(each).outcome == "pass" for each in clauses)

    def value(self, capability: str) -> object:
        """What the backend declares."""
        return self.capabilities[capability]["value"]

    @property
    def totals(self) -> Mapping[Outcome, int]:
        """How many clauses ended so, best first."""
        return {
            each: number for each in reversed(get_args(Outcome)) if (number := self.document["outcomes"].get(each, 0))
        }

    @property
    def takeover(self) -> float | None:
        """The longest time measured until another member had the partitions of one that died, in seconds."""
        return max((self.worst[name] for name in TAKEOVERS if name in self.worst), default=None)


def read(paths: Iterable[Path]) -> list[Report]:
    """The reports of these files, by backend and profile.

    Raises ``OSError``; ``Unfit``: one is no report or incomplete, two are of the same profile, or they were made with
    different contracts.
    """
    found: dict[tuple[str, str], Report] = {}
    texts: dict[str, ClauseText] = {}
    for path in paths:
        report = Report(_document(path), str(path))
        if (report.backend, report.profile) in found:
            raise Unfit(f"{path} is a second report of {report.backend}, {report.profile}; leave one out")
        found[report.backend, report.profile] = report
        for clause in report.clauses.values():
            if texts.setdefault(clause.id, clause) != clause:
                raise Unfit(f"{path} has another clause {clause.id} than the reports before it; run the suite again")
    return [found[key] for key in sorted(found)]


def _document(path: Path) -> Mapping[str, Any]:
    try:
        document = json.loads(path.read_text("utf-8"))
    except ValueError as error:
        raise Unfit(f"{path} is no report: {error}") from error
    if not isinstance(document, dict):
        raise Unfit(f"{path} is no report")
    return cast("Mapping[str, Any]", document)

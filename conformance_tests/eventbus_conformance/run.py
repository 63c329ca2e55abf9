"""One run of the suite: the broker, what its backend declares, and what has been seen so far."""

from __future__ import annotations

import dataclasses
import time
from collections import Counter
from pathlib import Path
from typing import Final

import pytest

from eventbus_conformance.contract import Level
from eventbus_conformance.harness import Bounds, Harness, NoBroker
from eventbus_conformance.outcomes import ClauseResult, Result, of_clauses
from eventbus_core import EventBus
from eventbus_core.capabilities import Capabilities

NO_BROKER_EXIT: Final = 5
"""The exit code when there is no broker: pytest's own for "nothing was run"."""


@dataclasses.dataclass(frozen=True)
class Options:
    """What was asked for on the command line."""

    levels: tuple[Level, ...]
    scale: float
    seed: int
    faults_seconds: float
    report: Path | None
    histories: Path | None
    partial: bool


class Measurements:
    """Numbers for the report: sums, and worst cases in seconds."""

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()
        self.worst: dict[str, float] = {}

    def add(self, name: str, number: int = 1) -> None:
        """Add to a sum."""
        self.counts[name] += number

    def took(self, name: str, seconds: float) -> None:
        """Remember the worst case."""
        self.worst[name] = max(seconds, self.worst.get(name, 0.0))


class Run:
    """The broker comes up with the first test, and goes when the session ends."""

    def __init__(self, harness: Harness, options: Options) -> None:
        self.harness = harness
        self.options = options
        self.measured = Measurements()
        self.results: dict[str, Result] = {}
        self.missing: list[str] = []
        self.collected: set[str] = set()
        self.capabilities: Capabilities | None = None
        self.started = time.monotonic()

    @property
    def bounds(self) -> Bounds:
        """The harness's time bounds, scaled."""
        return self.harness.bounds.scaled(max(1.0, self.options.scale))

    def start(self) -> Capabilities:
        """Have the broker, and what its backend declares; ends the whole session where that cannot be."""
        if self.capabilities is None:
            try:
                self.harness.up()
            except NoBroker as error:
                pytest.exit(f"NO BROKER: {self.harness.backend}: {error}", returncode=NO_BROKER_EXIT)
            except AssertionError as error:
                # Something is there and does not work: every test would wait for it, and say less.
                pytest.exit(f"the broker does not work: {error}", returncode=pytest.ExitCode.TESTS_FAILED)
            with EventBus(self.harness.url()) as bus:
                self.capabilities = bus.capabilities
        return self.capabilities

    @property
    def left_out(self) -> list[str]:
        """What the verdict lacks: tests that were not collected, or did not run."""
        return self.missing + sorted(self.collected - self.results.keys())

    def clauses(self) -> list[ClauseResult]:
        """The outcome of every clause of the levels asked for."""
        return of_clauses(self.options.levels, list(self.results.values()), self.capabilities, self.harness)


RUN: Final = pytest.StashKey[Run]()

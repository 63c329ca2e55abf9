"""A verdict counts only if the whole suite ran, as it is: nothing left out, replaced or overridden."""

from __future__ import annotations

import ast
from collections.abc import Collection, Iterable
from pathlib import Path
from typing import Final

import pytest

from eventbus_conformance.clauses import cited, denials
from eventbus_conformance.contract import LEVELS, Level, contract
from eventbus_conformance.harness import Harness

PACKAGE: Final = "eventbus_conformance"
ROOT: Final = Path(__file__).parent


def level_of(item: pytest.Item) -> Level | None:
    """The level that a test of the suite belongs to: its folder. None: it is no test of the suite."""
    if not item.path.is_relative_to(ROOT):
        return None
    folder = item.path.relative_to(ROOT).parts[0]
    return next((level for level in LEVELS if level == folder), None)


def name_of(item: pytest.Item) -> str:
    """What results call a test: file and function, without the path to the package."""
    return f"{item.path.relative_to(ROOT).as_posix()}::{item.name}"


def written(levels: Collection[Level]) -> set[str]:
    """Every test function of these levels, read from the source: file and function."""
    found = set()
    for level in levels:
        for path in sorted((ROOT / level).glob("test_*.py")):
            for node in ast.walk(ast.parse(path.read_text("utf-8"))):
                if isinstance(node, ast.FunctionDef) and node.name.startswith("test_"):
                    found.add(f"{path.relative_to(ROOT).as_posix()}::{node.name}")
    return found


def is_wanted(item: pytest.Item, levels: Collection[Level]) -> bool:
    """Whether a test of the suite runs: it is of these levels, or probes the denial of what their clauses rest on."""
    rested_on = {each.capability for each in contract().values() if each.level in levels}
    return level_of(item) in levels or not rested_on.isdisjoint(denials(item))


def refuse_copies(items: Iterable[pytest.Item]) -> None:
    """``pytest.UsageError`` for a test of the suite that is run from elsewhere, as a copy that may be changed."""
    for item in items:
        home = getattr(getattr(item, "obj", None), "__module__", None) or ""
        if level_of(item) is None and (home.startswith(f"{PACKAGE}.") or item.get_closest_marker("clause")):
            raise pytest.UsageError(
                f"{item.nodeid} is, or claims to be, a test of the conformance suite; run those with "
                f"'pytest --pyargs {PACKAGE} --eventbus-backend NAME', as they are"
            )


def missing(levels: Collection[Level], items: Iterable[pytest.Item]) -> list[str]:
    """What is in the source of the suite and not among these tests; clauses that no test cites."""
    own = [item for item in items if level_of(item) in levels]
    collected = {name_of(item).partition("[")[0] for item in own}
    shown = {each.id for item in own for each in cited(item)}
    unshown = [each.id for each in contract().values() if each.level in levels and each.id not in shown]
    return sorted(written(levels) - collected) + [f"clause {each}" for each in unshown]


def refuse_overriding(fixture: str, module: str) -> None:
    """``pytest.UsageError`` when a fixture of the suite comes from elsewhere."""
    if module != PACKAGE and not module.startswith(f"{PACKAGE}."):
        raise pytest.UsageError(f"{module} overrides the fixture {fixture!r} of the conformance suite; rename it")


def mark_known_failures(harness: Harness, items: Iterable[pytest.Item]) -> None:
    """Expect the failures that the harness declares, strictly. ``pytest.UsageError``: no such test, reason or link."""
    every = {each.partition("::")[2] for each in written(LEVELS)}
    known = {each.test: each for each in harness.expected_failures}
    for each in harness.known_failures:
        if each.test not in every:
            raise pytest.UsageError(f"known failure {each.test!r}: the suite has no such test")
        if not each.reason or not each.link.startswith(("https://", "http://")):
            raise pytest.UsageError(f"known failure {each.test!r} needs a reason, and a link to where it is tracked")
        if each.profile not in {None, *harness.profiles}:
            raise pytest.UsageError(f"known failure {each.test!r}: there is no profile {each.profile!r}")
    for item in items:
        found = known.get(item.name.partition("[")[0])
        if found is not None:
            item.add_marker(pytest.mark.xfail(strict=True, reason=f"{found.reason} ({found.link})"))

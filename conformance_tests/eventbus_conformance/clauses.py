"""What a test says of itself: the clauses it shows, and what must be there for it to show them."""

from __future__ import annotations

from typing import Final

import pytest
from _pytest.outcomes import Skipped  # pytest.skip.Exception, which type checkers take for a value

from eventbus_conformance.contract import Clause, contract
from eventbus_conformance.harness import Harness
from eventbus_core.capabilities import Capabilities, Durability, Reach

CLAUSE: Final = "clause"
DENIED: Final = "denied"


class NotProven(Skipped):
    """Raised by a test, or for it: something that it needs is not there. Never a pass."""


class NotDeclared(Skipped):
    """Raised for a test that asks for a capability which the backend denies, or probes one that it declares."""


class Unknown(AssertionError):
    """Raised by a test whose run showed nothing: too little happened, or a fault had no effect. Never a pass."""


def clause(*ids: str) -> pytest.MarkDecorator:
    """The test shows these clauses. It runs where the gates of all of them are open."""
    return pytest.mark.clause(*ids)


def denied(capability: str) -> pytest.MarkDecorator:
    """The test probes that a capability is refused, or has no effect: it runs where the backend denies it."""
    return pytest.mark.denied(capability)


def cited(item: pytest.Item) -> tuple[Clause, ...]:
    """The clauses that a test cites. ``pytest.UsageError``: none, or one that is not in the contract."""
    known = contract()
    ids = [each for mark in item.iter_markers(CLAUSE) for each in mark.args]
    unknown = sorted(set(ids) - known.keys())
    if unknown or not ids:
        raise pytest.UsageError(f"{item.nodeid} cites {', '.join(unknown) or 'no clause'}; see contract.md")
    return tuple(known[each] for each in dict.fromkeys(ids))


def denials(item: pytest.Item) -> tuple[str, ...]:
    """The capabilities whose denial a test probes."""
    return tuple(each for mark in item.iter_markers(DENIED) for each in mark.args)


def declares(capabilities: Capabilities, name: str) -> bool:
    """Whether a backend promises anything under this name: not False, and not the least durability or reach."""
    return getattr(capabilities, name) not in {False, Durability.NONE, Reach.PROCESS}


def check_gates(item: pytest.Item, capabilities: Capabilities, harness: Harness) -> None:
    """Raise ``NotDeclared`` or ``NotProven`` where a test cannot run."""
    for capability in denials(item):
        if declares(capabilities, capability):
            raise NotDeclared(f"capability {capability} is declared: nothing is denied")
    clauses = cited(item)
    for each in clauses:
        if each.capability and not declares(capabilities, each.capability):
            raise NotDeclared(f"capability {each.capability} is not declared ({each.id})")
    for each in clauses:
        if each.control and not harness.has(each.control):
            raise NotProven(f"the harness has no control {each.control!r} here ({each.id})")

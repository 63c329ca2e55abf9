"""The contract and the tests that cite it say the same."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

from eventbus_conformance.contract import LEVELS, contract, parse
from eventbus_conformance.guard import ROOT, written

REPOSITORY = Path(__file__).parents[2]


def citations() -> dict[str, set[str]]:
    """Test functions by the clauses that they cite, read from the source."""
    found: dict[str, set[str]] = {}
    for level in LEVELS:
        for path in (ROOT / level).glob("test_*.py"):
            for node in ast.walk(ast.parse(path.read_text())):
                if isinstance(node, ast.FunctionDef) and node.name.startswith("test_"):
                    cited = [
                        argument.value
                        for call in node.decorator_list
                        if isinstance(call, ast.Call) and isinstance(call.func, ast.Name) and call.func.id == "clause"
                        for argument in call.args
                        if isinstance(argument, ast.Constant)
                    ]
                    assert cited, f"{path.name}::{node.name} cites no clause"
                    for each in cited:
                        found.setdefault(str(each), set()).add(f"{level}/{path.name}::{node.name}")
    return found


def test_every_clause_is_tested_at_its_level_and_every_citation_exists() -> None:
    cited = citations()
    assert sorted(cited) == sorted(contract())
    for clause in contract().values():
        assert any(test.startswith(f"{clause.level}/") for test in cited[clause.id]), clause.id


def test_the_source_of_the_suite_is_read() -> None:
    assert {name.partition("/")[0] for name in written(LEVELS)} == set(LEVELS)
    assert set().union(*citations().values()) == written(LEVELS)


def test_the_docs_are_the_contract_itself() -> None:
    assert (REPOSITORY / "docs/contract.md").resolve() == ROOT / "contract.md"


def test_clauses_are_read_with_their_gates() -> None:
    text = "Words.\n\n**X1** (core) One\nsentence.\n\n**X2** (faults, if durability, with kill) Two."
    one, two = parse(text).values()
    assert (one.id, one.level, one.gate, one.text) == ("X1", "core", "", "One sentence.")
    assert (two.capability, two.control, two.gate) == ("durability", "kill", "if durability, with kill")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("**X1** (core) A.\n\n**X1** (core) B.", "written twice"),
        ("**X1** (other) A.", "no level 'other'"),
        ("**X1** (core, when it rains) A.", "not a clause"),
        ("**X1** A.", "not a clause"),
    ],
)
def test_a_malformed_contract_is_refused(text: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        parse(text)

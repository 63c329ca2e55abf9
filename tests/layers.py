"""Which module may import which: read from the source, so that imports inside functions count too."""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

CORE_LAYERS: tuple[frozenset[str], ...] = (
    frozenset({"records", "errors", "capabilities", "partitioning", "ids", "forking"}),
    frozenset(
        {
            "backend",
            "hooks",
            "watermark",
            "holds",
            "acks",
            "commands",
            "outage",
            "ownership",
            "receipts",
            "sendbuffer",
            "codecs",
            "structured",
            "validation",
        }
    ),
    frozenset({"loading", "memory", "events"}),
    frozenset({"setting_errors", "setting_sources", "settings", "envelope"}),
    frozenset({"producer", "consumer", "intake", "admin"}),
    frozenset({"failures", "outbox", "subscriptions", "subscribing", "bus", "dead_letters"}),
    frozenset({"worker", "testing", "aio", "process"}),
    frozenset({"cli"}),
)
"""From the bottom up. A module imports its own row and the rows below it."""

CORE_MAY_IMPORT = frozenset({"pydantic", "pydantic_core", "pydantic_settings", "stevedore", "msgspec"})
CLI_MAY_IMPORT = CORE_MAY_IMPORT | {"typer", "rich", "click", "watchfiles"}
TESTING_MAY_IMPORT = CORE_MAY_IMPORT | {"pytest"}
BACKEND_MAY_IMPORT: Mapping[str, frozenset[str]] = {
    "eventbus_kafka": frozenset({"confluent_kafka"}),
    "eventbus_pulsar": frozenset({"pulsar", "_pulsar", "httpx"}),
    "eventbus_redis": frozenset({"redis", "hiredis"}),
}
PLUGINS_SEE = frozenset({"records", "errors", "capabilities", "partitioning", "backend"})
"""What a backend may know of core."""


def imports(path: Path, package: str) -> Iterator[str]:
    """The absolute dotted names that a module imports; names taken from a package count as its modules."""
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            module = node.module or ""
            if node.level:
                base = package.split(".")[: len(package.split(".")) - node.level + 1]
                module = ".".join([*base, module] if module else base)
            if module == "eventbus_core":
                yield from (f"eventbus_core.{alias.name}" for alias in node.names)
            else:
                yield module


def modules(root: Path) -> Iterator[tuple[Path, str, str]]:
    """Path, dotted package and name of the first part below the root, for every module of a package."""
    for path in sorted(root.rglob("*.py")):
        inside = path.relative_to(root).with_suffix("").parts
        yield path, ".".join((root.name, *inside[:-1])), inside[0]


def violations_of_core(root: Path) -> list[str]:
    """What breaks the rules of core: foreign packages, imports upwards, modules without a row."""
    row = {name: number for number, names in enumerate(CORE_LAYERS) for name in names}
    found = []
    for path, package, own in modules(root):
        if own == "__init__":
            continue  # names only; test_public_api looks at it
        if own not in row:
            found.append(f"{own}: has no place in CORE_LAYERS")
            continue
        foreign = {"cli": CLI_MAY_IMPORT, "testing": TESTING_MAY_IMPORT}.get(own, CORE_MAY_IMPORT)
        for name in imports(path, package):
            top, _, rest = name.partition(".")
            if top == "eventbus_core":
                target = rest.partition(".")[0]
                if own != "cli" and row.get(target, len(CORE_LAYERS)) > row[own]:
                    found.append(f"{path.name}: imports upwards: {name}")
            elif not _standard(top) and top not in foreign:
                found.append(f"{path.name}: imports {name}")
    return found


def violations_of_backend(root: Path) -> list[str]:
    """What breaks the rules of a backend: siblings, foreign packages, core beyond the plugin interface."""
    allowed = BACKEND_MAY_IMPORT.get(root.name, frozenset()) | {"pydantic", "pydantic_core", root.name}
    found = []
    for path, package, own in modules(root):
        # The harness of the conformance suite is part of the tests; nothing else of the backend imports it.
        harness = {"eventbus_conformance"} if own.startswith("conformance") else set()
        for name in imports(path, package):
            top, _, rest = name.partition(".")
            if top == "eventbus_core":
                if rest.partition(".")[0] not in PLUGINS_SEE:
                    found.append(f"{path.name}: knows {name}")
            elif not _standard(top) and top not in allowed | harness:
                found.append(f"{path.name}: imports {name}")
    return found


def _standard(top: str) -> bool:
    return top in sys.stdlib_module_names

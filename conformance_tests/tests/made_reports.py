"""Reports as a run writes them, made by hand."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from eventbus_conformance.contract import LEVELS, contract
from eventbus_core.capabilities import Durability, Reach
from eventbus_core.memory import MemoryBackend

DECLARED = MemoryBackend.capabilities


def report(
    profile: str = "acme",
    *,
    backend: str = "acme",
    outcomes: Mapping[str, tuple[str, str]] | None = None,
    capabilities: Mapping[str, object] | None = None,
    levels: tuple[str, ...] = LEVELS,
    **changes: Any,
) -> dict[str, Any]:
    """All clauses of the levels pass but those in ``outcomes``: outcome and reason."""
    told = outcomes or {}
    clauses = [
        {**each._asdict(), "gate": each.gate, "outcome": told.get(each.id, ("pass", ""))[0], "reason": reason}
        for each in contract().values()
        if each.level in levels
        for reason in [told.get(each.id, ("pass", ""))[1]]
    ]
    values = {"durability": Durability.PROCESS.value, "reach": Reach.NETWORK.value, **(capabilities or {})}
    return {
        "format": 1,
        "backend": backend,
        "profile": profile,
        "profile_is": "one server",
        "ended": "2026-01-02T03:04:05+00:00",
        "levels": list(levels),
        "complete": True,
        "left_out": [],
        "seed": 7,
        "scale": 1.0,
        "seconds": 120.0,
        "versions": {"suite": "0.1.0", "client": "acme-client 2.5", "broker": "acme/acme:3.1 (sha256:abc)"},
        "capabilities": {
            name: {"value": values.get(name, getattr(DECLARED, name)), "source": source}
            for name, source in DECLARED.sources.items()
        },
        "outcomes": dict(Counter(each["outcome"] for each in clauses)),
        "clauses": clauses,
        "tests": [],
        "known_failures": [],
        "counts": {"sent": 1200, "repeated": 3, "faults": 5},
        "worst_seconds": {"takeover": 2.5, "worst takeover seconds": 4.25},
        **changes,
    }


def written(folder: Path, *reports: Mapping[str, Any]) -> list[str]:
    """The paths of files that hold them, as a command line names them."""
    paths = []
    for number, document in enumerate(reports):
        path = folder / f"{number}.json"
        path.write_text(json.dumps(document))
        paths.append(str(path))
    return paths

"""``eventbus backends``: which backends are installed, and what they can do."""

from __future__ import annotations

import dataclasses
from enum import Enum
from typing import Any

import typer

from eventbus_core.capabilities import Capabilities
from eventbus_core.cli.options import JsonOption
from eventbus_core.cli.output import print_json, print_table
from eventbus_core.loading import Installed, installed


def backends(*, as_json: JsonOption = False) -> None:
    """List the installed backends, their versions and capabilities. Exit code 1 if one of them cannot be loaded."""
    found = installed()
    if as_json:
        print_json([_document(each) for each in found])
    else:
        print_table(
            ["backend", "distribution", "version", "problem"],
            [(each.name, each.distribution, each.version, each.problem) for each in found],
        )
        loaded = [each for each in found if each.backend is not None]
        rows = [_abilities(each.backend.capabilities) for each in loaded if each.backend is not None]
        typer.echo()
        print_table(
            ["capability", *(each.name for each in loaded)],
            [(name, *(row[name] for row in rows)) for name in (rows[0] if rows else ())],
        )
    if any(each.problem for each in found):
        raise typer.Exit(1)


def _document(each: Installed) -> dict[str, Any]:
    capabilities = None
    if each.backend is not None:
        known = each.backend.capabilities
        capabilities = {
            name: {"value": value, "source": known.sources[name]} for name, value in _abilities(known).items()
        }
    return {
        "name": each.name,
        "distribution": each.distribution,
        "version": each.version,
        "problem": each.problem,
        "capabilities": capabilities,
    }


def _abilities(capabilities: Capabilities) -> dict[str, Any]:
    values = {field.name: getattr(capabilities, field.name) for field in dataclasses.fields(capabilities)}
    del values["sources"]
    return {name: value.value if isinstance(value, Enum) else value for name, value in values.items()}

"""Finds the bus of an application: ``package.module:name``."""

from __future__ import annotations

import importlib
import sys
import traceback
from pathlib import Path

from eventbus_core.bus import EventBus
from eventbus_core.errors import UsageError


def load_bus(target: str) -> EventBus:
    """Import the module and return its bus. The current directory can be imported from, as with ``python -m``.

    Raises ``UsageError``: not ``module:name``, no such module or name, not an ``EventBus``, or the module itself failed
    (with the place in it).
    """
    module_name, colon, name = target.partition(":")
    if not colon or not module_name or not name:
        raise UsageError(f"{target!r} is not MODULE:NAME, such as shop.handlers:bus")
    here = str(Path.cwd())
    if here not in sys.path:
        sys.path.insert(0, here)
    try:
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        if error.name is not None and (module_name == error.name or module_name.startswith(f"{error.name}.")):
            raise UsageError(f"there is no module {error.name!r} on the path or in {here}") from error
        raise UsageError(_failure(module_name, error)) from error
    except Exception as error:
        raise UsageError(_failure(module_name, error)) from error
    bus: object = module
    for part in name.split("."):
        bus = getattr(bus, part, None)
    if not isinstance(bus, EventBus):
        buses = sorted(each for each, value in vars(module).items() if isinstance(value, EventBus))
        found = f"it has {', '.join(f'{module_name}:{each}' for each in buses)}" if buses else "it has none"
        raise UsageError(f"{target!r} is no EventBus ({type(bus).__name__}); {found}")
    return bus


def _failure(module_name: str, error: Exception) -> str:
    where = traceback.extract_tb(error.__traceback__)[-1]
    return f"importing {module_name!r} failed: {type(error).__name__}: {error} ({where.filename}, line {where.lineno})"

"""Finding and loading backends: stevedore, in this module only.

Entry points of group ``eventbus.backends`` name classes, never instances (stevedore takes a falsy instance for a
missing one). What is installed is listed through ``importlib.metadata``, because stevedore's cache forgets which
distribution an entry point came from.
"""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from importlib.metadata import EntryPoint, entry_points
from typing import Any, NamedTuple

from stevedore import NamedExtensionManager

from eventbus_core.backend import API_VERSION, Backend
from eventbus_core.errors import LoadError

GROUP = "eventbus.backends"

KNOWN_DISTRIBUTIONS = {"kafka": "eventbus-kafka", "pulsar": "eventbus-pulsar", "redis": "eventbus-redis"}
"""Backends of this project that are installed separately."""


class Installed(NamedTuple):
    """A backend that some distribution claims. ``backend`` is None where it cannot be loaded; ``problem`` says why."""

    name: str
    distribution: str
    version: str
    backend: type[Backend[Any]] | None
    problem: str | None


def names() -> tuple[str, ...]:
    """The names of the installed backends, sorted. Imports none of them."""
    return tuple(sorted({entry.name for entry in entry_points(group=GROUP)}))


def load(name: str) -> type[Backend[Any]]:
    """The class of a backend. Imports its client library; does no I/O beyond that.

    Raises:
        LoadError: With one of five reasons. ``unknown``: no distribution offers it. ``client_missing``: a module it
            needs is not installed. ``import_failed``: the import raised anything else (``__cause__``), or what the
            entry point names is no backend. ``version_mismatch``: it was written for another plugin interface.
            ``duplicate``: two distributions offer it.
    """
    claims = [entry for entry in entry_points(group=GROUP) if entry.name == name]
    if not claims:
        raise LoadError(_unknown(name), reason="unknown", backend=name)
    if len(claims) > 1:
        raise LoadError(
            f"backend {name!r} is offered by {' and '.join(map(_describe, claims))}: uninstall all but one",
            reason="duplicate",
            backend=name,
        )
    return _checked(claims[0], _import(claims[0]))


def installed() -> list[Installed]:
    """Every claim to a backend's name, by name, each loaded to see whether it can be. Never raises for a broken one."""
    found = []
    for entry in sorted(entry_points(group=GROUP), key=lambda one: (one.name, _distribution(one))):
        backend, problem = None, None
        try:
            backend = load(entry.name)
        except LoadError as error:
            problem = str(error)
        found.append(Installed(entry.name, _distribution(entry), _version(entry), backend, problem))
    return found


def _import(entry: EntryPoint) -> object:
    failures: list[BaseException] = []
    try:
        manager: NamedExtensionManager[Any] = NamedExtensionManager(
            namespace=GROUP,
            names=[entry.name],
            on_load_failure_callback=lambda _manager, _entry, error: failures.append(error),
            on_missing_entrypoints_callback=None,
        )
    except AssertionError as error:  # the one Exception that stevedore does not hand to the callback
        raise _import_error(entry, error) from error
    if failures:
        raise _import_error(entry, failures[0]) from failures[0]
    extensions = manager.extensions
    # stevedore reads a cache of its own, which may lag behind a distribution that was installed just now.
    return extensions[0].plugin if extensions else entry.load()


def _import_error(entry: EntryPoint, error: BaseException) -> LoadError:
    package = entry.module.partition(".")[0]
    if isinstance(error, ModuleNotFoundError) and error.name:
        missing = error.name.partition(".")[0]
        if missing not in {package, "eventbus_core"}:
            return LoadError(
                f"backend {entry.name!r} needs the module {error.name!r}, which is not installed: "
                f"pip install {_distribution(entry)}",
                reason="client_missing",
                backend=entry.name,
            )
    return LoadError(
        f"backend {entry.name!r} of {_describe(entry)} cannot be imported from {entry.value!r}: "
        f"{type(error).__name__}: {error}",
        reason="import_failed",
        backend=entry.name,
    )


def _checked(entry: EntryPoint, found: object) -> type[Backend[Any]]:
    if not (isinstance(found, type) and issubclass(found, Backend)):
        raise LoadError(
            f"backend {entry.name!r} of {_describe(entry)}: its entry point {entry.value!r} must name a subclass of "
            f"eventbus_core.backend.Backend",
            reason="import_failed",
            backend=entry.name,
        )
    version = getattr(found, "api_version", None)
    if version == API_VERSION:
        return found
    if isinstance(version, int) and version > API_VERSION:
        remedy = "pip install --upgrade eventbus-core"
    else:
        remedy = f"pip install --upgrade {_distribution(entry)}"
    raise LoadError(
        f"backend {entry.name!r} of {_describe(entry)} was written for version {version} of the plugin interface, this "
        f"eventbus-core has version {API_VERSION}: {remedy}",
        reason="version_mismatch",
        backend=entry.name,
    )


def _unknown(name: str) -> str:
    have = names()
    listed = f"installed are {', '.join(have)}" if have else "none is installed"
    if name in KNOWN_DISTRIBUTIONS:
        return f"backend {name!r} is not installed ({listed}): pip install {KNOWN_DISTRIBUTIONS[name]}"
    return f"there is no backend {name!r}; {listed}{nearest(name, [*have, *KNOWN_DISTRIBUTIONS])}"


def nearest(name: str, right: Sequence[str]) -> str:
    """``; did you mean '...'?`` for the most similar of the right names, or nothing."""
    close = difflib.get_close_matches(name, right, n=1, cutoff=0.5)
    return f"; did you mean {close[0]!r}?" if close else ""


def _distribution(entry: EntryPoint) -> str:
    return entry.dist.name if entry.dist is not None else "an unknown distribution"


def _version(entry: EntryPoint) -> str:
    return entry.dist.version if entry.dist is not None else "?"


def _describe(entry: EntryPoint) -> str:
    return f"{_distribution(entry)} {_version(entry)}"

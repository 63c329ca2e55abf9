"""The pytest plugin: ``pytest --pyargs eventbus_conformance --eventbus-backend NAME``.

Does nothing, and imports nothing of the bus, where no backend is named: every pytest of its environment loads it.
"""

from __future__ import annotations

from pathlib import Path

import pytest


def pytest_addoption(parser: pytest.Parser) -> None:
    """The options."""
    group = parser.getgroup("eventbus", "conformance of an eventbus backend")
    group.addoption("--eventbus-backend", metavar="NAME", help="the backend to test, as its harness is installed")
    group.addoption(
        "--eventbus-profile", metavar="NAME", help="which way to run the broker (default: the harness's first)"
    )
    group.addoption(
        "--eventbus-level", default="core,semantics,faults", help="which levels, by commas (default: %(default)s)"
    )
    group.addoption("--eventbus-scale", type=float, default=1.0, help="so many times the work and the time bounds")
    group.addoption("--eventbus-faults-seconds", type=float, default=30.0, help="load under each fault (default: 30)")
    group.addoption("--eventbus-seed", type=int, help="of all randomness (default: a new one, printed)")
    group.addoption("--eventbus-report", type=Path, metavar="FILE", help="write the report as JSON")
    group.addoption("--eventbus-histories", type=Path, metavar="DIR", help="keep the histories of all runs here")
    group.addoption(
        "--eventbus-partial", action="store_true", help="for work on a backend: let a run pass that left tests out"
    )


def pytest_configure(config: pytest.Config) -> None:
    """Have a run, if a backend is named."""
    config.addinivalue_line("markers", "clause(*ids): the clauses of the conformance contract that the test shows")
    config.addinivalue_line("markers", "denied(capability): probes that a denied capability is refused")
    if config.getoption("--eventbus-backend"):
        from eventbus_conformance import session  # noqa: PLC0415  (see above)

        session.begin(config)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Refuse the suite without a backend."""
    suite = Path(__file__).parent
    if not config.getoption("--eventbus-backend") and any(item.path.is_relative_to(suite) for item in items):
        raise pytest.UsageError("name the backend to test: --eventbus-backend NAME")

"""pytest fixtures: name this module in ``pytest_plugins``, in the ``conftest.py`` at the top.

::

    pytest_plugins = ["eventbus_core.testing.fixtures"]

    @pytest.fixture
    def application_bus():
        return shop.bus
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from eventbus_core.bus import EventBus
from eventbus_core.testing.memory_bus import MemoryBus


@pytest.fixture
def application_bus() -> EventBus | None:
    """The application's bus, for ``memory_bus``; none unless the application's tests override this."""
    return None


@pytest.fixture
def memory_bus(application_bus: EventBus | None) -> Iterator[MemoryBus]:
    """A bus in memory, new for every test, in place of the application's."""
    with MemoryBus(of=application_bus) as bus:
        yield bus

"""What the behaviours ask for. The tests of a backend supply ``backend_under_test`` and nothing else."""

from __future__ import annotations

import dataclasses
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Protocol, TypeAlias

import pytest

from eventbus_conformance.members import Members
from eventbus_core import EventBus
from eventbus_core.capabilities import Capabilities, Reach
from eventbus_core.settings import Settings

__all__ = [
    "BackendUnderTest",
    "backend_under_test",
    "broker",
    "bus",
    "bus_url",
    "capabilities",
    "group",
    "members",
    "open_bus",
    "processes_only",
    "start_members",
    "topic",
    "unreachable_url",
]

pytest.register_assert_rewrite("eventbus_conformance.test_behaviours")

PARTITIONS = 4


class BrokerControl(Protocol):
    """What a test does to a broker."""

    def kill(self) -> None:
        """End it at once, without a chance to write anything; returns when it is gone."""

    def start(self) -> None:
        """Start it with its data and its address; returns when it answers."""


@dataclasses.dataclass(frozen=True)
class BackendUnderTest:
    """All that the suite has to know of a backend.

    ``url`` opens the bus, with sessions or leases as short as is sound, so that tests are quick. ``unreachable_url``
    has an address where nobody listens, ``connect_timeout_seconds=2`` and ``send_timeout_seconds=2``; None where
    there is nothing to reach. ``broker`` kills and starts the broker; None where this run may not.
    """

    url: str
    unreachable_url: str | None = None
    broker: BrokerControl | None = None


OpenBus: TypeAlias = Callable[..., EventBus]
StartMembers: TypeAlias = Callable[..., Members]


@pytest.fixture(scope="session")
def backend_under_test() -> BackendUnderTest:
    """Overridden by the tests of a backend."""
    raise NotImplementedError("define the fixture backend_under_test in conftest.py; it returns a BackendUnderTest")


@pytest.fixture
def bus_url(backend_under_test: BackendUnderTest) -> str:
    """The URL of the bus, for another process."""
    return backend_under_test.url


@pytest.fixture
def unreachable_url(backend_under_test: BackendUnderTest) -> str:
    """A URL where nobody listens."""
    if backend_under_test.unreachable_url is None:
        pytest.skip("this backend has nothing to reach")
    return backend_under_test.unreachable_url


@pytest.fixture
def open_bus(bus_url: str) -> Iterator[OpenBus]:
    """A function that opens a new bus, by default on the backend under test, with other settings of core if wanted."""
    opened: list[EventBus] = []

    def open_(url: str = bus_url, **settings: Any) -> EventBus:
        bus = EventBus(Settings.from_url(url).model_copy(update=settings) if settings else url)
        opened.append(bus)
        return bus

    yield open_
    for bus in opened:
        bus.close(10)


@pytest.fixture
def bus(open_bus: OpenBus) -> EventBus:
    """A bus on the backend under test."""
    return open_bus()


@pytest.fixture
def capabilities(bus: EventBus) -> Capabilities:
    """What the backend declares."""
    return bus.capabilities


@pytest.fixture
def topic(bus: EventBus) -> Iterator[str]:
    """A new topic with four partitions."""
    name = f"conformance-{uuid.uuid4().hex[:12]}"
    with bus.admin() as admin:
        admin.create_topic(name, PARTITIONS)
    yield name


@pytest.fixture
def group() -> str:
    """A name that no group has had."""
    return f"group-{uuid.uuid4().hex[:12]}"


@pytest.fixture
def start_members(bus_url: str, topic: str, capabilities: Capabilities, tmp_path: Path) -> Iterator[StartMembers]:
    """A function of a group's name: what starts its members, in processes wherever the bus reaches them."""
    made: list[Members] = []

    def make(group: str) -> Members:
        members = Members(bus_url, topic, group, tmp_path, processes=capabilities.reach is not Reach.PROCESS)
        made.append(members)
        return members

    yield make
    for members in made:
        members.clean_up()


@pytest.fixture
def members(start_members: StartMembers, group: str) -> Members:
    """Starts members of ``group``."""
    return start_members(group)


@pytest.fixture
def processes_only(capabilities: Capabilities) -> None:
    """For behaviours that only a process can show."""
    if capabilities.reach is Reach.PROCESS:
        pytest.skip("capability reach: this bus ends with the process, so another process cannot join")


@pytest.fixture
def broker(backend_under_test: BackendUnderTest) -> Iterator[BrokerControl]:
    """Control of the broker."""
    if backend_under_test.broker is None:
        pytest.skip("no broker control")
    yield backend_under_test.broker

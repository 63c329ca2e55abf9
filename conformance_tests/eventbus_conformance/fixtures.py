"""What the tests of the suite ask for. The plugin registers this module when a backend is named."""

from __future__ import annotations

import contextlib
import random
import re
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeAlias

import pytest

from eventbus_conformance.checker import judge
from eventbus_conformance.clauses import NotProven, Unknown
from eventbus_conformance.handlers import Desk
from eventbus_conformance.harness import Bounds, Controls, Harness, Route
from eventbus_conformance.history import History
from eventbus_conformance.members import Members
from eventbus_conformance.proxy import Address, Proxy
from eventbus_conformance.run import RUN, Measurements, Run
from eventbus_conformance.senders import Senders
from eventbus_conformance.work import Work
from eventbus_core import EventBus
from eventbus_core.capabilities import Capabilities, Reach
from eventbus_core.settings import Settings

__all__ = [
    "bounds",
    "broker",
    "bus",
    "bus_url",
    "capabilities",
    "check_history",
    "fault_seconds",
    "folder",
    "group",
    "harness",
    "measured",
    "members",
    "new_topic",
    "open_bus",
    "open_desk",
    "proxy",
    "rng",
    "route",
    "run",
    "senders",
    "sized",
    "start_members",
    "topic",
    "unreachable_url",
    "work",
]

PARTITIONS = 4

OpenBus: TypeAlias = Callable[..., EventBus]
OpenDesk: TypeAlias = Callable[[str], Desk]
NewTopic: TypeAlias = Callable[[int], str]
StartMembers: TypeAlias = Callable[..., Members]
CheckHistory: TypeAlias = Callable[[History], None]
Sized: TypeAlias = Callable[[int], int]


@pytest.fixture(scope="session")
def run(request: pytest.FixtureRequest) -> Run:
    """This run of the suite."""
    return request.config.stash[RUN]


@pytest.fixture(scope="session")
def harness(run: Run) -> Harness:
    """The harness of the backend, up."""
    run.start()
    return run.harness


@pytest.fixture(scope="session")
def bounds(run: Run) -> Bounds:
    """How long things may take."""
    return run.bounds


@pytest.fixture(scope="session")
def measured(run: Run) -> Measurements:
    """Where numbers for the report go."""
    return run.measured


@pytest.fixture
def rng(run: Run, request: pytest.FixtureRequest) -> random.Random:
    """Randomness of this test, the same for the same seed."""
    return random.Random(f"{run.options.seed} {request.node.name}")


@pytest.fixture(scope="session")
def sized(run: Run) -> Sized:
    """So much work, scaled."""
    return lambda amount: max(1, round(amount * run.options.scale))


@pytest.fixture(scope="session")
def fault_seconds(run: Run) -> float:
    """How long members and senders work under a fault that comes again and again."""
    return run.options.faults_seconds


@pytest.fixture
def folder(run: Run, request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """Where histories and logs of this test go."""
    if run.options.histories is None:
        return tmp_path
    kept = run.options.histories / run.harness.profile / re.sub(r"\W+", "_", request.node.name)
    kept.mkdir(parents=True, exist_ok=True)
    return kept


@pytest.fixture
def bus_url(harness: Harness) -> str:
    """The URL of the bus, for another process."""
    return harness.url()


@pytest.fixture
def unreachable_url(harness: Harness) -> str:
    """A URL where nobody listens."""
    url = harness.unreachable_url()
    if url is None:
        raise NotProven("the harness has no address where nobody listens")
    return url


@pytest.fixture
def open_bus(bus_url: str, bounds: Bounds) -> Iterator[OpenBus]:
    """A function that opens a new bus, by default on the backend under test, with other settings of core if wanted."""
    with contextlib.ExitStack() as closing:

        def open_(url: str = bus_url, **settings: Any) -> EventBus:
            bus = EventBus(Settings.from_url(url).model_copy(update=settings) if settings else url)
            closing.callback(bus.close, bounds.close)
            return bus

        yield open_


@pytest.fixture
def bus(open_bus: OpenBus) -> EventBus:
    """A bus on the backend under test."""
    return open_bus()


@pytest.fixture(scope="session")
def capabilities(run: Run) -> Capabilities:
    """What the backend declares."""
    return run.start()


@pytest.fixture
def new_topic(bus_url: str) -> Iterator[NewTopic]:
    """A function that makes a topic with so many partitions.

    It stays: removing one takes a second on some brokers, and most go with their container.
    """
    with EventBus(bus_url) as bus, bus.admin() as admin:

        def make(partitions: int) -> str:
            name = f"conformance-{uuid.uuid4().hex[:12]}"
            admin.create_topic(name, partitions)
            return name

        yield make


@pytest.fixture
def topic(new_topic: NewTopic) -> str:
    """A new topic with four partitions."""
    return new_topic(PARTITIONS)


@pytest.fixture
def group() -> str:
    """A name that no group has had."""
    return f"group-{uuid.uuid4().hex[:12]}"


@pytest.fixture
def open_desk(bus_url: str, group: str, bounds: Bounds) -> Iterator[OpenDesk]:
    """A function of a topic: ``group`` there, with handlers that a test gives it."""
    with contextlib.ExitStack() as closing:
        yield lambda topic: Desk(bus_url, topic, group, bounds, closing)


@pytest.fixture
def start_members(
    bus_url: str, topic: str, capabilities: Capabilities, folder: Path, bounds: Bounds
) -> Iterator[StartMembers]:
    """A function of a group's name: what starts its members, in processes wherever the bus reaches them."""
    with contextlib.ExitStack() as ending:

        def make(group: str) -> Members:
            processes = capabilities.reach is not Reach.PROCESS
            members = Members(bus_url, topic, group, folder, bounds, processes=processes)
            ending.callback(members.clean_up)
            return members

        yield make


@pytest.fixture
def members(start_members: StartMembers, group: str) -> Members:
    """Starts members of ``group``."""
    return start_members(group)


@pytest.fixture
def senders(
    bus_url: str, topic: str, members: Members, capabilities: Capabilities, run: Run, bounds: Bounds
) -> Iterator[Senders]:
    """Starts senders to ``topic``, which write into the history of ``members``."""
    senders = Senders(
        bus_url,
        topic,
        members.history.path,
        seed=run.options.seed,
        settle_seconds=bounds.recover,
        processes=capabilities.reach is not Reach.PROCESS,
    )
    yield senders
    senders.clean_up()


@pytest.fixture
def work(
    members: Members,
    senders: Senders,
    topic: str,
    capabilities: Capabilities,
    bounds: Bounds,
    open_bus: OpenBus,
    check_history: CheckHistory,
) -> Work:
    """Members of ``group`` and senders at work on ``topic``, which has four partitions."""
    return Work(members, senders, topic, PARTITIONS, capabilities, bounds, open_bus, check_history)


@pytest.fixture
def broker(harness: Harness) -> Controls:
    """What may be done to the broker; for tests whose clauses need a control."""
    assert harness.controls is not None
    return harness.controls


@pytest.fixture
def route(harness: Harness) -> Route:
    """The way to the broker through ``proxy``; ``url`` is what opens a bus there."""
    route = harness.route()
    if route is None:
        raise NotProven("the broker here cannot be reached through a proxy")
    return route


@pytest.fixture
def proxy(route: Route) -> Iterator[Proxy]:
    """The proxy that ``route`` leads through."""
    with Proxy(Address.of(route.target), port=Address.of(route.listen).port) as proxy:
        yield proxy


@pytest.fixture
def check_history(measured: Measurements) -> CheckHistory:
    """A function that judges a history, and fails the test if it is invalid, or unknown."""

    def check(history: History) -> None:
        verdict = judge(history)
        for name, count in verdict.counts.items():
            if "seconds" in name or "takeover" in name:
                measured.took(name, count)
            else:
                measured.add(name, int(count))
        if verdict.outcome == "unknown":
            raise Unknown(verdict.explain())
        assert verdict.outcome == "valid", f"{history.path}: {verdict.explain()}"

    return check

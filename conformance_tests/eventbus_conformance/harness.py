"""What the author of a backend writes: how to start the broker, how to reach it, and what may be done to it."""

from __future__ import annotations

import dataclasses
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from importlib.metadata import entry_points
from typing import ClassVar, Final, NamedTuple, Protocol, Self

GROUP: Final = "eventbus.conformance"
"""The entry point group: the backend's name, and its harness class."""


class NoBroker(Exception):
    """There is no broker here for a reason that is not the backend's: no Docker, no image, no address."""


class Absent(Exception):
    """This harness lacks the control that was asked for; what needs it is not proven."""


class InUse(Exception):
    """The broker refuses to forget a group that has members."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Bounds:
    """How long things may take on this broker, in seconds. Nothing waits this long unless it fails."""

    deliver: float = 60.0
    """Until what was sent has been received or handled, without a fault."""
    rebalance: float = 40.0
    """Until members that joined share the partitions; also until one has joined."""
    close: float = 15.0
    """Until ``close`` of anything returns."""
    recover: float = 60.0
    """Until work goes on after a broker is back."""
    refuse: float = 20.0
    """Until an error that the broker itself tells (a missing topic) is there."""
    quiet: float = 1.0
    """How long nothing must come before nothing more is believed to come."""

    def scaled(self, factor: float) -> Self:
        """All of them, longer or shorter."""
        return dataclasses.replace(self, **{name: value * factor for name, value in dataclasses.asdict(self).items()})


class Raw(NamedTuple):
    """A record as a program without the bus writes or reads it with the broker's own client."""

    value: bytes | None
    key: bytes | None = None
    headers: tuple[tuple[str, bytes], ...] = ()


class Route(NamedTuple):
    """A way to the broker through a proxy of the suite: it listens at ``listen`` and forwards to ``target``.

    Addresses are ``host:port``. The broker advertises ``listen`` to clients that came that way, so that ``url`` leads
    nowhere past the proxy.
    """

    listen: str
    target: str
    url: str


class KnownFailure(NamedTuple):
    """A test that this backend is known to fail. Strict: when it passes, the run fails until this is removed."""

    test: str
    """The name of the test function."""
    reason: str
    link: str
    """Where the defect is tracked, a URL."""
    profile: str | None = None
    """Only when the broker runs in this way; None: however it runs."""


class Controls(Protocol):
    """What a test does to a running broker. ``containers.DockerBroker`` has all of it."""

    def kill(self) -> None:
        """End it at once, without a chance to write anything; returns when it is gone."""

    def stop(self) -> None:
        """Let it end in good order; returns when it has."""

    def start(self) -> None:
        """Start a killed or stopped one with its data and its address; returns when it answers."""

    def pause(self) -> None:
        """Freeze it: connections stay open and nothing answers."""

    def unpause(self) -> None:
        """Let a frozen one go on; returns when it answers."""


class Cluster(Protocol):
    """What a test does to a running cluster."""

    def kill_leader(self, topic: str) -> None:
        """End the node that leads most of a topic's partitions, at once; returns when it is gone."""

    def start(self) -> None:
        """Start the killed node; returns when it has all of its records again."""


class Harness(ABC):
    """One broker, up for a whole run. Named by an entry point in group ``eventbus.conformance``.

    What a broker can do is read from the backend's capabilities, never from here.
    """

    backend: ClassVar[str]
    """Name of the backend in group ``eventbus.backends``."""
    client: ClassVar[str | None] = None
    """Distribution of the client library, for the report."""
    profiles: ClassVar[Mapping[str, str]] = {"default": "as it comes"}
    """Ways to run the broker that make different promises, each with a phrase for operators that says what it is.

    The first is used unless another is asked for.
    """
    bounds: ClassVar[Bounds] = Bounds()
    known_failures: ClassVar[Sequence[KnownFailure]] = ()

    controls: Controls | None = None
    """Set by ``up`` where this run may break the broker."""
    cluster: Cluster | None = None
    """Set by ``up`` where the broker has several nodes, each of which has all records."""
    broker_version: str = "not told"
    """Set by ``up``: image and digest, or version."""

    def __init__(self, profile: str | None = None) -> None:
        self.profile = profile or next(iter(self.profiles))
        if self.profile not in self.profiles:
            raise ValueError(f"{self.backend} has no profile {profile!r}; it has {', '.join(self.profiles)}")

    @property
    def expected_failures(self) -> Sequence[KnownFailure]:
        """The known failures of this profile."""
        return [each for each in self.known_failures if each.profile in {None, self.profile}]

    @abstractmethod
    def up(self) -> None:
        """Have a broker that answers. Raises ``NoBroker`` where none can be had."""

    @abstractmethod
    def down(self) -> None:
        """Remove what ``up`` started; called also when ``up`` raised."""

    @abstractmethod
    def url(self) -> str:
        """What ``EventBus`` takes to get there, with sessions or leases as short as is sound.

        Members are processes of their own and get it too. ``create_topics`` is off.
        """

    @abstractmethod
    def unreachable_url(self) -> str | None:
        """The same with addresses where nobody listens; None where there is nothing to reach."""

    @abstractmethod
    def raw_send(self, topic: str, partition: int, raw: Raw) -> None:
        """Write into a topic of the bus as another program would, without the bus or its backend."""

    @abstractmethod
    def raw_read(self, topic: str, partition: int) -> Sequence[Raw]:
        """All that another program finds in a partition, in order, without the bus or its backend."""

    def route(self) -> Route | None:
        """The way through a proxy; None where the broker cannot be reached through one."""
        return None

    def drop_group(self, group: str, topic: str) -> None:  # noqa: ARG002  (for harnesses that can)
        """Make the broker forget a group as an accident would, behind the backend's back. ``InUse``: it refuses."""
        raise Absent("drop_group")

    def expire(self, topic: str) -> None:  # noqa: ARG002
        """Let the broker's retention remove now what it may remove of a topic, as if much time had gone by."""
        raise Absent("expire")

    def remove_records(self, topic: str) -> None:  # noqa: ARG002
        """Remove all records of a topic behind the backend's back; positions of new ones go on from there."""
        raise Absent("remove_records")

    def lose_unsynced(self) -> None:
        """Kill the broker with all that it has not forced to disk, as a loss of power does; back when it is gone."""
        raise Absent("lose_unsynced")

    def has(self, control: str) -> bool:
        """Whether a control that the contract names is there: proxy, cluster, a method here, or one of ``Controls``."""
        if control == "proxy":
            return self.route() is not None
        if control == "cluster":
            return self.cluster is not None
        if hasattr(Harness, control):
            return getattr(type(self), control) is not getattr(Harness, control)
        return self.controls is not None


def load(backend: str) -> type[Harness]:
    """The harness of an installed backend. ``LookupError``: none is installed, or two are."""
    claims = [entry for entry in entry_points(group=GROUP) if entry.name == backend]
    if len(claims) != 1:
        known = sorted({entry.name for entry in entry_points(group=GROUP)})
        problem = f"{len(claims)} distributions offer one" if claims else f"there is one for {', '.join(known)}"
        raise LookupError(f"no single conformance harness for backend {backend!r}: {problem}")
    harness: type[Harness] = claims[0].load()
    return harness

"""What a backend can do and promises: read by core when something is asked for, probed both ways by the suite."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from enum import Enum


class Reach(Enum):
    """Who can share a topic."""

    PROCESS = "process"
    HOST = "host"
    NETWORK = "network"


class Durability(Enum):
    """What a record that was reported stored survives."""

    NONE = "none"
    PROCESS = "process"
    HOST = "host"
    REPLICATED = "replicated"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Capabilities:
    """The abilities in which brokers differ. Order inside a partition is not among them: every backend has it.

    ``sources`` holds, for every other field, a one-line reason and where the fact comes from.
    """

    ack_delay_seconds: float
    """An ack is durable at the latest this long after the backend took it, while the broker can be reached. Above 0 the
    backend's consumers say in ``unconfirmed`` and ``Lost`` which are not."""
    fenced_ack: bool
    """A late ack of a former owner changes nothing."""
    announced_moves: bool
    """A healthy move is announced, so the old owner can finish first. Otherwise two members may overlap."""
    idempotent_send: bool
    """A lost reply never stores a record twice."""
    stored_position: bool
    """A receipt tells the record's position."""
    counted_deliveries: bool
    """``Delivery.delivery_count`` counts across members and restarts."""
    seek_by_time: bool
    """A group can be moved to a point in time."""
    keeps_unsettled: bool
    """Retention never removes what a group has not settled."""
    durability: Durability
    reach: Reach
    max_record_bytes: int
    """Largest sum of key, value and header bytes of one record."""
    max_takeover_seconds: float
    """After a member dies, another has its partitions within this time."""
    transactions: bool = False
    delayed_send: bool = False
    sources: Mapping[str, str]

    def __post_init__(self) -> None:
        wanted = {field.name for field in dataclasses.fields(self)} - {"sources"}
        missing = wanted - self.sources.keys()
        unknown = self.sources.keys() - wanted
        if missing or unknown:
            raise ValueError(f"capability sources: missing {sorted(missing)}, unknown {sorted(unknown)}")

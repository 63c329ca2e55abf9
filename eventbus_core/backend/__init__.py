"""What a plugin implements. Applications never import this package.

Values in, values out: core calls, a plugin never calls back, needs no thread for core's sake, retries no handler and
sees no envelope. For every object here:

1. Calls on one object never overlap; the calling thread may change between calls.
2. A call ends within ``request_timeout_seconds`` plus its ``timeout``; opening within ``connect_timeout_seconds``.
3. Errors are those of :mod:`eventbus_core.errors`, the client's exception as ``__cause__``. After a retryable one the
   object is called again and reconnects by itself; after any other it is only closed.
4. Objects are opened after any fork, and closed before their backend.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Collection, Sequence
from typing import Any, ClassVar, Generic, NamedTuple, Self, TypeAlias, TypeVar
from urllib.parse import parse_qsl, urlsplit

from pydantic import BaseModel, ConfigDict, Field

from eventbus_core.capabilities import Capabilities
from eventbus_core.errors import SendFailed, SendUnknown, Unsupported
from eventbus_core.records import Assignment, Delivery, Position, Record, Start, Stored, Where

API_VERSION = 1
"""The version of this interface; core loads plugins of the same number only."""


class BackendSettings(BaseModel):
    """The settings that every backend has. Subclasses add their own; all are frozen and refuse unknown names."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    connect_timeout_seconds: float = Field(default=10.0, gt=0)
    request_timeout_seconds: float = Field(default=5.0, gt=0)
    send_timeout_seconds: float = Field(default=120.0, gt=0)
    """A record that is not settled after this long is reported failed (never handed over) or unknown."""
    create_topics: bool = False
    """Create a missing topic on first use. Off, so that a misspelt topic is an error."""
    default_partitions: int = Field(default=4, ge=1)
    """Partitions of a topic created on first use."""

    @classmethod
    def from_url(cls, url: str) -> Self:
        """Settings from a URL: query parameters are fields by name; the rest is the subclass's (see ``fields_of_url``).

        Raises ``pydantic.ValidationError`` for a bad value or an unknown parameter.
        """
        parts = urlsplit(url)
        fields: dict[str, Any] = dict(parse_qsl(parts.query, keep_blank_values=True))
        return cls.model_validate({**cls.fields_of_url(parts._replace(query="").geturl()), **fields})

    @classmethod
    def fields_of_url(cls, url: str) -> dict[str, Any]:
        """The fields that scheme, credentials, host and path of a URL without query stand for."""
        return {"url": url}


class Outgoing(NamedTuple):
    """A record to send. ``token`` is core's; it comes back in :class:`Settled`."""

    token: int
    record: Record


class Settled(NamedTuple):
    """How a send ended."""

    token: int
    outcome: Stored | SendFailed | SendUnknown


class BackendProducer(ABC):
    """Connected. A record of one key is stored after all records of that key that were sent before it."""

    @abstractmethod
    def send(self, outgoing: Sequence[Outgoing]) -> None:
        """Take them all, in order, without waiting. A bad one fails in :meth:`poll`, never here."""

    @abstractmethod
    def poll(self, timeout: float) -> Sequence[Settled]:
        """Do the I/O for at most ``timeout`` seconds; return as soon as something settled. Each token once.

        ``SendFailed`` only when the record is certainly not stored. Called all the time while anything is unsettled.
        Deadlines are core's: a plugin tries for as long as it is polled, and never gives up by itself. After an error
        that is not retryable core settles the rest as unknown, closes this producer and opens another.
        """

    @abstractmethod
    def close(self) -> None:
        """Drop what is left, at once."""


class Group(NamedTuple):
    """Who joins. ``member`` is unique among all members; ``drain_seconds`` is how long a drain may take."""

    name: str
    topics: tuple[str, ...]
    start: Start
    member: str
    drain_seconds: float


class Assigned(NamedTuple):
    """A partition is ours, with a higher epoch than any holder had before."""

    assignment: Assignment


class Revoking(NamedTuple):
    """A partition is wanted back: no more deliveries of it follow, core drains and calls ``release``.

    After ``deadline`` (``time.monotonic``) the plugin may report it lost.
    """

    assignment: Assignment
    deadline: float


class Lost(NamedTuple):
    """A partition is gone: no ack and no release of it any more.

    ``acks_lost``: acks that were passed on before the last poll may not have become durable.
    """

    assignment: Assignment
    reason: str
    acks_lost: bool = False


class Gap(NamedTuple):
    """Records after ``after`` vanished unsettled; the next ``poll`` goes on at ``resume``."""

    assignment: Assignment
    after: Position | None
    resume: Position
    reason: str


Change: TypeAlias = Assigned | Revoking | Lost | Gap


class Polled(NamedTuple):
    """What happened. Changes apply before the deliveries beside them."""

    changes: Sequence[Change] = ()
    deliveries: Sequence[Delivery] = ()


class BackendConsumer(ABC):
    """Joined; the group has a durable position in every partition."""

    @abstractmethod
    def poll(self, max_records: int, timeout: float, paused: Collection[Assignment]) -> Polled:
        """Wait at most ``timeout`` seconds for anything; return as soon as something is there.

        At most ``max_records`` deliveries (0: changes only), none of ``paused``; per assignment in order, from the
        first unsettled record on, each once per assignment. Called at least once a second: renew, share and notice
        loss in here. Raises only when there is nothing to return. A loss is told by one's own clock before another
        member can own the partition.
        """

    @abstractmethod
    def ack(self, settled: Sequence[Delivery]) -> None:
        """Settle, for each delivery, it and everything before it in its assignment (core acks gap-free prefixes only).

        Durable within ``ack_delay_seconds``, and when ``release`` or ``close`` returns. Repeating is harmless. Of an
        assignment that is no longer ours it changes nothing (if ``fenced_ack``), and the next poll says Lost.
        """

    def unconfirmed(self) -> int:
        """In how many assignments acks that were passed on are not known to be durable.

        Asked after a poll, again and again while somebody waits for 0, so a plugin may find out in here, in a fraction
        of its leases. Asked only where ``ack_delay_seconds`` is above 0: elsewhere ``ack`` returns durable.
        """
        return 0

    def transact(self, records: Sequence[Record], settled: Sequence[Delivery]) -> None:  # noqa: ARG002
        """Store the records, in order, and settle as ``ack`` does: together or neither (capability ``transactions``).

        On return both are durable; no consumer sees the records before. An error: neither, also for a lost assignment;
        but if the broker did not say, ``Unavailable``, and the next poll says Lost of every assignment.
        """
        raise Unsupported("this backend cannot store and settle together", capability="transactions")

    @abstractmethod
    def seek(self, assignment: Assignment, to: Where) -> Assignment:
        """Move the group's durable position; earlier deliveries and acks are void. Returns the new assignment."""

    @abstractmethod
    def release(self, assignment: Assignment) -> None:
        """The answer to Revoking: drained and acked, give it up."""

    @abstractmethod
    def close(self) -> None:
        """Leave; others take over at once, not after a timeout."""


class TopicInfo(NamedTuple):
    """A topic. ``firsts`` and ``ends`` per partition: the first record's position and the position after the last.

    None where the broker cannot name one, as in an empty partition.
    """

    name: str
    partitions: int
    firsts: tuple[Position | None, ...]
    ends: tuple[Position | None, ...]
    retention_seconds: float | None


class GroupInfo(NamedTuple):
    """A group, the topics it has positions in, and how many members it has now."""

    name: str
    topics: tuple[str, ...]
    members: int


class PartitionLag(NamedTuple):
    """How far a group is in one partition: ``records`` is the exact number of unsettled records."""

    topic: str
    partition: int
    settled: Position | None
    end: Position | None
    records: int


class BackendAdmin(ABC):
    """Operators' verbs; every call is finished, and its effect visible to all members, when it returns."""

    @abstractmethod
    def create_topic(self, topic: str, partitions: int) -> None:
        """Create it; usable on return. It exists with as many partitions: nothing. Conflict: with another count."""

    @abstractmethod
    def delete_topic(self, topic: str) -> None:
        """Delete it, with all groups' positions in it. NotFound."""

    @abstractmethod
    def topics(self) -> Sequence[str]:
        """The names of the topics of the bus, sorted; the broker's internal ones are left out."""

    @abstractmethod
    def describe_topic(self, topic: str) -> TopicInfo:
        """Raises NotFound."""

    @abstractmethod
    def groups(self) -> Sequence[GroupInfo]:
        """All groups, sorted by name."""

    @abstractmethod
    def lag(self, group: str, topic: str) -> Sequence[PartitionLag]:
        """Per partition, in order; exact. NotFound: the group has no position in the topic."""

    @abstractmethod
    def set_position(self, group: str, topic: str, partition: int, to: Where) -> None:
        """Move a group (making it, if need be) that has no members now. Conflict: it has. NotFound."""

    @abstractmethod
    def delete_group(self, group: str) -> None:
        """Forget its positions. Conflict: it has members. NotFound."""

    @abstractmethod
    def read(self, topic: str, partition: int, start: Where, limit: int, timeout: float) -> Sequence[Delivery]:
        """At most ``limit`` records from ``start`` on, without a group.

        Waits at most ``timeout`` seconds for the first. Deliveries have no assignment. Empty: nothing
        was there within that time.
        """

    @abstractmethod
    def close(self) -> None:
        """Close what it opened."""


S = TypeVar("S", bound=BackendSettings)


class Backend(ABC, Generic[S]):
    """One broker's implementation; the entry point in group ``eventbus.backends`` names the class."""

    name: ClassVar[str]
    api_version: ClassVar[int]
    """Write the number, not the constant: it says which interface the plugin was written for."""
    settings_type: ClassVar[type[BackendSettings]]
    capabilities: Capabilities
    """A class attribute; an instance may narrow it from its settings, never by connecting."""

    def __init__(self, settings: S) -> None:
        """Does no I/O."""
        self.settings = settings

    @abstractmethod
    def producer(self, *, max_records: int, max_bytes: int) -> BackendProducer:
        """A connected producer. Core keeps no more than this unsettled: size the client's queue so it cannot fill."""

    @abstractmethod
    def consumer(self, group: Group) -> BackendConsumer:
        """Join. On return the group has a durable position in every partition, made from ``group.start`` where the
        group is new. A partition that appears later starts at its beginning. NotFound: a topic is missing.
        """

    @abstractmethod
    def admin(self) -> BackendAdmin:
        """A connected admin."""

    @abstractmethod
    def close(self) -> None:
        """Close what the backend itself opened, after everything made from it was closed."""

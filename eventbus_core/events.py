"""Events: what an application publishes and handles, and the declaration of a class as an event's data."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from operator import attrgetter
from types import MappingProxyType
from typing import Any, Generic, TypeAlias, TypeVar
from uuid import UUID

from eventbus_core.codecs import Codec, default_codec
from eventbus_core.errors import UsageError
from eventbus_core.ids import uuid7
from eventbus_core.records import Delivery

C = TypeVar("C", bound=type[Any])
T = TypeVar("T")
T_co = TypeVar("T_co", covariant=True)

KeyOf: TypeAlias = Callable[[Any], str | None]

_NO_EXTENSIONS: Mapping[str, str] = MappingProxyType({})


@dataclasses.dataclass(frozen=True, slots=True)
class Declaration:
    """What ``@event_type`` said about a class: its CloudEvents type, its topic, how to find the key, its codec."""

    cls: type[Any]
    type: str
    topic: str
    key_of: KeyOf | None
    codec: Codec


_declarations: dict[type[Any], Declaration] = {}


def event_type(
    name: str, /, *, topic: str, key: str | KeyOf | None = None, codec: Codec | None = None
) -> Callable[[C], C]:
    """Declare a class as the data of an event; returns it unchanged.

    Args:
        name: The CloudEvents ``type``, such as ``org.example.orders.order.paid.v1``.
        topic: Where it is published.
        key: The entity whose events stay in order: the name of an attribute (str, int or UUID), or a function of the
            data. None: no key, no order.
        codec: How the data is written; by default JSON, through pydantic for models and dataclasses and through
            msgspec for its structs.

    Raises:
        UsageError: An empty name or topic, an attribute the class does not have, a class no codec understands, or a
            class that is declared already.
    """
    if not name or not topic:
        raise UsageError(f"@event_type needs a name and a topic; got name {name!r}, topic {topic!r}")

    def declare(cls: C) -> C:
        if cls in _declarations:
            raise UsageError(f"{cls.__qualname__} is declared already, as {_declarations[cls].type!r}")
        chosen = default_codec(cls) if codec is None else codec
        _declarations[cls] = Declaration(cls, name, topic, _key_function(cls, key), chosen)
        return cls

    return declare


def _key_function(cls: type[Any], key: str | KeyOf | None) -> KeyOf | None:
    if key is None:
        return None
    if isinstance(key, str):
        known = _attributes(cls)
        if key not in known:
            raise UsageError(f"{cls.__qualname__} has no attribute {key!r} to be its key; it has {', '.join(known)}")
        read: Callable[[Any], object] = attrgetter(key)
    else:
        read = key

    def key_of(data: object) -> str | None:
        value = read(data)
        if value is None or isinstance(value, str):
            return value
        if isinstance(value, int | UUID) and not isinstance(value, bool):
            return str(value)
        raise UsageError(f"the key of {cls.__qualname__} must be a str, int, UUID or None, not {type(value).__name__}")

    return key_of


def _attributes(cls: type[Any]) -> list[str]:
    fields: set[str] = set(getattr(cls, "__pydantic_fields__", ())) | set(getattr(cls, "__struct_fields__", ()))
    if dataclasses.is_dataclass(cls):
        fields |= {field.name for field in dataclasses.fields(cls)}
    properties = {name for name in dir(cls) if isinstance(getattr(cls, name, None), property)}
    return sorted(fields | {name for name in properties if not name.startswith("_") and not name.startswith("model_")})


def declaration_of(cls: type[Any]) -> Declaration:
    """What was declared about exactly this class (a subclass needs a declaration of its own). UsageError: nothing."""
    try:
        return _declarations[cls]
    except (KeyError, TypeError):
        name = getattr(cls, "__qualname__", repr(cls))
        raise UsageError(f"{name} is not declared as an event: decorate it with @event_type(name, topic=...)") from None


def declarations(name: str) -> tuple[Declaration, ...]:
    """All classes declared for a CloudEvents type, in order: a process may read one type into several models."""
    return tuple(one for one in _declarations.values() if one.type == name)


@dataclasses.dataclass(frozen=True, slots=True, init=False, repr=False)
class Event(Generic[T_co]):
    """An event: data and CloudEvents attributes. Immutable. Publish one to state id, time or subject yourself.

    ``time`` is when it happened, aware. ``key`` is None for an event without one, and when a foreign key is not UTF-8
    (its bytes are in ``delivery.record.key``). ``extensions`` are the CloudEvents extension attributes, as text.
    ``attempt`` counts from 1. ``delivery`` is None unless received. Equality ignores ``attempt`` and ``delivery``.
    """

    data: T_co
    id: str
    type: str
    source: str
    """Empty until it is published, unless stated: then it is the bus's."""
    time: datetime
    subject: str | None
    key: str | None
    extensions: Mapping[str, str]
    attempt: int = dataclasses.field(compare=False)
    delivery: Delivery | None = dataclasses.field(compare=False)

    def __init__(
        self,
        data: T_co,
        *,
        id: str | None = None,  # noqa: A002 - the CloudEvents name
        type: str | None = None,  # noqa: A002 - the CloudEvents name
        source: str = "",
        time: datetime | None = None,
        subject: str | None = None,
        key: str | None = None,
        extensions: Mapping[str, str] = _NO_EXTENSIONS,
        attempt: int = 1,
        delivery: Delivery | None = None,
    ) -> None:
        """By default: a new UUIDv7, the declared type and key, the time now.

        Raises:
            UsageError: A time without zone, or data of a class that is not declared.
        """
        if time is None:
            time = datetime.now(UTC)
        elif time.utcoffset() is None:
            raise UsageError(f"an event's time needs a zone: use datetime.now(UTC); got {time.isoformat()}")
        if type is None:
            declared = declaration_of(data.__class__)
            type = declared.type  # noqa: A001
            if key is None and declared.key_of is not None:
                key = declared.key_of(data)
        put = object.__setattr__
        put(self, "data", data)
        put(self, "id", uuid7() if id is None else id)
        put(self, "type", type)
        put(self, "source", source)
        put(self, "time", time)
        put(self, "subject", subject)
        put(self, "key", key)
        put(self, "extensions", dict(extensions) if extensions else _NO_EXTENSIONS)
        put(self, "attempt", attempt)
        put(self, "delivery", delivery)

    def __hash__(self) -> int:
        return hash((self.source, self.id))

    def __repr__(self) -> str:
        return f"<Event {self.type} {self.id} from {self.source!r} key={self.key!r}>"


class _Unfrozen(Event[T_co]):
    """An event while it is being made of a record: plain assignment costs a tenth of getting round ``frozen``."""

    __slots__ = ()
    __setattr__ = object.__setattr__


def received(
    data: T, id: str, type: str, source: str, time: datetime, subject: str | None, key: str | None,  # noqa: A002
    extensions: Mapping[str, str], attempt: int, delivery: Delivery | None,
) -> Event[T]:  # fmt: skip
    """For core: an event with just these attributes, which are checked; ``extensions`` becomes the event's own."""
    event: Any = _Unfrozen.__new__(_Unfrozen)
    event.data = data
    event.id = id
    event.type = type
    event.source = source
    event.time = time
    event.subject = subject
    event.key = key
    event.extensions = extensions or _NO_EXTENSIONS
    event.attempt = attempt
    event.delivery = delivery
    event.__class__ = Event
    made: Event[T] = event
    return made

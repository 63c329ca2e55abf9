"""What `@bus.subscribe` declares: which function handles which events of which group, and how. No I/O, no threads."""

from __future__ import annotations

import dataclasses
import importlib.metadata
import inspect
from collections.abc import Callable, Sequence
from datetime import timedelta
from functools import lru_cache
from typing import Any, Literal, TypeAlias, TypedDict

from eventbus_core.errors import UsageError
from eventbus_core.events import declaration_of
from eventbus_core.records import Start
from eventbus_core.validation import check_group, check_topic, check_where

DeliveryMode: TypeAlias = Literal["at_least_once", "at_most_once", "exactly_once"]
OnFailure: TypeAlias = Literal["dead_letter", "stop", "drop", "park_key"]
OnUndecodable: TypeAlias = Literal["dead_letter", "stop", "drop"]
OnUnknown: TypeAlias = Literal["skip", "dead_letter", "stop"]
Keyless: TypeAlias = Literal["parallel", "partition"]

_CHOICES = {
    "delivery": ("at_least_once", "at_most_once", "exactly_once"),
    "on_failure": ("dead_letter", "stop", "drop", "park_key"),
    "on_undecodable": ("dead_letter", "stop", "drop"),
    "on_unknown": ("skip", "dead_letter", "stop"),
    "keyless": ("parallel", "partition"),
}


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Retry:
    """How a failing event is tried again, in its lane: later events of its key wait, others do not.

    The pause doubles from ``first_delay`` to ``max_delay``; each is shortened at random by up to a half. ``attempts``
    counts the first one too. ``never``: exceptions that no repetition cures, so the event is given up at once.
    ``outage``: exceptions that say that something the handler needs is away (a database): the partition waits until a
    try succeeds, however long, and no attempt is counted.
    """

    attempts: int = 5
    first_delay: timedelta = timedelta(seconds=0.2)
    max_delay: timedelta = timedelta(seconds=30)
    never: tuple[type[Exception], ...] = ()
    outage: tuple[type[Exception], ...] = ()

    def __post_init__(self) -> None:
        if self.attempts < 1:
            raise UsageError(f"Retry: attempts counts the first try, so it is at least 1, not {self.attempts}")
        if not timedelta(0) < self.first_delay <= self.max_delay:
            raise UsageError(
                f"Retry: delays must be 0 < first_delay <= max_delay, not {self.first_delay} and {self.max_delay}"
            )
        both = set(self.never) & set(self.outage)
        if both:
            names = ", ".join(sorted(each.__qualname__ for each in both))
            raise UsageError(f"Retry: {names} cannot be both in never and in outage")


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Batch:
    """The handler takes lists of at most ``size`` events, collected for at most ``wait``."""

    size: int = 100
    wait: timedelta = timedelta(seconds=0.1)

    def __post_init__(self) -> None:
        if self.size < 1:
            raise UsageError(f"Batch: size must be at least 1, not {self.size}")
        if self.wait < timedelta(0):
            raise UsageError(f"Batch: wait must not be negative: {self.wait}")


class CommonOptions(TypedDict, total=False):
    """What may be said about a subscription besides its types, group, delivery and batch; see ``Subscription``."""

    topics: Sequence[str]
    start: Start
    retry: Retry
    on_failure: OnFailure
    on_undecodable: OnUndecodable
    on_unknown: OnUnknown
    concurrency: int
    keyless: Keyless


class Options(CommonOptions, total=False):
    """The same, with the modes of delivery in which a handler takes no outbox."""

    delivery: Literal["at_least_once", "at_most_once"]


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Subscription:
    """A handler and what was declared about it.

    ``topics`` are those of the types unless stated. ``start`` acts where the group is new. ``on_failure`` says what
    becomes of an event whose attempts are used up, ``on_undecodable`` of a record that is no event of its type,
    ``on_unknown`` of an event of a type that no handler of the group takes. ``concurrency`` bounds how many events (or
    batches) are handled at once in this process. Events of one key never are; events without a key are ``parallel``,
    or one at a time in each ``partition``.
    """

    handler: Callable[..., Any]
    types: tuple[type[Any], ...]
    group: str
    topics: Sequence[str] = ()
    start: Start = "earliest"
    delivery: DeliveryMode = "at_least_once"
    retry: Retry = Retry()
    on_failure: OnFailure = "dead_letter"
    on_undecodable: OnUndecodable = "dead_letter"
    on_unknown: OnUnknown = "skip"
    concurrency: int = 16
    keyless: Keyless = "parallel"
    batch: Batch | None = None

    def __post_init__(self) -> None:
        if not self.types:
            raise UsageError(f"{self.name}: subscribe needs at least one event type")
        check_group(self.group)
        names = [declaration_of(each).type for each in self.types]
        if len(set(names)) < len(names):
            raise UsageError(f"{self.name}: two of its classes are declared as the same event type: {sorted(names)}")
        for field, choices in _CHOICES.items():
            if getattr(self, field) not in choices:
                raise UsageError(f"{self.name}: {field} must be one of {choices}, not {getattr(self, field)!r}")
        if self.concurrency < 1:
            raise UsageError(f"{self.name}: concurrency must be at least 1, not {self.concurrency}")
        if self.delivery == "exactly_once" and (self.batch or self.on_failure == "park_key"):
            what = "batch" if self.batch else "on_failure='park_key'"
            raise UsageError(f"{self.name}: {what} does not go with delivery='exactly_once'")
        check_where(self.start)
        if isinstance(self.topics, str):
            raise UsageError(f"{self.name}: topics must be a list of names, not {self.topics!r}")
        topics = self.topics or [declaration_of(each).topic for each in self.types]
        object.__setattr__(self, "topics", tuple(dict.fromkeys(map(check_topic, topics))))
        self._check_signature()

    @property
    def name(self) -> str:
        """Module and qualified name of the handler."""
        kind = self.handler if hasattr(self.handler, "__qualname__") else type(self.handler)
        return f"{kind.__module__}:{kind.__qualname__}"

    @property
    def is_async(self) -> bool:
        """Whether the handler runs in the worker's event loop."""
        call = getattr(self.handler, "__call__", None)  # noqa: B004  (an object may have an async one)
        return inspect.iscoroutinefunction(self.handler) or inspect.iscoroutinefunction(call)

    @property
    def build(self) -> str:
        """The handler's name, with the distribution it comes from and its version, where there is one."""
        distribution = _distribution(self.name.partition(".")[0].partition(":")[0])
        return f"{self.name} {distribution}" if distribution else self.name

    def _check_signature(self) -> None:
        wanted = ["a list of events" if self.batch else "an event"]
        if self.delivery == "exactly_once":
            wanted.append("an outbox")
        try:
            signature = inspect.signature(self.handler)
        except (TypeError, ValueError):
            return  # a builtin does not tell
        try:
            signature.bind(*wanted)
        except TypeError as error:
            raise UsageError(f"{self.name}{signature} must take {' and '.join(wanted)}: {error}") from error
        first = next(iter(signature.parameters.values())).annotation
        says_list = (
            str(getattr(first, "__origin__", first)).removeprefix("<class '").startswith(("list", "typing.List"))
        )
        says_event = str(first).startswith(("Event", "eventbus_core.events.Event"))
        if (self.batch and says_event) or (self.batch is None and says_list):
            raise UsageError(
                f"{self.name}{signature} must take {wanted[0]}: "
                + ("it was subscribed with batch=" if self.batch else "for a list subscribe it with batch=Batch(...)")
            )


@lru_cache(maxsize=256)
def _distribution(package: str) -> str | None:
    names = importlib.metadata.packages_distributions().get(package)
    return f"{names[0]} {importlib.metadata.version(names[0])}" if names else None

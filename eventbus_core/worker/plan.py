"""What a worker is to run, checked before any I/O: one group at a time, with its topics and routes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, TypeVar

from eventbus_core.bus import EventBus
from eventbus_core.dead_letters.letters import redrive_topic
from eventbus_core.errors import Unsupported, UsageError
from eventbus_core.events import declaration_of
from eventbus_core.subscriptions import Subscription

V = TypeVar("V")


class Route(NamedTuple):
    """What a group does with the records of one topic. ``types``: the handler and class of each event type.

    ``topic`` is the one whose lanes they are in: a redrive topic shares those of its source. Records of no known type
    go by the policies of ``fallback``, which all subscriptions of the topic agree on.
    """

    topic: str
    types: dict[str, tuple[Subscription, type[Any]]]
    fallback: Subscription


class GroupPlan(NamedTuple):
    """One group. ``routes`` by the topic that a record came in, redrive topics included."""

    name: str
    subscriptions: tuple[Subscription, ...]
    sources: tuple[str, ...]
    routes: dict[str, Route]

    @property
    def first(self) -> Subscription:
        """For what all subscriptions of a group have in common: ``delivery`` and ``start``."""
        return self.subscriptions[0]

    @property
    def parking(self) -> frozenset[str]:
        """The topics in which keys are parked: for all handlers of the topic, if one of them says so."""
        return frozenset(topic for each in self.subscriptions if each.on_failure == "park_key" for topic in each.topics)


def plan(bus: EventBus, groups: Sequence[str]) -> list[GroupPlan]:
    """One plan for each group. ``UsageError``, ``Unsupported``: what was declared cannot be run."""
    declared = bus.subscriptions.all
    if not declared:
        raise UsageError("this bus has no handlers: declare one with @bus.subscribe before the worker starts")
    known = list(dict.fromkeys(each.group for each in declared))
    if isinstance(groups, str):
        raise UsageError(f"groups must be a list of names, not {groups!r}")
    if unknown := [name for name in groups if name not in known]:
        raise UsageError(f"no handler has the group {unknown[0]!r}; there are {', '.join(known)}")
    return [_plan(bus, name, tuple(each for each in declared if each.group == name)) for name in groups or known]


def _plan(bus: EventBus, name: str, subscriptions: tuple[Subscription, ...]) -> GroupPlan:
    for each in subscriptions:
        if each.delivery == "exactly_once" and not bus.capabilities.transactions:
            raise Unsupported(
                f"{each.name}: delivery='exactly_once' needs the capability 'transactions', which backend "
                f"{bus.backend_name!r} does not have",
                capability="transactions",
                backend=bus.backend_name,
            )
    _agree(name, "delivery", subscriptions, lambda each: each.delivery)
    _agree(name, "start", subscriptions, lambda each: each.start)
    sources = tuple(dict.fromkeys(topic for each in subscriptions for topic in each.topics))
    routes: dict[str, Route] = {}
    for topic in sources:
        of_topic = [each for each in subscriptions if topic in each.topics]
        _agree(name, "on_unknown", of_topic, lambda each: each.on_unknown, topic)
        _agree(name, "on_undecodable", of_topic, lambda each: each.on_undecodable, topic)
        types = {declaration_of(cls).type: (each, cls) for each in of_topic for cls in each.types}
        routes[topic] = routes[redrive_topic(topic, name)] = Route(topic, types, of_topic[0])
    return GroupPlan(name, subscriptions, sources, routes)


def _agree(
    group: str,
    what: str,
    subscriptions: Sequence[Subscription],
    value: Callable[[Subscription], V],
    topic: str | None = None,
) -> None:
    first = subscriptions[0]
    for other in subscriptions[1:]:
        if value(other) != value(first):
            where = f" on topic {topic!r}" if topic else ""
            raise UsageError(
                f"group {group!r}: its handlers must agree on {what}{where}, as they share one consumer: {first.name} "
                f"says {value(first)!r}, {other.name} {value(other)!r}; make it equal, or give one another group"
            )

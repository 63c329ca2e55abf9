"""`@bus.subscribe`: the handlers of a bus, declared with types that a checker can follow."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import Any, Literal, Protocol, TypeVar, Unpack, overload

from eventbus_core.errors import UsageError
from eventbus_core.events import Event, declaration_of
from eventbus_core.outbox import Outbox
from eventbus_core.subscriptions import Batch, CommonOptions, DeliveryMode, Options, Subscription

H = TypeVar("H", bound=Callable[..., Any])
T1 = TypeVar("T1")
T2 = TypeVar("T2")
T3 = TypeVar("T3")
E = TypeVar("E")
R = TypeVar("R", None, Coroutine[Any, Any, None])


class Handles(Protocol[E]):
    """A decorator of a function of one ``E``, plain or ``async``; gives back the same function."""

    def __call__(self, handler: Callable[[E], R], /) -> Callable[[E], R]: ...


class HandlesInto(Protocol[E]):
    """The same of a function of one ``E`` and an outbox."""

    def __call__(self, handler: Callable[[E, Outbox], R], /) -> Callable[[E, Outbox], R]: ...


class Subscriptions:
    """The handlers of one bus."""

    def __init__(self) -> None:
        self._declared: list[Subscription] = []

    @property
    def all(self) -> tuple[Subscription, ...]:
        """In the order declared."""
        return tuple(self._declared)

    @overload
    def subscribe(
        self, one: type[T1], /, *, group: str, delivery: Literal["exactly_once"], **options: Unpack[CommonOptions]
    ) -> HandlesInto[Event[T1]]: ...
    @overload
    def subscribe(
        self,
        one: type[T1],
        two: type[T2],
        /,
        *,
        group: str,
        delivery: Literal["exactly_once"],
        **options: Unpack[CommonOptions],
    ) -> HandlesInto[Event[T1] | Event[T2]]: ...
    @overload
    def subscribe(
        self,
        one: type[T1],
        two: type[T2],
        three: type[T3],
        /,
        *,
        group: str,
        delivery: Literal["exactly_once"],
        **options: Unpack[CommonOptions],
    ) -> HandlesInto[Event[T1] | Event[T2] | Event[T3]]: ...
    @overload
    def subscribe(
        self, one: type[T1], /, *, group: str, batch: None = None, **options: Unpack[Options]
    ) -> Handles[Event[T1]]: ...
    @overload
    def subscribe(
        self, one: type[T1], two: type[T2], /, *, group: str, batch: None = None, **options: Unpack[Options]
    ) -> Handles[Event[T1] | Event[T2]]: ...
    @overload
    def subscribe(
        self,
        one: type[T1],
        two: type[T2],
        three: type[T3],
        /,
        *,
        group: str,
        batch: None = None,
        **options: Unpack[Options],
    ) -> Handles[Event[T1] | Event[T2] | Event[T3]]: ...
    @overload
    def subscribe(
        self, one: type[T1], /, *, group: str, batch: Batch, **options: Unpack[Options]
    ) -> Handles[list[Event[T1]]]: ...
    @overload
    def subscribe(
        self, one: type[T1], two: type[T2], /, *, group: str, batch: Batch, **options: Unpack[Options]
    ) -> Handles[list[Event[T1] | Event[T2]]]: ...
    @overload
    def subscribe(
        self, one: type[T1], two: type[T2], three: type[T3], /, *, group: str, batch: Batch, **options: Unpack[Options]
    ) -> Handles[list[Event[T1] | Event[T2] | Event[T3]]]: ...
    @overload
    def subscribe(
        self,
        one: type[Any],
        two: type[Any],
        three: type[Any],
        four: type[Any],
        /,
        *more: type[Any],
        group: str,
        batch: Batch | None = None,
        delivery: DeliveryMode = "at_least_once",
        **options: Unpack[CommonOptions],
    ) -> Callable[[H], H]: ...
    def subscribe(
        self,
        *types: type[Any],
        group: str,
        batch: Batch | None = None,
        delivery: DeliveryMode = "at_least_once",
        **options: Unpack[CommonOptions],
    ) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
        """Declare a function, plain or ``async``, as the handler of events of these types in a group.

        Gives the function back unchanged; a ``Worker`` runs it. It is called with one ``Event``, with ``batch`` with a
        list, and with ``delivery="exactly_once"`` with an ``Event`` and an ``Outbox``. Several functions may handle one
        type in several groups; each group gets every event.

        Args:
            types: Classes declared with ``event_type``.
            group: Members of one group, in all processes, share the events.
            batch: Lists instead of single events.
            delivery: What a member that dies may cause; see ``Worker``.
            options: The other fields of ``Subscription``.

        Raises:
            UsageError: A class that is not declared, a second handler of a type in the group, an option out of range
                or that does not fit the others, a function that cannot be called like that.
        """
        if delivery == "at_most_once" and "retry" in options:
            raise UsageError(f"group {group!r}: at_most_once handles an event once, so it takes no retry")

        def declare(handler: Callable[..., Any]) -> Callable[..., Any]:
            self._add(
                Subscription(handler=handler, types=types, group=group, batch=batch, delivery=delivery, **options)
            )
            return handler

        return declare

    def _add(self, subscription: Subscription) -> None:
        names = {declaration_of(each).type for each in subscription.types}
        for other in self._declared:
            twice = names & {declaration_of(each).type for each in other.types}
            if other.group == subscription.group and twice:
                raise UsageError(
                    f"group {subscription.group!r} has two handlers of {min(twice)!r}: {other.name} and "
                    f"{subscription.name}; a group handles an event once: give one of them another group"
                )
        self._declared.append(subscription)

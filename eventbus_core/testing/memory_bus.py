"""The bus of a test: private, in memory, and its handlers run in the calling thread."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Sequence
from typing import Any, TypeVar

from eventbus_core import envelope
from eventbus_core.bus import EventBus
from eventbus_core.dead_letters.letters import DeadLetter
from eventbus_core.dead_letters.queue import DeadLetterQueue
from eventbus_core.errors import UsageError
from eventbus_core.events import Event, declaration_of
from eventbus_core.memory import MemoryBackend, MemorySettings
from eventbus_core.receipts import Receipt
from eventbus_core.records import Delivery, Position
from eventbus_core.testing.draining import GroupDrain, OnError, call
from eventbus_core.worker.plan import plan

T = TypeVar("T")

_REDIRECTED = ("publish", "producer", "consumer", "intake", "read", "admin", "prepare_topic")


class MemoryBus(EventBus):
    """A bus that no other bus shares topics with; each topic has one partition, so all its events are in order.

    Args:
        of: The application's bus, whichever backend it is configured for: its handlers are this bus's, and until this
            one is closed, what is published, sent, consumed and read through it goes through this one. It is not
            connected. None: a bus of its own, whose handlers the test subscribes.

    Handlers run when ``drain`` or ``deliver`` is called, in the calling thread, and at no other time. An ``async``
    handler runs in an event loop that the call makes, so from an ``async`` test call it in a thread:
    ``await asyncio.to_thread(bus.drain)``.
    """

    def __init__(self, of: EventBus | None = None) -> None:
        name = uuid.uuid4().hex
        super().__init__(MemoryBackend(MemorySettings(name=name, create_topics=True, default_partitions=1)))
        self._sent: list[tuple[type[Any], Receipt]] = []
        self._of = of
        if of is not None:
            self.settings = of.settings
            self.hooks = of.hooks
            self.subscriptions = of.subscriptions
            self.subscribe = of.subscribe
            if any(each in vars(of) for each in _REDIRECTED):
                raise UsageError("this bus is in another MemoryBus's hands: close that one before")
            vars(of).update({each: getattr(self, each) for each in _REDIRECTED})

    def close(self, timeout: float | None = None) -> None:
        """Close it, and give the application's bus back to itself. Idempotent."""
        if self._of is not None:
            for each in _REDIRECTED:
                vars(self._of).pop(each, None)
            self._of = None
        super().close(timeout)

    def publish(
        self, data: object, *, topic: str | None = None, key: str | None = None, wait_seconds: float | None = None
    ) -> Receipt:
        receipt = super().publish(data, topic=topic, key=key, wait_seconds=wait_seconds)
        self._sent.append((data.data.__class__ if isinstance(data, Event) else data.__class__, receipt))
        return receipt

    def published(self, *classes: type[T]) -> list[Event[T]]:
        """What was published of these classes, in the order of the calls, as a consumer reads it.

        Events that a test published itself are among them; what was sent as records is not. Raises what
        ``Receipt.result`` raises if one could not be stored.
        """
        for each in classes:
            declaration_of(each)
        found = []
        for cls, receipt in self._sent:
            if cls in classes:
                stored = receipt.result()
                assert stored.position is not None
                delivery = self.admin().read_one(stored.topic, stored.partition, stored.position)
                assert delivery is not None
                found.append(envelope.decode(delivery.record, cls, delivery=delivery))
        return found

    def drain(
        self,
        *groups: str,
        on_error: OnError = "raise",
        repeat: int = 1,
        shuffle: int | None = None,
        limit: int = 10_000,
    ) -> int:
        """Run the handlers until nothing is left that was not handled, what they publish included.

        Args:
            groups: Which groups, in this order; none named: all.
            on_error: ``raise``: what a handler raises comes out of here, and the event is handled again by the next
                ``drain``. ``policy``: it is tried again at once, as often as its subscription says, and then what the
                subscription says becomes of it; see ``dead_letters``.
            repeat: So many times what is there is delivered, one time after the other, as after a member's death.
            shuffle: A seed: another order that the bus may deliver in. That of each key stays as it is, that of
                events without a key does not; so it also mixes topics.
            limit: How many events handlers may get before it is taken for a circle.

        Returns:
            How many deliveries were handled, those that were given up included.

        Raises:
            HandlerFailed: With ``policy``, where the subscription says to stop.
            UsageError: No handlers, a group without any, handlers that do not fit each other, more than ``limit``.
            Unsupported: A handler with ``delivery="exactly_once"``.
        """
        if repeat < 1:
            raise UsageError(f"repeat must be at least 1, not {repeat}")
        handled = 0
        with asyncio.Runner() as runner:
            drains = [GroupDrain(self, each, on_error, runner) for each in plan(self, groups)]
            while True:
                self._flush()
                turn = sum(each.run(repeat=repeat, shuffle=shuffle) for each in drains)
                handled += turn
                if not turn:
                    return handled
                if handled > limit:
                    raise UsageError(f"more than {limit} events: do handlers publish what makes them run again?")

    def deliver(self, *events: object, group: str | None = None) -> None:
        """Call handlers with just these, in just this order: repeated, reordered, made up; nothing is stored.

        Args:
            events: Events, such as ``published`` gives, or data of a declared class.
            group: Whose handlers; None: every group's that handles the type. One that takes batches gets them one by
                one. What a handler raises comes out of here.

        Raises:
            UsageError: Nobody handles the type of one.
        """
        with asyncio.Runner() as runner:
            for number, each in enumerate(events):
                event = each if isinstance(each, Event) else Event(each)
                cls = event.data.__class__
                handlers = [one for one in self.subscriptions.all if cls in one.types and group in {None, one.group}]
                if not handlers:
                    raise UsageError(
                        f"no handler{'' if group is None else f' of group {group!r}'} takes {event.type!r}"
                    )
                record = envelope.encode(event, declaration_of(cls), self.settings.source)
                delivery = Delivery(record, 0, Position(number))
                for one in handlers:
                    call(one, [envelope.decode(record, cls, delivery=delivery)], runner)

    def dead_letters(self, group: str) -> list[DeadLetter]:
        """What a group could not handle and nobody has redriven since, by topic, the oldest first."""
        self._flush()
        queues = [DeadLetterQueue(self, topic, group) for topic in self._topics_of(group)]
        return [queue.letter(entry) for queue in queues for entry in queue.index.entries()]

    def _topics_of(self, group: str) -> Sequence[str]:
        topics = [topic for each in self.subscriptions.all if each.group == group for topic in each.topics]
        if not topics:
            raise UsageError(f"no handler has the group {group!r}")
        return list(dict.fromkeys(topics))

    def _flush(self) -> None:
        """See that what was published is there to be read."""
        for _, receipt in self._sent:
            receipt.result()

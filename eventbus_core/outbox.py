"""What an exactly-once handler publishes with: kept until its event is settled, and stored together with that."""

from __future__ import annotations

from collections.abc import Callable

from eventbus_core.errors import Closed
from eventbus_core.records import Record


class Outbox:
    """Belongs to one attempt to handle one event.

    What is published here and the event's own settling are stored together or not at all, when the handler has
    returned. If it raises, what it published is forgotten, and the next attempt gets another outbox.
    """

    def __init__(self, encode: Callable[[object, str | None, str | None], Record]) -> None:
        self._encode = encode
        self._records: list[Record] | None = []

    def publish(self, data: object, *, topic: str | None = None, key: str | None = None) -> None:
        """Publish an event with the one that is being handled; takes what ``EventBus.publish`` takes.

        Stored in the order of the calls. Does not wait for the broker, except for the first event to a topic, where it
        asks whether there is one. Raises ``InvalidRecord`` and ``TooLarge``, ``NotFound`` for the topic, and ``Closed``
        after the handler's end.
        """
        record = self._encode(data, topic, key)
        if self._records is None:
            raise Closed("this outbox ended with its handler; publish before the handler returns", topic=record.topic)
        self._records.append(record)

    def take(self) -> list[Record]:
        """For core: what was published; this ends the outbox."""
        records, self._records = self._records, None
        return records or []

"""Reading a partition without a group."""

from __future__ import annotations

from typing import Any

import pulsar

from eventbus_pulsar.connection import data_topic
from eventbus_pulsar.errors import ClientError, translated
from eventbus_pulsar.settings import PulsarSettings


def open_reader(client: pulsar.Client, settings: PulsarSettings, topic: str, partition: int, start: Any) -> Any:
    """A client reader from ``start`` on, inclusive. Blocks for at most the operation timeout."""
    try:
        return client.create_reader(
            data_topic(settings, topic, partition), start, receiver_queue_size=200, start_message_id_inclusive=True
        )
    except (ClientError, ValueError) as error:
        raise translated(error, f"opening a reader of {topic!r}[{partition}]", topic) from error


def received(reader: Any, timeout: float) -> Any | None:
    """The next message, or None after ``timeout`` seconds."""
    try:
        return reader.read_next(max(0, int(timeout * 1000)))
    except pulsar.Timeout:
        return None

"""A group member as a process; the tests kill it."""

from __future__ import annotations

import sys

from eventbus_core.backend import Group
from eventbus_kafka import KafkaBackend, KafkaSettings

if __name__ == "__main__":
    url, topic, group, start, protocol, session = sys.argv[1:]
    settings = KafkaSettings(bootstrap_servers=url, session_timeout_seconds=float(session), group_protocol=protocol)  # type: ignore[arg-type]
    backend = KafkaBackend(settings)
    consumer = backend.consumer(Group(group, (topic,), start, "victim", 5.0))  # type: ignore[arg-type]
    print("joined", flush=True)  # noqa: T201
    while True:
        consumer.poll(500, 0.5, ())

"""An operator as a process: does what it is told, a verb a line, and says how it went."""

from __future__ import annotations

import sys

from eventbus_core.errors import EventBusError
from eventbus_kafka import KafkaBackend, KafkaSettings
from eventbus_kafka.connection import Connection
from eventbus_kafka.positions import topics_of

if __name__ == "__main__":
    url, topic, group = sys.argv[1:]
    settings = KafkaSettings(bootstrap_servers=url, request_timeout_seconds=1.0)
    admin = KafkaBackend(settings).admin()
    connection = Connection(settings)
    verbs = {
        "topics": admin.topics,
        "groups": admin.groups,
        "topics of a group": lambda: topics_of(connection, group),
        "lag": lambda: admin.lag(group, topic),
        "delete group": lambda: admin.delete_group(group),
        "delete topic": lambda: admin.delete_topic(topic),
        "describe topic": lambda: admin.describe_topic(topic),
        "create topic": lambda: admin.create_topic(f"{topic}-more", 2),
    }
    print("ready", flush=True)  # noqa: T201
    for line in sys.stdin:
        try:
            verbs[line.strip()]()
        except EventBusError as error:
            print(type(error).__name__, flush=True)  # noqa: T201
        else:
            print("done", flush=True)  # noqa: T201

"""A group member as a process: appends a line per delivery to a file, then acks. Killed by the tests."""

from __future__ import annotations

import os
import sys

from eventbus_core.backend import Group, Revoking
from eventbus_core.errors import Unavailable
from eventbus_redis.backend import RedisBackend
from eventbus_redis.settings import RedisSettings


def main(url: str, topic: str, member: str, lease: str, path: str) -> None:
    settings = RedisSettings(url=url, lease_seconds=float(lease), request_timeout_seconds=2.0)
    consumer = RedisBackend(settings).consumer(Group("g", (topic,), "earliest", member, 5.0))
    out = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    while True:
        try:
            polled = consumer.poll(20, 0.2, ())
            for change in polled.changes:
                if isinstance(change, Revoking):
                    consumer.release(change.assignment)
            for delivery in polled.deliveries:
                if delivery.owned and delivery.assignment is not None:
                    value = (delivery.record.value or b"").decode()
                    line = f"{member} {delivery.partition} {delivery.assignment.epoch} {delivery.position} {value}\n"
                    os.write(out, line.encode())
                    consumer.ack([delivery])
        except Unavailable:
            continue


if __name__ == "__main__":
    main(*sys.argv[1:])

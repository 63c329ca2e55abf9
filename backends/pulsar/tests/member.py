"""A group member as a process: appends a line per delivery to a file, then acks. Killed by the tests."""

from __future__ import annotations

import os
import signal
import sys

from eventbus_core.backend import Group, Revoking
from eventbus_core.errors import Unavailable
from eventbus_pulsar.backend import PulsarBackend
from eventbus_pulsar.settings import PulsarSettings


def main(url: str, admin_url: str, topic: str, member: str, path: str) -> None:
    settings = PulsarSettings(url=url, admin_url=admin_url)
    consumer = PulsarBackend(settings).consumer(Group("g", (topic,), "earliest", member, 5.0))
    out = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    stopping: list[int] = []
    signal.signal(signal.SIGTERM, lambda number, _frame: stopping.append(number))
    while not stopping:
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
    consumer.close()


if __name__ == "__main__":
    main(*sys.argv[1:])

"""Copies each ``Job`` of a topic to another, exactly once: ``python -m tests.copying_process OPTIONS``."""

from __future__ import annotations

import random
import sys
from datetime import timedelta

from pydantic import BaseModel

from eventbus_core import Event, EventBus, Outbox, Retry, Worker
from tests.worker_journal import Job


class Copying(BaseModel):
    """``fail_rate``: how many attempts fail after they published."""

    url: str
    topic: str
    target: str
    group: str
    fail_rate: float = 0.0

    def declare(self, bus: EventBus) -> None:
        retry = Retry(attempts=100, first_delay=timedelta(milliseconds=5), max_delay=timedelta(milliseconds=50))

        @bus.subscribe(Job, group=self.group, topics=[self.topic], delivery="exactly_once", retry=retry)
        def handle(event: Event[Job], out: Outbox) -> None:
            out.publish(event.data, topic=self.target)
            if random.random() < self.fail_rate:
                raise ValueError("after it published")


if __name__ == "__main__":
    service = Copying.model_validate_json(sys.argv[1])
    with EventBus(service.url) as bus:
        service.declare(bus)
        Worker(bus).run()

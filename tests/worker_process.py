"""A service of the tests as a process: ``python -m tests.worker_process OPTIONS`` (JSON of ``Service``)."""

from __future__ import annotations

import asyncio
import logging
import random
import sys
import time
from pathlib import Path

from pydantic import BaseModel

from eventbus_core import Event, EventBus, EventBusError, Retry, Worker
from eventbus_core.process.ending import end_in_time
from eventbus_core.subscriptions import Options
from tests.worker_journal import Job, Journal


class Service(BaseModel):
    """What a service does: handles ``Job``s of a topic, ``pace_seconds`` each, failing at random.

    A job's ``do`` is obeyed too: ``raise``, ``sleep SECONDS``, ``spin SECONDS``, ``wait PATH`` (until it exists).
    """

    url: str
    topic: str
    group: str
    journal: Path
    name: str
    pace_seconds: float = 0.0
    fail_rate: float = 0.0
    concurrency: int = 16
    asynchronous: bool = False
    max_unacked: int = 1000
    options: dict[str, str] = {}
    retry_is_stated: bool = True
    attempts: int = 3
    first_delay_seconds: float = 0.05
    max_delay_seconds: float = 0.2

    def retry(self) -> Retry:
        from datetime import timedelta

        first, longest = (timedelta(seconds=each) for each in (self.first_delay_seconds, self.max_delay_seconds))
        return Retry(attempts=self.attempts, first_delay=first, max_delay=longest, outage=(ConnectionError,))

    def declare(self, bus: EventBus, journal: Journal) -> None:
        """Declare the handler on a bus."""
        options: Options = {
            "topics": [self.topic],
            "concurrency": self.concurrency,
            **self.options,  # type: ignore[typeddict-item]
        }
        if self.retry_is_stated:
            options["retry"] = self.retry()
        if self.asynchronous:

            async def handle_async(event: Event[Job]) -> None:
                journal.note("begin", self.name, event)
                try:
                    await asyncio.sleep(self.pace_seconds)
                    self._act(event)
                except BaseException:
                    journal.note("failed", self.name, event)
                    raise
                journal.note("end", self.name, event)

            bus.subscribe(Job, group=self.group, **options)(handle_async)
            return

        def handle(event: Event[Job]) -> None:
            journal.note("begin", self.name, event)
            try:
                time.sleep(self.pace_seconds)
                self._act(event)
            except BaseException:
                journal.note("failed", self.name, event)
                raise
            journal.note("end", self.name, event)

        bus.subscribe(Job, group=self.group, **options)(handle)

    def _act(self, event: Event[Job]) -> None:
        verb, _, argument = event.data.do.partition(" ")
        if verb == "raise" or random.random() < self.fail_rate:
            raise ValueError(f"job {event.data.seq} cannot be done")
        if verb == "sleep":
            time.sleep(float(argument))
        elif verb == "wait":
            while not Path(argument).exists():
                time.sleep(0.01)
        elif verb == "spin":
            until = time.monotonic() + float(argument)
            while time.monotonic() < until:
                sum(range(1000))
        elif verb == "need" and not Path(argument).exists():
            raise ConnectionError("the database is away")


def main() -> int:
    service = Service.model_validate_json(sys.argv[1])
    logging.basicConfig(level="INFO", format="%(asctime)s %(levelname)s %(name)s %(message)s")
    journal = Journal(service.journal)
    try:
        with EventBus(service.url) as bus:
            service.declare(bus, journal)
            worker = Worker(bus, max_unacked=service.max_unacked)
            end_in_time(worker.wait_stopping, bus.settings.drain_seconds)
            unfinished = worker.run()
    except EventBusError as error:
        logging.getLogger().error("%s: %s", type(error).__name__, error)
        return 1
    return 3 if unfinished else 0


if __name__ == "__main__":
    sys.exit(main())

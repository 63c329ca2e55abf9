"""Fixtures for the behaviours of the worker: the same test on memory, Redis, Kafka and Pulsar."""

from __future__ import annotations

import signal
import subprocess
import sys
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any, Literal

import pytest

from eventbus_core import EventBus, EventBusError, Hooks, Worker
from eventbus_core.capabilities import Reach
from tests.brokers import Broker, Name
from tests.brokers import broker as find_broker
from tests.bus_urls import bus_url
from tests.waiting import wait_until
from tests.worker_journal import Job, Journal
from tests.worker_process import Service

BACKENDS = ("memory", "redis", "kafka", "pulsar")

#: Sessions and leases as short as is sound, for tests that wait for one to end, or outlast it.
QUICK = {
    "memory": "lease_seconds=3",
    "redis": "lease_seconds=3",
    "kafka": "session_timeout_seconds=6",
    "pulsar": "lease_seconds=4",
}
#: For tests that count exactly: on a machine that stalls for longer, events are repeated. Pulsar allows less than 5 s.
PATIENT = {
    "memory": "lease_seconds=10",
    "redis": "lease_seconds=10",
    "kafka": "session_timeout_seconds=10",
    "pulsar": "lease_seconds=4.9",
}
PARTITIONS = 4


class World:
    """One topic and one group on one backend, and services that handle its events."""

    def __init__(self, url: str, broker: Broker | None, folder: Path, stack: ExitStack) -> None:
        self.url = url
        self.broker = broker
        self.folder = folder
        self._stack = stack
        self.topic = f"w-{uuid.uuid4().hex[:12]}"
        self.group = f"billing-{uuid.uuid4().hex[:8]}"
        self.bus = self.open_bus()
        self.bus.admin().create_topic(self.topic, PARTITIONS)
        self.journal = Journal(folder / "journal")
        stack.callback(self.journal.close)
        self._names = iter(range(1000))

    def open_bus(self, *hooks: Hooks) -> EventBus:
        return self._stack.enter_context(EventBus(self.url, hooks=hooks))

    @property
    def processes(self) -> bool:
        """Whether another process can reach this bus."""
        return self.bus.capabilities.reach is not Reach.PROCESS

    def publish(self, *jobs: Job, bus: EventBus | None = None) -> list[int]:
        """The partition of each."""
        receipts = [(bus or self.bus).publish(job, topic=self.topic) for job in jobs]
        return [receipt.result(30).partition for receipt in receipts]

    def jobs(self, count: int, *, keys: int = 4, begin: int = 0, do: str = "") -> list[Job]:
        """Jobs whose ``seq`` counts within all."""
        return [Job(key=f"k{seq % keys}", seq=seq, do=do) for seq in range(begin, begin + count)]

    def publish_until(self, done: Callable[[], bool], *, keys: int, begin: int = 0) -> int:
        """Publish rounds of 20 jobs, numbered from ``begin``, until ``done``; the number that would be next."""
        following = begin

        def publish_and_look() -> bool:
            nonlocal following
            self.publish(*self.jobs(20, keys=keys, begin=following))
            following += 20
            return done()

        wait_until(publish_and_look, 40, every=0.3, what=f"what further jobs are published for, see {self.folder}")
        return following

    def service(self, **fields: Any) -> Service:
        name = fields.pop("name", f"m{next(self._names)}")
        return Service(url=self.url, topic=self.topic, group=self.group, journal=self.journal.path, name=name, **fields)

    def worker(self, *, bus: EventBus | None = None, **fields: Any) -> Worker:
        """A started worker in this process."""
        own = bus or self.open_bus()
        service = self.service(**fields)
        service.declare(own, self.journal)
        worker = Worker(own, max_unacked=service.max_unacked)
        worker.start()
        self._stack.callback(stop, worker)
        return worker

    def process(self, **fields: Any) -> Process:
        """A worker as a process."""
        if not self.processes:
            pytest.skip("capability reach: this bus ends with the process")
        process = Process(self.service(**fields), self.folder)
        self._stack.callback(process.clean_up)
        return process

    def member(self, **fields: Any) -> Process | Member:
        """A process where there can be one, else a worker in this process."""
        return self.process(**fields) if self.processes else Member(self.worker(**fields))

    def wait_handled(self, count: int, timeout: float = 30.0) -> None:
        wait_until(
            lambda: len(self.journal.handled()) >= count,
            timeout,
            every=0.05,
            what=f"{count} jobs handled, see {self.folder}",
        )

    def lag(self) -> int:
        return sum(each.records for each in self.bus.admin().lag(self.group, self.topic))

    def wait_settled(self, timeout: float = 15.0) -> None:
        wait_until(lambda: self.lag() == 0, timeout, every=0.1, what="lag 0")

    def dead_letters(self) -> list[Job]:
        topic = f"{self.topic}.{self.group}.dlq"
        return [self.bus.decode(each, Job).data for each in self.bus.read(topic)]


class Process:
    """A service that runs as a process of its own."""

    def __init__(self, service: Service, folder: Path) -> None:
        self.name = service.name
        self._log = folder / f"{service.name}.{uuid.uuid4().hex[:6]}.log"
        with self._log.open("wb") as output:
            self.popen = subprocess.Popen(
                [sys.executable, "-m", "tests.worker_process", service.model_dump_json()],
                stdout=output,
                stderr=subprocess.STDOUT,
                cwd=Path(__file__).parents[1],
            )

    @property
    def output(self) -> str:
        return self._log.read_text(errors="replace")

    def kill(self) -> None:
        assert self.popen.poll() is None, f"it had ended: {self.output}"
        self.popen.kill()
        self.popen.wait(10)

    def terminate(self, timeout: float = 30.0) -> int:
        """SIGTERM, and wait for the exit code."""
        self.popen.send_signal(signal.SIGTERM)
        return self.wait(timeout)

    def wait(self, timeout: float = 30.0) -> int:
        return self.popen.wait(timeout)

    def clean_up(self) -> None:
        self.popen.kill()
        self.popen.wait(10)


class Member:
    """A worker in this process, with the face of a process."""

    def __init__(self, worker: Worker) -> None:
        self._worker = worker
        self.output = ""

    def terminate(self, timeout: float = 30.0) -> int:
        return self._worker.stop(timeout)


def stop(worker: Worker) -> None:
    """Stop it within seconds, whatever became of it: the test has judged already."""
    with suppress(EventBusError):
        worker.stop(1.0)


@contextmanager
def _world(name: Literal["memory"] | Name, leases: Mapping[str, str], folder: Path) -> Iterator[World]:
    found = None if name == "memory" else find_broker(name)
    url = f"memory://{uuid.uuid4().hex}?create_topics=false" if found is None else bus_url(found)
    url += ("&" if "?" in url else "?") + leases[name]
    with ExitStack() as stack:
        yield World(url, found if found is not None and found.controllable else None, folder, stack)


@pytest.fixture(params=BACKENDS)
def world(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[World]:
    """A new topic on the backend; ``broker`` is None where this run may not break it."""
    with _world(request.param, PATIENT, tmp_path) as found:
        yield found


@pytest.fixture(params=BACKENDS)
def quick_world(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[World]:
    """The same with short leases."""
    with _world(request.param, QUICK, tmp_path) as found:
        yield found

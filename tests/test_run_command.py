"""``eventbus run`` as operators use it: processes, signals, health, log lines. On Redis, so that processes can meet."""

from __future__ import annotations

import dataclasses
import json
import os
import signal
import subprocess
import sys
import urllib.error
import urllib.request
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from eventbus_core import EventBus, event_type
from tests.brokers import Broker
from tests.bus_urls import bus_url
from tests.waiting import wait_until

# The handler notes each event when it begins and when it is done; an event says how long it takes.
_APPLICATION = """
import os, time
from pathlib import Path
from eventbus_core import EventBus
from tests.test_run_command import Tick

bus = EventBus()

def note(what, event):
    with Path("notes").open("a") as notes:
        notes.write(f"{what} {event.data.number} {os.getpid()}\\n")

@bus.subscribe(Tick, group="g", topics=[os.environ["TEST_TOPIC"]])
def handle(event):
    note("began", event)
    time.sleep(event.data.seconds)
    note("done", event)
"""

COMMAND = [sys.executable, "-m", "eventbus_core.cli", "run"]


@event_type("test.tick", topic="ticks", key="key")
@dataclasses.dataclass
class Tick:
    number: int
    key: str = "k"
    seconds: float = 0.0


class Service:
    """A directory with an application, the bus it uses, and the processes that run it."""

    def __init__(self, url: str, directory: Path) -> None:
        self.topic = f"run-{uuid.uuid4().hex[:8]}"
        self.directory = directory
        (directory / "application.py").write_text(_APPLICATION)
        self.bus = EventBus(url)
        self.bus.admin().create_topic(self.topic, 4)
        self._environment = {
            **os.environ, "EVENTBUS_URL": url, "TEST_TOPIC": self.topic, "PYTHONPATH": str(Path.cwd())
        }  # fmt: skip
        self._processes: list[subprocess.Popen[bytes]] = []

    def run(self, *options: str, target: str = "application:bus", **environment: str) -> subprocess.Popen[bytes]:
        with (self.directory / f"log-{len(self._processes)}").open("wb") as log:
            process = subprocess.Popen(
                [*COMMAND, target, *options],
                cwd=self.directory,
                env={**self._environment, **environment},
                stderr=log,
            )
        self._processes.append(process)
        return process

    def log(self, number: int = 0) -> str:
        return (self.directory / f"log-{number}").read_text()

    def publish(self, number: int, *, seconds: float = 0.0, key: str = "k") -> None:
        self.bus.publish(Tick(number, key, seconds), topic=self.topic).result(10)

    def notes(self, what: str) -> list[tuple[int, int]]:
        """Number and process of each note of a kind."""
        path = self.directory / "notes"
        lines = [line.split() for line in path.read_text().splitlines()] if path.exists() else []
        return [(int(number), int(pid)) for kind, number, pid in lines if kind == what]

    def wait_for(self, what: str, count: int) -> list[tuple[int, int]]:
        wait_until(lambda: len(self.notes(what)) >= count, 30, what=f"{count} x {what}:\n{self.log()}")
        return self.notes(what)

    def clean_up(self) -> None:
        for process in self._processes:
            process.kill()
            process.wait(10)
        self.bus.close()


@pytest.fixture
def service(redis_broker: Broker, tmp_path: Path) -> Iterator[Service]:
    made = Service(bus_url(redis_broker), tmp_path)
    yield made
    made.clean_up()


def _status(port: int, path: str) -> int:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=5) as answer:
            return int(answer.status)
    except urllib.error.HTTPError as error:
        error.close()
        return error.code
    except urllib.error.URLError:
        return 0


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_lets_the_running_handler_finish_and_exits_0(service: Service, number: int) -> None:
    process = service.run()
    for each in range(5):
        service.publish(each, seconds=1.0)
    service.wait_for("began", 1)
    process.send_signal(number)
    assert process.wait(20) == 0, service.log()
    done = service.notes("done")
    assert done == service.notes("began"), "what had begun was finished"
    assert len(done) < 5, "what had not begun was left to others"
    assert sum(each.records for each in service.bus.admin().lag("g", service.topic)) == 5 - len(done)


def test_a_second_signal_stops_at_once(service: Service) -> None:
    process = service.run()
    service.publish(1, seconds=60.0)
    service.wait_for("began", 1)
    process.send_signal(signal.SIGTERM)
    wait_until(lambda: "stopping" in service.log(), 10, what="the first signal's effect")
    with pytest.raises(subprocess.TimeoutExpired):
        process.wait(0.5)
    process.send_signal(signal.SIGTERM)
    assert process.wait(10) != 0
    assert service.notes("done") == []


def test_a_handler_that_does_not_finish_in_time_is_told_and_exits_1(service: Service) -> None:
    process = service.run(EVENTBUS_DRAIN_SECONDS="1")
    service.publish(1, seconds=60.0)
    service.wait_for("began", 1)
    process.send_signal(signal.SIGTERM)
    assert process.wait(20) == 1
    assert service.log().splitlines()[-1].startswith("error: 1 handlers were still running")
    assert sum(each.records for each in service.bus.admin().lag("g", service.topic)) == 1


@pytest.mark.parametrize(
    ("target", "environment", "code", "said"),
    [
        ("application:bus", {"TEST_TOPIC": "no-such-topic"}, 1, "no-such-topic"),
        ("application:buss", {}, 2, "application:bus"),
        ("application:bus", {"EVENTBUS_URL": "rediss://x"}, 2, "rediss"),
    ],
)
def test_fatal_errors_are_one_clear_line(
    service: Service, target: str, environment: dict[str, str], code: int, said: str
) -> None:
    process = service.run(target=target, **environment)
    assert process.wait(30) == code, service.log()
    errors = [line for line in service.log().splitlines() if line.startswith("error: ")]
    assert len(errors) == 1
    assert said in errors[0]
    assert "Traceback" not in service.log()


def test_health_says_when_it_is_ready(service: Service, tmp_path: Path) -> None:
    process = service.run("--health-port", "0", "--health-file", str(tmp_path / "health"))
    wait_until(lambda: "health on port" in service.log(), 20, what="the port is told")
    port = int(service.log().partition("health on port ")[2].partition(":")[0])
    wait_until(lambda: _status(port, "/ready") == 200, 20, what="ready")
    assert _status(port, "/live") == 200
    probe = [sys.executable, "-m", "eventbus_core.cli", "health", str(tmp_path / "health"), "--ready"]
    wait_until(lambda: subprocess.run(probe, check=False, capture_output=True).returncode == 0, 20, what="probe")
    process.send_signal(signal.SIGTERM)
    assert process.wait(20) == 0
    assert subprocess.run(probe, check=False, capture_output=True).returncode == 1


def test_log_lines_are_json_with_stable_names(service: Service) -> None:
    process = service.run("--log-format", "json")
    (service.directory / "application.py").write_text(_APPLICATION + "    raise ValueError('nope')\n")
    process.kill()
    process = service.run("--log-format", "json", "--log-level", "debug")
    service.publish(7)
    service.wait_for("began", 2)
    process.send_signal(signal.SIGTERM)
    assert process.wait(20) == 0
    lines: list[dict[str, Any]] = [json.loads(line) for line in service.log(1).splitlines()]
    assert all({"time", "level", "logger", "pid", "message"} <= line.keys() for line in lines)
    told = [line for line in lines if line.get("event_type") == "test.tick" and line.get("attempt") == 1]
    assert told, lines
    assert told[0]["group"] == "g"
    assert told[0]["topic"] == service.topic
    assert told[0]["error_type"] == "ValueError"
    assert {"partition", "position", "event_id"} <= told[0].keys()


def test_workers_share_the_events_and_a_killed_one_comes_back(service: Service) -> None:
    process = service.run("--workers", "2")

    def publish_until(enough: Callable[[], bool]) -> None:
        count = iter(range(1_000_000))

        def more() -> bool:
            number = next(count)
            service.publish(number, key=f"key-{number}")
            return enough()

        wait_until(more, 40, what=f"both workers handle:\n{service.log()}")

    publish_until(lambda: len({pid for _, pid in service.notes("done")}) == 2)
    first = {pid for _, pid in service.notes("done")}
    assert process.pid not in first
    os.kill(min(first), signal.SIGKILL)
    publish_until(lambda: len({pid for _, pid in service.notes("done")} - first) == 1)
    wait_until(
        lambda: sum(each.records for each in service.bus.admin().lag("g", service.topic)) == 0,
        30,
        what=f"what is there is handled:\n{service.log()}",
    )
    process.send_signal(signal.SIGTERM)
    assert process.wait(30) == 0, service.log()


def test_workers_end_with_a_supervisor_that_was_killed(service: Service) -> None:
    process = service.run("--workers", "1", "--reload")
    service.publish(1)
    ((_, worker),) = service.wait_for("done", 1)
    process.kill()
    process.wait(10)

    def gone() -> bool:
        try:
            os.kill(worker, 0)
        except ProcessLookupError:
            return True
        return False

    wait_until(gone, 20, what="the worker ends")


def test_reload_starts_again_when_a_file_changes(service: Service) -> None:
    process = service.run("--reload")
    service.publish(1)
    service.wait_for("done", 1)
    path = service.directory / "application.py"
    path.write_text(_APPLICATION.replace('note("done"', 'note("changed"'))
    wait_until(lambda: service.log().count("started as process") == 2, 20, what="another process")
    service.publish(2)
    service.wait_for("changed", 1)
    process.send_signal(signal.SIGTERM)
    assert process.wait(20) == 0

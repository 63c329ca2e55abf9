"""The example of docs/service.md, as a reader would run it: on every backend."""

from __future__ import annotations

import importlib
import json
import os
import re
import signal
import subprocess
import sys
import uuid
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from eventbus_core import EventBus, Worker
from eventbus_core.dead_letters.queue import DeadLetterQueue
from tests.brokers import broker as find_broker
from tests.bus_urls import bus_url
from tests.waiting import wait_until

ROOT = Path(__file__).parent.parent
EXAMPLE = ROOT / "examples" / "orders"
COMMAND = [sys.executable, "-m", "eventbus_core.cli"]
EMAILS = [f"{'x' * number}@example.org" for number in range(1, 10)]


@pytest.fixture
def shop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The example's modules, fresh, with their files in a directory of their own."""
    monkeypatch.setenv("SHOP_DATABASE", str(tmp_path / "orders.db"))
    monkeypatch.setenv("SHOP_OUTBOX", str(tmp_path / "outbox.txt"))
    monkeypatch.syspath_prepend(str(EXAMPLE))
    yield tmp_path
    for name in [each for each in sys.modules if each.partition(".")[0] == "shop"]:
        del sys.modules[name]


def test_in_memory_both_services_in_one_process(shop: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    url = f"memory://{uuid.uuid4().hex}"
    monkeypatch.setenv("EVENTBUS_URL", url)
    orders = importlib.import_module("shop.orders")
    notifier = importlib.import_module("shop.notifier")
    with EventBus(url) as admin, notifier.bus, orders.bus, ExitStack() as stack:
        for topic in ("orders", "confirmations"):
            admin.admin().create_topic(topic, 4)
        for bus in (notifier.bus, orders.bus):
            stack.enter_context(Worker(bus))
        for email in [*EMAILS, "nonsense"]:
            orders.place(email, 4200)

        def confirmed() -> int:
            with orders.database() as db:
                found: int = db.execute("select count(*) from orders where confirmed").fetchone()[0]
            db.close()
            return found

        wait_until(lambda: confirmed() == len(EMAILS), 30, what="all good orders are confirmed")
        wait_until(lambda: bool(DeadLetterQueue(admin, "orders", "notifier").index.entries()), 10, what="a dead letter")
        (letter,) = DeadLetterQueue(admin, "orders", "notifier").index.entries()
        assert letter.latest.error_message == "'nonsense' is no address"
    assert len((shop / "outbox.txt").read_text().splitlines()) == len(EMAILS)


@pytest.fixture(params=["redis", "kafka", "pulsar"])
def url(request: pytest.FixtureRequest) -> str:
    found = bus_url(find_broker(request.param))
    with EventBus(found) as bus:
        admin = bus.admin()
        for topic in ("orders", "confirmations"):  # another run's, where the broker is not new
            for each in [name for name in admin.topics() if name == topic or name.startswith(f"{topic}.")]:
                admin.delete_topic(each)
    return f"{found}{'&' if '?' in found else '?'}create_topics=true"


class Terminal:
    """Runs commands in the example's folder, as the page says."""

    def __init__(self, url: str, directory: Path) -> None:
        self._environment = {**os.environ, "EVENTBUS_URL": url, "PYTHONPATH": str(ROOT)}
        self._directory = directory
        self._services: list[tuple[subprocess.Popen[bytes], Path]] = []

    def start(self, service: str) -> None:
        log = self._directory / f"{service}.log"
        with log.open("wb") as file:
            process = subprocess.Popen(
                [*COMMAND, "run", f"shop.{service}:bus"], cwd=EXAMPLE, env=self._environment, stderr=file
            )
        self._services.append((process, log))

    def run(self, *command: str) -> str:
        done = subprocess.run(
            command, cwd=EXAMPLE, env=self._environment, capture_output=True, text=True, timeout=60, check=False
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    def end(self) -> list[int]:
        for process, _ in self._services:
            process.send_signal(signal.SIGTERM)
        return [process.wait(40) for process, _ in self._services]

    def clean_up(self) -> None:
        for process, _ in self._services:
            process.kill()
            process.wait(10)

    def logs(self) -> str:
        return "\n".join(log.read_text() for _, log in self._services)


@pytest.mark.timeout(180)
def test_two_processes_confirm_every_order_and_put_the_bad_one_aside(
    shop: Path, url: str, request: pytest.FixtureRequest
) -> None:
    terminal = Terminal(url, shop)
    request.addfinalizer(terminal.clean_up)
    terminal.start("notifier")
    terminal.start("orders")
    placed = terminal.run(sys.executable, "-m", "shop.orders", "place", *EMAILS, "nonsense")
    assert len(placed.splitlines()) == len(EMAILS) + 1

    def confirmed() -> bool:
        return terminal.run(sys.executable, "-m", "shop.orders", "show").count(" confirmed") == len(EMAILS)

    wait_until(confirmed, 60, every=0.5, what=f"all good orders are confirmed:\n{terminal.logs()}")
    assert "nonsense open" in terminal.run(sys.executable, "-m", "shop.orders", "show")
    listing = (*COMMAND, "dlq", "list", "orders", "notifier", "--json")
    wait_until(lambda: terminal.run(*listing), 20, every=0.5, what="a dead letter")
    (letter,) = terminal.run(*listing).splitlines()
    assert json.loads(letter)["error_message"] == "'nonsense' is no address"
    assert "trying again" in terminal.logs() or "attempt" in terminal.logs(), "some were tried twice"
    assert terminal.end() == [0, 0], terminal.logs()


def test_the_page_shows_the_code_as_it_is() -> None:
    page = (ROOT / "docs" / "service.md").read_text()
    notifier = (EXAMPLE / "shop" / "notifier.py").read_text()
    handler, test = re.findall(r"^```python\n(.*?)^```", page, re.MULTILINE | re.DOTALL)
    assert handler in notifier
    for name in re.findall(r"\]\(([^)#:]+)\)", page):
        assert (ROOT / "docs" / name).exists(), name
    assert "def test_" in test


def test_the_test_of_the_page_passes(shop: Path) -> None:
    page = (ROOT / "docs" / "service.md").read_text()
    _, code = re.findall(r"^```python\n(.*?)^```", page, re.MULTILINE | re.DOTALL)
    names: dict[str, object] = {}
    exec(compile(code, "docs/service.md", "exec"), names)
    test = names["test_a_confirmation_follows_an_order"]
    assert callable(test)
    test()

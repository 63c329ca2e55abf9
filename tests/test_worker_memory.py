"""However long the backlog: a worker whose handlers are blocked takes no more than it was allowed."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from eventbus_core import Event
from eventbus_core.envelope import encode
from eventbus_core.events import declaration_of
from eventbus_core.records import Record
from tests.brokers import broker
from tests.bus_urls import bus_url
from tests.waiting import wait_until
from tests.worker_fixtures import QUICK, World
from tests.worker_journal import Job

BACKLOG = int(os.environ.get("EVENTBUS_TEST_BACKLOG", "1000000"))


@pytest.fixture(params=["redis", "kafka", "pulsar"])
def world(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[World]:
    url = bus_url(broker(request.param))
    url += ("&" if "?" in url else "?") + QUICK[request.param]
    with ExitStack() as stack:
        yield World(url, None, tmp_path, stack)


def _resident(pid: int) -> int:
    status = Path(f"/proc/{pid}/status").read_text()
    found = re.search(r"VmRSS:\s+(\d+) kB", status)
    assert found is not None
    return int(found[1]) * 1024


def _fill(world: World, records: int, do: str) -> None:
    """Publish one event, and then the same bytes again and again under other keys: quicker than encoding each."""
    sample = encode(Event(Job(key="k0", seq=0, do=do)), declaration_of(Job), "/test", topic=world.topic)
    with world.bus.producer() as producer:
        for number in range(records):
            producer.send_record(Record(world.topic, sample.value, b"k%d" % (number % 1000), sample.headers), 300, 60.0)
        assert producer.flush(300) == 0


@pytest.mark.timeout(600)
def test_a_million_waiting_events_do_not_fill_the_memory(world: World) -> None:
    gate = world.folder / "gate"
    begun = world.process(name="warm")
    world.publish(*world.jobs(2000, keys=64))
    world.wait_handled(2000, 60)
    before = _resident(begun.popen.pid)
    _fill(world, BACKLOG, f"wait {gate}")
    wait_until(lambda: len(world.journal.entries("begin")) >= 2016, 60, every=0.5, what="the handlers to be blocked")
    sizes: list[int] = []

    def watch() -> bool:
        sizes.append(_resident(begun.popen.pid))
        return len(sizes) > 50

    wait_until(watch, 60, every=0.2, what="ten seconds of looking")
    peak = max(sizes)
    grown = (peak - before) / (1 << 20)
    name = world.bus.backend_name
    print(f"{name}, backlog {BACKLOG}: {before / (1 << 20):.1f} MiB before, {grown:.1f} MiB more at the peak")
    assert grown < 64

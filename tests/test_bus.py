"""What the bus owns: closing all of it, at exit too, and beginning anew in a forked child."""

from __future__ import annotations

import gc
import subprocess
import sys
import threading
import uuid
from contextlib import ExitStack
from pathlib import Path

import pytest

from eventbus_core import Closed, EventBus, Forked, Unavailable
from eventbus_core.memory import MemoryBackend, MemorySettings
from eventbus_core.partitioning import partition_of
from tests.forked import exit_code_in_child
from tests.holding import held
from tests.scripted import ScriptedBackend, stored


def memory() -> MemoryBackend:
    return MemoryBackend(MemorySettings(name=uuid.uuid4().hex))


def test_close_ends_a_consumer_that_the_application_dropped() -> None:
    bus = EventBus(memory())
    group = uuid.uuid4().hex
    bus.consumer("t", group=group)
    gc.collect()
    assert any(group in each.name for each in threading.enumerate())
    bus.close()
    assert not any(group in each.name for each in threading.enumerate())


def test_close_closes_the_rest_when_one_thing_fails() -> None:
    closed: list[str] = []

    class Failing(ScriptedBackend):
        def close(self) -> None:
            closed.append("backend")

    backend = Failing(stored)
    bus = EventBus(backend)
    bus.producer().send("t", b"x").result(5)

    def fail() -> None:
        raise Unavailable("away")

    bus.admin().end = fail  # type: ignore[method-assign]
    with pytest.raises(Unavailable):
        bus.close()
    assert backend.producers[0].closed
    assert closed == ["backend"]


def test_what_a_dropped_bus_has_taken_is_sent_at_exit() -> None:
    program = """
import threading
from eventbus_core import EventBus
from tests.scripted import ScriptedBackend, stored

def answer(outgoing):
    threading.Event().wait(0.3)
    print("stored", flush=True)
    return stored(outgoing)

EventBus(ScriptedBackend(answer)).producer().send("t", b"x")
"""
    root = Path(__file__).parent.parent
    ended = subprocess.run(
        [sys.executable, "-c", program], cwd=root, capture_output=True, text=True, timeout=30, check=True
    )
    assert ended.stdout == "stored\n"


def test_locks_that_the_parents_threads_hold_do_not_hang_a_forked_child() -> None:
    backend = memory()
    bus = EventBus(backend)
    bus.admin().create_topic("t", 1)
    with held(bus._lock), held(backend._store.changed):
        assert exit_code_in_child(lambda: len(bus.admin().topics())) == 0  # of the child's own, empty store
    bus.close()


def test_an_admin_of_the_parent_is_refused_in_a_forked_child_even_while_it_is_busy() -> None:
    bus = EventBus(memory())
    admin = bus.admin()
    admin.topics()

    def use() -> int:
        try:
            admin.topics()
        except Forked:
            return 7
        return 0

    with held(admin._lock):
        assert exit_code_in_child(use) == 7
    bus.close()


def test_read_follow_yields_what_arrives_while_it_catches_up() -> None:
    with EventBus(memory()) as bus, bus.producer() as producer:
        bus.admin().create_topic("t", 2)
        keys = {partition_of(b"%d" % n, 2): b"%d" % n for n in range(20)}
        for partition in (0, 1):
            producer.send("t", b"old", key=keys[partition]).result(5)
        reading = bus.read("t", follow=True)
        values = [next(reading).record.value]
        producer.send("t", b"new", key=keys[1]).result(5)

        def rest() -> None:
            values.append(next(reading).record.value)
            values.append(next(reading).record.value)

        reader = threading.Thread(target=rest, daemon=True)
        reader.start()
        reader.join(5)
        assert values == [b"old", b"old", b"new"]


@pytest.mark.timeout(20)
def test_a_bus_whose_admin_was_interrupted_can_be_closed() -> None:
    with EventBus("memory://") as bus, ExitStack() as interrupted:
        admin = bus.admin()
        admin.topics()
        # As Ctrl-C leaves it that comes when the connection was entered, and before the call.
        interrupted.enter_context(admin._connection())
        bus.close()
        with pytest.raises(Closed):
            admin.topics()

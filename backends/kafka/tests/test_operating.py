"""What operators ask for, while the broker has other worries."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.brokers import Broker
from tests.waiting import wait_until

from .conftest import Bus, Pump

VERBS = ["groups", "topics of a group", "lag", "delete group", "delete topic", "describe topic", "create topic"]


class Administrator:
    """A process of its own, since what librdkafka does with late answers can end it."""

    def __init__(self, bus: Bus) -> None:
        arguments = [sys.executable, str(Path(__file__).with_name("administrator.py")), bus.url, bus.topic, bus.group]
        self._process = subprocess.Popen(arguments, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def wait_ready(self) -> None:
        assert self._read() == "ready"

    def ask(self, verb: str) -> str:
        assert self._process.stdin is not None
        self._process.stdin.write(f"{verb}\n")
        self._process.stdin.flush()
        return self._read()

    def wait_done(self, *verbs: str) -> None:
        for verb in verbs:
            wait_until(lambda verb=verb: self.ask(verb) == "done", 20, what=f"{verb!r} is done")

    def answer(self, verb: str) -> str:
        """The first answer other than that the broker is away."""

        def told() -> str:
            answer = self.ask(verb)
            return "" if answer == "Unavailable" else answer

        return wait_until(told, 20, what=f"an answer to {verb!r}")

    def _read(self) -> str:
        assert self._process.stdout is not None
        return self._process.stdout.readline().strip()

    def end(self) -> int:
        self._process.communicate(timeout=20)
        return self._process.returncode

    def clean_up(self) -> None:
        self._process.kill()
        self._process.communicate()


@pytest.fixture
def administrator(bus: Bus) -> Iterator[Administrator]:
    """Of a topic with records, and a group that has handled them."""
    bus.send(bus.numbered(0, 10))
    pump = Pump(bus.consumer())
    pump.until(lambda: len(pump.values()) == 10, 15, "all")
    pump.consumer.close()
    administrator = Administrator(bus)
    try:
        administrator.wait_ready()
        yield administrator
    finally:
        administrator.clean_up()


@pytest.mark.parametrize("verb", VERBS)
def test_an_answer_that_comes_too_late_harms_nobody(
    verb: str, administrator: Administrator, kafka_broker: Broker
) -> None:
    kafka_broker.pause()
    try:
        assert administrator.ask(verb) == "Unavailable"
    finally:
        kafka_broker.unpause()
    administrator.wait_done("topics", "topics of a group", "groups")
    assert administrator.end() == 0


@pytest.mark.parametrize("verb", ["topics of a group", "delete group"])
def test_an_answer_that_never_comes_holds_nobody_up(
    verb: str, administrator: Administrator, kafka_broker: Broker
) -> None:
    kafka_broker.pause()
    try:
        assert administrator.ask(verb) == "Unavailable"
        assert administrator.end() == 0
    finally:
        kafka_broker.unpause()


@pytest.mark.parametrize("verb", ["topics of a group", "delete group"])
def test_a_broker_that_is_dead_is_unavailable_until_it_is_back(
    verb: str, administrator: Administrator, kafka_broker: Broker
) -> None:
    kafka_broker.kill()
    try:
        assert administrator.ask(verb) == "Unavailable"
    finally:
        kafka_broker.start()
    administrator.wait_done("topics", "topics of a group", "groups")
    # What was told to have failed does not happen afterwards.
    assert administrator.answer("lag") == "done"
    assert administrator.end() == 0

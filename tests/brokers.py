"""One real broker of each kind for the tests: the one that the conformance harness of its backend starts or finds.

Where a broker comes from, in this order:

1. its address in the environment: `EVENTBUS_TEST_KAFKA` (host:port), `EVENTBUS_TEST_PULSAR` (pulsar://host:port) with
   `EVENTBUS_TEST_PULSAR_ADMIN` (http://host:port), `EVENTBUS_TEST_REDIS` and `EVENTBUS_TEST_REDIS7` (redis://host:port);
2. Docker through testcontainers; `EVENTBUS_TEST_<NAME>_IMAGE` names another image than the official one, for example
   one of `tools/build-images`;
3. otherwise the test is skipped, or fails if `EVENTBUS_TEST_REQUIRE` (names, comma-separated) holds the broker.

A container is started once per process, when a test first asks for it, and removed at exit.
"""

import atexit
import os
from dataclasses import dataclass
from typing import Any, Literal, NoReturn

import pytest

from eventbus_conformance.containers import free_port as _free_port  # noqa: F401  (for brokers with other settings)
from eventbus_conformance.harness import Controls, NoBroker, load
from eventbus_kafka.conformance import IMAGE as KAFKA_IMAGE
from eventbus_kafka.conformance import KafkaHarness
from eventbus_pulsar.conformance import IMAGE as PULSAR_IMAGE
from eventbus_redis.conformance import IMAGES as REDIS_IMAGES

Name = Literal["kafka", "pulsar", "redis", "redis7"]

READY_TIMEOUT = 90.0
"""Seconds until a started broker must answer: Pulsar takes 7 s on an idle machine of two cores."""

IMAGES: dict[Name, str] = {
    "kafka": KAFKA_IMAGE,
    "pulsar": PULSAR_IMAGE,
    "redis": REDIS_IMAGES[0],
    "redis7": REDIS_IMAGES[1],
}

_PROFILES: dict[Name, tuple[str, str]] = {
    "kafka": ("kafka", "kafka-1-node"),
    "pulsar": ("pulsar", "pulsar-standalone"),
    "redis": ("redis", "redis-aof"),
    "redis7": ("redis", "redis-7-aof"),
}


@dataclass(frozen=True)
class Broker:
    """A broker that answered.

    Attributes:
        name: which broker.
        url: what its client connects to: `host:port` for Kafka, else with the scheme.
        admin_url: the base of the REST interface, Pulsar only.
        controls: what may be done to it, None if the address was given from outside.

    """

    name: Name
    url: str
    admin_url: str | None = None
    controls: Controls | None = None

    @property
    def controllable(self) -> bool:
        """Whether this test run owns the broker and may break it."""
        return self.controls is not None

    def kill(self) -> None:
        """End the broker with SIGKILL; returns when it is gone."""
        self._controlled().kill()

    def start(self) -> None:
        """Start a killed broker with its data and its address; returns when it answers."""
        self._controlled().start()

    def restart(self) -> None:
        """Kill, then start."""
        self.kill()
        self.start()

    def pause(self) -> None:
        """Freeze the broker: its connections stay open and nothing answers."""
        self._controlled().pause()

    def unpause(self) -> None:
        """Let a frozen broker go on; returns when it answers."""
        self._controlled().unpause()

    def _controlled(self) -> Controls:
        if self.controls is None:
            pytest.skip(f"{self.name} at {self.url} was given by address: this run may not stop it")
        return self.controls


def broker(name: Name) -> Broker:
    """Give the broker, started if need be; skip the calling test, or fail it, if there is none."""
    if name not in _found:
        _found[name] = _find(name)
    found = _found[name]
    return found if isinstance(found, Broker) else found.give_up(name)


def own_kafka(**environment: str) -> str:
    """The address of a Kafka with other settings, removed at exit; without Docker skips the test, or fails it."""
    harness = KafkaHarness()
    atexit.register(harness.down)
    try:
        harness.start(**environment)
    except NoBroker as error:
        _Missing(str(error)).give_up("kafka")
    return harness.address


@dataclass(frozen=True)
class _Missing:
    """Why there is no broker; kept so that later tests do not try, and wait, again."""

    reason: str
    broken: bool = False

    def give_up(self, name: Name) -> NoReturn:
        required = [word.strip() for word in os.environ.get("EVENTBUS_TEST_REQUIRE", "").split(",")]
        message = f"NO BROKER: {name}: {self.reason}"
        if self.broken or name in required:
            pytest.fail(message)
        pytest.skip(message)


_found: dict[Name, Broker | _Missing] = {}


def _find(name: Name) -> Broker | _Missing:
    backend, profile = _PROFILES[name]
    harness: Any = load(backend)(profile)
    atexit.register(harness.down)
    try:
        harness.up()
    except NoBroker as error:
        return _Missing(str(error))
    except AssertionError as error:
        # Something is there and does not work: that is never a reason to skip.
        return _Missing(str(error), broken=True)
    scheme = "" if backend == "kafka" else f"{backend}://"
    return Broker(name, f"{scheme}{harness.address}", getattr(harness, "admin_url", None), harness.controls)

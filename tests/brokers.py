"""One real broker of each kind for the tests.

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
import random
import socket
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass
from http.client import HTTPException
from typing import Any, Literal, NoReturn

import pytest

from tests.waiting import wait_until

Name = Literal["kafka", "pulsar", "redis", "redis7"]

READY_TIMEOUT = 90.0
"""Seconds until a started broker must answer: Pulsar takes 7 s on an idle machine of two cores."""

IMAGES: dict[Name, str] = {
    "kafka": "apache/kafka:4.1.0",
    "pulsar": "apachepulsar/pulsar:4.0.8",
    "redis": "redis:8.0",
    "redis7": "redis:7.0",
}


@dataclass(frozen=True)
class Broker:
    """A broker that answered.

    Attributes:
        name: which broker.
        url: what its client connects to: `host:port` for Kafka, else with the scheme.
        admin_url: the base of the REST interface, Pulsar only.
        container: the Docker container, None if the address was given from outside.

    """

    name: Name
    url: str
    admin_url: str | None = None
    container: Any = None

    @property
    def controllable(self) -> bool:
        """Whether this test run owns the broker and may break it."""
        return self.container is not None

    def kill(self) -> None:
        """End the broker with SIGKILL; returns when it is gone."""
        container = self._controlled()
        container.kill("KILL")
        container.wait(timeout=30)

    def start(self) -> None:
        """Start a killed broker with its data and its address; returns when it answers."""
        self._controlled().start()
        self.wait_ready()

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
        self.wait_ready()

    def wait_ready(self) -> None:
        """Wait until the broker answers a request of its own protocol."""
        answers = _PROBES[self.name](self)
        wait_until(answers, READY_TIMEOUT, every=0.1, what=f"{self.name} at {self.url} answers")

    def _controlled(self) -> Any:
        if self.container is None:
            pytest.skip(f"{self.name} at {self.url} was given by address: this run may not stop it")
        return self.container


def broker(name: Name) -> Broker:
    """Give the broker, started if need be; skip the calling test, or fail it, if there is none."""
    if name not in _found:
        _found[name] = _find(name)
    found = _found[name]
    return found if isinstance(found, Broker) else found.give_up(name)


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
    variable = f"EVENTBUS_TEST_{name.upper()}"
    url = os.environ.get(variable)
    given = Broker(name, url, os.environ.get(f"{variable}_ADMIN")) if url else None
    if given and name == "pulsar" and not given.admin_url:
        return _Missing(f"{variable} needs {variable}_ADMIN beside it", broken=True)
    found = given or _start(name, os.environ.get(f"{variable}_IMAGE", IMAGES[name]))
    if isinstance(found, _Missing):
        return found
    try:
        found.wait_ready()
    except AssertionError as error:
        # Something is there and does not work: that is never a reason to skip.
        log = found.container.logs(tail=30).decode(errors="replace") if found.container else ""
        return _Missing(f"{error}\n{log}", broken=True)
    return found


def _start(name: Name, image: str) -> Broker | _Missing:
    try:
        from docker.errors import DockerException  # type: ignore[import-untyped]
        from testcontainers.core.container import DockerContainer
    except ImportError as error:
        return _Missing(f"no EVENTBUS_TEST_{name.upper()}, and testcontainers is not installed ({error})")
    try:
        container = DockerContainer(image)
        url, admin_url = _CONFIGURE[name](container)
        container.start()
    except (DockerException, OSError) as error:
        return _Missing(f"no EVENTBUS_TEST_{name.upper()}, and Docker cannot run {image} ({error})")
    atexit.register(container.stop)
    return Broker(name, url, admin_url, container.get_wrapped_container())


def _free_port() -> int:
    """Choose the port ourselves: Docker gives a container new random ports at every start, which breaks a restart.

    It lies below the ports that systems give to outgoing connections, one of which could take it while a killed
    broker is down.
    """
    while True:
        port = random.randrange(20_000, 30_000)
        with socket.socket() as listener:
            try:
                listener.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port


def _configure_kafka(container: Any) -> tuple[str, None]:
    port = _free_port()
    container.with_bind_ports(9092, port).with_envs(
        KAFKA_NODE_ID="1",
        KAFKA_PROCESS_ROLES="broker,controller",
        KAFKA_LISTENERS="PLAINTEXT://0.0.0.0:9092,CONTROLLER://127.0.0.1:9093",
        KAFKA_ADVERTISED_LISTENERS=f"PLAINTEXT://127.0.0.1:{port}",
        KAFKA_CONTROLLER_LISTENER_NAMES="CONTROLLER",
        KAFKA_CONTROLLER_QUORUM_VOTERS="1@127.0.0.1:9093",
        KAFKA_LISTENER_SECURITY_PROTOCOL_MAP="CONTROLLER:PLAINTEXT,PLAINTEXT:PLAINTEXT",
        KAFKA_INTER_BROKER_LISTENER_NAME="PLAINTEXT",
        KAFKA_AUTO_CREATE_TOPICS_ENABLE="false",
        KAFKA_GROUP_INITIAL_REBALANCE_DELAY_MS="0",
        KAFKA_GROUP_MIN_SESSION_TIMEOUT_MS="1000",
        # A killed node is refused as a duplicate of itself until its old session ends, 9 s by default.
        KAFKA_BROKER_SESSION_TIMEOUT_MS="2000",
        KAFKA_BROKER_HEARTBEAT_INTERVAL_MS="300",
        KAFKA_OFFSETS_TOPIC_REPLICATION_FACTOR="1",
        KAFKA_OFFSETS_TOPIC_NUM_PARTITIONS="4",
        KAFKA_TRANSACTION_STATE_LOG_REPLICATION_FACTOR="1",
        KAFKA_TRANSACTION_STATE_LOG_MIN_ISR="1",
        KAFKA_TRANSACTION_STATE_LOG_NUM_PARTITIONS="4",
        KAFKA_HEAP_OPTS="-Xmx512m",
    )
    return f"127.0.0.1:{port}", None


_PULSAR_COMMAND = r"""
for setting in "$@"; do
    sed -i -E "s|^#? *${setting%%=*}=.*|$setting|" conf/standalone.conf
done
exec bin/pulsar standalone -nfw -nss
"""


def _configure_pulsar(container: Any) -> tuple[str, str]:
    port, web_port = _free_port(), _free_port()
    # A lookup answers with the broker's own port, so the port must be the same inside and outside.
    settings = [
        "advertisedAddress=127.0.0.1",
        f"brokerServicePort={port}",
        f"webServicePort={web_port}",
        "allowAutoTopicCreation=false",
    ]
    container.with_bind_ports(port, port).with_bind_ports(web_port, web_port)
    container.with_env("PULSAR_MEM", "-Xms512m -Xmx512m -XX:MaxDirectMemorySize=512m")
    container.with_command(["bash", "-c", _PULSAR_COMMAND, "standalone", *settings])
    return f"pulsar://127.0.0.1:{port}", f"http://127.0.0.1:{web_port}"


def _configure_redis(container: Any) -> tuple[str, None]:
    port = _free_port()
    container.with_bind_ports(6379, port)
    # The official image's default is snapshots only: a kill would lose what was acknowledged.
    container.with_command(["--appendonly", "yes", "--appendfsync", "everysec", "--save", ""])
    return f"redis://127.0.0.1:{port}", None


_CONFIGURE: dict[Name, Callable[[Any], tuple[str, str | None]]] = {
    "kafka": _configure_kafka,
    "pulsar": _configure_pulsar,
    "redis": _configure_redis,
    "redis7": _configure_redis,
}


def _probe_kafka(broker: Broker) -> Callable[[], bool]:
    from confluent_kafka import KafkaException
    from confluent_kafka.admin import AdminClient

    client = AdminClient({"bootstrap.servers": broker.url, "reconnect.backoff.max.ms": 200, "log_level": 0})

    def answers() -> bool:
        try:
            return bool(client.list_topics(timeout=2).brokers)
        except KafkaException:
            return False

    return answers


def _probe_pulsar(broker: Broker) -> Callable[[], bool]:
    def answers() -> bool:
        try:
            # The broker's own check sends and receives a message.
            with urllib.request.urlopen(f"{broker.admin_url}/admin/v2/brokers/health", timeout=10) as response:
                return bool(response.read() == b"ok")
        except (OSError, HTTPException):
            return False

    return answers


def _probe_redis(broker: Broker) -> Callable[[], bool]:
    import redis

    def answers() -> bool:
        try:
            with redis.Redis.from_url(broker.url, socket_timeout=2, socket_connect_timeout=2) as client:
                return bool(client.ping())
        except redis.RedisError:
            return False

    return answers


_PROBES: dict[Name, Callable[[Broker], Callable[[], bool]]] = {
    "kafka": _probe_kafka,
    "pulsar": _probe_pulsar,
    "redis": _probe_redis,
    "redis7": _probe_redis,
}

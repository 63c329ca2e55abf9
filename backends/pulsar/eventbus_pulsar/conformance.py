"""Pulsar for the conformance suite: `pytest --pyargs eventbus_conformance --eventbus-backend pulsar`."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Final

import httpx
import pulsar

from eventbus_conformance.containers import DockerBroker, free_port
from eventbus_conformance.harness import Bounds, Harness, Raw, Route
from eventbus_conformance.waiting import wait_until

IMAGE: Final = "apachepulsar/pulsar:4.0.8"
_AWAY: Final = "connect_timeout_seconds=2&request_timeout_seconds=2&send_timeout_seconds=2"
_READY_SECONDS: Final = 30.0
_TIMEOUT_MS: Final = 10_000
_STARTS: Final = 6
_FLAPS: Final = 10
"""In a second."""
_COMMAND: Final = r"""
for setting in "$@"; do
    sed -i -E "s|^#? *${setting%%=*}=.*|$setting|" conf/standalone.conf
    grep -q "^${setting%%=*}=" conf/standalone.conf || printf '\n%s\n' "$setting" >>conf/standalone.conf
done
exec bin/pulsar standalone -nfw -nss
"""


class _Standalone(DockerBroker):
    """A broker whose bookie stays registered.

    After a SIGKILL the lock of the former bookie is still there, and sometimes the new one then loses and takes its own
    over and over, a hundred times a second (Pulsar 4.0.8 with its RocksDB metadata store): whether a ledger can be made
    is a matter of luck until somebody starts the broker once more. That begins two seconds before the broker listens,
    so it is killed again before clients meet it.
    """

    def start(self) -> None:
        for _ in range(_STARTS):
            self.begin()
            self.wait_ready(unless=self._flaps)
            if not self._flaps():
                return
            self.kill()
        raise AssertionError(f"the bookie's registration flaps after each of {_STARTS} starts")

    def _flaps(self) -> bool:
        return self.log(seconds=1.0).count("was invalidated") >= _FLAPS


class PulsarHarness(Harness):
    """A standalone broker: the one that `EVENTBUS_TEST_PULSAR` and `…_PULSAR_ADMIN` name, or a container."""

    backend: ClassVar[str] = "pulsar"
    client: ClassVar[str | None] = "pulsar-client"
    profiles: ClassVar[Mapping[str, str]] = {"pulsar-standalone": "one standalone broker with its bookie"}
    bounds: ClassVar[Bounds] = Bounds()

    address: str
    admin_url: str
    _route: Route | None = None

    def up(self) -> None:
        given = os.environ.get("EVENTBUS_TEST_PULSAR")
        if given:
            self.address = given.removeprefix("pulsar://")
            self.admin_url = os.environ.get("EVENTBUS_TEST_PULSAR_ADMIN", "")
            assert self.admin_url, "EVENTBUS_TEST_PULSAR needs EVENTBUS_TEST_PULSAR_ADMIN beside it"
            wait_until(self.answers, _READY_SECONDS, what=f"Pulsar at {given} answers")
            version = httpx.get(f"{self.admin_url}/admin/v2/brokers/version").text
            self.broker_version = f"pulsar {version} (given by address)"
            return
        port, web_port, behind, listen = free_port(), free_port(), free_port(), f"127.0.0.1:{free_port()}"
        self.address, self.admin_url = f"127.0.0.1:{port}", f"http://127.0.0.1:{web_port}"
        self._route = Route(listen, f"127.0.0.1:{behind}", self._url(listen))
        # A lookup answers with the broker's own port, so the port must be the same inside and outside. What is told
        # to a client that came through the proxy is the proxy's address, not a way around it.
        settings = (
            f"webServicePort={web_port}",
            f"brokerServicePort={port}",
            f"bindAddresses=proxied:pulsar://0.0.0.0:{behind}",
            f"advertisedListeners=direct:pulsar://{self.address},proxied:pulsar://{listen}",
            "internalListenerName=direct",
            "advertisedAddress=",
            "allowAutoTopicCreation=false",
            # After five late writes in a minute the broker would shun its only bookie for half an hour.
            "bookkeeperClientHealthCheckEnabled=false",
            # Docker may give a container another address when it starts again, and the bookie is found by its name.
            "useHostNameAsBookieID=true",
        )
        self.controls = broker = _Standalone(
            os.environ.get("EVENTBUS_TEST_PULSAR_IMAGE", IMAGE),
            ports={port: port, web_port: web_port, behind: behind},
            env={"PULSAR_MEM": "-Xms512m -Xmx512m -XX:MaxDirectMemorySize=512m"},
            command=["bash", "-c", _COMMAND, "standalone", *settings],
            answers=self.answers,
        )
        broker.up()
        self.broker_version = broker.version

    def down(self) -> None:
        if isinstance(self.controls, DockerBroker):
            self.controls.remove()

    def url(self) -> str:
        return self._url(self.address)

    def unreachable_url(self) -> str:
        return f"pulsar://127.0.0.1:1?admin_url=http://127.0.0.1:1&{_AWAY}"

    def route(self) -> Route | None:
        return self._route

    def raw_send(self, topic: str, partition: int, raw: Raw) -> None:
        client = self._client()
        try:
            producer = client.create_producer(_name(topic, partition), send_timeout_millis=_TIMEOUT_MS)
            properties = {name: value.decode() for name, value in raw.headers}
            key = raw.key.decode() if raw.key is not None else None
            producer.send(raw.value, properties=properties, partition_key=key)
        finally:
            client.close()

    def raw_read(self, topic: str, partition: int) -> Sequence[Raw]:
        client = self._client()
        try:
            reader = client.create_reader(_name(topic, partition), pulsar.MessageId.earliest)
            found = []
            while reader.has_message_available():
                message = reader.read_next(_TIMEOUT_MS)
                value = None if message.has_null_value() else message.data()
                headers = tuple((name, text.encode()) for name, text in sorted(message.properties().items()))
                found.append(Raw(value, message.partition_key().encode() or None, headers))
            return found
        finally:
            client.close()

    def drop_group(self, group: str, topic: str) -> None:
        httpx.delete(
            f"{self.admin_url}/admin/v2/persistent/public/default/{topic}/subscription/{group}?force=true"
        ).raise_for_status()

    def _url(self, address: str) -> str:
        return f"pulsar://{address}?admin_url={self.admin_url}"

    def _client(self) -> Any:
        logger = pulsar.ConsoleLogger(pulsar.LoggerLevel.Error)
        return pulsar.Client(f"pulsar://{self.address}", operation_timeout_seconds=10, logger=logger)

    def answers(self) -> bool:
        """Whether the broker answers a request."""
        try:
            # The broker's own check sends and receives a message.
            return httpx.get(f"{self.admin_url}/admin/v2/brokers/health", timeout=10).text == "ok"
        except httpx.HTTPError:
            return False


def _name(topic: str, partition: int) -> str:
    return f"persistent://public/default/{topic}-partition-{partition}"

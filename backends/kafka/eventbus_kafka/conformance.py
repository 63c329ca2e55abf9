"""Kafka for the conformance suite: `pytest --pyargs eventbus_conformance --eventbus-backend kafka`."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Final

from confluent_kafka import OFFSET_END, Consumer, KafkaError, KafkaException, Producer, TopicPartition
from confluent_kafka.admin import AdminClient

from eventbus_conformance.containers import DockerBroker, free_port
from eventbus_conformance.harness import Bounds, Harness, InUse, Raw, Route
from eventbus_conformance.waiting import wait_until
from eventbus_kafka.conformance_cluster import ENVIRONMENT, KafkaNodes

IMAGE: Final = "apache/kafka:4.1.0"
_AWAY: Final = "connect_timeout_seconds=2&request_timeout_seconds=2&send_timeout_seconds=2"
_SESSIONS: Final = "session_timeout_seconds=6"
_CLUSTER: Final = "kafka-3-nodes"
_READY_SECONDS: Final = 30.0
_TIMEOUT_SECONDS: Final = 10.0


class KafkaHarness(Harness):
    """One node: the one that `EVENTBUS_TEST_KAFKA` (host:port) names, or a container."""

    backend: ClassVar[str] = "kafka"
    client: ClassVar[str | None] = "confluent-kafka"
    profiles: ClassVar[Mapping[str, str]] = {
        "kafka-1-node": "one node, broker and controller in one",
        _CLUSTER: "three nodes, three copies of each topic, of which two must confirm",
    }
    bounds: ClassVar[Bounds] = Bounds(quiet=0.5)

    address: str
    _route: Route | None = None

    def up(self) -> None:
        if self.profile == _CLUSTER:
            self.cluster = nodes = KafkaNodes(os.environ.get("EVENTBUS_TEST_KAFKA_IMAGE", IMAGE))
            self.address = nodes.address
            self.broker_version = nodes.up()
            return
        given = os.environ.get("EVENTBUS_TEST_KAFKA")
        if given:
            self.address = given
            wait_until(self.answers, _READY_SECONDS, what=f"Kafka at {given} answers")
            self.broker_version = "kafka (given by address)"
        else:
            self.start()

    def start(self, **environment: str) -> None:
        """Start a node of our own, with further settings of the broker where wanted."""
        port, behind, listen = free_port(), free_port(), f"127.0.0.1:{free_port()}"
        self.address = f"127.0.0.1:{port}"
        self._route = Route(listen, f"127.0.0.1:{behind}", f"kafka://{listen}?{_SESSIONS}")
        self.controls = broker = DockerBroker(
            os.environ.get("EVENTBUS_TEST_KAFKA_IMAGE", IMAGE),
            ports={9092: port, 9094: behind},
            env={**_environment(self.address, listen), **environment},
            answers=self.answers,
        )
        broker.up()
        self.broker_version = broker.version

    def down(self) -> None:
        if isinstance(self.controls, DockerBroker):
            self.controls.remove()
        if isinstance(self.cluster, KafkaNodes):
            self.cluster.remove()

    def url(self) -> str:
        copies = "&replication_factor=3" if self.profile == _CLUSTER else ""
        return f"kafka://{self.address}?{_SESSIONS}{copies}"

    def unreachable_url(self) -> str:
        return f"kafka://127.0.0.1:1?{_AWAY}"

    def route(self) -> Route | None:
        return self._route

    def raw_send(self, topic: str, partition: int, raw: Raw) -> None:
        failures: list[object] = []
        producer = Producer({"bootstrap.servers": self.address})
        producer.produce(
            topic,
            value=raw.value,
            key=raw.key,
            headers=list(raw.headers),
            partition=partition,
            on_delivery=lambda error, _: failures.append(error) if error else None,
        )
        assert producer.flush(_TIMEOUT_SECONDS) == 0, "the record was not taken"
        assert not failures, failures

    def raw_read(self, topic: str, partition: int) -> Sequence[Raw]:
        consumer = Consumer({"bootstrap.servers": self.address, "group.id": "raw", "enable.auto.commit": False})
        try:
            _, end = consumer.get_watermark_offsets(TopicPartition(topic, partition), timeout=_TIMEOUT_SECONDS)
            consumer.assign([TopicPartition(topic, partition, 0)])
            found: list[Raw] = []
            at = 0
            while at < end:
                message: Any = consumer.poll(_TIMEOUT_SECONDS)
                assert message is not None, f"{topic}[{partition}] ends at {end}, and nothing comes after {at}"
                if message.error():
                    raise KafkaException(message.error())
                found.append(Raw(message.value(), message.key(), tuple(message.headers() or ())))
                at = message.offset() + 1
            return found
        finally:
            consumer.close()

    def drop_group(self, group: str, topic: str) -> None:  # noqa: ARG002  (a group's positions go together)
        client = AdminClient({"bootstrap.servers": self.address})  # its calls end with it
        try:
            client.delete_consumer_groups([group])[group].result(_TIMEOUT_SECONDS)
        except KafkaException as error:
            if error.args[0].code() == KafkaError.NON_EMPTY_GROUP:
                raise InUse(group) from error
            raise

    def expire(self, topic: str) -> None:
        # What retention does after its time and its interval: it moves the begin of the log.
        self.remove_records(topic)

    def remove_records(self, topic: str) -> None:
        client = AdminClient({"bootstrap.servers": self.address})
        partitions = client.list_topics(topic, timeout=_TIMEOUT_SECONDS).topics[topic].partitions
        ends = [TopicPartition(topic, number, OFFSET_END) for number in partitions]
        for removed in client.delete_records(ends).values():
            removed.result(_TIMEOUT_SECONDS)

    def answers(self) -> bool:
        """Whether the broker answers a request."""
        client: Any = AdminClient({"bootstrap.servers": self.address, "reconnect.backoff.max.ms": 200, "log_level": 0})
        try:
            return bool(client.list_topics(timeout=2).brokers)
        except KafkaException:
            return False


def _environment(address: str, proxied: str) -> dict[str, str]:
    return {
        **ENVIRONMENT,
        # A client that came through the proxy is told the proxy's address, not a way around it.
        # The addresses for clients do not exist inside the container, where transactions need the broker itself.
        "KAFKA_LISTENERS": "PLAINTEXT://0.0.0.0:9092,PROXIED://0.0.0.0:9094,"
        "INSIDE://127.0.0.1:9095,CONTROLLER://127.0.0.1:9093",
        "KAFKA_ADVERTISED_LISTENERS": f"PLAINTEXT://{address},PROXIED://{proxied},INSIDE://127.0.0.1:9095",
        "KAFKA_CONTROLLER_QUORUM_VOTERS": "1@127.0.0.1:9093",
        "KAFKA_LISTENER_SECURITY_PROTOCOL_MAP": ",".join(
            f"{name}:PLAINTEXT" for name in ("CONTROLLER", "PLAINTEXT", "PROXIED", "INSIDE")
        ),
        "KAFKA_INTER_BROKER_LISTENER_NAME": "INSIDE",
        "KAFKA_NODE_ID": "1",
        "KAFKA_OFFSETS_TOPIC_REPLICATION_FACTOR": "1",
        "KAFKA_TRANSACTION_STATE_LOG_REPLICATION_FACTOR": "1",
        "KAFKA_TRANSACTION_STATE_LOG_MIN_ISR": "1",
    }

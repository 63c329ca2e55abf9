"""Three Kafka nodes for the conformance suite, each with a copy of everything."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any, Final

from confluent_kafka import KafkaException
from confluent_kafka.admin import AdminClient

from eventbus_conformance.containers import DockerBroker, free_port
from eventbus_conformance.waiting import wait_until

NODES: Final = (1, 2, 3)
ENVIRONMENT: Final[Mapping[str, str]] = {
    "KAFKA_PROCESS_ROLES": "broker,controller",
    "KAFKA_CONTROLLER_LISTENER_NAMES": "CONTROLLER",
    "KAFKA_AUTO_CREATE_TOPICS_ENABLE": "false",
    "KAFKA_GROUP_INITIAL_REBALANCE_DELAY_MS": "0",
    "KAFKA_GROUP_MIN_SESSION_TIMEOUT_MS": "1000",
    # A killed node is refused as a duplicate of itself until its old session ends, 9 s by default. With much less, one
    # on a busy machine is taken for dead.
    "KAFKA_BROKER_SESSION_TIMEOUT_MS": "6000",
    "KAFKA_BROKER_HEARTBEAT_INTERVAL_MS": "300",
    "KAFKA_OFFSETS_TOPIC_NUM_PARTITIONS": "4",
    "KAFKA_TRANSACTION_STATE_LOG_NUM_PARTITIONS": "4",
    # How often the broker looks for transactions whose time is over, 10 s by default.
    "KAFKA_TRANSACTION_ABORT_TIMED_OUT_TRANSACTION_CLEANUP_INTERVAL_MS": "1000",
    "KAFKA_HEAP_OPTS": "-Xmx512m",
}
"""What all nodes of a harness have in common."""
_READY_SECONDS: Final = 90.0


class KafkaNodes:
    """The ``Cluster`` of the harness."""

    def __init__(self, image: str) -> None:
        ports = {node: free_port() for node in NODES}
        voters = {node: free_port() for node in NODES}
        quorum = ",".join(f"{node}@127.0.0.1:{port}" for node, port in voters.items())
        self.address = ",".join(f"127.0.0.1:{port}" for port in ports.values())
        self._nodes = {
            node: DockerBroker(
                image,
                ports={},
                host_network=True,
                env={**ENVIRONMENT, **_environment(node, ports[node], voters[node], quorum)},
                answers=lambda: True,  # one node alone is no cluster
            )
            for node in NODES
        }
        self._killed: DockerBroker | None = None

    def up(self) -> str:
        """Start all; returns what they are."""
        for node in self._nodes.values():
            node.up()
        wait_until(lambda: len(self._metadata().brokers) == len(NODES), _READY_SECONDS, what="three Kafka nodes meet")
        return f"3 x {self._nodes[1].version}"

    def remove(self) -> None:
        """Remove all."""
        for node in self._nodes.values():
            node.remove()

    def kill_leader(self, topic: str) -> None:
        leaders = Counter(each.leader for each in self._metadata().topics[topic].partitions.values())
        self._killed = self._nodes[leaders.most_common(1)[0][0]]
        self._killed.kill()

    def start(self) -> None:
        if self._killed is not None:
            self._killed.start()
        wait_until(self._complete, _READY_SECONDS, every=0.2, what="every copy of every partition is in sync")

    def _complete(self) -> bool:
        topics = self._metadata().topics.values()
        copies = [len(each.isrs) for topic in topics for each in topic.partitions.values()]
        return bool(copies) and set(copies) == {len(NODES)}

    def _metadata(self) -> Any:
        client = AdminClient({"bootstrap.servers": self.address, "reconnect.backoff.max.ms": 200, "log_level": 0})

        def answer() -> Any:
            try:
                return client.list_topics(timeout=5)
            except KafkaException:
                return None

        return wait_until(answer, _READY_SECONDS, every=0.2, what="the Kafka nodes answer")


def _environment(node: int, port: int, voter: int, quorum: str) -> dict[str, str]:
    return {
        "KAFKA_NODE_ID": str(node),
        "KAFKA_LISTENERS": f"PLAINTEXT://127.0.0.1:{port},CONTROLLER://127.0.0.1:{voter}",
        "KAFKA_ADVERTISED_LISTENERS": f"PLAINTEXT://127.0.0.1:{port}",
        "KAFKA_LISTENER_SECURITY_PROTOCOL_MAP": "CONTROLLER:PLAINTEXT,PLAINTEXT:PLAINTEXT",
        "KAFKA_INTER_BROKER_LISTENER_NAME": "PLAINTEXT",
        "KAFKA_CONTROLLER_QUORUM_VOTERS": quorum,
        "KAFKA_DEFAULT_REPLICATION_FACTOR": "3",
        "KAFKA_OFFSETS_TOPIC_REPLICATION_FACTOR": "3",
        "KAFKA_TRANSACTION_STATE_LOG_REPLICATION_FACTOR": "3",
        "KAFKA_TRANSACTION_STATE_LOG_MIN_ISR": "2",
    }

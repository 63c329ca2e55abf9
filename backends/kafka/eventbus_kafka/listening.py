"""Signs of life of a group's coordinator: without them a member's partitions may be another's."""

from __future__ import annotations

import json

from confluent_kafka import Consumer, TopicPartition

from eventbus_core.records import lease_clock
from eventbus_kafka.errors import CLIENT_ERRORS
from eventbus_kafka.holds import Holds
from eventbus_kafka.moves import NO_PARTITION
from eventbus_kafka.settings import KafkaSettings

_PATIENCE_SECONDS = 2.0
_JOINING = frozenset({"wait-join", "wait-sync"})


class Listening:
    """Asks the coordinator something now and then. For the member's thread; blocks for 2 s at most.

    Kafka's client tells nobody whether its heartbeats are answered, so a question is sent over the connection that they
    take. A broker serves the requests of a connection one by one: while it waits for all members to join (for a dead
    one as long as its session lasts), it answers nothing else there. Then the question goes over one of its own.
    """

    def __init__(self, settings: KafkaSettings, group: str, topic: str, holds: Holds) -> None:
        self._settings = settings
        self._group = group
        # A partition that is in no transaction: of the others the client gives no answer while one is open.
        self._place = TopicPartition(topic, NO_PARTITION)
        self._holds = holds
        self._next = 0.0
        self._joining = False
        self._aside: Consumer | None = None

    @property
    def statistics_milliseconds(self) -> int:
        """How often the client is to report its state."""
        return max(100, int(self._holds.valid_seconds / 8 * 1000))

    def note_statistics(self, document: str) -> None:
        """The client's callback: whether it waits in a rebalance."""
        self._joining = json.loads(document).get("cgrp", {}).get("join_state") in _JOINING

    def turn(self, client: Consumer) -> None:
        """Ask, if it is time."""
        now = lease_clock()
        if not self._holds.snapshot() or now < self._next:
            return
        valid = self._holds.valid_seconds
        self._next = now + valid / 8
        patience = min(_PATIENCE_SECONDS / 2, valid / 8)
        # Silence is no error yet; when it lasts, the holds expire.
        if self._answers(client, patience):
            self._holds.hear(now)
        elif self._joining and self._answers(self._other(), patience):
            # Nobody gets our partitions before the rebalance is complete. But that the coordinator can be reached does
            # not show that it still waits for us, so it is good for half the time only.
            self._holds.hear(now - valid / 2)

    def close(self) -> None:
        """Close the connection of its own."""
        aside, self._aside = self._aside, None
        if aside is not None:
            aside.close()

    def _other(self) -> Consumer:
        if self._aside is None:
            # It asks for the group's positions and never joins.
            self._aside = Consumer({**self._settings.client_config(), "group.id": self._group})
        return self._aside

    def _answers(self, client: Consumer, patience: float) -> bool:
        try:
            return all(each.error is None for each in client.committed([self._place], timeout=patience))
        except CLIENT_ERRORS:
            return False

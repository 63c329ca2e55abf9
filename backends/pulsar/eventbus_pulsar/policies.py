"""The policies that a topic needs for what the bus promises."""

from __future__ import annotations

import time
from typing import Any

from eventbus_core.errors import Unavailable
from eventbus_pulsar.rest import Rest

_PERSISTENCE = {
    "bookkeeperEnsemble": 1,
    "bookkeeperWriteQuorum": 1,
    "bookkeeperAckQuorum": 1,
    # Cursor writes per second: at the default, 0.1, a broker crash repeats ten seconds of settled records.
    "managedLedgerMaxMarkDeleteRate": 10.0,
}
# By default a partition without groups is deleted with its records after a minute of idleness.
_INACTIVE = {
    "inactiveTopicDeleteMode": "delete_when_no_subscriptions",
    "maxInactiveDurationSeconds": 60,
    "deleteWhileInactive": False,
}


def set_policies(rest: Rest, topic: str, retention_minutes: int) -> None:
    """Set them on a new topic; the broker applies them a little later."""
    policies: dict[str, Any] = {
        "deduplicationEnabled": True,
        "persistence": {**_PERSISTENCE, **_quorums(rest, topic)},
        "retention": {"retentionTimeInMinutes": retention_minutes, "retentionSizeInMB": -1},
        "inactiveTopicPolicies": _INACTIVE,
    }
    for name, body in policies.items():
        rest.call("POST", f"{rest.topic(topic)}/{name}", f"setting {name} of {topic!r}", body=body, topic=topic)


def require_deduplication(rest: Rest, topic: str, partitions: int, timeout: float) -> None:
    """Return once every partition deduplicates; turns it on where it is off. Raises Unavailable after ``timeout`` s."""
    deadline = time.monotonic() + timeout
    asked = False
    for partition in range(partitions):
        while not _deduplicates(rest, topic, partition):
            if not asked:
                path = rest.topic(topic) + "/deduplicationEnabled"
                rest.call("POST", path, f"turning on deduplication of {topic!r}", body=True, topic=topic)
                asked = True
            if time.monotonic() > deadline:
                raise Unavailable(
                    f"{topic!r}[{partition}] does not deduplicate {timeout:g} s after it was turned on; "
                    "are topic policies enabled on the broker?",
                    topic=topic,
                    backend="pulsar",
                )
            time.sleep(0.02)


def _deduplicates(rest: Rest, topic: str, partition: int) -> bool:
    path = rest.partition(topic, partition) + "/stats"
    stats = rest.call("GET", path, f"looking at deduplication of {topic!r}[{partition}]", accept=(404,), topic=topic)
    return bool(stats and stats.get("deduplicationStatus") == "Enabled")


def _quorums(rest: Rest, topic: str) -> dict[str, Any]:
    """The replication that applies already: this policy cannot be set without repeating it."""
    path = rest.topic(topic) + "/persistence?applied=true"
    found = rest.call("GET", path, f"reading persistence of {topic!r}", topic=topic) or {}
    names = ("bookkeeperEnsemble", "bookkeeperWriteQuorum", "bookkeeperAckQuorum")
    return {name: found[name] for name in names if found.get(name)}

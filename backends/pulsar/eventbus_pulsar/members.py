"""Who else is in a group: heartbeats over a non-persistent topic, one subscription per member.

They say who should own what. Who owns is the broker's to say, so a heartbeat that others miss costs time only.
A member hears its own heartbeats too: they show that its connection works, as the client alone would find out that one
fell silent only after a minute.
"""

from __future__ import annotations

import hashlib
import json
import re
import time
from collections.abc import Collection
from typing import Any

import pulsar

from eventbus_core.errors import Unavailable
from eventbus_core.records import lease_clock
from eventbus_pulsar.errors import ClientError, translated
from eventbus_pulsar.rest import Rest
from eventbus_pulsar.settings import PulsarSettings

_COMING_SECONDS = 1.0


def members_topic(topic: str, group: str) -> str:
    """The name of the heartbeat topic: legible, and by its end distinct for any names."""
    legible = re.sub(r"[^A-Za-z0-9_.-]", "_", f"{topic}-{group}")
    return f"__members-{legible}-{hashlib.sha256(json.dumps([topic, group]).encode()).hexdigest()[:16]}"


def connected_members(rest: Rest, topic: str, group: str) -> list[str]:
    """The members that the broker has connections of, frozen ones too.

    Asked again for a moment: while a member is just coming, the broker fails on it with HTTP 500 (Pulsar 4.0).
    """
    path = rest.volatile(members_topic(topic, group)) + "/stats"
    deadline = time.monotonic() + _COMING_SECONDS
    while True:
        try:
            stats = rest.call("GET", path, f"listing the members of group {group!r}", accept=(404,), topic=topic) or {}
            break
        except Unavailable:
            if time.monotonic() > deadline:
                raise
        time.sleep(0.02)
    return sorted(name for name, each in stats.get("subscriptions", {}).items() if each.get("consumers"))


class Members:
    """This member's view of one topic of its group. One thread at a time."""

    def __init__(
        self, settings: PulsarSettings, rest: Rest, client: pulsar.Client, *, topic: str, group: str, member: str
    ) -> None:
        self._settings = settings
        self._rest = rest
        self._client = client
        self._topic = topic
        self._group = group
        self._member = member
        self._heard: dict[str, float] = {}
        self._holds: dict[str, frozenset[int]] = {}
        self._producer: Any = None
        self._consumer: Any = None
        self.answered = float("-inf")
        """When (``lease_clock``) that was sent to the broker which it last answered, or let this member hear."""

    def open(self) -> None:
        """Join: listen, learn who is connected, say hello. Blocks for at most some operation timeouts."""
        name = members_topic(self._topic, self._group)
        doing = f"joining group {self._group!r} on {self._topic!r}"
        self._rest.call("PUT", self._rest.volatile(name), doing, accept=(409,), topic=self._topic)
        asked = lease_clock()
        full = f"non-persistent://{self._settings.tenant}/{self._settings.namespace}/{name}"
        try:
            self._consumer = self._client.subscribe(full, self._member, consumer_name=self._member)
            self._producer = self._client.create_producer(full, send_timeout_millis=1000)
        except (ClientError, ValueError) as error:
            raise translated(error, doing, self._topic) from error
        self.answered = asked
        now = lease_clock()
        for member in connected_members(self._rest, self._topic, self._group):
            self._heard.setdefault(member, now)
        self.say(())

    @property
    def connected(self) -> bool:
        """Whether heartbeats can be sent and heard."""
        return bool(
            self._consumer and self._producer and self._consumer.is_connected() and self._producer.is_connected()
        )

    def say(self, held: Collection[int], *, leaving: bool = False) -> None:
        """Send a heartbeat; does not wait."""
        text = json.dumps({"member": self._member, "held": sorted(held), "leaving": leaving, "sent": lease_clock()})
        self._producer.send_async(text.encode(), _ignored)

    def listen(self) -> bool:
        """Take in what the others said; whether somebody came, left or holds other partitions. Does not wait."""
        news = False
        while True:
            try:
                message = self._consumer.receive(0)
            except ClientError:
                # Nothing there, or not connected: `connected` tells the difference.
                break
            said = json.loads(message.data())
            member, held = said["member"], frozenset(said["held"])
            if member == self._member:
                self.answered = max(self.answered, said["sent"])
                continue
            if said["leaving"]:
                news |= self._heard.pop(member, None) is not None
                self._holds.pop(member, None)
                continue
            news |= member not in self._heard or self._holds.get(member) != held
            self._heard[member] = lease_clock()
            self._holds[member] = held
        return news

    def living(self) -> tuple[list[str], set[int]]:
        """The members not silent for too long, this one included, and the partitions that the others hold."""
        oldest = lease_clock() - self._settings.silent_seconds
        for member in [name for name, heard in self._heard.items() if heard < oldest]:
            del self._heard[member]
            self._holds.pop(member, None)
        taken = {partition for held in self._holds.values() for partition in held}
        return sorted({*self._heard, self._member}), taken

    def leave(self) -> None:
        """Say goodbye and stop listening."""
        try:
            if self._producer is not None and self._producer.is_connected():
                self.say((), leaving=True)
                self._producer.flush()
        finally:
            self.drop()

    def drop(self) -> None:
        """Close the client objects, to leave or to open them again."""
        for each in (self._consumer, self._producer):
            if each is not None:
                try:
                    each.close()
                except pulsar.AlreadyClosed:
                    continue
        self._consumer = self._producer = None


def _ignored(_result: Any, _identity: Any) -> None:
    """Heartbeats are not repeated: the next one says the same."""

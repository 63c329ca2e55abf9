"""The names of all keys. What one script touches lies in one cluster slot: the hash tag is in braces."""

from __future__ import annotations

from typing import NamedTuple

from eventbus_core.errors import InvalidRecord

_RESERVED = frozenset("{}|")


class Keys(NamedTuple):
    """Key names under one prefix."""

    prefix: str

    def topics(self) -> str:
        """Set: the names of all topics."""
        return f"{self.prefix}:topics"

    def topic(self, topic: str) -> str:
        """Hash: ``inc`` (incarnation), ``N``, ``state``."""
        return f"{self.prefix}:{{{_checked(topic)}}}:t"

    def groups(self, topic: str) -> str:
        """Set: the groups whose positions exist in every partition of the topic."""
        return f"{self.prefix}:{{{_checked(topic)}}}:g"

    def stream(self, topic: str, partition: int) -> str:
        """Stream: the log of a partition; entry ids are ``<ms>-<ordinal>``."""
        return f"{self.prefix}:{{{_checked(topic)}.{partition}}}:s"

    def meta(self, topic: str, partition: int) -> str:
        """Hash: ``inc``, last ``n`` and ``ms``, what each producer wrote last (``P:<writer>``), and ``swept``."""
        return f"{self.prefix}:{{{_checked(topic)}.{partition}}}:m"

    def cursor(self, topic: str, partition: int, group: str) -> str:
        """Hash: ``inc``, newest token ``ep`` and its holder ``ow``; ``ms``, ``o`` of the last settled record."""
        return f"{self.prefix}:{{{_checked(topic)}.{partition}}}:g:{group}"

    def members(self, topic: str, group: str, incarnation: str) -> str:
        """Sorted set: live members by expiry, milliseconds of the server's clock."""
        return f"{self.prefix}:{{{_checked(topic)}|{_checked(group)}}}:{incarnation}:m"

    def leases(self, topic: str, group: str, incarnation: str) -> str:
        """Hash: ``tok``, ``last``, ``grace``, and ``o:<p>`` owner, ``k:<p>`` token of each lease."""
        return f"{self.prefix}:{{{_checked(topic)}|{_checked(group)}}}:{incarnation}:l"


def _checked(name: str) -> str:
    if not name or _RESERVED & set(name):
        raise InvalidRecord(
            f"the name {name!r} cannot be used with Redis: it must not be empty or contain any of {{ }} |",
            backend="redis",
        )
    return name

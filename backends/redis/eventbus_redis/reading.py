"""Reading the logs: plain XREAD, which changes nothing on the server, and what was read ahead of each partition."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from typing import TypeAlias

from eventbus_core.backend import Gap
from eventbus_core.errors import BrokerError
from eventbus_core.records import Assignment, Delivery, Position
from eventbus_redis.connection import Link
from eventbus_redis.encoding import FIELD, decode
from eventbus_redis.errors import NAME

_FETCH_BYTES = 8 << 20
"""What one read may bring, as far as the sizes of earlier records tell."""
_FIRST_COUNT = 32

# Per record, and half the time of the class's own constructor, which is written in Python.
_tuple = tuple.__new__

Entry: TypeAlias = tuple[bytes, list[bytes]]
"""An entry of a stream as the server sends it: its id, then names and values of its fields in turn."""


class Rewritten(Exception):
    """The log has an ordinal again that was read before."""


class RedisAssignment(Assignment):
    """A hold with its read cursor (ms and ordinal of the last entry delivered) and what was read ahead."""

    __slots__ = ("ahead", "ms", "ordinal", "read_to", "stream")

    def __init__(self, topic: str, partition: int, epoch: int, stream: str, ms: int, ordinal: int) -> None:
        super().__init__(topic, partition, epoch)
        self.stream = stream
        self.ms = ms
        self.ordinal = ordinal
        self.read_to = b"%d-%d" % (ms, ordinal)
        self.ahead: deque[Entry] = deque()

    def behind(self) -> bytes:
        """The id to read behind: of the last entry that was read ahead, delivered or passed."""
        return self.ahead[-1][0] if self.ahead else self.read_to

    def newest(self) -> int:
        """The highest ordinal that was read, delivered or not."""
        own = (int(entry[0].partition(b"-")[2]) for entry in reversed(self.ahead) if is_own(entry))
        return next(own, self.ordinal)

    def take(self, room: int) -> list[Delivery] | Gap:
        """At most ``room`` of what was read ahead, up to a hole or an entry of others; that itself when it is first.

        Raises ``Rewritten``.
        """
        ahead = self.ahead
        found: list[Delivery] = []
        while ahead and len(found) < room:
            entry = ahead[0]
            try:
                delivery = delivery_of(self.topic, self.partition, entry, self)
            except BrokerError as error:
                return found or self._pass_foreign(error)
            ms, ordinal = delivery.position
            if ordinal != self.ordinal + 1:
                return found or self._pass_hole(delivery.position)
            ahead.popleft()
            self.ms, self.ordinal, self.read_to = ms, ordinal, entry[0]
            found.append(delivery)
        return found

    def _pass_foreign(self, error: BrokerError) -> Gap:
        """An entry that cannot be delivered: it has no place among the ordinals, so nothing could ack it."""
        entry = self.ahead.popleft()
        self.read_to = entry[0]
        identity = entry[0].decode()
        ms = int(identity.partition("-")[0])
        after = Position(self.ms, self.ordinal) if self.ordinal else None
        passed = f"passed over entry {identity} of stream {self.stream} (XRANGE shows it, XDEL removes it): {error}"
        return Gap(self, after, Position(ms, self.ordinal + 1), passed)

    def _pass_hole(self, resume: Position) -> Gap:
        ms, ordinal = resume
        if ordinal <= self.ordinal:
            raise Rewritten(f"the log was rewritten: {ordinal} came after {self.ordinal}")
        vanished = f"{ordinal - self.ordinal - 1} records are gone from the log: trimmed or deleted by hand"
        after = Position(self.ms, self.ordinal) if self.ordinal else None
        self.ms, self.ordinal = ms, ordinal - 1
        return Gap(self, after, resume, vanished)


class LogReader:
    """Reads several partitions at once, more of each the more there is."""

    def __init__(self, link: Link) -> None:
        self._link = link
        self._count = _FIRST_COUNT

    def read(self, wanted: Sequence[RedisAssignment], most: int, timeout: float) -> None:
        """Wait at most ``timeout`` seconds for entries, at most ``most`` of each; they are added to ``ahead``."""
        count = min(most, self._count)
        # BLOCK 0 would wait for ever.
        milliseconds = int(timeout * 1000)
        block = ("BLOCK", milliseconds) if milliseconds else ()
        streams = {each.stream.encode(): each for each in wanted}
        reply = self._link.command(
            "XREAD", "COUNT", count, *block, "STREAMS", *streams, *(each.behind() for each in wanted),
            doing="reading", wait=timeout,
        )  # fmt: skip
        size = entries = longest = 0
        for stream, found in reply or ():
            streams[stream].ahead.extend(found)
            size += sum([len(fields[1]) for _, fields in found])
            entries += len(found)
            longest = max(longest, len(found))
        if entries:
            room = max(1, _FETCH_BYTES // (size // entries + 1) // len(wanted))
            self._count = min(room, max(_FIRST_COUNT, self._count * 2 if longest == count else self._count))

    def close(self) -> None:
        """Close the connection."""
        self._link.close()


def delivery_of(topic: str, partition: int, entry: Entry, assignment: Assignment | None = None) -> Delivery:
    """The record in an entry. BrokerError: somebody else wrote it."""
    identity, fields = entry
    if not is_own(entry):
        raise BrokerError(
            f"redis: entry {identity.decode()} of {topic}[{partition}] was not written by eventbus; nothing else may "
            "write to its streams",
            topic=topic,
            backend=NAME,
        )
    ms, _, ordinal = identity.partition(b"-")
    position = _tuple(Position, (int(ms), int(ordinal)))
    return Delivery(decode(topic, fields[1], position[0]), partition, position, assignment)


def is_own(entry: Entry) -> bool:
    """Whether this backend wrote an entry: it has our only field, and ordinals begin at 1; Redis's own ids at 0."""
    identity, fields = entry
    return len(fields) == 2 and fields[0] == FIELD and not identity.endswith(b"-0")

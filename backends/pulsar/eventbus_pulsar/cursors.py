"""The durable position of a group in a partition: the broker's cursor, and a mark inside a batch.

The broker's cursor moves by whole entries, that is batches. How far a group is inside the first unsettled batch is kept
as the subscription property ``eb.settled``: the position of the last settled record. It counts only while that batch is
the first unsettled entry, so that a cursor moved by other tools is not contradicted. Beside it is ``eb.epoch``, the
epoch of the last hold: every hold and every move raises it.
"""

from __future__ import annotations

import time
from datetime import datetime
from typing import Any, NamedTuple
from urllib.parse import quote_plus

import pulsar

from eventbus_core.errors import BrokerError, Conflict, NotFound, Unavailable
from eventbus_core.records import Position, Where
from eventbus_pulsar.errors import ClientError, translated
from eventbus_pulsar.positions import position_of
from eventbus_pulsar.reading import open_reader, received
from eventbus_pulsar.rest import Rest
from eventbus_pulsar.settings import PulsarSettings

_MARK = "eb.settled"
_EPOCH = "eb.epoch"
_PLACING = "eb.placing"
"""A property that a new position has until it lies where it shall: the broker creates first and moves then."""
_PLACING_SECONDS = 1.0
_RECONNECT_SECONDS = 0.01
_EARLIEST = {"ledgerId": -1, "entryId": -1, "partitionIndex": -1, "batchIndex": -1}


class Extent(NamedTuple):
    """What a partition holds: its first position and the one after its last; None and None when it is empty."""

    first: Position | None
    end: Position | None


class Kept(NamedTuple):
    """What is kept with a position: the last settled record inside the first unsettled batch, and the last epoch."""

    settled: Position | None
    epoch: int


class Cursors:
    """Reads and moves positions over REST; every call blocks for its requests."""

    def __init__(self, settings: PulsarSettings, rest: Rest, client: pulsar.Client) -> None:
        self._settings = settings
        self._rest = rest
        self._client = client

    def partitions(self, topic: str) -> int:
        """How many partitions a topic has. Raises NotFound, Conflict (not a partitioned topic)."""
        doing = f"looking up topic {topic!r}"
        count: int = self._rest.call("GET", self._rest.topic(topic) + "/partitions", doing, topic=topic)["partitions"]
        if not count:
            raise Conflict(f"{topic!r} is not partitioned; create it through the bus", topic=topic, backend="pulsar")
        return count

    def ensure(self, group: str, topic: str, partition: int, start: Where) -> None:
        """Create the group's position if it has none here; an existing one stays."""
        deadline = time.monotonic() + self._settings.connect_timeout_seconds
        while True:
            try:
                return self._ensure(group, topic, partition, start)
            except BrokerError as error:
                # Another member is creating it at this moment (Pulsar 4.0 answers 409, 412 or 500 then): it is there
                # when we look again.
                if type(error) not in (BrokerError, Conflict, Unavailable) or time.monotonic() > deadline:
                    raise
            time.sleep(0.05)

    def _ensure(self, group: str, topic: str, partition: int, start: Where) -> None:
        path = self._rest.group(topic, partition, group)
        doing = f"creating the position of group {group!r} in {topic!r}[{partition}]"
        found = self._rest.call("GET", self._rest.partition(topic, partition) + "/subscriptions", doing, topic=topic)
        if group in found:
            if isinstance(start, datetime):
                self._await_placed(group, topic, partition)
            return
        where = self.locate(topic, partition, start) if isinstance(start, datetime) else start
        if not isinstance(where, Position):
            self._rest.call("PUT", path, doing, body=where, accept=(409,), topic=topic)
            return
        # One request, so that nobody can begin to consume between creating and moving.
        ledger, entry, index = _numbers(where)
        properties = {_PLACING: str(where)} | ({_MARK: str(Position(ledger, entry, index - 1))} if index else {})
        body = {"ledgerId": ledger, "entryId": entry, "partitionIndex": -1, "batchIndex": -1, "properties": properties}
        self._rest.call("PUT", path, doing, body=body, topic=topic)
        self.keep(group, topic, partition, Kept(Position(ledger, entry, index - 1) if index else None, 0))

    def _await_placed(self, group: str, topic: str, partition: int) -> None:
        """Wait for the member that creates the position; if it died, the broker has moved it all the same."""
        path = self._rest.group(topic, partition, group) + "/properties"
        doing = f"reading the position of group {group!r}"
        deadline = time.monotonic() + _PLACING_SECONDS
        while time.monotonic() < deadline:
            if _PLACING not in (self._rest.call("GET", path, doing, topic=topic) or {}):
                return
            time.sleep(0.02)

    def keep(self, group: str, topic: str, partition: int, kept: Kept) -> None:
        """Write what is kept with the position; only the owner may, or who moves it while there is none."""
        body = {_EPOCH: str(kept.epoch)} | ({_MARK: str(kept.settled)} if kept.settled else {})
        path = self._rest.group(topic, partition, group) + "/properties"
        self._rest.call("PUT", path, f"storing the position of group {group!r}", body=body, topic=topic)

    def kept(self, group: str, topic: str, partition: int) -> Kept:
        """What is kept with the position, as it was written."""
        path = self._rest.group(topic, partition, group) + "/properties"
        found = self._rest.call("GET", path, f"reading the position of group {group!r}", topic=topic) or {}
        return Kept(Position.parse(found[_MARK]) if found.get(_MARK) else None, int(found.get(_EPOCH, 0)))

    def move(self, group: str, topic: str, partition: int, to: Where) -> None:
        """Move an existing position; nobody may be consuming with it: a live consumer's acks would undo it."""
        where = self.locate(topic, partition, to) if isinstance(to, datetime) else to
        extent = self.extent(topic, partition)
        path = self._rest.group(topic, partition, group)
        doing = f"moving group {group!r} in {topic!r}[{partition}]"
        # The mark goes first: with the old one and the new cursor together records could be skipped.
        epoch = self.kept(group, topic, partition).epoch + 1
        self.keep(group, topic, partition, Kept(None, epoch))
        if where == "latest" or (isinstance(where, Position) and (extent.end is None or where >= extent.end)):
            self._rest.call("POST", path + "/skip_all", doing, topic=topic)
        elif where == "earliest" or (isinstance(where, Position) and extent.first and where <= extent.first):
            self._rest.call("POST", path + "/resetcursor", doing, body=_EARLIEST, topic=topic)
        else:
            ledger, entry, index = _numbers(where)
            body = {"ledgerId": ledger, "entryId": entry, "partitionIndex": -1, "batchIndex": -1}
            self._rest.call("POST", path + "/resetcursor", doing, body=body, topic=topic)
            if index:
                self.keep(group, topic, partition, Kept(Position(ledger, entry, index - 1), epoch))

    def extent(self, topic: str, partition: int) -> Extent:
        """What the partition holds now."""
        doing = f"describing {topic!r}[{partition}]"
        return extent_of(self._stats(topic, partition, doing))

    def _stats(self, topic: str, partition: int, doing: str) -> dict[str, Any]:
        path = self._rest.partition(topic, partition) + "/internalStats"
        stats: dict[str, Any] = self._rest.call("GET", path, doing, topic=topic)
        return stats

    def _more_after_seek(self, reader: Any) -> bool:
        """Whether more follows. A seek makes the broker cut the reader off; until the client is back, asking fails."""
        deadline = time.monotonic() + self._settings.request_timeout_seconds
        while True:
            try:
                return bool(reader.has_message_available())
            except ClientError:
                if time.monotonic() > deadline:
                    raise
            time.sleep(_RECONNECT_SECONDS)

    def locate(self, topic: str, partition: int, moment: datetime) -> Where:
        """The position of the first record not older than ``moment``; "latest" if there is none.

        The broker finds by publish time, which is never before the record's own timestamp unless that lies in the
        future; the rest of the way is read.
        """
        end = self.extent(topic, partition).end
        if end is None:
            return "latest"
        wanted = int(moment.timestamp() * 1000)
        reader = open_reader(self._client, self._settings, topic, partition, pulsar.MessageId.earliest)
        try:
            reader.seek(max(1, wanted))
            while self._more_after_seek(reader):
                message = received(reader, self._settings.request_timeout_seconds)
                if message is None:
                    break
                place = position_of(message.message_id())
                if (message.event_timestamp() or message.publish_timestamp()) >= wanted:
                    return place
                if place >= end:
                    break
        except ClientError as error:
            raise translated(error, f"finding {moment} in {topic!r}[{partition}]", topic) from error
        finally:
            reader.close()
        return "latest"

    def unsettled(self, group: str, topic: str, partition: int) -> tuple[Position | None, int]:
        """The first unsettled position (None: nothing is unsettled) and how many records are; exact, it scans them."""
        path = self._rest.group(topic, partition, group) + "/analyzeBacklog"
        doing = f"measuring the lag of group {group!r} in {topic!r}[{partition}]"
        stats = self._stats(topic, partition, doing)
        ledger, entry = _pair(stats["cursors"][_cursor_name(group)]["markDeletePosition"])
        if (ledger, entry) >= _pair(stats["lastConfirmedEntry"]):
            return None, 0
        total, first = 0, None
        while True:
            # Without a place to start from, the broker counts settled records too.
            ledger, entry = _after(stats, ledger, entry)
            start = {"ledgerId": ledger, "entryId": entry, "partitionIndex": -1}
            found = self._rest.call("POST", path, doing, body=start, topic=topic)
            total += found["messages"]
            first = first or found.get("firstMessageId")
            if not found.get("aborted") or not found["entries"]:
                break
            # The broker scans a limited number of entries at a time.
            ledger, entry = _pair(found["lastMessageId"])
            stats = self._stats(topic, partition, doing)
        if not total or not first:
            return None, 0
        ledger, entry = _pair(first)
        mark = self.kept(group, topic, partition).settled
        if mark is None or mark[:2] != (ledger, entry):
            return Position(ledger, entry, 0), total
        return Position(ledger, entry, mark[2] + 1), total - mark[2] - 1

    def unsettled_entries(self, group: str, topic: str, partition: int, last: Position) -> list[tuple[int, int]]:
        """The entries up to ``last``, as (ledger, entry), that the broker has no settlement of."""
        doing = f"confirming acks of group {group!r} in {topic!r}[{partition}]"
        stats = self._stats(topic, partition, doing)
        cursor = stats["cursors"].get(_cursor_name(group))
        if cursor is None:
            raise NotFound(f"{doing}: its position was deleted", topic=topic, backend="pulsar")
        settled = _pair(cursor["markDeletePosition"])
        found: list[tuple[int, int]] = []
        for each in stats["ledgers"]:
            ledger = each["ledgerId"]
            if settled[0] <= ledger <= last[0]:
                # The open ledger does not say how many entries it has; it has the last one.
                beyond = last[1] + 1 if ledger == last[0] else each["entries"]
                found += [(ledger, entry) for entry in range(beyond) if (ledger, entry) > settled]
        return found

    def groups(self, topic: str) -> list[str]:
        """The groups with a position in every or any partition of a topic."""
        found: set[str] = set()
        for partition in range(self.partitions(topic)):
            path = self._rest.partition(topic, partition) + "/subscriptions"
            found.update(
                self._rest.call("GET", path, f"listing the groups of {topic!r}", accept=(404,), topic=topic) or ()
            )
        return sorted(found)

    def require(self, group: str, topic: str, partition: int) -> None:
        """Raise NotFound unless the group has a position here."""
        path = self._rest.partition(topic, partition) + "/subscriptions"
        if group not in self._rest.call("GET", path, f"looking up group {group!r}", topic=topic):
            raise NotFound(f"group {group!r} has no position in {topic!r}[{partition}]", topic=topic, backend="pulsar")


def extent_of(stats: dict[str, Any]) -> Extent:
    """The extent in an answer of ``internalStats``."""
    ledger, entry = _pair(stats["lastConfirmedEntry"])
    ledgers = [each for each in stats["ledgers"] if each["entries"] or each is stats["ledgers"][-1]]
    if not stats["numberOfEntries"] or entry < 0 or not ledgers:
        return Extent(None, None)
    return Extent(Position(ledgers[0]["ledgerId"], 0, 0), Position(ledger, entry + 1, 0))


def _after(stats: dict[str, Any], ledger: int, entry: int) -> tuple[int, int]:
    """The entry that follows one, in an answer of ``internalStats``.

    From behind a ledger's last entry the broker fails to scan where all that follows was settled meanwhile (4.0.8).
    """
    for each in stats["ledgers"]:
        following = max((ledger, entry + 1), (each["ledgerId"], 0))
        # The last ledger is open, and does not say how many entries it has.
        if each is stats["ledgers"][-1] or (each["ledgerId"], each["entries"]) > following:
            return following
    return ledger, entry + 1


def _numbers(position: Where) -> tuple[int, int, int]:
    if not isinstance(position, Position):
        raise TypeError(f"not a position: {position!r}")
    ledger, entry, index = (*position, 0, 0)[:3]
    return ledger, entry, index


def _cursor_name(group: str) -> str:
    """A subscription's name among the cursors: as Java's URLEncoder writes it."""
    return quote_plus(group, safe="*").replace("~", "%7E")


def _pair(text: str) -> tuple[int, int]:
    ledger, entry = text.split(":")[:2]
    return int(ledger), int(entry)

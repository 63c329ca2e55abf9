"""Compare-and-set cells: topics, and the positions, holds and members of groups, in one key-value bucket."""

from __future__ import annotations

import asyncio
import json
import uuid
from typing import Any, Final, NamedTuple

from nats.js.errors import APIError, NotFoundError

from eventbus_core.errors import Conflict, NotFound
from eventbus_nats.connection import NAME, Link
from eventbus_nats.log import Partition, Place, wrong_sequence
from eventbus_nats.settings import NatsSettings

_BUCKET: Final = "eventbus"
_STREAM: Final = f"KV_{_BUCKET}"
_PREFIX: Final = f"$KV.{_BUCKET}."


class Cell(NamedTuple):
    """What a key has. ``stored``: when it was written, seconds on the server's clock."""

    value: Any
    revision: int
    stored: float


class Hold(NamedTuple):
    """The cell of a group in a partition: who has it (empty: nobody), the newest epoch, and the settled place."""

    epoch: int
    owner: str
    place: Place

    @classmethod
    def of(cls, cell: Cell) -> Hold:
        """Read a cell."""
        epoch, owner, *place = cell.value
        return cls(epoch, owner, Place(*place))


class Topic(NamedTuple):
    """A topic. ``incarnation`` is new whenever it is made, so that nothing of an old one of that name remains."""

    name: str
    incarnation: str
    partitions: int

    def partition(self, number: int) -> Partition:
        """One of its partitions. NotFound."""
        if not 0 <= number < self.partitions:
            raise NotFound(f"nats: topic {self.name} has no partition {number}", topic=self.name, backend=NAME)
        return Partition(self.name, self.incarnation, number)

    def all(self) -> list[Partition]:
        """Its partitions, in order."""
        return [self.partition(number) for number in range(self.partitions)]

    def key(self, *parts: str | int) -> str:
        """The key of something that goes with the topic."""
        return ".".join(("of", self.incarnation, *map(_token, parts)))


class Cells:
    """Runs on the link's loop."""

    def __init__(self, link: Link, settings: NatsSettings) -> None:
        self._link = link
        self._settings = settings

    async def open(self) -> None:
        """Make the bucket, if it is not there."""
        try:
            await self._link.js.stream_info(_STREAM)
        except NotFoundError:
            await self._link.js.create_key_value(bucket=_BUCKET)

    async def get(self, key: str) -> Cell | None:
        """What is there. From the stream's leader, not from a replica that may lag."""
        try:
            raw = await self._link.js.get_msg(_STREAM, subject=_PREFIX + key)
        except NotFoundError:
            return None
        assert raw.data is not None
        assert raw.seq is not None
        assert raw.time is not None
        return Cell(json.loads(raw.data), raw.seq, raw.time.timestamp())

    async def put(self, key: str, value: Any, *, revision: int | None = None) -> int | None:
        """Write; the new revision. None: the cell is not at ``revision`` any more (0: it exists)."""
        headers = {} if revision is None else {"Nats-Expected-Last-Subject-Sequence": str(revision)}
        try:
            stored = await self._link.js.publish(_PREFIX + key, json.dumps(value).encode(), headers=headers)
        except APIError as error:
            if wrong_sequence(error):
                return None
            raise
        return stored.seq

    async def purge(self, pattern: str, *, through: int | None = None) -> None:
        """Remove the keys of a pattern, as far as they were written no later than revision ``through``."""
        before = None if through is None else through + 1
        await self._link.js.purge_stream(_STREAM, subject=_PREFIX + pattern, seq=before)

    async def keys(self, pattern: str) -> list[list[str]]:
        """The keys of a pattern, in their parts."""
        info = await self._link.js.stream_info(_STREAM, subjects_filter=_PREFIX + pattern)
        found = sorted(info.state.subjects or ())
        return [[part.replace("=", ".") for part in key.removeprefix(_PREFIX).split(".")] for key in found]

    async def find(self, name: str) -> Topic | None:
        """The topic of this name, if there is one."""
        cell = await self.get(f"topics.{_token(name)}")
        return Topic(name, *cell.value) if cell else None

    async def topic(self, name: str) -> Topic:
        """The topic of this name, made now if it is missing and the settings say so. NotFound."""
        found = await self.find(name)
        if found:
            return found
        if self._settings.create_topics:
            return await self.create(name, self._settings.default_partitions)
        raise NotFound(f"nats: there is no topic {name}; create it first", topic=name, backend=NAME)

    async def create(self, name: str, partitions: int) -> Topic:
        """Make a topic, or find the one that somebody else has made meanwhile."""
        made = Topic(name, uuid.uuid4().hex, partitions)
        await asyncio.gather(*(each.create(self._link.js) for each in made.all()))
        if await self.put(f"topics.{_token(name)}", made[1:], revision=0) is not None:
            return made
        await asyncio.gather(*(self._link.js.delete_stream(each.stream) for each in made.all()))
        return await self.topic(name)

    async def delete(self, topic: Topic) -> None:
        """Remove a topic and all that goes with it."""
        await self.purge(f"topics.{_token(topic.name)}")
        await asyncio.gather(*(self._link.js.delete_stream(each.stream) for each in topic.all()))
        await self.purge(topic.key() + ".>")

    async def topics(self) -> list[str]:
        """The names of all topics, sorted."""
        return sorted(key[-1] for key in await self.keys("topics.*"))

    async def groups(self, topic: Topic) -> list[str]:
        """The groups that have a position in a topic."""
        return [key[-2] for key in await self.keys(topic.key("*", "start"))]

    async def members(self, topic: Topic, group: str) -> dict[str, Cell]:
        """All members that beat since they were last swept, dead or alive; the value is how long each lives."""
        names = [key[-1] for key in await self.keys(topic.key(group, "member") + ".*")]
        cells = await asyncio.gather(*(self.get(topic.key(group, "member", name)) for name in names))
        return {name: cell for name, cell in zip(names, cells, strict=True) if cell is not None}

    async def refuse_members(self, topic: Topic, group: str) -> None:
        """Conflict, if there are living members."""
        if members := await self.living(topic, group):
            raise Conflict(
                f"nats: group {group} has {len(members)} members in topic {topic.name}; stop them first (a killed "
                "one leaves when its lease ends)",
                topic=topic.name,
                backend=NAME,
            )

    async def living(self, topic: Topic, group: str) -> set[str]:
        """The members whose lease has not run out."""
        await self.put("clock", 0)
        clock = await self.get("clock")
        assert clock is not None
        members = await self.members(topic, group)
        return {name for name, cell in members.items() if clock.stored < cell.stored + cell.value}

    async def holds(self, topic: Topic, group: str) -> list[Cell]:
        """The group's cell in each partition. NotFound: the group has no position in the topic."""
        keys = [topic.key(group, "start"), *(topic.key(group, "hold", number) for number in range(topic.partitions))]
        start, *cells = await asyncio.gather(*map(self.get, keys))
        if start is None:
            message = f"nats: group {group} has no position in topic {topic.name}; open a consumer to make it"
            raise NotFound(message, topic=topic.name, backend=NAME)
        # Before its first owner a partition has no cell: revision 0.
        return [cell or Cell([0, "", *place], 0, 0.0) for cell, place in zip(cells, start.value, strict=True)]

    async def open_group(self, topic: Topic, group: str, where: Any) -> None:
        """Give a new group its positions, in all partitions by one write, so that two who begin it agree."""
        key = topic.key(group, "start")
        if await self.get(key) is None:
            places = await asyncio.gather(*(each.locate(self._link.js, where) for each in topic.all()))
            await self.put(key, places, revision=0)


def _token(part: str | int) -> str:
    """A name as one part of a key. Names have dots, which separate parts, and never ``=``."""
    return str(part).replace(".", "=")

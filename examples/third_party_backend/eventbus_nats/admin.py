"""Operators' verbs."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence

from eventbus_core.backend import BackendAdmin, GroupInfo, PartitionLag, TopicInfo
from eventbus_core.errors import Conflict, EventBusError, NotFound
from eventbus_core.records import Delivery, Position, Where
from eventbus_nats.cells import Cells, Hold, Topic
from eventbus_nats.connection import NAME, Link
from eventbus_nats.log import Partition
from eventbus_nats.settings import NatsSettings

_LOOK_SECONDS = 0.02


class NatsAdmin(BackendAdmin):
    """Topics and groups are cells; everything is read from them when it is asked for."""

    def __init__(self, settings: NatsSettings) -> None:
        self._link = Link(settings)
        self._cells = Cells(self._link, settings)
        try:
            self._link.call("connecting", self._cells.open)
        except EventBusError:
            self._link.close()
            raise

    def create_topic(self, topic: str, partitions: int) -> None:
        async def work() -> Topic:
            return await self._cells.find(topic) or await self._cells.create(topic, partitions)

        count = self._link.call("creating", work, topic).partitions
        if count != partitions:
            message = f"nats: topic {topic} exists with {count} partitions, not {partitions}"
            raise Conflict(message, topic=topic, backend=NAME)

    def delete_topic(self, topic: str) -> None:
        async def work() -> None:
            await self._cells.delete(await self._topic(topic))

        self._link.call("deleting", work, topic)

    def topics(self) -> Sequence[str]:
        return self._link.call("listing", self._cells.topics)

    def describe_topic(self, topic: str) -> TopicInfo:
        async def work() -> TopicInfo:
            partitions = (await self._topic(topic)).all()
            firsts = await asyncio.gather(*(each.at_or_after(self._link.js, 1) for each in partitions))
            ends = await asyncio.gather(*(each.end(self._link.js) for each in partitions))
            begins = tuple(Position(first.seq, 0) if first else None for first in firsts)
            return TopicInfo(topic, len(partitions), begins, tuple(end.position for end in ends), None)

        return self._link.call("describing", work, topic)

    def groups(self) -> Sequence[GroupInfo]:
        async def work() -> list[GroupInfo]:
            topics: dict[str, list[str]] = {}
            members: dict[str, set[str]] = {}
            for name in await self._cells.topics():
                topic = await self._cells.find(name)
                for group in await self._cells.groups(topic) if topic else ():
                    assert topic is not None
                    topics.setdefault(group, []).append(name)
                    members.setdefault(group, set()).update(await self._cells.living(topic, group))
            return [GroupInfo(name, tuple(topics[name]), len(members[name])) for name in sorted(topics)]

        return self._link.call("listing", work)

    def lag(self, group: str, topic: str) -> Sequence[PartitionLag]:
        async def work() -> list[PartitionLag]:
            found = await self._topic(topic)
            settled = [Hold.of(cell).place for cell in await self._cells.holds(found, group)]
            ends = await asyncio.gather(*(each.end(self._link.js) for each in found.all()))
            lags = [each.behind(self._link.js, place) for each, place in zip(found.all(), settled, strict=True)]
            return [
                PartitionLag(topic, number, at.position, end.position, records)
                for number, (at, end, records) in enumerate(
                    zip(settled, ends, await asyncio.gather(*lags), strict=True)
                )
            ]

        return self._link.call("reading the lag", work, topic)

    def set_position(self, group: str, topic: str, partition: int, to: Where) -> None:
        async def work() -> None:
            found = await self._topic(topic)
            place = await found.partition(partition).locate(self._link.js, to)
            await self._cells.refuse_members(found, group)
            await self._cells.open_group(found, group, "earliest")
            cell = (await self._cells.holds(found, group))[partition]
            key = found.key(group, "hold", partition)
            moved = [Hold.of(cell).epoch + 1, "", *place]
            if await self._cells.put(key, moved, revision=cell.revision) is None:
                message = f"nats: group {group} was taken up by a member meanwhile"
                raise Conflict(message, topic=topic, backend=NAME)

        self._link.call("moving", work, topic)

    def delete_group(self, group: str) -> None:
        async def work() -> None:
            topics = [await self._cells.find(name) for name in await self._cells.topics()]
            having = [each for each in topics if each and group in await self._cells.groups(each)]
            if not having:
                raise NotFound(f"nats: there is no group {group}", backend=NAME)
            for topic in having:
                await self._cells.refuse_members(topic, group)
            for topic in having:
                await self._cells.purge(topic.key(group) + ".>")

        self._link.call("deleting", work)

    def read(self, topic: str, partition: int, start: Where, limit: int, timeout: float) -> Sequence[Delivery]:
        async def work() -> list[Delivery]:
            source = (await self._topic(topic)).partition(partition)
            return await self._read(source, start, limit, time.monotonic() + timeout)

        return self._link.call("reading", work, topic, wait=timeout)

    def close(self) -> None:
        self._link.close()

    async def _read(self, source: Partition, start: Where, limit: int, deadline: float) -> list[Delivery]:
        at = await source.locate(self._link.js, start)
        found: list[Delivery] = []
        while len(found) < limit:
            batch = await source.at_or_after(self._link.js, at.seq)
            if batch is not None:
                found += source.deliveries(batch, at.at if batch.seq == at.seq else 0)
                at = at._replace(seq=batch.seq + 1, at=0)
            elif found or time.monotonic() >= deadline:
                break
            else:
                await asyncio.sleep(_LOOK_SECONDS)
        return found[:limit]

    async def _topic(self, name: str) -> Topic:
        """An operator's look makes no topic, whatever the settings say."""
        found = await self._cells.find(name)
        if found is None:
            raise NotFound(f"nats: there is no topic {name}", topic=name, backend=NAME)
        return found

"""Consuming: plain reads of the log, and a cell per group and partition that only its owner can move."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Sequence
from typing import Final

from eventbus_core.backend import Gap, Group
from eventbus_core.backend.leases import Beat, LeasedConsumer
from eventbus_core.errors import EventBusError, NotFound, Unavailable
from eventbus_core.records import Assignment, Delivery, Where
from eventbus_nats.cells import Cell, Cells, Hold, Topic
from eventbus_nats.connection import NAME, Link
from eventbus_nats.log import Partition, Place, announced
from eventbus_nats.settings import NatsSettings

_LOOK_SECONDS: Final = 1.0
"""An announcement that got lost costs no more than this."""
_SWEEP_LEASES: Final = 10
_TAKEN: Final = "another member has taken the partition over"


class Held(Assignment):
    """A hold: the revision of its cell (0: not ours any more), the settled place, and what was read ahead.

    It was found empty when ``heard`` messages were announced; whatever is announced, it is read again at ``look``.
    """

    __slots__ = ("heard", "key", "look", "next", "ready", "revision", "settled", "source")

    def __init__(self, source: Partition, epoch: int, key: str, revision: int, place: Place) -> None:
        super().__init__(source.topic, source.number, epoch)
        self.source = source
        self.key = key
        self.revision = revision
        self.settled = place
        self.next = place
        self.ready: deque[Delivery] = deque()
        self.heard = 0
        self.look = 0.0


class NatsConsumer(LeasedConsumer):
    """Who lives is judged by the server's clock alone: by the times of the members' cells."""

    def __init__(self, settings: NatsSettings, group: Group) -> None:
        super().__init__(group, lease_seconds=settings.lease_seconds, beat_seconds=1.0)
        self._lease = settings.lease_seconds
        self._link = Link(settings)
        self._cells = Cells(self._link, settings)
        self._topics: dict[str, Topic] = {}
        self._free: dict[str, dict[int, Cell]] = {}
        try:
            self._link.call("joining", self._join)
        except EventBusError:
            self._link.close()
            raise

    def beat(self, topic: str, held: Sequence[Assignment]) -> Beat:
        return self._link.call("beating", lambda: self._beat(topic, held), topic)

    def acquire(self, topic: str, partition: int) -> Assignment | None:
        return self._link.call("acquiring", lambda: self._acquire(topic, partition), topic)

    def fetch(self, assignments: Sequence[Assignment], max_records: int, timeout: float) -> Sequence[Delivery | Gap]:
        holds = [each for each in assignments if isinstance(each, Held)]
        return self._link.call(
            "fetching", lambda: self._fetch(holds, max_records, time.monotonic() + timeout), wait=timeout
        )

    def ack(self, settled: Sequence[Delivery]) -> None:
        holds = set()
        for each in settled:
            hold, place = each.assignment, each.token
            if isinstance(hold, Held) and isinstance(place, Place):
                hold.settled = max(hold.settled, place)
                holds.add(hold)

        async def work() -> None:
            await asyncio.gather(*map(self._settle, holds))

        self._link.call("settling", work)
        for hold in holds:
            if not hold.revision:
                self.lose(hold, _TAKEN)

    def give_back(self, assignment: Assignment) -> None:
        assert isinstance(assignment, Held)

        async def work() -> None:
            await self._move(assignment, Hold(assignment.epoch, "", assignment.settled))
            assignment.revision = 0

        self._link.call("releasing", work, assignment.topic)

    def reposition(self, assignment: Assignment, to: Where) -> Assignment:
        assert isinstance(assignment, Held)
        source, epoch = assignment.source, assignment.epoch + 1

        async def work() -> Held | None:
            place = await source.locate(self._link.js, to)
            await self._move(assignment, Hold(epoch, self.group.member, place))
            revision, assignment.revision = assignment.revision, 0
            return Held(source, epoch, assignment.key, revision, place) if revision else None

        moved = self._link.call("seeking", work, source.topic)
        if moved is None:
            self.lose(assignment, _TAKEN)
            raise Unavailable(f"nats: {assignment!r} is held no more; seek again", topic=source.topic, backend=NAME)
        return moved

    def leave(self) -> None:
        async def work() -> None:
            for topic in self._topics.values():
                await self._cells.purge(self._member_key(topic))

        try:
            self._link.call("leaving", work)
        finally:
            self._link.close()

    async def _join(self) -> None:
        await self._cells.open()
        for name in self.group.topics:
            topic = self._topics[name] = await self._cells.topic(name)
            await self._cells.open_group(topic, self.group.name, self.group.start)
            await self._link.watch(announced(topic.incarnation, "*"))

    async def _beat(self, name: str, held: Sequence[Assignment]) -> Beat:
        topic = self._topics[name]
        if await self._cells.find(name) != topic:
            raise NotFound(
                f"nats: topic {name} was deleted or made anew; open the consumer again", topic=name, backend=NAME
            )
        await self._cells.put(self._member_key(topic), self._lease)
        members, cells = await asyncio.gather(
            self._cells.members(topic, self.group.name), self._cells.holds(topic, self.group.name)
        )
        now = max(cell.stored for cell in members.values())
        living = {each for each, cell in members.items() if now < cell.stored + cell.value}
        for each, cell in members.items():
            if cell.stored + _SWEEP_LEASES * cell.value < now:
                await self._cells.purge(topic.key(self.group.name, "member", each), through=cell.revision)
        epochs = {each.partition: each.epoch for each in held}
        free, mine = {}, []
        for number, cell in enumerate(cells):
            hold = Hold.of(cell)
            if hold.owner == self.group.member and hold.epoch == epochs.get(number):
                mine.append(number)
            elif hold.owner == self.group.member or hold.owner not in living:
                free[number] = cell
        self._free[name] = free
        return Beat(sorted(living), topic.partitions, free, mine)

    async def _acquire(self, name: str, number: int) -> Held | None:
        # At the revision that the beat saw: whoever has taken it since, or is alive again, has written.
        cell, topic = self._free[name][number], self._topics[name]
        epoch, _, place = Hold.of(cell)
        key = topic.key(self.group.name, "hold", number)
        revision = await self._cells.put(key, [epoch + 1, self.group.member, *place], revision=cell.revision)
        return None if revision is None else Held(topic.partition(number), epoch + 1, key, revision, place)

    async def _settle(self, hold: Held) -> None:
        await self._move(hold, Hold(hold.epoch, self.group.member, hold.settled))

    async def _move(self, hold: Held, to: Hold) -> None:
        """Write the cell, as long as it is this hold's; else nothing is changed, and the hold's revision is 0."""
        while hold.revision:
            revision = await self._cells.put(hold.key, [to.epoch, to.owner, *to.place], revision=hold.revision)
            if revision is not None:
                hold.revision = revision
                return
            # Another's write, or an earlier one of ours whose reply was lost.
            cell = await self._cells.get(hold.key)
            ours = cell is not None and Hold.of(cell)[:2] == (hold.epoch, self.group.member)
            hold.revision = cell.revision if cell and ours else 0

    async def _fetch(self, holds: Sequence[Held], max_records: int, deadline: float) -> list[Delivery | Gap]:
        while True:
            self._link.woken.clear()
            gaps = await asyncio.gather(*(self._read(hold) for hold in holds if self._may_have_more(hold)))
            found: list[Delivery | Gap] = [gap for gap in gaps if gap]
            ready = [hold for hold in holds if hold.ready]
            if ready or found or time.monotonic() >= deadline:
                break
            try:
                async with asyncio.timeout(min(deadline - time.monotonic(), _LOOK_SECONDS)):
                    await self._link.woken.wait()
            except TimeoutError:
                pass
        for hold in ready:
            share = min(max(1, max_records // len(ready)), max_records - len(found), len(hold.ready))
            found += [hold.ready.popleft() for _ in range(share)]
        return found

    async def _read(self, hold: Held) -> Gap | None:
        """Read one message, if there is one, into what is ready; a gap, if others before it are missing."""
        heard = self._link.heard[announced(hold.source.incarnation, hold.partition)]
        batch = await hold.source.at_or_after(self._link.js, hold.next.seq)
        if batch is None:
            hold.heard, hold.look = heard, time.monotonic() + _LOOK_SECONDS
            return None
        hold.look = 0.0
        after, missing = hold.next, batch.seq != hold.next.seq
        hold.ready.extend(hold.source.deliveries(batch, 0 if missing else after.at, hold))
        hold.next = Place(batch.seq + 1, 0)
        if not missing:
            return None
        return Gap(hold, after.position, hold.ready[0].position, f"{batch.seq} is the first left in the stream")

    def _may_have_more(self, hold: Held) -> bool:
        heard = self._link.heard[announced(hold.source.incarnation, hold.partition)]
        return not hold.ready and (time.monotonic() >= hold.look or heard != hold.heard)

    def _member_key(self, topic: Topic) -> str:
        return topic.key(self.group.name, "member", self.group.member)

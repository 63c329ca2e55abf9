"""Groups: for each topic a cell where the group began, one for each of its holds and one for each of its members."""

from __future__ import annotations

import json
from typing import Final, NamedTuple, Self

from eventbus_core.backend.store import Cell, Key, Put, Store, whole
from eventbus_core.backend.store.reading import Place, locate
from eventbus_core.backend.store.topics import Topic
from eventbus_core.errors import Conflict, NotFound, Unavailable
from eventbus_core.records import Where

_START: Final = "start"
_HOLD: Final = "hold"
_MEMBER: Final = "member"
_CLOCK: Final = ("clock",)
_SWEEP_LEASES: Final = 10
"""A dead member's cell is removed after so many leases."""


class Hold(NamedTuple):
    """The cell of a group in a partition: the newest epoch, who has it (empty: nobody), and the settled place.

    ``revision`` is where it was read. Before its first owner a partition has no cell: revision 0.
    """

    epoch: int
    owner: str
    place: Place
    revision: int = 0

    @classmethod
    def of(cls, cell: Cell) -> Self:
        """Read a cell."""
        epoch, owner, *place = json.loads(cell.value)
        return cls(epoch, owner, Place(*place), cell.revision)

    @property
    def value(self) -> str:
        """What to write."""
        return json.dumps([self.epoch, self.owner, *self.place])


class GroupCells:
    """The cells of one group in one topic."""

    def __init__(self, store: Store, topic: Topic, group: str) -> None:
        self._store = store
        self._topic = topic
        self._group = group

    def hold_key(self, partition: int) -> Key:
        """Where the hold of a partition is."""
        return self._key(_HOLD, str(partition))

    def begin(self, where: Where) -> None:
        """Give a new group its positions, in all partitions by one write, so that two who begin it agree."""
        key = self._key(_START)
        if whole(self._store.get([key])) == [None]:
            places = [locate(self._store, log, where) for log in self._topic.logs()]
            whole(self._store.put([Put(key, json.dumps(places), 0)]))

    def holds(self) -> list[Hold]:
        """The hold of each partition. NotFound: the group has no position in the topic."""
        keys = [self._key(_START), *map(self.hold_key, range(self._topic.partitions))]
        start, *cells = whole(self._store.get(keys))
        if start is None:
            message = f"group {self._group} has no position in topic {self._topic.name}; open a consumer to make it"
            raise NotFound(message, topic=self._topic.name, backend=self._store.backend)
        places = json.loads(start.value)
        return [
            Hold.of(cell) if cell else Hold(0, "", Place(*place)) for cell, place in zip(cells, places, strict=True)
        ]

    def beat(self, member: str, lease_seconds: float) -> set[str]:
        """Say that a member lives; who does, judged by the store's clock alone: by when it wrote their cells."""
        whole(self._store.put([Put(self._key(_MEMBER, member), str(lease_seconds))]))
        members = self._members()
        if member not in members:
            raise Unavailable(
                f"what the store had of group {self._group} in topic {self._topic.name} was deleted meanwhile",
                topic=self._topic.name,
                backend=self._store.backend,
            )
        now = max(cell.stored for cell in members.values())
        for name, cell in members.items():
            if cell.stored + _SWEEP_LEASES * float(cell.value) < now:
                # At the revision that was read: it may be alive again.
                self._store.delete(self._key(_MEMBER, name), cell.revision)
        return _living(members, now)

    def living(self) -> set[str]:
        """The members whose lease has not run out."""
        whole(self._store.put([Put(_CLOCK, "")]))
        (clock,) = whole(self._store.get([_CLOCK]))
        assert clock is not None
        return _living(self._members(), clock.stored)

    def refuse_members(self) -> None:
        """Conflict, if there are living members."""
        if members := self.living():
            raise Conflict(
                f"group {self._group} has {len(members)} members in topic {self._topic.name}; stop them first (a "
                "killed one leaves when its lease ends)",
                topic=self._topic.name,
                backend=self._store.backend,
            )

    def leave(self, member: str) -> None:
        """A member lives no more."""
        self._store.delete(self._key(_MEMBER, member))

    def forget(self) -> None:
        """Remove all of it."""
        self._store.delete_below(self._key())

    def _members(self) -> dict[str, Cell]:
        """All members that beat since they were last swept, dead or alive; the value is how long each lives."""
        keys = self._store.keys(self._key(_MEMBER))
        cells = whole(self._store.get(keys))
        return {key[-1]: cell for key, cell in zip(keys, cells, strict=True) if cell is not None}

    def _key(self, *parts: str) -> Key:
        return self._topic.key(self._group, *parts)


def groups_of(store: Store, topic: Topic) -> list[str]:
    """The groups that have a position in a topic."""
    return [key[-2] for key in store.keys(topic.key()) if key[-1] == _START]


def _living(members: dict[str, Cell], now: float) -> set[str]:
    return {name for name, cell in members.items() if now < cell.stored + float(cell.value)}

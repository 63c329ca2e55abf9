"""Senders and members at work, all in one history, while a test does something to them."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection
from typing import Any

from eventbus_conformance.checker import Expectations
from eventbus_conformance.harness import Bounds
from eventbus_conformance.history import FaultKind, History, Line
from eventbus_conformance.members import Member, Members
from eventbus_conformance.senders import Senders
from eventbus_conformance.waiting import wait_until
from eventbus_core import EventBus
from eventbus_core.capabilities import Capabilities

_SHARING_SECONDS = 2.0
"""Members that have joined and exchange nothing for so long have shared the partitions."""


class Work:
    """One topic, one group, one history. ``finish`` ends in a judgement."""

    def __init__(
        self,
        members: Members,
        senders: Senders,
        topic: str,
        partitions: int,
        capabilities: Capabilities,
        bounds: Bounds,
        open_bus: Callable[[], EventBus],
        check: Callable[[History], None],
    ) -> None:
        self.members = members
        self.senders = senders
        self.history = members.history
        self._topic = topic
        self._partitions = partitions
        self._capabilities = capabilities
        self._bounds = bounds
        self._open_bus = open_bus
        self._check = check

    @property
    def takeover_seconds(self) -> float:
        """Until others work on the partitions of a member that vanished; what it leaves behind takes time, too."""
        return self._capabilities.max_takeover_seconds + self._bounds.close

    def expect(self, **expected: Any) -> None:
        """Say what is to be shown, beside what the backend promises."""
        self.members.expect(Expectations.of(self._capabilities, **expected))

    def join(self, *names: str, pace_seconds: float = 0.0, url: str | None = None) -> list[Member]:
        """Start members; they join while this goes on."""
        return [self.members.start(name, pace_seconds=pace_seconds, url=url, wait=False) for name in names]

    def wait_shared(self, *members: Member) -> None:
        """Wait until these share all partitions."""
        self.members.wait_shared(*members, partitions=self._partitions)

    def wait_settled(self, *members: Member) -> None:
        """Wait until these have joined, share all partitions evenly, and exchange none any more."""
        self.members.wait_joined(*members)

        def settled() -> bool:
            held = [self.history.held(each.name) for each in members]
            each_once = sorted(partition for of in held for partition in of) == list(range(self._partitions))
            evenly = max(map(len, held)) - min(map(len, held)) <= 1
            quiet_since = self.history.events("holds")[-1]["at"] + self._bounds.quiet + _SHARING_SECONDS
            return each_once and evenly and time.monotonic() > quiet_since

        self.wait_until(settled, self._bounds.rebalance, *members)

    def wait_until(self, until: Callable[[], bool], seconds: float, *members: Member) -> None:
        """Wait; no sender, and none of these members, must end with an error meanwhile."""

        def checked() -> bool:
            if until():
                return True
            self.senders.check()
            for member in members:
                member.check()
            return False

        names = ", ".join(each.name for each in members)
        wait_until(checked, seconds, every=0.1, what=f"{until.__qualname__} of {names} ({self.history.path})")

    def wait_handled_by(self, *members: Member, records: int = 20) -> None:
        """Wait until each of these has handled so many."""

        def enough() -> bool:
            by = self.history.handled_by()
            return all(by[each.name] >= records for each in members)

        self.wait_until(enough, self._bounds.deliver, *members)

    def wait_on_all_partitions(self, *members: Member, within: float | None = None) -> float:
        """Wait until records of every partition are handled from now on, by these only. Returns how long it took."""
        names, begin = {each.name for each in members}, time.monotonic()

        def everywhere() -> bool:
            fresh = (each for each in self.history.events("handle-start") if each["at"] > begin and each["by"] in names)
            return len({each["partition"] for each in fresh}) == self._partitions

        seconds = self._bounds.recover if within is None else within
        self.wait_until(everywhere, seconds, *members)
        return time.monotonic() - begin

    def go_on(self, seconds: float, *members: Member) -> None:
        """Let them work for so long; none of these must end meanwhile."""
        until = time.monotonic() + seconds
        self.wait_until(lambda: time.monotonic() >= until, seconds + 1.0, *members)

    def open_sends(self) -> list[Line]:
        """The sends that were made and have no outcome yet."""
        settled = {
            each["id"] for kind in ("send-ok", "send-failed", "send-unknown") for each in self.history.events(kind)
        }
        return [each for each in self.history.events("send-invoke") if each["id"] not in settled]

    def fault(self, kind: FaultKind, members: Collection[Member] | None = None) -> Any:
        """Note a fault around what causes it (see ``Writer.fault``)."""
        return self.members.writer.fault(kind, None if members is None else [each.name for each in members])

    def finish(self, *running: Member) -> None:
        """End the sending, let the group settle everything, read the log back, and judge."""
        self.senders.stop()
        bus = self._open_bus()
        self.members.drain(bus, *running)
        self.members.writer.read_back(self._topic, bus.read(self._topic))
        self._check(self.history)

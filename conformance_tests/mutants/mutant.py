"""What all mutants are: the memory backend, with its own name and its own harness."""

from __future__ import annotations

import dataclasses
import re
import zlib
from typing import Any, ClassVar

from eventbus_conformance.harness import Bounds, Harness
from eventbus_conformance.memory_harness import MemoryHarness
from eventbus_core.backend import BackendAdmin, BackendProducer, Group
from eventbus_core.backend.leases import LeasedConsumer
from eventbus_core.capabilities import Reach
from eventbus_core.memory import MemoryBackend
from eventbus_core.memory.admin import MemoryAdmin
from eventbus_core.memory.consumer import MemoryConsumer
from eventbus_core.memory.producer import MemoryProducer
from eventbus_core.records import Record

MUTANTS: dict[str, type[Mutant]] = {}
"""All that were imported, by name."""


class MutantHarness(MemoryHarness):
    """Short waits: what comes at all comes at once, and a mutant makes many tests wait in vain."""

    bounds: ClassVar[Bounds] = Bounds(deliver=4, rebalance=5, close=3, recover=4, refuse=3, quiet=0.15)
    mutant: ClassVar[type[Mutant]]

    def up(self) -> None:
        super().up()
        self.mutant.plant()

    def url(self) -> str:
        settings = f"create_topics=false&lease_seconds={self.mutant.lease_seconds}&send_timeout_seconds=10"
        return f"{self.backend}://conformance?{settings}"

    def unreachable_url(self) -> str | None:  # type: ignore[override]
        if self.mutant.capabilities.reach is Reach.PROCESS:
            return super().unreachable_url()
        times = "connect_timeout_seconds=2&request_timeout_seconds=2&send_timeout_seconds=2"
        return f"{self.backend}://nowhere?create_topics=false&{times}"


class Mutant(MemoryBackend):
    """Subclasses replace one of the three parts, claim something untrue, or plant a defect in core itself."""

    producer_type: ClassVar[type[MemoryProducer]] = MemoryProducer
    consumer_type: ClassVar[type[MemoryConsumer]] = MemoryConsumer
    admin_type: ClassVar[type[MemoryAdmin]] = MemoryAdmin
    capabilities = dataclasses.replace(MemoryBackend.capabilities, max_takeover_seconds=4.0)
    harness: ClassVar[type[Harness]]
    lease_seconds: ClassVar[int] = 2
    runs: ClassVar[tuple[str, ...]] = ()
    """The modules of the suite that it is judged by."""

    def __init_subclass__(cls, **claims: Any) -> None:
        super().__init_subclass__()
        cls.capabilities = dataclasses.replace(cls.capabilities, **claims)
        if cls.__name__.startswith("_"):
            return  # what several have in common
        cls.name = re.sub(r"(?<=[a-z])(?=[A-Z])", "-", cls.__name__).lower()
        assert cls.name not in MUTANTS, f"two mutants are called {cls.name}"
        names = {"backend": cls.name, "profiles": {cls.name: "broken on purpose"}, "mutant": cls}
        cls.harness = type(f"{cls.__name__}Harness", (MutantHarness,), names)
        MUTANTS[cls.name] = cls

    @classmethod
    def plant(cls) -> None:
        """Break core in this process; for what core guarantees whatever the backend does."""

    def producer(self, *, max_records: int, max_bytes: int) -> BackendProducer:  # noqa: ARG002
        return self.producer_type(self._store)

    def consumer(self, group: Group) -> LeasedConsumer:
        return self.consumer_type(self._store, group, self.settings.lease_seconds)

    def admin(self) -> BackendAdmin:
        return self.admin_type(self._store)


class Unbroken(Mutant):
    """No defect."""


def chosen(record: Record) -> bool:
    """Whether a defect that befalls some records befalls this one: one in twenty, always the same ones."""
    return zlib.crc32((record.key or b"") + b"/" + (record.value or b"")[:64]) % 20 == 0

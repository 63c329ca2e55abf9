"""The harness of the memory backend: nothing to start, nothing to break."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib.metadata import version
from typing import ClassVar

from eventbus_conformance.harness import Bounds, Harness, Raw
from eventbus_core.memory.store import store_of
from eventbus_core.records import Record


class MemoryHarness(Harness):
    """One store in the process of the tests."""

    backend: ClassVar[str] = "memory"
    profiles: ClassVar[Mapping[str, str]] = {"memory": "in the process itself, for tests and laptops"}
    bounds: ClassVar[Bounds] = Bounds(quiet=0.3)

    def up(self) -> None:
        self.broker_version = f"eventbus-core {version('eventbus-core')}"

    def down(self) -> None:
        pass

    def url(self) -> str:
        return "memory://conformance?create_topics=false"

    def unreachable_url(self) -> None:
        return None

    def raw_send(self, topic: str, partition: int, raw: Raw) -> None:
        store = store_of("conformance")
        with store.changed:
            target = store.partition(topic, partition)
            latest = target.times[-1] if target.times else 1
            target.records.append(Record(topic, raw.value, raw.key, raw.headers, latest))
            target.times.append(latest)
            store.changed.notify_all()

    def raw_read(self, topic: str, partition: int) -> Sequence[Raw]:
        store = store_of("conformance")
        with store.changed:
            return [Raw(each.value, each.key, each.headers) for each in store.partition(topic, partition).records]

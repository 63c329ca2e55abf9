"""What is declared is known and explained; what is denied is refused."""

from __future__ import annotations

import dataclasses
import subprocess
import sys
from datetime import UTC, datetime

import pytest

from eventbus_conformance.clauses import clause, denied
from eventbus_conformance.fixtures import NewTopic, OpenBus
from eventbus_conformance.harness import Bounds, Harness
from eventbus_conformance.receiving import take
from eventbus_conformance.sending import read_all, send_all
from eventbus_core import EventBus
from eventbus_core.capabilities import Capabilities
from eventbus_core.errors import Unsupported


@clause("P2")
def test_every_capability_has_a_source_and_is_known_without_connecting(
    open_bus: OpenBus, harness: Harness, bus_url: str, capabilities: Capabilities
) -> None:
    away = open_bus(harness.unreachable_url() or bus_url).capabilities
    names = [field.name for field in dataclasses.fields(capabilities) if field.name != "sources"]
    for name in names:
        assert capabilities.sources[name].strip(), f"capability {name} does not say where it comes from"
        assert type(getattr(away, name)) is type(getattr(capabilities, name))
    assert capabilities.max_record_bytes >= 1024 * 1024 - 4096
    assert capabilities.ack_delay_seconds >= 0
    assert capabilities.max_takeover_seconds > 0


@clause("P6")
def test_processes_share_topics_and_groups(bus: EventBus, bus_url: str, topic: str, group: str, bounds: Bounds) -> None:
    assert _send_elsewhere(bus_url, topic) == 0
    assert [(each.key, each.seq) for each in read_all(bus, topic)] == [("elsewhere", 0)]
    with bus.consumer(topic, group=group) as consumer:
        assert len(take(consumer, 1, bounds.deliver, ack=True)) == 1


@denied("reach")
@clause("P1")
def test_without_reach_another_process_has_another_bus(bus: EventBus, bus_url: str, topic: str) -> None:
    assert _send_elsewhere(bus_url, topic) != 0, "another process found the topic"
    assert list(bus.read(topic)) == []


@denied("seek_by_time")
@clause("P1")
def test_without_seek_by_time_a_time_is_refused(bus: EventBus, topic: str, group: str) -> None:
    now = datetime.now(UTC)
    with pytest.raises(Unsupported) as raised:
        bus.consumer(topic, group=group, start=now)
    assert raised.value.capability == "seek_by_time"
    with bus.consumer(topic, group=group) as consumer:
        with pytest.raises(Unsupported) as raised:
            consumer.seek(now)
        assert raised.value.capability == "seek_by_time"


@denied("stored_position")
@clause("P1")
def test_without_stored_position_a_receipt_tells_none(bus: EventBus, topic: str, bounds: Bounds) -> None:
    with bus.producer() as producer:
        assert [producer.send(topic, b"v").result(bounds.deliver).position for _ in range(20)] == [None] * 20


@denied("counted_deliveries")
@clause("P1")
def test_without_counted_deliveries_the_count_is_always_one(
    bus: EventBus, new_topic: NewTopic, group: str, bounds: Bounds
) -> None:
    topic = new_topic(1)
    send_all(bus, topic, 10, keys=1)
    for _ in range(3):
        with bus.consumer(topic, group=group) as consumer:
            assert [each.delivery_count for each in take(consumer, 10, bounds.deliver)] == [1] * 10


def _send_elsewhere(url: str, topic: str) -> int:
    """Send one record from another process; its exit code."""
    script = (
        "import sys\n"
        "from eventbus_core import EventBus\n"
        "with EventBus(sys.argv[1]) as bus, bus.producer() as producer:\n"
        "    producer.send(sys.argv[2], b'0', key=b'elsewhere').result(20)\n"
    )
    done = subprocess.run([sys.executable, "-c", script, url, topic], capture_output=True, timeout=60, check=False)
    return done.returncode

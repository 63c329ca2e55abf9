"""A member that does not keep up."""

from __future__ import annotations

import os
from pathlib import Path

from eventbus_conformance.clauses import NotProven, clause
from eventbus_conformance.fixtures import PARTITIONS, Sized
from eventbus_conformance.harness import Bounds
from eventbus_conformance.receiving import nothing_more, take
from eventbus_conformance.run import Measurements
from eventbus_core import EventBus

VALUE = bytes(8192)
BACKLOG = 12_500
MAX_UNACKED = 100
MAX_GROWTH = 64 * 1024 * 1024


def resident_bytes() -> int:
    """Memory of this process."""
    statm = Path("/proc/self/statm")
    if not statm.exists():
        raise NotProven("memory is measured in /proc, which is not here")
    return int(statm.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


@clause("D6")
def test_a_backlog_costs_a_slow_member_no_memory(
    bus: EventBus, topic: str, group: str, bounds: Bounds, measured: Measurements, sized: Sized
) -> None:
    records = sized(BACKLOG)
    with bus.producer() as producer:
        receipts = [producer.send(topic, VALUE, key=f"key-{n % 64}".encode()) for n in range(records)]
        assert producer.flush(bounds.deliver) == 0
        for receipt in receipts:
            receipt.result(0)
    del receipts
    before = resident_bytes()
    with bus.consumer(topic, group=group, max_unacked=MAX_UNACKED) as consumer:
        held = take(consumer, MAX_UNACKED, bounds.deliver)
        assert nothing_more(consumer, 2 * bounds.quiet), "more than max_unacked records are out"
        growth = resident_bytes() - before
        consumer.ack(*held)
        # A gap-free prefix was acked, so as many new ones may come, and no more.
        more = take(consumer, MAX_UNACKED, bounds.deliver)
        assert nothing_more(consumer, bounds.quiet)
    bus.admin().delete_topic(topic)  # the one topic that is too large to be left
    measured.add("kibibytes grown under backlog", growth // 1024)
    assert growth < MAX_GROWTH, f"{growth / 2**20:.0f} MiB for a backlog of {records * len(VALUE) / 2**20:.0f} MiB"
    assert {each.partition for each in held + more} <= set(range(PARTITIONS))

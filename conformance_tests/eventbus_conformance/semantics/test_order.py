"""The order of keys: whatever number of members, connections that break, records that are refused."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import pytest

from eventbus_conformance.clauses import Unknown, clause
from eventbus_conformance.fixtures import PARTITIONS, Sized
from eventbus_conformance.harness import Bounds, Route
from eventbus_conformance.proxy import Proxy
from eventbus_conformance.sending import SETTLE_SECONDS, note_outcome, send_one
from eventbus_conformance.waiting import wait_until
from eventbus_conformance.work import Work
from eventbus_core import EventBus
from eventbus_core.capabilities import Capabilities
from eventbus_core.errors import InvalidRecord, SendFailed, TooLarge
from eventbus_core.producer import Producer
from eventbus_core.receipts import Receipt

CUTS = 5


@pytest.mark.parametrize("number", [1, 4])
@clause("O4")
def test_each_key_is_handled_in_order_by_one_member_at_a_time(work: Work, sized: Sized, number: int) -> None:
    each = sized(100)
    work.expect(min_events=64 * each, min_members=number, min_partitions=PARTITIONS, overlap="never")
    running = work.join(*(f"m{n}" for n in range(number)), pace_seconds=0.0005)
    work.wait_shared(*running)
    senders = [work.senders.start(name, keys=32, records=32 * each) for name in ("one", "other")]
    for sender in senders:
        sender.wait(SETTLE_SECONDS)
    work.members.wait_handled(64 * each, *running)
    work.finish(*running)


@clause("O5")
def test_a_connection_that_breaks_while_sends_are_under_way_costs_no_order(
    work: Work, proxy: Proxy, route: Route, bounds: Bounds
) -> None:
    work.expect(min_faults=CUTS)
    handler = work.join("handler")
    work.members.wait_joined(*handler)
    # A reply takes a while, so that sends are under way at any moment.
    proxy.delay(0.02)
    work.senders.start("sender", keys=16, per_second=1500, url=route.url)
    under_way = []
    for _ in range(CUTS):
        stored = len(work.history.events("send-ok"))
        wait_until(
            lambda stored=stored: proxy.open and len(work.history.events("send-ok")) > stored + 200,  # type: ignore[misc]
            bounds.recover,
            what="sending goes on",
        )
        with work.fault("network", []) as fault:
            under_way.append(len(work.open_sends()))
            fault.saw(proxy.cut())
    if min(under_way) < 2:
        raise Unknown(f"{under_way} sends were under way when the connection broke: nothing shown")
    work.finish(*handler)


@clause("O6")
def test_records_that_are_refused_neither_lose_nor_reorder_the_others(
    work: Work, bus: EventBus, topic: str, capabilities: Capabilities, sized: Sized
) -> None:
    records = sized(2000)
    work.expect(min_events=records, min_partitions=PARTITIONS)
    handler = work.join("handler")
    work.members.wait_joined(*handler)
    history = work.members.writer
    refused: list[Receipt] = []
    with bus.producer() as producer:
        bad = _bad_records(producer, topic, capabilities.max_record_bytes, refused)
        sent = []
        for number in range(records):
            if number % 20 == 0:
                next(bad)
            sent.append(send_one(producer, topic, number, 64, history=history))
        for number, receipt in enumerate(sent):
            receipt.result(SETTLE_SECONDS)
            note_outcome(history, number, 64, receipt)
    assert len(refused) >= records // 100, "the broker refused too few: nothing shown"
    for receipt in refused:
        with pytest.raises(SendFailed):
            receipt.result(SETTLE_SECONDS)
    work.finish(*handler)


def _bad_records(producer: Producer, topic: str, limit: int, refused: list[Receipt]) -> Iterator[None]:
    """Send bad records in turn: refused by the call, and refused by the broker."""
    while True:
        with pytest.raises(TooLarge):
            producer.send(topic, bytes(limit + 1), key=b"key-1")
        yield
        with pytest.raises(InvalidRecord):
            producer.send(topic, b"bad", key=b"key-1", headers=[("nul\0", b"")])
        yield
        # A missing topic may be known to be missing by the second time, and is then refused by the call.
        with contextlib.suppress(SendFailed):
            refused.append(producer.send(f"{topic}-missing", b"bad", key=b"key-1"))
        yield

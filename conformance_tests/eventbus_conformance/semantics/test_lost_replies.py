"""Replies that are lost after the broker has stored what they answer."""

from __future__ import annotations

from eventbus_conformance.clauses import clause
from eventbus_conformance.harness import Bounds, Route
from eventbus_conformance.numbered import read_numbered
from eventbus_conformance.proxy import Proxy
from eventbus_conformance.run import Measurements
from eventbus_conformance.waiting import wait_until
from eventbus_conformance.work import Work
from eventbus_core import EventBus

ROUNDS = 5


@clause("D11")
def test_a_send_whose_reply_is_lost_stores_its_record_once(
    work: Work, bus: EventBus, topic: str, proxy: Proxy, route: Route, bounds: Bounds, measured: Measurements
) -> None:
    work.expect(min_faults=ROUNDS)
    handler = work.join("handler")
    work.members.wait_joined(*handler)
    work.senders.start("sender", keys=16, per_second=400, url=route.url)
    for number in range(ROUNDS):
        _wait_stored(work, 100, bounds)
        with work.fault("network", []) as fault:
            # The sender must not be able to ask again until the log was read.
            proxy.drop_reply(then_refuse=True)
            wait_until(lambda number=number: proxy.counts.dropped > number, bounds.deliver, what="a reply is dropped")  # type: ignore[misc]
            lying = {read_numbered(each.record).id for each in bus.read(topic)}
            unanswered = {each["id"] for each in work.open_sends()} & lying
            fault.saw(len(unanswered))
        measured.add("records stored without a reply", len(unanswered))
        proxy.heal()
        _wait_stored(work, 100, bounds)
    work.finish(*handler)


def _wait_stored(work: Work, more: int, bounds: Bounds) -> None:
    before = len(work.history.events("send-ok"))
    wait_until(lambda: len(work.history.events("send-ok")) > before + more, bounds.recover, what="sending goes on")

"""A network that is cut, in both ways or in one, or that delays everything."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from eventbus_conformance.clauses import clause
from eventbus_conformance.fixtures import PARTITIONS
from eventbus_conformance.harness import Bounds, Route
from eventbus_conformance.members import Member
from eventbus_conformance.proxy import Proxy, Ways
from eventbus_conformance.receiving import take
from eventbus_conformance.run import Measurements
from eventbus_conformance.sending import send_all
from eventbus_conformance.waiting import wait_until
from eventbus_conformance.work import Work
from eventbus_core import EventBus
from eventbus_core.capabilities import Capabilities


@clause("F3")
@pytest.mark.timeout(300)
def test_members_that_are_cut_off_are_replaced_and_come_back(
    work: Work, proxy: Proxy, route: Route, measured: Measurements
) -> None:
    def until_replaced(others: list[Member]) -> None:
        within = work.takeover_seconds
        measured.took("work goes on after members are cut off", work.wait_on_all_partitions(*others, within=within))

    cut_off(work, proxy, route, proxy.silence, until_replaced)


@pytest.mark.parametrize("way", ["to broker", "to client"])
@clause("F3")
@pytest.mark.timeout(300)
def test_a_network_that_is_cut_in_one_way_loses_nothing(
    work: Work, proxy: Proxy, route: Route, capabilities: Capabilities, way: Ways
) -> None:
    # Nobody need take over: the broker may hear members that do not hear it.
    seconds = capabilities.max_takeover_seconds + 1.0
    cut_off(work, proxy, route, lambda: proxy.silence(way), lambda others: work.go_on(seconds, *others))


@clause("F3")
def test_flushing_calls_nothing_durable_that_the_broker_has_not_got(
    bus: EventBus, topic: str, group: str, proxy: Proxy, route: Route, bounds: Bounds
) -> None:
    send_all(bus, topic, 40, keys=20)
    with EventBus(route.url) as far, far.consumer(topic, group=group) as consumer:
        received = take(consumer, 40, bounds.deliver)
        consumer.ack(*received[:20])
        assert consumer.flush(bounds.close) == 0
        proxy.silence("to broker")
        consumer.ack(*received[20:])
        assert consumer.flush(1.0) > 0
        proxy.heal()
        wait_until(lambda: consumer.flush(1.0) == 0, bounds.recover, what="the acks get through, or are told as lost")


@clause("F4")
@pytest.mark.timeout(300)
def test_what_arrives_after_its_sender_was_replaced_does_no_harm(
    work: Work, proxy: Proxy, route: Route, capabilities: Capabilities
) -> None:
    # What members say arrives when others have their partitions, and goes on arriving.
    late = capabilities.max_takeover_seconds + 1.0
    cut_off(work, proxy, route, lambda: proxy.delay(late), lambda others: work.go_on(late + 3.0, *others))


def cut_off(
    work: Work, proxy: Proxy, route: Route, cut: Callable[[], None], until: Callable[[list[Member]], None]
) -> None:
    """Two of four members, and one of two senders, lose the broker for a while."""
    work.expect(min_members=4, min_partitions=PARTITIONS, min_faults=1, overlap="never")
    near = work.join("near0", "near1", pace_seconds=0.001)
    far = work.join("far0", "far1", pace_seconds=0.001, url=route.url)
    work.wait_shared(*near, *far)
    work.senders.start("near", keys=24, per_second=150)
    work.senders.start("far", keys=24, per_second=150, url=route.url)
    work.wait_handled_by(*near, *far)
    with work.fault("network", far) as fault:
        assert proxy.open > 0, "nothing goes through the proxy: nothing shown"
        cut()
        until(near)
        fault.saw(sum(each["by"] == "far" for each in work.open_sends()))
    proxy.heal()
    work.wait_shared(*near, *far)
    work.wait_on_all_partitions(*near, *far)
    work.finish(*near, *far)

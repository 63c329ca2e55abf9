"""Members that share a group, while none comes or goes."""

from __future__ import annotations

import time

from eventbus_conformance.checker import Expectations
from eventbus_conformance.clauses import clause
from eventbus_conformance.fixtures import PARTITIONS, CheckHistory, Sized
from eventbus_conformance.harness import Bounds
from eventbus_conformance.members import Members
from eventbus_conformance.run import Measurements
from eventbus_conformance.sending import send_all
from eventbus_conformance.waiting import wait_until
from eventbus_core import EventBus
from eventbus_core.capabilities import Capabilities


@clause("D1", "O2")
def test_four_members_handle_everything_once_and_in_order(
    members: Members,
    bus: EventBus,
    topic: str,
    capabilities: Capabilities,
    check_history: CheckHistory,
    sized: Sized,
) -> None:
    members.expect(
        Expectations.of(capabilities, min_events=sized(2000), min_members=4, min_partitions=PARTITIONS, overlap="never")
    )
    running = [members.start(f"m{number}", pace_seconds=0.001, wait=False) for number in range(4)]
    members.wait_shared(*running, partitions=PARTITIONS)
    sent = send_all(bus, topic, sized(2000), keys=64, history=members.writer)
    members.wait_handled(len(sent), *running)
    # Judged while they stay: what a member that leaves may repeat is the business of others.
    members.drain(bus)
    for each in running:
        each.check()
    check_history(members.history)
    handled = members.history.handled()
    assert len(handled) == len(sent), "a group whose members stayed handled something twice"
    for each in running:
        each.leave()
    if members.processes:
        assert len({each.pid for each in handled}) == 4


@clause("D1", "O2")
def test_one_member_handles_all_partitions(
    members: Members,
    bus: EventBus,
    topic: str,
    capabilities: Capabilities,
    check_history: CheckHistory,
    bounds: Bounds,
    measured: Measurements,
    sized: Sized,
) -> None:
    members.expect(Expectations.of(capabilities, min_events=sized(1000), min_partitions=PARTITIONS))
    started = time.monotonic()
    alone = members.start("alone")
    wait_until(lambda: len(members.history.held("alone")) == PARTITIONS, bounds.rebalance, what="it holds all")
    measured.took("first member holds all", time.monotonic() - started)
    sent = send_all(bus, topic, sized(1000), keys=40, history=members.writer)
    members.wait_handled(len(sent), alone)
    members.drain(bus, alone)
    check_history(members.history)
    assert len(members.history.handled()) == len(sent)

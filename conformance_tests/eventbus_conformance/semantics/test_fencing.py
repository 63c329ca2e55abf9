"""A member that was taken for dead and is not."""

from __future__ import annotations

from eventbus_conformance.clauses import clause
from eventbus_conformance.fixtures import PARTITIONS
from eventbus_conformance.harness import Bounds
from eventbus_conformance.members import Members
from eventbus_conformance.receiving import take, total_lag
from eventbus_conformance.sending import send_all
from eventbus_conformance.waiting import wait_until
from eventbus_core import EventBus
from eventbus_core.capabilities import Capabilities


@clause("D9")
def test_the_late_ack_of_a_former_owner_changes_nothing(
    members: Members, bus: EventBus, topic: str, group: str, capabilities: Capabilities, bounds: Bounds
) -> None:
    sent = send_all(bus, topic, 200, keys=40)
    frozen = members.start("frozen", hold_acks=True)
    members.wait_handled(len(sent), frozen)
    frozen.freeze()
    try:
        with bus.consumer(topic, group=group) as heir:
            received = take(heir, 200, capabilities.max_takeover_seconds + bounds.deliver)
            prefixes = [[each for each in received if each.partition == number][:3] for number in range(PARTITIONS)]
            acked = [each for prefix in prefixes for each in prefix]
            heir.ack(*acked)
            assert heir.flush(bounds.close) == 0
            assert total_lag(bus, group, topic) == 200 - len(acked)
            frozen.ack_held()
            frozen.thaw()
            wait_until(
                lambda: members.history.events("flush", "frozen"), bounds.recover, what="the former owner acks late"
            )
            late = members.history.events("ack-invoke", "frozen")
            assert sum(len(each["positions"]) for each in late) == 200, "it held back less than all: nothing shown"
            assert total_lag(bus, group, topic) == 200 - len(acked)
    finally:
        frozen.thaw()

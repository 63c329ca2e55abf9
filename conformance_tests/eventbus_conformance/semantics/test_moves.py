"""Members that come and go in good order."""

from __future__ import annotations

import itertools

import pytest

from eventbus_conformance.clauses import clause
from eventbus_conformance.fixtures import PARTITIONS
from eventbus_conformance.harness import Bounds
from eventbus_conformance.history import History
from eventbus_conformance.members import Members
from eventbus_conformance.numbered import read_numbered
from eventbus_conformance.receiving import nothing_more, numbers, take, total_lag
from eventbus_conformance.run import Measurements
from eventbus_conformance.sending import send_all
from eventbus_conformance.waiting import wait_until
from eventbus_conformance.work import Work
from eventbus_core import EventBus
from eventbus_core.capabilities import Capabilities
from eventbus_core.consumer import Consumer
from eventbus_core.records import Delivery


def join_and_leave(work: Work) -> None:
    """One member, then four, then one, while records come; every move is shown by the history."""
    work.expect(min_members=4, min_partitions=PARTITIONS, min_moves=4)
    work.members.writer.note("one, four, one")
    work.senders.start("sender", keys=48, per_second=400)
    first, *others = work.join("m0", pace_seconds=0.001)
    work.wait_handled_by(first, records=50)
    others = work.join("m1", "m2", "m3", pace_seconds=0.001)
    work.wait_shared(first, *others)
    work.wait_handled_by(first, *others)
    for leaving in (first, *others[:-1]):
        leaving.leave()
    last = others[-1]
    work.wait_shared(last)
    work.wait_on_all_partitions(last)
    work.finish(last)


@clause("O3")
def test_order_survives_members_joining_and_leaving(work: Work) -> None:
    join_and_leave(work)


@clause("G7")
def test_announced_moves_repeat_nothing(work: Work) -> None:
    join_and_leave(work)
    assert len(work.history.handled()) == work.history.count(), "something was handled twice"


@clause("G7")
def test_acks_get_through_while_a_partition_is_handed_over(
    work: Work, bus: EventBus, topic: str, group: str, bounds: Bounds
) -> None:
    send_all(bus, topic, 100, keys=40)
    with bus.consumer(topic, group=group) as consumer:
        received = take(consumer, 100, bounds.deliver)
        work.join("heir")
        wait_until(lambda: len(consumer.assignments) < PARTITIONS, bounds.rebalance, what="a partition is wanted back")
        kept = [each for each in received if (topic, each.partition) in consumer.assignments]
        assert kept
        assert all(each.owned for each in received), "what was wanted back is gone before it was drained"
        consumer.ack(*kept)
        assert consumer.flush(bounds.close) == 0
        assert all(each.owned for each in received), "the acks waited for the end of the drain"


@clause("G8")
def test_more_members_than_partitions_lose_nothing_and_do_not_stop_the_work(
    work: Work, bounds: Bounds, measured: Measurements
) -> None:
    work.expect(min_members=2, min_partitions=PARTITIONS, min_moves=PARTITIONS)
    work.members.writer.note("one, eight, one")
    work.senders.start("sender", keys=48, per_second=300)
    first = work.join("m0")[0]
    work.wait_on_all_partitions(first)
    others = work.join(*(f"m{number}" for number in range(1, 8)))
    work.members.wait_joined(*others)
    work.wait_on_all_partitions(first, *others)
    first.leave()
    for leaving in others[:-1]:
        leaving.leave()
        work.wait_on_all_partitions(*others[others.index(leaving) + 1 :])
    last = others[-1]
    work.wait_shared(last)
    work.wait_on_all_partitions(last)
    stall = longest_stall(work.history)
    measured.took("a partition stands still while members come and go", stall)
    work.finish(last)
    assert stall <= bounds.rebalance


def longest_stall(history: History) -> float:
    """The longest time between two handlings of one partition."""
    longest = 0.0
    for partition in range(PARTITIONS):
        begun = [each["at"] for each in history.events("handle-start") if each["partition"] == partition]
        longest = max([longest, *(later - earlier for earlier, later in itertools.pairwise(begun))])
    return longest


@clause("G9")
@pytest.mark.parametrize("held_up", ["unacked", "paused"])
def test_a_partition_that_comes_back_is_delivered_again(
    held_up: str, work: Work, bus: EventBus, topic: str, group: str, bounds: Bounds
) -> None:
    send_all(bus, topic, 4000, keys=40)
    with bus.consumer(topic, group=group, max_unacked=100) as consumer:
        wait_until(lambda: len(consumer.assignments) == PARTITIONS, bounds.rebalance, what="all partitions held")
        received = take(consumer, 100, bounds.deliver)
        if held_up == "paused":
            consumer.pause()
            consumer.ack(*received)
        # Time to fetch all that the backend fetches ahead.
        received += consumer.receive(timeout=bounds.quiet)
        (other,) = work.join("other", pace_seconds=0.005)

        def handed_over() -> bool:
            consumer.ack(*(each for each in received if each.owned and not holds(consumer, each)))
            return len(consumer.assignments) < PARTITIONS and work.history.handled_by()["other"] >= 20

        work.wait_until(handed_over, bounds.rebalance, other)
        other.leave()
        wait_until(lambda: len(consumer.assignments) == PARTITIONS, bounds.rebalance, what="all partitions held again")
        by_other = {(each.key, each.seq) for each in work.history.handled()}
        assert len(by_other) < 1000, "the other member left nothing to do: nothing shown"
        consumer.ack(*(each for each in received if each.owned))
        consumer.resume()

        def drained() -> bool:
            more = consumer.receive(timeout=0.2)
            consumer.ack(*more)
            received.extend(more)
            return not more and total_lag(bus, group, topic) == 0

        wait_until(drained, bounds.deliver, every=0.0, what="all received, of the partitions that came back too")
    here = {(about.key, about.kseq) for about in (read_numbered(each.record) for each in received)}
    assert len(by_other | here) == 4000, "some were passed over"


def holds(consumer: Consumer, delivery: Delivery) -> bool:
    """Whether the partition of a delivery is neither gone nor wanted back."""
    return (delivery.record.topic, delivery.partition) in consumer.assignments


@clause("G4")
def test_a_new_group_at_latest_keeps_its_place_though_its_first_member_dies(
    members: Members, bus: EventBus, topic: str, group: str, capabilities: Capabilities, bounds: Bounds
) -> None:
    send_all(bus, topic, 40, keys=10)
    members.kill(members.start("first", start="latest"))
    send_all(bus, topic, 60, keys=10, first=40)
    assert members.history.count() == 0, "the first member handled something: nothing shown"
    with bus.consumer(topic, group=group, start="latest") as second:
        received = take(second, 60, capabilities.max_takeover_seconds + bounds.deliver, ack=True)
        assert nothing_more(second, bounds.quiet)
    assert min(numbers(received)) == 4

"""Members that are killed, frozen and slow while they work."""

from __future__ import annotations

import random

import pytest

from eventbus_conformance.clauses import clause
from eventbus_conformance.fixtures import PARTITIONS
from eventbus_conformance.history import Writer
from eventbus_conformance.numbered import numbered
from eventbus_conformance.run import Measurements
from eventbus_conformance.sending import SETTLE_SECONDS
from eventbus_conformance.work import Work
from eventbus_core import EventBus
from eventbus_core.capabilities import Capabilities

KILL_EVERY_SECONDS = 3.0
ROUNDS = 2
MAX_UNACKED = 1000
"""What a member holds by default, so what its death may repeat at most."""


@clause("F1")
def test_a_member_killed_under_load_loses_nothing(work: Work, measured: Measurements) -> None:
    work.expect(
        min_members=3, min_partitions=PARTITIONS, min_moves=1, min_faults=1, max_in_flight=MAX_UNACKED, overlap="never"
    )
    # Slower than what comes to it: when it dies it has more than it has handled.
    (victim,) = work.join("m0", pace_seconds=0.02)
    others = work.join("m1", "m2", pace_seconds=0.002)
    work.wait_shared(victim, *others)
    work.senders.start("sender", keys=48, per_second=400)
    work.wait_handled_by(victim, *others)
    work.members.kill(victim)
    measured.add("members killed")
    measured.took("work goes on after a kill", work.wait_on_all_partitions(*others, within=work.takeover_seconds))
    work.finish(*others)


@clause("F5")
@pytest.mark.timeout(300)
def test_members_killed_one_after_the_other_lose_nothing_and_repeat_little(
    work: Work, rng: random.Random, fault_seconds: float, measured: Measurements
) -> None:
    kills = max(3, round(fault_seconds / KILL_EVERY_SECONDS))
    work.expect(min_members=4, min_partitions=PARTITIONS, min_faults=kills, max_in_flight=MAX_UNACKED, overlap="never")
    running = work.join("m0", "m1", "m2", "m3", pace_seconds=0.002)
    work.wait_shared(*running)
    work.senders.start("sender", keys=48, per_second=300)
    work.wait_on_all_partitions(*running)
    for number in range(kills):
        work.members.wait_joined(*running)
        victim = running.pop(rng.randrange(len(running)))
        work.members.kill(victim)
        measured.add("members killed")
        running += work.join(f"r{number}", pace_seconds=0.002)
        work.go_on(KILL_EVERY_SECONDS, *running)
    work.wait_on_all_partitions(*running)
    work.finish(*running)


@clause("F6")
@pytest.mark.timeout(300)
def test_frozen_members_that_go_on_leave_no_hole_and_break_no_order(
    work: Work, rng: random.Random, measured: Measurements
) -> None:
    work.expect(min_members=3, min_partitions=PARTITIONS, min_moves=2, min_faults=2)
    running = work.join("m0", "m1", "m2", pace_seconds=0.002)
    work.wait_shared(*running)
    work.senders.start("sender", keys=48, per_second=300)
    for _ in range(2):
        work.wait_handled_by(*running)
        victim = rng.choice(running)
        others = [each for each in running if each is not victim]
        try:
            with work.fault("freeze", [victim]) as fault:
                victim.freeze()
                within = work.takeover_seconds
                measured.took("work goes on after a freeze", work.wait_on_all_partitions(*others, within=within))
                fault.saw()
        finally:
            victim.thaw()
        measured.add("members frozen")
        # It acks late what it held, learns that it lost it, and works again.
        work.wait_shared(*running)
        work.wait_on_all_partitions(*running)
    work.finish(*running)


@clause("F7")
@pytest.mark.timeout(300)
def test_a_handling_that_takes_longer_than_any_lease_keeps_its_partition(
    work: Work, bus: EventBus, topic: str, capabilities: Capabilities
) -> None:
    work.expect(min_events=ROUNDS * PARTITIONS, min_members=PARTITIONS, min_partitions=PARTITIONS, overlap="never")
    pace = capabilities.max_takeover_seconds + 1.0
    # One more than there are partitions: it would get one if a slow member were taken for dead.
    running = work.join(*(f"m{number}" for number in range(PARTITIONS + 1)), pace_seconds=pace)
    work.wait_settled(*running)
    keys = key_of_each_partition(bus, topic)
    for kseq in range(ROUNDS):
        send_each(bus, topic, keys, kseq, work.members.writer)
    within = ROUNDS * pace + work.takeover_seconds
    work.wait_until(lambda: len(work.history.events("handle-end")) == ROUNDS * PARTITIONS, within, *running)
    assert sorted(work.history.handled_by().values()) == [ROUNDS] * PARTITIONS, "a slow member lost its partition"
    work.finish(*running)


def key_of_each_partition(bus: EventBus, topic: str) -> list[str]:
    """A key for each partition, found on a topic beside: which key goes where is the backend's to say."""
    trial = f"{topic}-trial"
    bus.admin().create_topic(trial, PARTITIONS)
    found: dict[int, str] = {}
    with bus.producer() as producer:
        for number in range(100):
            name = f"slow-{number}"
            found.setdefault(producer.send(trial, b"", key=name.encode()).result(SETTLE_SECONDS).partition, name)
            if len(found) == PARTITIONS:
                return list(found.values())
    raise AssertionError(f"100 keys went to {len(found)} of {PARTITIONS} partitions")


def send_each(bus: EventBus, topic: str, keys: list[str], kseq: int, history: Writer) -> None:
    """Send one record of each key."""
    with bus.producer() as producer:
        for key in keys:
            about = numbered(f"{key}/{kseq}", key, kseq, b"slow")
            history.send_invoke(topic, about)
            receipt = producer.send(topic, b"slow", key=key.encode(), headers=about.headers)
            history.send_ok(f"{key}/{kseq}", receipt.result(SETTLE_SECONDS))

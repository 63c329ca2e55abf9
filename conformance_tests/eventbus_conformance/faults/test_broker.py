"""A broker that is killed while it works."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from eventbus_conformance.clauses import clause
from eventbus_conformance.fixtures import PARTITIONS
from eventbus_conformance.harness import Bounds, Controls, Harness
from eventbus_conformance.run import Measurements
from eventbus_conformance.waiting import wait_until
from eventbus_conformance.work import Work

KILLS = 3


@clause("F2")
@pytest.mark.timeout(300)
def test_a_broker_that_is_killed_and_started_loses_nothing(
    work: Work, broker: Controls, bounds: Bounds, measured: Measurements
) -> None:
    killed_under_load(work, broker.kill, broker.start, bounds, measured)


@clause("F9")
@pytest.mark.timeout(300)
def test_a_broker_that_loses_power_loses_nothing(
    work: Work, harness: Harness, broker: Controls, bounds: Bounds, measured: Measurements
) -> None:
    killed_under_load(work, harness.lose_unsynced, broker.start, bounds, measured)


def killed_under_load(
    work: Work, kill: Callable[[], None], start: Callable[[], None], bounds: Bounds, measured: Measurements
) -> None:
    """The broker goes and comes back, again and again, while records are sent and handled."""
    work.expect(min_members=2, min_partitions=PARTITIONS, min_faults=KILLS)
    running = work.join("m0", "m1", pace_seconds=0.001)
    work.wait_shared(*running)
    for name in ("one", "other"):
        work.senders.start(name, keys=24, per_second=100)
    for _ in range(KILLS):
        work.wait_on_all_partitions(*running)
        try:
            with work.fault("broker-kill") as fault:
                kill()
                fault.saw()
                # Nothing can be stored now: what is sent must wait, and neither be lost nor repeated.
                wait_until(lambda: len(work.open_sends()) > 100, bounds.deliver, what="sends wait for the broker")
        finally:
            start()
        measured.add("brokers killed")
        measured.took("work goes on after the broker is back", work.wait_on_all_partitions(*running))
    work.finish(*running)

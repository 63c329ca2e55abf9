"""A node of a cluster that is killed while others can go on."""

from __future__ import annotations

import pytest

from eventbus_conformance.clauses import clause
from eventbus_conformance.fixtures import PARTITIONS
from eventbus_conformance.harness import Harness
from eventbus_conformance.run import Measurements
from eventbus_conformance.work import Work

KILLS = 3


@clause("F10")
@pytest.mark.timeout(400)
def test_a_leader_that_is_killed_takes_nothing_with_it(
    work: Work, harness: Harness, topic: str, measured: Measurements
) -> None:
    cluster = harness.cluster
    assert cluster is not None
    work.expect(min_members=2, min_partitions=PARTITIONS, min_faults=KILLS)
    running = work.join("m0", "m1", pace_seconds=0.001)
    work.wait_shared(*running)
    for name in ("one", "other"):
        work.senders.start(name, keys=24, per_second=150)
    for _ in range(KILLS):
        work.wait_on_all_partitions(*running)
        try:
            with work.fault("broker-kill") as fault:
                cluster.kill_leader(topic)
                fault.saw()
                # Others lead now: what is handled on every partition is no longer what the dead node had given out.
                stored = len(work.history.events("send-ok"))
                measured.took("work goes on after a leader was killed", work.wait_on_all_partitions(*running))
                work.wait_until(lambda stored=stored: len(work.history.events("send-ok")) > stored + 300, 60, *running)  # type: ignore[misc]
        finally:
            cluster.start()
        measured.add("leaders killed")
    work.finish(*running)

"""The broker goes away, comes back, comes back empty: the worker says so and goes on."""

from __future__ import annotations

import signal
import time

import pytest

from eventbus_core import Delivery, EventBusError, Hooks, Unavailable
from tests.waiting import wait_until
from tests.worker_fixtures import PARTITIONS, World, world
from tests.worker_journal import reordered

__all__ = ["world"]

#: Pulsar's harness may start its broker up to six times, 18 s each.
restarts = pytest.mark.timeout(300)


def _recreate(world: World) -> None:
    world.bus.admin().create_topic(world.topic, PARTITIONS)


@restarts
def test_a_restarted_broker_costs_nothing_but_time(world: World) -> None:
    if world.broker is None:
        pytest.skip("no broker control")
    worker = world.worker(pace_seconds=0.02)
    world.publish(*world.jobs(100, keys=16))
    world.wait_handled(10)
    world.broker.kill()
    wait_until(lambda: not worker.ready, 20, what="the worker to notice")
    assert worker.healthy
    world.broker.start()
    world.publish(*world.jobs(50, keys=16, begin=100))
    world.wait_handled(150, 60)
    wait_until(lambda: worker.ready, 20, what="the worker to be ready again")
    assert reordered(world.journal.entries()) == []
    world.wait_settled(30)


class _Outages(Hooks):
    def __init__(self) -> None:
        self.told: list[str] = []

    def outage(self, error: EventBusError) -> None:
        self.told.append("outage")

    def recovered(self, seconds: float) -> None:
        self.told.append("recovered")


@restarts
def test_an_outage_is_told_once_and_raised_when_it_lasts(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    if world.broker is None:
        pytest.skip("no broker control")
    monkeypatch.setattr("eventbus_core.outage.REPORT_OUTAGE_SECONDS", 8.0)
    hooks = _Outages()
    with world.open_bus(hooks).consumer(world.topic, group=world.group) as consumer:
        wait_until(lambda: len(consumer.assignments) == PARTITIONS, 30, what="all partitions held")
        began = time.monotonic()
        world.broker.kill()
        try:
            with pytest.raises(Unavailable, match="still trying"):
                wait_until(lambda: consumer.receive(timeout=0.5), 20, what="the outage to be raised")
            assert time.monotonic() - began > 8
            assert hooks.told == ["outage"]
        finally:
            world.broker.start()
        wait_until(
            lambda: hooks.told[-1] == "recovered" and len(consumer.assignments) == PARTITIONS, 40, what="to be back"
        )
        assert hooks.told == ["outage", "recovered"]


def test_a_topic_that_vanishes_and_comes_back_is_consumed_again(world: World) -> None:
    """An emptied broker: nothing it knew is left, and then somebody makes the topic again."""
    worker = world.worker(options={"start": "latest"})
    world.publish(*world.jobs(5))
    world.wait_handled(5)
    world.wait_settled()
    for topic in (world.topic, f"{world.topic}.{world.group}.dlq", f"{world.topic}.{world.group}.redrive"):
        world.bus.admin().delete_topic(topic)
    wait_until(lambda: not worker.ready, 30, what="the worker to notice")
    assert worker.healthy
    wait_until(lambda: world.topic not in world.bus.admin().topics(), 10, what="the topic to be gone")
    _recreate(world)
    publisher = world.open_bus()  # one that was open would have to notice first
    world.publish(*world.jobs(5, begin=5), bus=publisher)  # before it has joined again: none of them is skipped
    world.wait_handled(10, 60)
    wait_until(lambda: worker.ready, 20, what="the worker to be ready again")
    world.publish(*world.jobs(5, begin=10), bus=publisher)
    world.wait_handled(15)
    assert sorted(world.journal.seqs()) == list(range(15))


def test_an_emptied_redis_ends_no_worker(world: World) -> None:
    if world.broker is None or world.broker.name != "redis":
        pytest.skip("a Redis of one's own")
    import redis

    worker = world.process()
    world.publish(*world.jobs(5))
    world.wait_handled(5)
    redis.Redis.from_url(world.broker.url).flushall()
    wait_until(lambda: "opening another" in worker.output, 30, what="the worker to say so")
    _recreate(world)
    world.publish(*world.jobs(5, begin=5), bus=world.open_bus())
    world.wait_handled(10, 60)
    assert worker.terminate() == 0


@restarts
def test_a_worker_that_starts_before_its_broker_waits_for_it(world: World) -> None:
    if world.broker is None:
        pytest.skip("no broker control")
    world.broker.kill()
    worker = world.process()
    wait_until(lambda: "cannot join yet" in worker.output, 40, what="the worker to say so")
    world.broker.start()
    world.publish(*world.jobs(5))
    world.wait_handled(5, 60)
    assert worker.terminate() == 0, worker.output


@restarts
def test_a_new_group_begins_at_the_end_with_a_late_broker_too(world: World) -> None:
    if world.broker is None:
        pytest.skip("no broker control")
    world.publish(*world.jobs(5))
    began = time.monotonic()
    wait_until(lambda: time.monotonic() - began > 1.5, 5, what="the topic to be on Redis' disk")
    world.broker.kill()
    worker = world.process(options={"start": "latest"})
    wait_until(lambda: "cannot join yet" in worker.output, 40, what="the worker to say so")
    world.broker.start()
    wait_until(lambda: "has joined" in worker.output, 60, what=f"the worker to join: {worker.output}")
    world.publish(*world.jobs(5, begin=5), bus=world.open_bus())
    world.wait_handled(5, 60)
    world.wait_settled()
    assert sorted(world.journal.seqs()) == [5, 6, 7, 8, 9]


def test_a_long_outage_costs_next_to_nothing(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    if world.broker is None or world.broker.name != "redis":
        pytest.skip("a Redis of one's own: what costs is core's")
    monkeypatch.setattr("eventbus_core.outage.REPORT_OUTAGE_SECONDS", 0.5)
    worker = world.worker()
    world.broker.kill()
    wait_until(lambda: not worker.ready, 20, what="the worker to notice")
    began = time.monotonic()
    wait_until(lambda: time.monotonic() - began > 1, 5, what="a second, so that the outage is reported")
    cpu, began = time.process_time(), time.monotonic()
    wait_until(lambda: time.monotonic() - began > 3, 5, what="three seconds away")
    used = time.process_time() - cpu
    world.broker.start()
    assert used < 1.0
    world.publish(*world.jobs(3), bus=world.open_bus())
    world.wait_handled(3, 60)


@pytest.mark.parametrize("signals", [1, 2])
def test_a_worker_whose_broker_is_frozen_ends_all_the_same(
    world: World, signals: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After one signal it gives the broker ``drain_seconds`` and 5 s, whatever its client library would wait for."""
    if world.broker is None:
        pytest.skip("no broker control")
    monkeypatch.setenv("EVENTBUS_DRAIN_SECONDS", "5")
    worker = world.process()
    world.publish(*world.jobs(3))
    world.wait_handled(3)
    world.wait_settled()
    world.broker.pause()
    try:
        began = time.monotonic()
        worker.popen.send_signal(signal.SIGTERM)
        if signals == 2:
            wait_until(lambda: "stopping" in worker.output, 10, what="the first signal's effect")
            began = time.monotonic()
            worker.popen.send_signal(signal.SIGTERM)
        code = worker.wait(60)
        took = time.monotonic() - began
    finally:
        world.broker.unpause()
    print(f"{world.broker.name}: {took:.1f} s after signal {signals}")
    assert took < (8 if signals == 2 else 14), worker.output
    # It may still end in good order: nothing was open but the goodbye.
    assert code == 1 if signals == 2 else code in {0, 1}
    assert "have 5 s" in worker.output


class _Told(Hooks):
    def __init__(self) -> None:
        self.told: list[str] = []

    def paused(self, delivery: Delivery, delay_seconds: float, error: Exception) -> None:
        self.told.append("paused")

    def resumed(self, delivery: Delivery) -> None:
        self.told.append("resumed")


def test_a_dead_letter_that_cannot_be_stored_holds_its_partition_and_is_stored_later(world: World) -> None:
    letters = f"{world.topic}.{world.group}.dlq"
    hooks = _Told()
    world.worker(bus=world.open_bus(hooks), attempts=1)
    world.bus.admin().delete_topic(letters)
    wait_until(lambda: letters not in world.bus.admin().topics(), 10, what="the dead letters' topic to be gone")
    poison, *rest = world.jobs(6, keys=1)
    world.publish(poison.model_copy(update={"do": "raise"}), *rest)
    wait_until(lambda: "paused" in hooks.told, 60, what="the worker to fail to store it")
    assert world.journal.seqs() == []
    world.bus.admin().create_topic(letters, PARTITIONS)
    world.wait_handled(5, 90)
    world.wait_settled(30)
    assert [each.seq for each in world.dead_letters()] == [0]
    assert hooks.told[-1] == "resumed"
    assert world.journal.seqs("failed") == [0]  # the handler was not called again for it

"""Dead letters that cannot be stored as they should, and keys that are parked for all handlers of a topic."""

from __future__ import annotations

import secrets
from typing import Any

import pytest
from pydantic import BaseModel

from eventbus_core import Event, HandlerFailed, Retry, Worker, event_type
from eventbus_core.dead_letters.letters import DeadLetter, parse
from tests.waiting import wait_until
from tests.worker_fixtures import PARTITIONS, World, world
from tests.worker_journal import Job

__all__ = ["world"]

in_memory = pytest.mark.parametrize("world", ["memory"], indirect=True)
on_kafka = pytest.mark.parametrize("world", ["kafka"], indirect=True)
ONCE = Retry(attempts=1)


@event_type("test.worker.note.v1", topic="unused", key="key")
class Note(BaseModel):
    key: str
    seq: int


def _letters(world: World) -> list[DeadLetter]:
    records = [each.record for each in world.bus.read(f"{world.topic}.{world.group}.dlq")]
    return [found for each in records if isinstance(found := parse(each, world.topic, world.group), DeadLetter)]


def _set_limit(world: World, topic: str, max_bytes: int) -> None:
    from confluent_kafka.admin import AdminClient, AlterConfigOpType, ConfigEntry, ConfigResource

    entry = ConfigEntry("max.message.bytes", str(max_bytes), incremental_operation=AlterConfigOpType.SET)
    resource = ConfigResource(ConfigResource.Type.TOPIC, topic, incremental_configs=[entry])
    client = AdminClient({"bootstrap.servers": _address(world)})
    for future in client.incremental_alter_configs([resource]).values():
        future.result(20)


def _address(world: World) -> str:
    return world.url.removeprefix("kafka://").partition("?")[0]


def _send_raw(world: World, value: bytes) -> None:
    from confluent_kafka import Producer

    client = Producer({"bootstrap.servers": _address(world), "message.max.bytes": 4_000_000})
    client.produce(world.topic, value, key=b"k0")
    assert client.flush(30) == 0


@on_kafka
def test_a_record_that_no_dead_letter_can_hold_stops_the_worker_by_name(world: World) -> None:
    """Another producer may send more than the topic of the dead letters takes."""
    _set_limit(world, world.topic, 3_000_000)
    _send_raw(world, secrets.token_bytes(2_000_000))
    worker = world.worker()
    wait_until(lambda: not worker.healthy, 30, what="the worker to stop")
    with pytest.raises(HandlerFailed, match=rf"{world.topic}\[\d\]@0.*{world.topic}.*\.dlq' does not take.*on_failure"):
        worker.stop()
    assert world.lag() == 1  # not lost: it comes again


@on_kafka
def test_a_dead_letter_leaves_out_what_it_can_before_it_gives_up(world: World) -> None:
    world.bus.admin().create_topic(f"{world.topic}.{world.group}.dlq", PARTITIONS)
    job = Job(key="k", seq=0, do=100_000 * "x")
    _set_limit(world, f"{world.topic}.{world.group}.dlq", 100_000 + 1500)

    def fail(_: object) -> None:
        raise ValueError("long " * 1000)

    bus = world.open_bus()
    bus.subscribe(Job, group=world.group, topics=[world.topic], retry=ONCE)(fail)
    world.publish(job)
    with Worker(bus):
        wait_until(lambda: _letters(world), 30, what="the dead letter")
        world.wait_settled()
    (letter,) = _letters(world)
    assert world.dead_letters() == [job]
    assert (letter.error_type, letter.build, letter.error_message) == ("ValueError", None, None)


def _park(world: World, failing: Any) -> tuple[Worker, list[tuple[str, int]]]:
    handled: list[tuple[str, int]] = []
    bus = world.open_bus()

    def handle_job(event: Event[Job]) -> None:
        if event.data.seq in failing:
            raise ValueError("no")
        handled.append((event.data.key or "", event.data.seq))

    def handle_note(event: Event[Note]) -> None:
        handled.append((event.data.key, event.data.seq))

    shared: Any = {"group": world.group, "topics": [world.topic], "retry": ONCE}
    bus.subscribe(Job, on_failure="park_key", **shared)(handle_job)
    bus.subscribe(Note, on_failure="drop", **shared)(handle_note)
    return Worker(bus), handled


@in_memory
def test_a_parked_key_is_parked_for_every_handler_of_its_topic(world: World) -> None:
    worker, handled = _park(world, failing={0})
    for event in (Job(key="k", seq=0), Note(key="k", seq=1), Job(key="k", seq=2), Note(key="other", seq=3)):
        world.bus.publish(event, topic=world.topic).result(10)
    with worker:
        world.wait_settled()
    assert handled == [("other", 3)]
    assert [(each.reason, each.parks) for each in _letters(world)] == [
        ("failed", True), ("parked", True), ("parked", True)
    ]  # fmt: skip


@in_memory
def test_no_key_stays_parked_when_the_broker_was_emptied(world: World) -> None:
    worker, handled = _park(world, failing={0})
    with worker:
        world.publish(Job(key="k", seq=0), Job(key="other", seq=1))
        wait_until(lambda: handled, 10, what="the other key")
        world.wait_settled()
        (runner,) = worker._runners
        assert runner._parked is not None
        known = runner._parked._topics[world.topic]
        wait_until(lambda: known._holding, 10, what="the dead letter to be read")
        for topic in (world.topic, f"{world.topic}.{world.group}.dlq", f"{world.topic}.{world.group}.redrive"):
            world.bus.admin().delete_topic(topic)
        wait_until(lambda: not worker.ready, 20, what="the worker to notice")
        world.bus.admin().create_topic(world.topic, PARTITIONS)
        world.publish(Job(key="k", seq=2), bus=world.open_bus())
        wait_until(lambda: ("k", 2) in handled, 20, what="the key to be free")

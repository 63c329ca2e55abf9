"""What becomes of events when things go wrong, the same on every backend: handlers that fail, poison, restarts."""

from __future__ import annotations

import time

import pytest

from eventbus_core import Event, Unsupported, UsageError, Worker
from tests.waiting import wait_until
from tests.worker_fixtures import World, world
from tests.worker_journal import Job, overlaps, reordered

__all__ = ["world"]


def test_events_of_a_key_are_handled_one_at_a_time_in_order(world: World) -> None:
    world.publish(*world.jobs(200, keys=7))
    world.worker()
    world.wait_handled(200)
    entries = world.journal.entries()
    assert reordered(entries) == []
    assert overlaps(entries) == []
    assert len(world.journal.seqs()) == 200
    world.wait_settled()


def test_an_async_handler_has_the_same_order(world: World) -> None:
    world.publish(*world.jobs(200, keys=7))
    world.worker(asynchronous=True, pace_seconds=0.001)
    world.wait_handled(200)
    entries = world.journal.entries()
    assert reordered(entries) == []
    assert overlaps(entries) == []
    world.wait_settled()


def test_a_handler_that_raises_is_tried_again_and_then_its_event_is_a_dead_letter(world: World) -> None:
    poison = Job(key="k0", seq=0, do="raise")
    world.publish(poison, *world.jobs(20, begin=1))
    world.worker(attempts=3)
    world.wait_handled(20)
    world.wait_settled()
    assert world.dead_letters() == [poison]
    tries = [each for each in world.journal.entries("failed") if each.seq == 0]
    assert [each.attempt for each in tries] == [1, 2, 3]
    assert len({each.event_id for each in tries}) == 1
    assert reordered(world.journal.entries()) == []


def test_a_retry_keeps_its_key_waiting_and_no_other(world: World) -> None:
    world.publish(Job(key="bad", seq=0, do="raise"), *[Job(key="bad", seq=seq) for seq in (1, 2)])
    world.publish(*[Job(key=f"good{seq}", seq=seq) for seq in range(3, 23)])
    world.worker(attempts=4, first_delay_seconds=0.5, max_delay_seconds=0.5)
    world.wait_handled(22)
    entries = world.journal.entries()
    given_up = max(each.at for each in entries if each.what == "failed")
    assert all((each.at > given_up) == (each.key == "bad") for each in entries if each.what == "end")
    assert [each.seq for each in entries if each.what == "end" and each.key == "bad"] == [1, 2]


def test_a_dropped_event_is_gone_and_the_rest_is_handled(world: World) -> None:
    world.publish(Job(key="k0", seq=0, do="raise"), *world.jobs(5, begin=1))
    world.worker(attempts=2, options={"on_failure": "drop"})
    world.wait_handled(5)
    world.wait_settled()
    assert world.dead_letters() == []
    assert world.journal.seqs("failed") == [0, 0]


def test_stop_ends_the_worker_and_nothing_behind_the_event_is_acked(world: World) -> None:
    world.publish(Job(key="k", seq=0), Job(key="k", seq=1, do="raise"), Job(key="k", seq=2))
    worker = world.worker(attempts=1, options={"on_failure": "stop"})
    wait_until(lambda: not worker.healthy, 20, what="the worker to stop")
    with pytest.raises(Exception, match="cannot be done") as raised:
        worker.stop()
    assert type(raised.value).__name__ == "HandlerFailed"
    assert world.journal.seqs() == [0]
    assert world.lag() == 2


def test_a_record_that_is_no_event_is_a_dead_letter_and_stops_nothing(world: World) -> None:
    with world.bus.producer() as producer:
        producer.send(world.topic, b"\xff not an event", key=b"k0", headers=[("x", b"\xff")]).result(20)
        producer.send(world.topic, b"{}", key=b"k0", headers=[("ce_type", b"test.worker.job.v1")]).result(20)
        producer.send(world.topic, None, key=b"k0").result(20)
    world.publish(*world.jobs(5))
    world.worker()
    world.wait_handled(5)
    world.wait_settled()
    letters = [each.record for each in world.bus.read(f"{world.topic}.{world.group}.dlq")]
    assert [each.value for each in letters] == [b"\xff not an event", b"{}", None]
    assert letters[0].headers[0] == ("x", b"\xff")
    assert world.journal.entries("failed") == []


def test_an_event_of_a_type_that_nobody_handles_is_passed_over(world: World) -> None:
    with world.bus.producer() as producer:
        headers = [("ce_type", b"other.v1"), ("ce_id", b"1"), ("ce_source", b"/x"), ("ce_specversion", b"1.0")]
        producer.send(world.topic, b"{}", key=b"k", headers=headers).result(20)
    world.publish(*world.jobs(3))
    world.worker()
    world.wait_handled(3)
    world.wait_settled()
    assert world.dead_letters() == []


def test_headers_and_keys_outside_ascii_come_through(world: World) -> None:
    found: list[Event[Job]] = []
    bus = world.open_bus()
    bus.subscribe(Job, group=world.group, topics=[world.topic])(found.append)
    event = Event(Job(key="Zoë", seq=1), extensions={"tenant": "café"}, subject="日本")
    world.bus.publish(event, topic=world.topic).result(20)
    with Worker(bus):
        wait_until(lambda: found, 20, what="the event")
    (got,) = found
    assert (got.key, got.extensions["tenant"], got.subject, got.id) == ("Zoë", "café", "日本", event.id)
    assert got.delivery is not None
    assert (got.delivery.record.topic, got.attempt) == (world.topic, 1)


def test_what_was_published_before_the_group_existed_is_handled(world: World) -> None:
    world.publish(*world.jobs(10))
    world.worker()
    world.wait_handled(10)


def test_a_new_group_may_begin_at_the_end(world: World) -> None:
    world.publish(*world.jobs(10))
    world.worker(options={"start": "latest"})
    world.publish(*world.jobs(5, begin=10))
    world.wait_handled(5)
    assert sorted(world.journal.seqs()) == [10, 11, 12, 13, 14]


def test_what_is_published_while_no_worker_runs_is_handled_later_and_once(world: World) -> None:
    first = world.worker()
    world.publish(*world.jobs(3))
    world.wait_handled(3)
    assert first.stop() == 0
    world.publish(*world.jobs(4, begin=3))
    world.worker()
    world.publish(*world.jobs(2, begin=7))
    world.wait_handled(9)
    assert sorted(world.journal.seqs()) == list(range(9))


def test_an_idle_worker_costs_next_to_nothing(world: World) -> None:
    worker = world.worker()
    world.publish(*world.jobs(4))
    world.wait_handled(4)
    cpu, began = time.process_time(), time.monotonic()
    wait_until(lambda: time.monotonic() - began > 2, 5, what="two idle seconds")
    assert time.process_time() - cpu < 0.4
    assert worker.healthy


def test_events_of_a_stuck_key_do_not_stop_other_partitions(world: World) -> None:
    gate = world.folder / "gate"
    (stuck, *_) = world.publish(*[Job(key="stuck", seq=seq, do="" if seq else f"wait {gate}") for seq in range(150)])
    others = world.publish(*[Job(key=f"k{seq}", seq=seq) for seq in range(150, 650)])
    world.worker(max_unacked=100)
    world.wait_handled(sum(partition != stuck for partition in others))
    gate.touch()
    world.wait_handled(650)
    assert reordered(world.journal.entries()) == []


def test_an_outage_costs_no_attempts_and_ends_when_the_thing_is_back(world: World) -> None:
    database = world.folder / "database"
    world.publish(*world.jobs(8, keys=8, do=f"need {database}"))
    world.worker(attempts=2)
    wait_until(lambda: len(world.journal.seqs("failed")) >= 12, 20, what="some tries")
    assert world.lag() == 8
    database.touch()
    world.wait_handled(8)
    world.wait_settled()
    assert world.dead_letters() == []
    assert {each.attempt for each in world.journal.entries()} == {1}


def test_a_missing_topic_is_an_error_at_start_up(world: World) -> None:
    bus = world.open_bus()
    bus.subscribe(Job, group="g", topics=["no-such-topic"])(lambda _: None)
    with pytest.raises(Exception, match="no-such-topic") as raised:
        Worker(bus).start()
    assert type(raised.value).__name__ == "NotFound"


def test_what_the_backend_cannot_do_is_refused_at_start_up_by_name(world: World) -> None:
    bus = world.open_bus()
    if bus.capabilities.transactions:
        pytest.skip("capability transactions")

    def handle(event: Event[Job], out: object) -> None: ...

    bus.subscribe(Job, group="g", topics=[world.topic], delivery="exactly_once")(handle)
    with pytest.raises(Unsupported, match=f"'transactions'.*'{bus.backend_name}'"):
        Worker(bus).start()


def test_groups_that_nobody_handles_are_refused(world: World) -> None:
    bus = world.open_bus()
    with pytest.raises(UsageError, match="no handlers"):
        Worker(bus).start()
    bus.subscribe(Job, group="g", topics=[world.topic])(lambda _: None)
    with pytest.raises(UsageError, match=r"'h'.*there are g"):
        Worker(bus, groups=["h"]).start()

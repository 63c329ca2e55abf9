"""Parked keys: order per key holds from the first failure to the release, whatever happens in between."""

from __future__ import annotations

import threading
import uuid
from collections.abc import Callable
from pathlib import Path

import pytest

from eventbus_core import EventBus
from eventbus_core.dead_letters.letters import dlq_topic
from eventbus_core.dead_letters.log import create_topics
from eventbus_core.dead_letters.parking import ParkedKeys
from eventbus_core.dead_letters.queue import DeadLetterQueue
from eventbus_core.dead_letters.redrive import drop, redrive
from tests.brokers import broker
from tests.bus_urls import bus_url
from tests.letting_fail import Member, MemberProcess, Noted, send
from tests.waiting import wait_until

REAL = ["redis", "kafka", "pulsar"]


@pytest.fixture(params=["memory", *REAL])
def url(request: pytest.FixtureRequest) -> str:
    if request.param == "memory":
        return f"memory://{uuid.uuid4().hex}?lease_seconds=10"  # as long as elsewhere: a shorter stall repeats nothing
    return bus_url(broker(request.param))


@pytest.fixture
def topic(url: str) -> str:
    name = f"parking-{uuid.uuid4().hex[:10]}"
    with EventBus(url) as bus:
        bus.admin().create_topic(name, 2)
    return name


@pytest.fixture
def noted(tmp_path: Path) -> Noted:
    return Noted(tmp_path)


def publish(bus: EventBus, topic: str, numbers: range, key: bytes = b"key\xff") -> None:
    with bus.producer() as producer:
        send(producer, topic, [b"%d" % number for number in numbers], key=key)


def dead(bus: EventBus, topic: str) -> int:
    return len(DeadLetterQueue(bus, topic, "billing").index.entries())


def wait_for_dead(bus: EventBus, topic: str, count: int) -> None:
    wait_until(lambda: dead(bus, topic) == count, 40, every=0.2, what=f"{count} dead letters")


def released(bus: EventBus, topic: str, key: bytes) -> bool:
    """Whether a member that gets the partitions now finds the key free."""
    parked = ParkedKeys(bus.admin(), "billing")
    parked.load(topic, 0)
    return not any(parked.is_parked(topic, partition, key) for partition in (0, 1))


def redrive_until(bus: EventBus, topic: str, handled: Callable[[], bool], cure: Callable[[], None]) -> None:
    """Redrive what is dead, again and again; what fails again is cured."""

    def done() -> bool:
        if redrive(DeadLetterQueue(bus, topic, "billing"), timeout=40).failed:
            cure()
        return handled()

    wait_until(done, 90, every=0.2, what="all are handled")


def test_later_events_of_a_parked_key_follow_it_and_other_keys_go_on(url: str, topic: str, noted: Noted) -> None:
    noted.set_bad(b"0")
    with EventBus(url) as bus, Member(url, topic, "billing", noted.handle, park=True):
        publish(bus, topic, range(4))
        publish(bus, topic, range(1, 5), key=b"well")
        wait_until(lambda: noted.done(b"well") == [1, 2, 3, 4], 30, what="the other key's are handled")
        wait_for_dead(bus, topic, 4)
        assert noted.done(b"key\xff") == []
        reasons = [entry.first.reason for entry in DeadLetterQueue(bus, topic, "billing").index.entries()]
        assert reasons == ["failed", "parked", "parked", "parked"]


def test_a_key_is_released_when_the_last_of_its_dead_letters_is_discharged(url: str, topic: str, noted: Noted) -> None:
    key = b"key\xff"
    noted.set_bad(b"0")
    with EventBus(url) as bus, Member(url, topic, "billing", noted.handle, park=True):
        publish(bus, topic, range(3))
        wait_for_dead(bus, topic, 3)
        publish(bus, topic, range(3, 4))
        wait_for_dead(bus, topic, 4)
        noted.set_bad()
        redrive(DeadLetterQueue(bus, topic, "billing"), timeout=20)
        assert noted.done(key) == [0, 1, 2, 3]
        # The member sees the release a moment later; until then events still follow, and are redriven in their turn.
        publish(bus, topic, range(4, 6))
        redrive_until(bus, topic, lambda: len(noted.done(key)) == 6, noted.set_bad)
        assert released(bus, topic, key)
        assert noted.done(key) == list(range(6))


@pytest.mark.timeout(300)  # what it waits for may take longer than the usual limit, together
@pytest.mark.parametrize("url", REAL, indirect=True)
def test_order_holds_while_events_arrive_members_are_killed_and_dead_letters_are_redriven(
    url: str, topic: str, noted: Noted, tmp_path: Path
) -> None:
    key, total = b"key\xff", 60
    noted.set_bad(b"3", b"20")
    with EventBus(url) as bus:
        first = MemberProcess(url, topic, "billing", tmp_path, park=True).__enter__()
        publish(bus, topic, range(10))
        wait_for_dead(bus, topic, 7)
        feeding = threading.Thread(target=publish, args=(bus, topic, range(10, total)))
        feeding.start()
        first.kill()
        feeding.join()
        with MemberProcess(url, topic, "billing", tmp_path, park=True):
            noted.set_bad(b"20")
            redrive_until(bus, topic, lambda: len(noted.firsts(key)) == total, noted.set_bad)
            assert noted.firsts(key) == list(range(total))
            publish(bus, topic, range(total, total + 3))
            redrive_until(bus, topic, lambda: len(noted.firsts(key)) == total + 3, noted.set_bad)
            assert noted.firsts(key) == list(range(total + 3))


@pytest.mark.parametrize("url", REAL, indirect=True)
def test_a_member_killed_between_storing_and_acking_leaves_copies_that_count_once(
    url: str, topic: str, noted: Noted, tmp_path: Path
) -> None:
    noted.set_bad(b"0")
    with EventBus(url) as bus:
        first = MemberProcess(url, topic, "billing", tmp_path, park=True, lose_acks=True).__enter__()
        publish(bus, topic, range(3))
        wait_for_dead(bus, topic, 3)
        first.kill()
        noted.set_bad()
        with MemberProcess(url, topic, "billing", tmp_path, park=True):

            def copied() -> bool:
                entries = DeadLetterQueue(bus, topic, "billing").index.entries()
                return [len(entry.repeats) for entry in entries] == [1, 1, 1]

            # What the first had not acked is delivered again, and follows again instead of overtaking.
            wait_until(copied, 60, every=0.3, what="all three came again")
            assert noted.done(b"key\xff") == []
            redrive(DeadLetterQueue(bus, topic, "billing"), timeout=20)
            assert noted.done(b"key\xff") == [0, 1, 2]
            assert dead(bus, topic) == 0


def test_another_member_goes_on_parking(url: str, topic: str, noted: Noted) -> None:
    key = b"key\xff"
    noted.set_bad(b"0")
    with EventBus(url) as bus:
        with Member(url, topic, "billing", noted.handle, park=True):
            publish(bus, topic, range(2))
            wait_for_dead(bus, topic, 2)
        noted.set_bad()
        publish(bus, topic, range(2, 4))
        with Member(url, topic, "billing", noted.handle, park=True):
            wait_for_dead(bus, topic, 4)
            assert noted.done(key) == []
            redrive_until(bus, topic, lambda: len(noted.done(key)) == 4, noted.set_bad)
            assert noted.done(key) == [0, 1, 2, 3]


def test_a_key_whose_dead_letters_are_dropped_is_released(url: str, topic: str, noted: Noted) -> None:
    noted.set_bad(b"0")
    with EventBus(url) as bus:
        create_topics(bus.admin(), topic, "billing")
        with Member(url, topic, "billing", noted.handle, park=True):
            publish(bus, topic, range(2), key=b"a")
            publish(bus, topic, range(2), key=b"b")
            wait_for_dead(bus, topic, 4)
        parked = ParkedKeys(bus.admin(), "billing")
        parked.load(topic, 0)

        def held() -> set[bytes]:
            return {key for partition in (0, 1) for key in (b"a", b"b") if parked.is_parked(topic, partition, key)}

        assert held() == {b"a", b"b"}
        assert not parked.is_parked(topic, 0, None)
        assert not parked.is_parked(dlq_topic(topic, "billing"), 0, b"a")
        queue = DeadLetterQueue(bus, topic, "billing")
        of_b = [entry for entry in queue.index.entries() if entry.first.original.key == b"b"]
        drop(queue, of_b[:1])
        assert parked.refresh() == []
        assert held() == {b"a", b"b"}
        drop(queue, of_b[1:])
        assert [place[2] for place in parked.refresh()] == [b"b"]
        assert held() == {b"a"}


def test_a_key_that_was_noted_is_parked_before_its_dead_letter_is_read() -> None:
    with EventBus(f"memory://{uuid.uuid4().hex}") as bus:
        bus.admin().create_topic("orders", 1)
        parked = ParkedKeys(bus.admin(), "billing")
        parked.load("orders", 0)
        parked.note("orders", 0, b"key")
        assert parked.is_parked("orders", 0, b"key")
        assert not parked.is_parked("orders", 1, b"key")
        # Nothing was stored after all: the next reading shows that.
        assert parked.refresh() == [("orders", 0, b"key")]
        assert not parked.is_parked("orders", 0, b"key")

"""Members and senders as processes on a real broker, and as threads on memory, judged by the checker."""

import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from eventbus_conformance.checker import Expectations, Verdict, begin, judge
from eventbus_conformance.harness import Bounds
from eventbus_conformance.history import History
from eventbus_conformance.members import Members
from eventbus_conformance.sender import SendOrders
from eventbus_conformance.senders import Sender, start_sender
from eventbus_conformance.waiting import wait_until
from eventbus_core import EventBus
from tests.brokers import broker
from tests.bus_urls import bus_url

PARTITIONS = 4


class Scene:
    """A topic with four partitions, the members of a group, a sender and one history of them all."""

    def __init__(self, url: str, folder: Path, *, processes: bool) -> None:
        self.bus = EventBus(url)
        self.url = url
        self.topic = f"scene-{uuid.uuid4().hex[:12]}"
        self.folder = folder
        self.processes = processes
        self.members = Members(url, self.topic, "g", folder, Bounds(), processes=processes)
        self.senders: list[Sender] = []
        with self.bus.admin() as admin:
            admin.create_topic(self.topic, PARTITIONS)
        self.writer = self.members.writer

    def send(self, **orders: Any) -> Sender:
        made = SendOrders(self.url, self.topic, self.members.history.path, f"s{len(self.senders)}", **orders)
        self.senders.append(start_sender(made, self.folder, processes=self.processes))
        return self.senders[-1]

    def judge(self, expectations: Expectations) -> Verdict:
        return judge(self.members.history, expectations)


OpenScene = Callable[[str], Scene]


@pytest.fixture
def open_scene(tmp_path: Path) -> Iterator[OpenScene]:
    opened: list[Scene] = []

    def open_(backend: str) -> Scene:
        on_memory = backend == "memory"
        url = f"memory://{uuid.uuid4().hex}" if on_memory else f"{bus_url(broker('redis'))}?lease_seconds=5"
        opened.append(Scene(url, tmp_path, processes=not on_memory))
        return opened[-1]

    yield open_
    for scene in opened:
        for each in scene.senders:
            each.clean_up()
        scene.members.clean_up()
        scene.bus.close(10)


@pytest.mark.parametrize("backend", ["memory", "redis"])
def test_a_run_without_faults_is_valid(backend: str, open_scene: OpenScene) -> None:
    scene = open_scene(backend)
    running = [scene.members.start(f"m{number}", wait=False) for number in range(2)]
    scene.members.wait_shared(*running, partitions=PARTITIONS)
    scene.send(records=1000, keys=40).wait(30)
    scene.members.wait_handled(1000, *running)
    scene.members.drain(scene.bus, *running)
    verdict = scene.judge(Expectations(min_events=1000, min_members=2, min_partitions=PARTITIONS))
    assert verdict.outcome == "valid", verdict.explain()
    assert verdict.counts["stored"] == 1000
    acked = {place for line in scene.members.history.events("ack-ok") for place in line["positions"]}
    assert acked, "no ack was noted as durable"


def test_a_killed_member_and_a_killed_sender_leave_a_valid_history(open_scene: OpenScene) -> None:
    scene = open_scene("redis")
    history = scene.members.history
    running = [scene.members.start(f"m{number}", pace_seconds=0.001, wait=False) for number in range(2)]
    scene.members.wait_shared(*running, partitions=PARTITIONS)
    doomed, other = scene.send(keys=20, per_second=100), scene.send(keys=20, per_second=100)
    wait_until(lambda: len(history.handled("m0")) > 100, 30, what="m0 works")
    wait_until(lambda: history.events("send-ok", doomed.name), 30, what="the doomed sender works")
    killed_at = scene.members.kill(running[0])
    with scene.writer.fault("kill", [doomed.name]) as fault:
        doomed.kill()
        fault.saw()
    wait_until(
        lambda: {each.partition for each in history.handled("m1") if each.at > killed_at} == set(range(PARTITIONS)),
        30,
        what="m1 has taken all over",
    )
    scene.members.wait_handled(200, running[1])
    other.stop(30)
    scene.members.drain(scene.bus, running[1])
    verdict = scene.judge(Expectations(min_events=200, min_members=2, min_partitions=4, min_moves=1, min_faults=2))
    assert verdict.outcome == "valid", verdict.explain()
    assert verdict.counts["worst takeover seconds"] > 0
    assert history.events("send-ok", doomed.name), "the killed sender had sent nothing"


def test_a_frozen_member_that_acks_late_leaves_a_valid_history(open_scene: OpenScene) -> None:
    scene = open_scene("redis")
    history = scene.members.history
    frozen = scene.members.start("frozen", pace_seconds=0.002)
    sender = scene.send(keys=20, per_second=100)
    wait_until(lambda: len(history.handled("frozen")) > 50, 30, what="it works")
    heir = scene.members.start("heir", wait=False)
    with scene.writer.fault("freeze", ["frozen"]) as fault:
        frozen.freeze()
        wait_until(lambda: len({each.partition for each in history.handled("heir")}) == PARTITIONS, 30, what="takeover")
        fault.saw()
    frozen.thaw()
    scene.members.wait_handled(300, frozen, heir)
    sender.stop(30)
    scene.members.drain(scene.bus, frozen, heir)
    verdict = scene.judge(Expectations(min_events=300, min_members=2, min_moves=1, min_faults=1))
    assert verdict.outcome == "valid", verdict.explain()


def test_a_member_that_is_told_to_ack_in_the_middle_of_a_handling_acks_that_record_too(open_scene: OpenScene) -> None:
    scene = open_scene("memory")
    history = scene.members.history
    member = scene.members.start("holding", hold_acks=True, pace_seconds=0.5)
    scene.send(records=1).wait(30)
    scene.members.wait_handled(1, member)
    member.ack_held()
    wait_until(lambda: history.events("ack-invoke"), 30, what="it acks what it handled")
    scene.send(records=1).wait(30)
    wait_until(lambda: len(history.events("handle-end")) == 2, 30, what="the next is handled")
    member.leave()
    assert [len(each["positions"]) for each in history.events("ack-invoke")] == [1], "it held back, and acks no more"


def test_a_sender_that_reaches_nobody_notes_what_failed(tmp_path: Path) -> None:
    url = "redis://127.0.0.1:1?connect_timeout_seconds=1&request_timeout_seconds=1&send_timeout_seconds=1"
    path = tmp_path / "history.jsonl"
    begin(path, Expectations())
    sender = start_sender(SendOrders(url, "t", path, "s0", records=5), tmp_path, processes=True)
    sender.wait(30)
    history = History(path)
    assert len(history.events("send-invoke")) == 5
    assert len(history.events("send-failed") + history.events("send-unknown")) == 5

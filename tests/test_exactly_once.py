"""Consume, handle, produce: together or not at all, whoever is killed."""

from __future__ import annotations

import random
import subprocess
import sys
import time
import uuid
from collections import defaultdict
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from eventbus_conformance.harness import NoBroker
from eventbus_core import Closed, Event, EventBus, NotFound, Outbox, Receipt, Retry, Unsupported, Worker
from eventbus_kafka.conformance import KafkaHarness
from tests.copying_process import Copying
from tests.waiting import wait_until
from tests.worker_journal import Job

PARTITIONS = 4
KEYS = 32


@pytest.fixture(scope="module")
def kafka() -> Iterator[KafkaHarness]:
    """A broker of our own: it can reach itself, as transactions need, and may be killed."""
    harness = KafkaHarness()
    try:
        # With the consumer protocol the session is the broker's to say, and by default 45 s.
        harness.start(
            KAFKA_GROUP_CONSUMER_MIN_SESSION_TIMEOUT_MS="1000",
            KAFKA_GROUP_CONSUMER_SESSION_TIMEOUT_MS="4000",
            KAFKA_GROUP_CONSUMER_MIN_HEARTBEAT_INTERVAL_MS="500",
            KAFKA_GROUP_CONSUMER_HEARTBEAT_INTERVAL_MS="500",
        )
    except NoBroker as error:
        pytest.skip(f"NO BROKER: kafka: {error}")
    yield harness
    harness.down()


class Copies:
    """Members that copy a topic, and what went into it."""

    def __init__(self, kafka: KafkaHarness, protocol: str, folder: Path, stack: ExitStack) -> None:
        name = uuid.uuid4().hex[:8]
        self.url = f"kafka://{kafka.address}?session_timeout_seconds=4&group_protocol={protocol}"
        self.service = Copying(
            url=self.url, topic=f"in-{name}", target=f"out-{name}", group=f"g-{name}", fail_rate=0.02
        )
        self.bus = stack.enter_context(EventBus(self.url))
        for topic in (self.service.topic, self.service.target):
            self.bus.admin().create_topic(topic, PARTITIONS)
        self.members: list[subprocess.Popen[bytes]] = []
        self.receipts: list[Receipt] = []
        self._log = stack.enter_context((folder / "members.log").open("wb"))
        stack.callback(self.end)

    def start(self, count: int) -> None:
        options = self.service.model_dump_json()
        for _ in range(count):
            self.members.append(
                subprocess.Popen(
                    [sys.executable, "-m", "tests.copying_process", options],
                    stdout=self._log,
                    stderr=subprocess.STDOUT,
                    cwd=Path(__file__).parents[1],
                )
            )

    def kill_one(self) -> None:
        victim = self.members.pop(random.randrange(len(self.members)))
        assert victim.poll() is None, "it had ended by itself"
        victim.kill()
        victim.wait(10)

    def publish(self, count: int) -> None:
        begin = len(self.receipts)
        for seq in range(begin, begin + count):
            self.receipts.append(self.bus.publish(Job(key=f"k{seq % KEYS}", seq=seq), topic=self.service.topic))

    def publish_for(self, seconds: float) -> None:
        until = time.monotonic() + seconds

        def over() -> bool:
            self.publish(20)
            return time.monotonic() > until

        wait_until(over, seconds + 10, every=0.05, what="the time is over")

    def lag(self) -> int:
        try:
            return sum(each.records for each in self.bus.admin().lag(self.service.group, self.service.topic))
        except NotFound:
            return len(self.receipts)

    def check(self) -> None:
        """Everything that went in comes out, once, in the order of its key."""
        stored = {seq for seq, receipt in enumerate(self.receipts) if receipt.result(60)}
        wait_until(lambda: self.lag() == 0, 60, every=0.5, what="everything handled")
        copied = [self.bus.decode(each, Job).data for each in self.bus.read(self.service.target)]
        by_key = defaultdict(list)
        for job in copied:
            by_key[job.key].append(job.seq)
        seqs = [job.seq for job in copied]
        assert len(seqs) == len(set(seqs)), f"{len(seqs) - len(set(seqs))} came out twice"
        assert set(seqs) == stored, f"{len(stored - set(seqs))} are missing"
        assert all(run == sorted(run) for run in by_key.values()), "an order changed"

    def end(self) -> None:
        for each in self.members:
            each.kill()
            each.wait(10)


@pytest.fixture
def copies(kafka: KafkaHarness, tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Copies]:
    with ExitStack() as stack:
        yield Copies(kafka, getattr(request, "param", "classic"), tmp_path, stack)


@pytest.mark.timeout(240)
@pytest.mark.parametrize(("copies", "kills"), [("classic", 20), ("consumer", 8)], indirect=["copies"])
def test_the_output_is_the_input_though_a_member_is_killed_every_three_seconds(copies: Copies, kills: int) -> None:
    copies.start(3)
    for _ in range(kills):
        copies.publish_for(3.0)
        copies.kill_one()
        copies.start(1)
    progress = len(copies.receipts) - copies.lag()
    assert progress > 0, "nothing was handled while members were killed"
    copies.check()


@pytest.mark.timeout(240)
def test_the_output_is_the_input_though_the_broker_is_killed(copies: Copies, kafka: KafkaHarness) -> None:
    copies.start(2)
    for _ in range(2):
        copies.publish_for(4.0)
        assert kafka.controls is not None
        kafka.controls.kill()
        kafka.controls.start()
    copies.publish_for(2.0)
    copies.check()
    assert all(each.poll() is None for each in copies.members), "a member ended"


def test_what_failed_attempts_published_is_forgotten_and_a_dead_letter_is_stored_with_the_ack(copies: Copies) -> None:
    service = copies.service
    attempts: list[int] = []

    @copies.bus.subscribe(
        Job, group="g-" + service.group, topics=[service.topic], delivery="exactly_once", retry=Retry(attempts=2)
    )
    async def handle(event: Event[Job], out: Outbox) -> None:
        attempts.append(event.attempt)
        out.publish(Job(key=event.data.key, seq=event.data.seq * 10), topic=service.target)
        out.publish(Job(key=event.data.key, seq=event.data.seq * 10 + event.attempt), topic=service.target)
        if event.data.do == "raise" or event.attempt == 1:
            raise ValueError("after it published")

    for job in (Job(key="a", seq=1), Job(key="a", seq=2, do="raise"), Job(key="a", seq=3)):
        copies.bus.publish(job, topic=service.topic)
    worker = Worker(copies.bus)
    worker.start()
    worker.drain(30)
    assert attempts == [1, 2, 1, 2, 1, 2]
    copied = [copies.bus.decode(each, Job).data.seq for each in copies.bus.read(service.target)]
    assert copied == [10, 12, 30, 32]
    letters = copies.bus.read(f"{service.topic}.g-{service.group}.dlq")
    assert [copies.bus.decode(each, Job).data.seq for each in letters] == [2]


def test_a_topic_that_is_not_there_is_that_event_s_failure(copies: Copies) -> None:
    service = copies.service

    @copies.bus.subscribe(
        Job, group="g-" + service.group, topics=[service.topic], delivery="exactly_once", retry=Retry(never=(NotFound,))
    )
    def handle(event: Event[Job], out: Outbox) -> None:
        out.publish(event.data, topic=service.target if event.data.seq else "misspelt")

    for seq in range(3):
        copies.bus.publish(Job(key="a", seq=seq), topic=service.topic)
    worker = Worker(copies.bus)
    worker.start()
    worker.drain(30)
    assert [copies.bus.decode(each, Job).data.seq for each in copies.bus.read(service.target)] == [1, 2]


@pytest.mark.parametrize("url", ["memory://", "redis://127.0.0.1:1", "pulsar://127.0.0.1:1"])
def test_a_backend_without_transactions_refuses_at_start_up(url: str) -> None:
    with EventBus(url) as bus:

        @bus.subscribe(Job, group="g", delivery="exactly_once")
        def handle(event: Event[Job], out: Outbox) -> None: ...

        with pytest.raises(Unsupported, match="transactions.*" + url.partition(":")[0]) as refused:
            Worker(bus).start()
        assert refused.value.capability == "transactions"


def test_an_outbox_ends_with_its_handler(copies: Copies) -> None:
    encode: Any = lambda data, topic, key: copies.bus.encode(data, topic, key)[0]  # noqa: E731
    outbox = Outbox(encode)
    outbox.publish(Job(key="a", seq=1), topic=copies.service.target)
    assert [each.topic for each in outbox.take()] == [copies.service.target]
    with pytest.raises(Closed):
        outbox.publish(Job(key="a", seq=2), topic=copies.service.target)

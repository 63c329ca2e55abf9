"""A member that reaches no broker any more, while the others do."""

from __future__ import annotations

import contextlib
import struct
import threading
import time
from collections.abc import Iterator

import pytest

from eventbus_core.backend import Assigned, BackendConsumer, Lost, Revoking
from eventbus_core.errors import Unavailable
from eventbus_core.records import Assignment, lease_clock
from tests.brokers import Broker
from tests.lossy_proxy import LossyProxy
from tests.waiting import wait_until

from .conftest import Bus, Pump, quick_groups


class KafkaProxy(LossyProxy):
    """Brokers tell clients their own address: the proxy puts its own there."""

    def __init__(self, servers: str) -> None:
        super().__init__(f"kafka://{servers}")
        self.servers = self.url.removeprefix("kafka://")
        ports = (int(each.rsplit(":", 1)[1]) for each in (servers, self.servers))
        theirs, ours = (b"127.0.0.1" + struct.pack(">i", port) for port in ports)
        self._rename = (theirs, ours)

    def cut_off(self, *, silently: bool) -> None:
        if silently:
            self.swallow = self.swallow_requests = True
        else:
            self.refuse = True
            self.cut()

    def heal(self) -> None:
        self.swallow = self.swallow_requests = self.refuse = False
        self.cut()


class Watched:
    """A consumer that is polled all the time by a thread of its own, and when what happened to it."""

    def __init__(self, consumer: BackendConsumer) -> None:
        self.consumer = consumer
        self.held: set[Assignment] = set()
        self.assigned_at: dict[int, float] = {}
        self.lost_at: dict[int, float] = {}
        self.owned_until: dict[int, float] = {}
        self.values: set[int] = set()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self) -> None:
        while not self._stop.is_set():
            for each in self.held:
                if each.owned:
                    self.owned_until[each.partition] = lease_clock()
            try:
                polled = self.consumer.poll(500, 0.01, ())
            except Unavailable:
                continue
            for change in polled.changes:
                partition = change.assignment.partition
                if isinstance(change, Assigned):
                    self.held.add(change.assignment)
                    self.assigned_at[partition] = lease_clock()
                elif isinstance(change, Lost):
                    self.held.discard(change.assignment)
                    self.lost_at[partition] = lease_clock()
                elif isinstance(change, Revoking):
                    self.held.discard(change.assignment)
                    self.consumer.release(change.assignment)
            self.values.update(int(each.record.value or b"") for each in polled.deliveries)
            if polled.deliveries:
                self.consumer.ack(polled.deliveries)

    def close(self) -> None:
        self._stop.set()
        self._thread.join()
        self.consumer.close()


@pytest.fixture(params=["classic", "consumer"])
def buses(request: pytest.FixtureRequest, kafka_broker: Broker) -> Iterator[tuple[Bus, Bus, KafkaProxy]]:
    """Two ways to one topic, the second through a proxy."""
    servers = kafka_broker.url if request.param == "classic" else quick_groups()
    proxy = KafkaProxy(servers)
    near, far = (Bus(each, request.param) for each in (servers, proxy.servers))
    near.admin.create_topic(near.topic, 4)
    far.topic, far.group = near.topic, near.group
    yield near, far, proxy
    near.admin.close()
    far.admin.close()
    proxy.close()


@pytest.mark.parametrize("silently", [True, False], ids=["silently", "with errors"])
def test_a_member_that_is_cut_off_knows_its_loss_before_another_has_the_partition(
    buses: tuple[Bus, Bus, KafkaProxy], silently: bool
) -> None:
    near, far, proxy = buses
    first = Watched(far.consumer("m1"))
    wait_until(lambda: len(first.held) == 4, 15, what="the first has all partitions")
    second = Watched(near.consumer("m2"))
    wait_until(lambda: len(first.held) == len(second.held) == 2, 20, what="they share")
    cut = {each.partition for each in first.held}
    second.assigned_at.clear()
    # Longer than any hold is valid: what renews them is what the coordinator answers.
    share_began = time.monotonic()
    wait_until(lambda: time.monotonic() - share_began > 5.5, 10, what="holds that are renewed")
    assert not first.lost_at
    proxy.cut_off(silently=silently)
    wait_until(lambda: set(second.assigned_at) >= cut, 20, what="the second takes over")
    assert set(first.lost_at) == cut
    for partition in cut:
        assert first.lost_at[partition] < second.assigned_at[partition] - 0.1
        assert first.owned_until[partition] < second.assigned_at[partition] - 0.1
    proxy.heal()
    wait_until(lambda: len(first.held) == len(second.held) == 2, 20, what="they share again")
    near.send(near.numbered(0, 400, keys=40))
    wait_until(lambda: first.values | second.values == set(range(400)), 15, what="all records")
    assert first.values
    first.close()
    second.close()


def test_a_seek_and_the_close_of_a_member_that_is_cut_off_end(buses: tuple[Bus, Bus, KafkaProxy]) -> None:
    _, far, proxy = buses
    pump = Pump(far.consumer("m1"))
    pump.until(lambda: len(pump.assigned()) == 4, 15, "assigned")
    proxy.cut_off(silently=True)
    timeout = far.settings.request_timeout_seconds
    began = time.monotonic()
    with pytest.raises(Unavailable):
        pump.consumer.seek(pump.assigned()[0], "earliest")
    assert time.monotonic() - began < timeout + 1
    began = time.monotonic()
    with contextlib.suppress(Unavailable):
        pump.consumer.close()
    assert time.monotonic() - began < timeout + 1

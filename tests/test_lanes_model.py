"""The lanes against a model that is too simple to be wrong: any sequence of anything."""

from __future__ import annotations

from collections import defaultdict

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule
from pydantic import BaseModel

from eventbus_core import Batch, Delivery, Position, Record, event_type
from eventbus_core.records import Assignment
from eventbus_core.subscriptions import Subscription
from eventbus_core.worker.lanes import Lanes
from eventbus_core.worker.tasks import Hold, Queue, Task

KEYS = st.sampled_from(["a", "b", "c", None])
PARTITIONS = st.sampled_from([0, 1])


@event_type("test.lanes.model.v1", topic="t")
class Thing(BaseModel):
    n: int


def _queue(batch: Batch | None = None) -> Queue:
    subscription = Subscription(handler=lambda _: None, types=(Thing,), group="g", batch=batch)
    return Queue(subscription, lambda: None)


class LanesModel(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.lanes = Lanes()
        self.queues = [_queue(), _queue(), _queue(Batch(size=3))]
        self.holds = {partition: Hold(Assignment("t", partition, 1)) for partition in (0, 1)}
        self.orders = {0: 0, 1: 0}
        self.now = 0.0
        # The model: what each named lane still has to see, in order; what runs; what is gone.
        self.expected: dict[tuple[int, str], list[Task]] = defaultdict(list)
        self.nameless: set[Task] = set()
        self.running: list[Task] = []
        self.taken_with: dict[Task, list[Task]] = {}
        self.probes: dict[Hold, Task] = {}

    def _left(self) -> list[Task]:
        return [*self.nameless, *(task for tasks in self.expected.values() for task in tasks)]

    def _gone(self, task: Task) -> None:
        self.nameless.discard(task)
        for tasks in self.expected.values():
            if task in tasks:
                tasks.remove(task)
        if self.probes.get(task.hold) is task:
            del self.probes[task.hold]

    @rule(key=KEYS, partition=PARTITIONS, queue=st.sampled_from([0, 1, 2]))
    def put(self, key: str | None, partition: int, queue: int) -> None:
        hold = self.holds[partition]
        delivery = Delivery(Record("t", b"", None), partition, Position(0), hold.assignment)
        delivery.order, self.orders[partition] = self.orders[partition], self.orders[partition] + 1
        task = Task(delivery, hold, self.queues[queue], Thing, 1)
        if key is None:
            self.nameless.add(task)
            self.lanes.put(task, None)
        else:
            self.expected[partition, key].append(task)
            self.lanes.put(task, (partition, key))

    @rule(queue=st.sampled_from([0, 1, 2]))
    def take(self, queue: int) -> None:
        if queue == 2:
            taken = self.lanes.take_batch(self.queues[2], 3)
            assert len(taken) <= 3
        else:
            task = self.lanes.take(self.queues[queue])
            taken = [] if task is None else [task]
        for task in taken:
            assert task.queue is self.queues[queue]
            assert task not in self.running
            probe = self.probes.get(task.hold)
            assert probe in {None, task}, "an outage, and another one started"
        self.running.extend(taken)
        self.taken_with.update(dict.fromkeys(taken, taken))
        for tasks in self.expected.values():
            of_lane = [task for task in tasks if task in self.running]
            assert of_lane == tasks[: len(of_lane)], "not the oldest of its key"
            together = self.taken_with[of_lane[0]] if of_lane else []
            assert all(task in together for task in of_lane), "two of a key at once, and not of one batch"

    def _ended(self, task: Task) -> None:
        """What ran in a batch behind the head of its lane runs no more."""
        self.running = [each for each in self.running if each is task or each.lane is not task.lane]
        self.running.remove(task)

    @precondition(lambda self: self.running)
    @rule(data=st.data(), how=st.sampled_from(["done", "again", "outage", "drop", "back"]))
    def end(self, data: st.DataObject, how: str) -> None:
        heads = [task for task in self.running if task.lane.tasks[0] is task]
        task = data.draw(st.sampled_from(heads))
        if how == "done":
            self.running.remove(task)
            self._gone(task)
            self.lanes.done(task)
            assert task.delivery in self.lanes.take_settled()
            return
        self._ended(task)
        if how == "drop":
            self._gone(task)
            self.lanes.drop(task)
        elif how == "back":
            self.lanes.back(task)
        elif how == "again":
            if self.probes.get(task.hold) is task:
                del self.probes[task.hold]
            self.lanes.again(task, self.now + 1)
        else:
            self.probes.setdefault(task.hold, task)
            self.lanes.outage(task, self.now + 1)

    @rule()
    def time_passes(self) -> None:
        self.now += 1
        assert self.lanes.wake(self.now) is None or self.now >= 0

    @rule(partition=PARTITIONS)
    def reassign(self, partition: int) -> None:
        old = self.holds[partition]
        for task in self._left():
            if task.hold is old and task not in self.running:
                self._gone(task)
        self.lanes.forget(old.assignment)
        self.holds[partition] = Hold(Assignment("t", partition, old.assignment.epoch + 1))
        self.orders[partition] = 0

    @rule(partition=PARTITIONS)
    def give_back(self, partition: int) -> None:
        hold = self.holds[partition]
        last = self.lanes.give_back(hold)
        running = [task.delivery.order for task in self.running if task.hold is hold]
        assert last == max([hold.settled, *running])
        for task in self._left():
            if task.hold is hold and task.delivery.order > last:
                self._gone(task)
        self.orders[partition] = last + 1  # as nothing of this assignment follows, any order will do

    @invariant()
    def everything_is_accounted_for(self) -> None:
        assert set(self.lanes.tasks()) == set(self._left())
        assert self.lanes.running == len(self.running)
        assert self.lanes.waiting == len(self._left()) - len(self.running)
        assert self.lanes.bytes == len(self._left())

    def teardown(self) -> None:
        """Whatever happened: from here on everything comes through, in order."""
        for _ in range(2000):
            for task in list(self.running):
                self.running.remove(task)
                self._gone(task)
                self.lanes.done(task)
            self.now += 1
            self.lanes.wake(self.now)
            for queue in (0, 1, 2):
                self.take(queue)
            if not self.running and not self._left():
                return
        raise AssertionError(f"stuck: {self._left()}")


LanesModel.TestCase.settings = settings(max_examples=300, stateful_step_count=60)
TestLanes = LanesModel.TestCase

"""Which event may be handled next. No threads, no I/O, no clock; callers hold one lock around every call.

A lane holds what one key (in one partition) has waiting, oldest first. Only its head is ever handled, and a head that
is tried again stays the head: so nothing of a key runs at once or overtakes. Lanes do not wait for each other, except
that a partition in an outage starts nothing but the one event that probes it.
"""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import Callable, Hashable, Iterable, Iterator
from itertools import islice

from eventbus_core.records import Assignment, Delivery
from eventbus_core.worker.tasks import Hold, Lane, Queue, State, Task


class Lanes:
    """All lanes of one group."""

    def __init__(self) -> None:
        self._named: dict[Hashable, Lane] = {}
        self._nameless: set[Lane] = set()
        self._timers: list[tuple[float, int, Task]] = []
        self._timer_count = 0
        self.waiting = 0
        self.running = 0
        self.bytes = 0
        self.settled: list[Delivery] = []
        """What is done and not acked yet; whoever acks takes it."""

    def put(self, task: Task, name: Hashable) -> None:
        """Take a task, newer than all of its lane. Without a name it has a lane of its own."""
        self.waiting += 1
        self.bytes += task.size
        if name is None:
            lane = Lane(None, task)
            self._nameless.add(lane)
        else:
            known = self._named.get(name)
            if known is not None:
                known.tasks.append(task)
                task.lane = known
                if known.state is State.READY and task.queue.subscription.batch is not None:
                    task.queue.grew()
                return
            lane = self._named[name] = Lane(name, task)
        task.lane = lane
        task.queue.lanes.append(lane)
        task.queue.grew()

    def take(self, queue: Queue) -> Task | None:
        """The next task to handle, if there is one; it runs from now on."""
        lanes = queue.lanes
        while lanes:
            lane = lanes.popleft()
            task = lane.tasks[0]
            if self._stops(lane, task):
                continue
            lane.state = State.RUNNING
            lane.running = 1
            self.waiting -= 1
            self.running += 1
            return task
        return None

    def take_batch(self, queue: Queue, size: int) -> list[Task]:
        """At most ``size`` tasks to handle together: of several lanes, in order within each. They run from now on."""
        taken: list[Task] = []
        lanes = queue.lanes
        while lanes and len(taken) < size:
            head = lanes[0].tasks[0]
            if head.alone and taken:
                break
            first = self.take(queue)
            if first is None:
                break
            taken.append(first)
            if first.alone:
                break
            lane = first.lane
            more = self._followers(lane, size - len(taken))
            lane.running += len(more)
            self.waiting -= len(more)
            self.running += len(more)
            taken.extend(more)
        return taken

    def available(self, queue: Queue, size: int) -> int:
        """How many tasks a batch of at most ``size`` would hold now; ``size`` when one must not wait for others."""
        count = 0
        for lane in queue.lanes:
            if lane.tasks[0].alone:
                return size
            count += 1 + len(self._followers(lane, size - count - 1, running=1))
            if count >= size:
                return size
        return count

    def skip(self, delivery: Delivery, hold: Hold) -> None:
        """Nobody is to handle this: it is done as it is."""
        hold.settled = max(hold.settled, delivery.order)
        self.settled.append(delivery)

    def done(self, task: Task) -> None:
        """A running task is through, whatever became of it: it may be acked, and its lane goes on."""
        lane = task.lane
        hold = task.hold
        delivery = task.delivery
        lane.tasks.popleft()
        lane.running -= 1
        self.running -= 1
        self.bytes -= task.size
        hold.settled = max(hold.settled, delivery.order)
        self.settled.append(delivery)
        if hold.probe is not None:
            self._end_outage(task)
        if not lane.running:
            self._advance(lane)

    def again(self, task: Task, due: float) -> None:
        """A running task is to be tried again at ``due``; its lane waits for it. Tasks behind it did not run either."""
        self._suspend(task)
        if task.hold.probe is not None:
            self._end_outage(task)
        self._wait(task, due)

    def outage(self, task: Task, due: float) -> None:
        """What a running task needs is away: its partition starts nothing before this one was tried again."""
        self._suspend(task)
        hold = task.hold
        if hold.probe is None or hold.probe is task:
            hold.probe = task
            self._wait(task, due)
        else:  # another one of the partition found out before
            task.lane.state = State.STOPPED
            hold.stopped.append(task.lane)

    def drop(self, task: Task) -> None:
        """A running task is no longer ours: forget it without an ack."""
        self._suspend(task)
        self._remove_from(task.lane, lambda each: each is task)

    def halt(self, task: Task) -> None:
        """A running task ends its lane: neither it nor anything behind it goes on."""
        self._suspend(task)
        task.lane.state = State.HALTED

    def back(self, task: Task) -> None:
        """A running head was not handled after all: it may be taken again at once."""
        self._suspend(task)
        self._ready(task.lane)

    def alone(self, task: Task) -> None:
        """Of a batch only this one, the head of its lane, runs on: those behind it did not run."""
        lane = task.lane
        self.running -= lane.running - 1
        self.waiting += lane.running - 1
        lane.running = 1

    def wake(self, now: float) -> float | None:
        """Make ready what is due; when the next is, None if nothing waits."""
        timers = self._timers
        while timers and timers[0][0] <= now:
            due, _, task = heapq.heappop(timers)
            lane = task.lane
            if lane.state is State.WAITING and lane.tasks and lane.tasks[0] is task and task.due == due:
                self._ready(lane)
        return timers[0][0] if timers else None

    def forget(self, assignment: Assignment | None = None) -> None:
        """Drop what does not run of an ended assignment (None: of all). What runs keeps its lane."""
        self._remove(lambda each: assignment is None or each.delivery.assignment is assignment)

    def give_back(self, hold: Hold) -> int:
        """Drop what lies behind everything of this hold that runs or is done; the highest order that is left."""
        last = hold.settled
        for lane in self._all():
            for task in islice(lane.tasks, lane.running):
                if task.hold is hold:
                    last = max(last, task.delivery.order)
        self._remove(lambda each: each.hold is hold and each.delivery.order > last)
        return last

    @property
    def unfinished(self) -> int:
        """How many tasks run or wait, without those of halted lanes, which nothing becomes of."""
        halted = sum(len(lane.tasks) for lane in self._all() if lane.state is State.HALTED)
        return self.running + self.waiting - halted

    def take_settled(self) -> list[Delivery]:
        """What was done since the last call."""
        settled, self.settled = self.settled, []
        return settled

    def tasks(self) -> Iterator[Task]:
        """All that wait or run."""
        for lane in self._all():
            yield from lane.tasks

    def _all(self) -> Iterable[Lane]:
        return (*self._named.values(), *self._nameless)

    def _followers(self, lane: Lane, count: int, *, running: int | None = None) -> list[Task]:
        """What of a lane can go into a batch behind the head."""
        head = lane.tasks[0]
        found: list[Task] = []
        if head.hold.probe is head:
            return found  # until it is through, nothing of its partition starts
        for task in islice(lane.tasks, lane.running if running is None else running, None):
            if len(found) >= count or task.queue is not head.queue or task.hold is not head.hold:
                break
            found.append(task)
        return found

    def _stops(self, lane: Lane, task: Task) -> bool:
        hold = task.hold
        if hold.probe is None or hold.probe is task:
            return False
        lane.state = State.STOPPED
        hold.stopped.append(lane)
        return True

    def _suspend(self, task: Task) -> None:
        """A running head, and what runs behind it, run no more."""
        lane = task.lane
        self.running -= lane.running
        self.waiting += lane.running
        lane.running = 0

    def _wait(self, task: Task, due: float) -> None:
        task.due = due
        task.lane.state = State.WAITING
        self._timer_count += 1
        heapq.heappush(self._timers, (due, self._timer_count, task))

    def _ready(self, lane: Lane) -> None:
        lane.state = State.READY
        queue = lane.tasks[0].queue
        queue.lanes.append(lane)
        queue.grew()

    def _advance(self, lane: Lane) -> None:
        if lane.tasks:
            self._ready(lane)
        elif lane.name is None:
            self._nameless.discard(lane)
        else:
            del self._named[lane.name]

    def _end_outage(self, task: Task) -> None:
        hold = task.hold
        if hold.probe is task:
            hold.probe = None
            stopped, hold.stopped = hold.stopped, []
            for lane in stopped:
                self._ready(lane)

    def _remove(self, gone: Callable[[Task], bool]) -> None:
        for lane in self._all():
            self._remove_from(lane, gone)

    def _remove_from(self, lane: Lane, gone: Callable[[Task], bool]) -> None:
        """Take tasks that do not run out of a lane."""
        removed = [task for task in islice(lane.tasks, lane.running, None) if gone(task)]
        if not removed:
            return
        head = lane.tasks[0]
        out = set(removed)
        lane.tasks = deque(task for task in lane.tasks if task not in out)
        self.waiting -= len(removed)
        self.bytes -= sum(task.size for task in removed)
        if head in out:
            self._replace_head(lane, head)
        for task in removed:
            self._end_outage(task)

    def _replace_head(self, lane: Lane, old: Task) -> None:
        if lane.state is State.READY:
            old.queue.lanes.remove(lane)
        elif lane.state is State.STOPPED:
            old.hold.stopped.remove(lane)
        self._advance(lane)

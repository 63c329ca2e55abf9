"""What stands in the lanes: tasks, their lanes, and the queues that executors take from. Plain state."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Hashable
from datetime import datetime
from enum import Enum, auto

from eventbus_core.records import Assignment, Delivery, Record
from eventbus_core.subscriptions import Subscription


class Hold:
    """What the lanes know of one assignment."""

    __slots__ = ("assignment", "probe", "settled", "stopped")

    def __init__(self, assignment: Assignment) -> None:
        self.assignment = assignment
        self.settled = -1  # the highest order that is done
        self.probe: Task | None = None  # in an outage: the only one that starts
        self.stopped: list[Lane] = []  # lanes whose heads wait for the end of the outage


class Queue:
    """The lanes whose heads one subscription may take now, in the order in which they became ready."""

    __slots__ = ("grew", "lanes", "subscription")

    def __init__(self, subscription: Subscription, grew: Callable[[], None]) -> None:
        self.subscription = subscription
        self.lanes: deque[Lane] = deque()
        self.grew = grew


class Task:
    """One delivery on its way through the worker."""

    __slots__ = (
        "alone", "attempt", "delivery", "due", "error", "first_failed", "hold", "lane", "letter", "outages", "queue",
        "size", "type",
    )  # fmt: skip

    def __init__(
        self, delivery: Delivery, hold: Hold, queue: Queue, into: type[object] | None, size: int, attempt: int = 1
    ) -> None:
        self.delivery = delivery
        self.hold = hold
        self.queue = queue
        self.type = into
        self.size = size
        self.attempt = attempt
        self.outages = 0
        self.due = 0.0
        self.alone = False  # its batch failed as a whole: the next try is a batch of one
        self.first_failed: datetime | None = None
        self.error: Exception | None = None
        self.letter: Record | None = None  # given up, and to be stored: the handler has done its part
        self.lane: Lane


class State(Enum):
    """Of a lane: that of its head."""

    READY = auto()
    RUNNING = auto()
    WAITING = auto()  # for its next try
    STOPPED = auto()  # by an outage of its partition
    HALTED = auto()  # for good: the worker stops


class Lane:
    """The tasks of one key, oldest first; the first ``running`` of them are being handled."""

    __slots__ = ("name", "running", "state", "tasks")

    def __init__(self, name: Hashable, task: Task) -> None:
        self.name = name
        self.tasks: deque[Task] = deque((task,))
        self.running = 0
        self.state = State.READY

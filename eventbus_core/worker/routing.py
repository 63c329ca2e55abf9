"""Which queue takes a record, and in which lane it waits."""

from __future__ import annotations

from collections.abc import Mapping

from eventbus_core.dead_letters.letters import size_of
from eventbus_core.envelope import peek_type
from eventbus_core.records import Delivery
from eventbus_core.subscriptions import Subscription
from eventbus_core.worker.lanes import Lanes
from eventbus_core.worker.plan import GroupPlan
from eventbus_core.worker.tasks import Hold, Queue, Task


class Routing:
    """Puts what a group receives into its lanes."""

    def __init__(self, plan: GroupPlan, queues: Mapping[Subscription, Queue], *, counts_deliveries: bool) -> None:
        self._routes = {
            topic: (
                route.topic,
                {name: (queues[each], cls) for name, (each, cls) in route.types.items()},
                queues[route.fallback],
            )
            for topic, route in plan.routes.items()
        }
        self._counts_deliveries = counts_deliveries

    def put(self, delivery: Delivery, hold: Hold, lanes: Lanes) -> None:
        """With the lock of the lanes held."""
        record = delivery.record
        topic, types, fallback = self._routes[record.topic]
        name = peek_type(record)
        found = types.get(name) if name is not None else None
        queue: Queue
        into: type[object] | None
        if found is not None:
            queue, into = found
        elif name is not None and fallback.subscription.on_unknown == "skip":
            lanes.skip(delivery, hold)
            return
        else:
            queue, into = fallback, None
        attempt = delivery.delivery_count if self._counts_deliveries else 1
        lane: tuple[str, int, bytes | None] | None = (topic, delivery.partition, record.key)
        if record.key is None and queue.subscription.keyless == "parallel":
            lane = None
        lanes.put(Task(delivery, hold, queue, into, size_of(record), attempt), lane)

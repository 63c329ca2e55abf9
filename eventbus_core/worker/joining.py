"""Joining a group, and joining again when its consumer has ended."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import NamedTuple

from eventbus_core.bus import EventBus
from eventbus_core.dead_letters.log import create_topics
from eventbus_core.errors import AccessDenied, BrokerError, EventBusError
from eventbus_core.intake import Intake
from eventbus_core.records import Start
from eventbus_core.worker.handling import log
from eventbus_core.worker.intakes import Intakes
from eventbus_core.worker.plan import GroupPlan

_PAUSES = (0.5, 10.0)
_LOOK_SECONDS = 0.05


class Limits(NamedTuple):
    """What a group may take from the broker and not have handled."""

    records: int
    bytes: int


def open_intakes(bus: EventBus, plan: GroupPlan, limits: Limits, start: Start) -> Intakes:
    """Make the group's own topics and join. Raises what that raises."""
    for topic in plan.sources:
        bus.prepare_topic(topic)
        create_topics(bus.admin(), topic, plan.name)
    returned = tuple(topic for topic in plan.routes if topic not in plan.sources)
    main = _join(bus, plan, limits, plan.sources, start)
    try:
        return Intakes(main, _join(bus, plan, limits, returned, "earliest"), returned)
    except BaseException:
        main.close(None)
        raise


def _join(bus: EventBus, plan: GroupPlan, limits: Limits, topics: Sequence[str], start: Start) -> Intake:
    return bus.intake(
        *topics,
        group=plan.name,
        start=start,
        max_unacked=limits.records,
        max_unacked_bytes=limits.bytes,
        spare_stuck=True,
        transacts=plan.first.delivery == "exactly_once",
    )


def reopen_intakes(
    bus: EventBus, plan: GroupPlan, limits: Limits, start: Start, stopped: Callable[[], bool]
) -> Intakes | None:
    """Try until it works; None: stopped. Raises what no repetition mends."""
    pause, longest = _PAUSES
    while not stopped():
        try:
            return open_intakes(bus, plan, limits, start)
        except EventBusError as error:
            if not mends(error):
                raise
            log.warning("group %s cannot join yet: %s", plan.name, error, extra=fields(plan.name, error))
            until = time.monotonic() + pause
            while not stopped() and time.monotonic() < until:
                time.sleep(_LOOK_SECONDS)
            pause = min(pause * 2, longest)
    return None


def mends(error: EventBusError) -> bool:
    """Whether another consumer may do what this one no longer can: the broker is as it was, or its topics are back."""
    return error.retryable or (isinstance(error, BrokerError) and not isinstance(error, AccessDenied))


def fields(group: str, error: EventBusError) -> dict[str, object]:
    """What a log line about an error of a group carries."""
    return {"group": group, "error": str(error), "error_type": type(error).__name__, "topic": error.topic}

"""What a handler's exception means: try again, wait for something that is away, or give up. Pure."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import NamedTuple, TypeAlias

from eventbus_core.errors import Conflict, EventBusError, NotFound, SendError, SendFailed, SendUnknown
from eventbus_core.subscriptions import Retry


class Again(NamedTuple):
    """Try again after so many seconds; the attempt counts."""

    delay: float


class Outage(NamedTuple):
    """Something is away: try again after so many seconds; no attempt is counted."""

    delay: float


class GiveUp(NamedTuple):
    """The attempts are used up, or no repetition helps."""


Verdict: TypeAlias = Again | Outage | GiveUp


def judge(
    error: Exception, retry: Retry, *, attempt: int, outages: int, random: Callable[[], float] = random.random
) -> Verdict:
    """What follows from the error of try number ``attempt``, after so many ``outages`` in a row.

    Our own errors that say that the broker is away count as an outage, unless ``never`` names them.
    """
    if isinstance(error, retry.never):
        return GiveUp()
    if isinstance(error, retry.outage) or is_outage(error):
        return Outage(delay(retry, outages + 1, random))
    if attempt >= retry.attempts:
        return GiveUp()
    return Again(delay(retry, attempt, random))


def is_outage(error: Exception) -> bool:
    """Whether the bus says by this error that the broker is away, or does not keep up."""
    return isinstance(error, SendUnknown) or (isinstance(error, EventBusError) and error.retryable)


def is_refusal(error: EventBusError) -> bool:
    """Whether a record that could not be sent never will be as it is: too large, not allowed, or the bus is closed.

    A topic that is missing may come back.
    """
    cause = error.__cause__ if isinstance(error, SendFailed) else error
    passing = isinstance(cause, NotFound | Conflict | SendError)
    return isinstance(cause, EventBusError) and not cause.retryable and not passing


def delay(retry: Retry, failures: int, random: Callable[[], float] = random.random) -> float:
    """Seconds to wait after so many failures: doubling, capped, and up to a half less at random."""
    # The cap comes long before 2**40, and a float cannot take the power of an outage of days.
    longest = min(retry.first_delay.total_seconds() * 2.0 ** min(failures - 1, 40), retry.max_delay.total_seconds())
    return longest * (1 - random() / 2)

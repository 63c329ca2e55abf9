"""The only place in the tests that sleeps."""

import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")


def wait_until(predicate: Callable[[], T], timeout: float, *, every: float = 0.02, what: str) -> T:
    """Return the first true value of `predicate`, asked every `every` seconds.

    Raises:
        AssertionError: nothing true within `timeout` seconds; the message names `what` and the last value.

    """
    deadline = time.monotonic() + timeout
    while True:
        # Read before asking: a slow predicate must not cost the last chance.
        late = time.monotonic() >= deadline
        value = predicate()
        if value:
            return value
        if late:
            raise AssertionError(f"not within {timeout:g} s: {what} (last: {value!r})")
        time.sleep(min(every, max(0.0, deadline - time.monotonic())))

"""A process that ends in time, whatever the broker and its client library would wait for."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable

GOODBYE_SECONDS = 5.0
"""For the last acks, leaving the groups and closing, after the time that handlers have."""


def end_in_time(wait_stopping: Callable[[], None], drain_seconds: float) -> None:
    """When ``wait_stopping`` returns, the process has ``drain_seconds`` and 5 s; then it ends with exit code 1.

    What was not acked is handled again elsewhere, what was published and not stored may be lost. Does not wait.
    """

    def watch() -> None:
        wait_stopping()
        threading.Event().wait(drain_seconds + GOODBYE_SECONDS)
        os.write(2, b"error: the broker did not answer in time; ended without a goodbye\n")
        os._exit(1)

    threading.Thread(target=watch, name="eventbus-end", daemon=True).start()

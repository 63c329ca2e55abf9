"""Doing something when this process is sent a signal."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Mapping


def when_signalled(actions: Mapping[signal.Signals, Callable[[], object]]) -> None:
    """Call each action, in a thread of its own, whenever its signal comes. To be called before other threads start.

    A signal handler would run inside whatever the main thread does just then. If that is a wait for an ``Event`` that
    the handler sets, the process stands still for ever: both take the event's lock.
    """
    signal.pthread_sigmask(signal.SIG_BLOCK, actions)

    def listen() -> None:
        while True:
            actions[signal.Signals(signal.sigwait(actions))]()

    threading.Thread(target=listen, name="signalled", daemon=True).start()

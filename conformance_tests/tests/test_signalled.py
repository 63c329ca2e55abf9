"""Signals to processes of the suite."""

from __future__ import annotations

import signal
import subprocess
import sys

from eventbus_conformance.waiting import wait_until

WAITING = """
import signal, sys, threading
from eventbus_conformance.signalled import when_signalled

told, stop = threading.Event(), threading.Event()
when_signalled({signal.SIGUSR1: told.set, signal.SIGTERM: stop.set})
print("ready", flush=True)
while not stop.is_set():
    told.wait(0.0005)
    told.clear()
print("done")
"""


def test_signals_never_stop_a_process_that_waits_for_what_they_set() -> None:
    """A signal handler that sets the event ends this within a few thousand signals: it meets its own lock."""
    with subprocess.Popen([sys.executable, "-c", WAITING], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            assert process.stdout.readline() == "ready\n"
            for _ in range(20_000):
                process.send_signal(signal.SIGUSR1)
            process.terminate()
            wait_until(lambda: process.poll() is not None, 10, what="the process to end")
            assert (process.returncode, process.stdout.read()) == (0, "done\n")
        finally:
            process.kill()

"""Processes that send and are killed the moment a receipt says stored.

``python -m eventbus_conformance.publishing URL TOPIC FIRST TIMES`` forks so many children. Each opens the bus, sends
one record, writes its number to standard output when the receipt says stored, and kills itself.
"""

from __future__ import annotations

import os
import signal
import sys
import traceback

from eventbus_core import EventBus
from eventbus_core.settings import Settings

SETTLE_SECONDS = 30.0
AT_ONCE = 4


def main() -> None:
    """Exit code 0: every child was killed as planned."""
    url, topic, first, times = sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
    Settings.from_url(url)  # imports the client, so that the children need not
    running = 0
    for number in range(first, first + times):
        if running == AT_ONCE:
            _wait()
            running -= 1
        if os.fork() == 0:
            _send_and_die(url, topic, number)
        running += 1
    for _ in range(running):
        _wait()


def _wait() -> None:
    _, status = os.waitpid(-1, 0)
    if os.waitstatus_to_exitcode(status) != -signal.SIGKILL:
        sys.exit(1)


def _send_and_die(url: str, topic: str, number: int) -> None:
    try:
        bus = EventBus(url)
        receipt = bus.producer().send(topic, str(number).encode(), key=f"key-{number % 7}".encode())
        receipt.result(SETTLE_SECONDS)
        os.write(sys.stdout.fileno(), f"{number}\n".encode())
        os.kill(os.getpid(), signal.SIGKILL)
    except BaseException:  # noqa: BLE001  (a child must never run the parent's code)
        traceback.print_exc()
    finally:
        os._exit(1)


if __name__ == "__main__":
    main()

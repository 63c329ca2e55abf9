"""Running a function in a forked child that has none of the parent's threads."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable

from tests.waiting import wait_until


def exit_code_in_child(call: Callable[[], int], timeout: float = 5.0) -> int:
    """What ``call`` returns in a forked child; fails when the child hangs, and is 99 when it raises."""
    child = os.fork()
    if child == 0:
        code = 99
        try:
            code = call()
        finally:
            os._exit(code)
    status: list[int] = []

    def ended() -> bool:
        pid, waited = os.waitpid(child, os.WNOHANG)
        if pid:
            status.append(waited)
        return bool(pid)

    try:
        wait_until(ended, timeout, what="the end of the forked child")
    except AssertionError:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        raise
    return os.waitstatus_to_exitcode(status[0])

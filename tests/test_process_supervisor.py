"""Worker processes under a supervisor: started again, ended together. The workers are small programs."""

import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import IO

import pytest

from tests.waiting import wait_until

# Notes its pid, says that it is ready, and ends on SIGTERM with the code it was told.
_WORKER = """
import json, os, signal, sys, time
notes, code, file = sys.argv[1], int(sys.argv[2]), sys.argv[4]
signal.signal(signal.SIGTERM, lambda *_: sys.exit(code))
open(file, "w").write(json.dumps({"alive": True, "ready": True, "at": time.time()}))
open(notes, "a").write(f"{os.getpid()}\\n")
while True:
    signal.pause()
"""
# Notes a signal as a pid of 0, and goes on.
_STUBBORN = _WORKER.replace("sys.exit(code)", "open(notes, 'a').write('0\\n')")
_FAILING = "import sys; open(sys.argv[1], 'a').write('0\\n'); sys.exit(int(sys.argv[2]))"

_SUPERVISE = """
import pathlib, sys
from eventbus_core.process.supervisor import Supervisor
sys.exit(Supervisor(sys.argv[3:], int(sys.argv[1]), pathlib.Path(sys.argv[2])).run())
"""


class Supervised:
    def __init__(self, directory: Path, program: str, *, workers: int = 2, code: int = 0) -> None:
        self.notes = directory / "notes"
        self._log: IO[bytes] = (directory / "log").open("wb")
        command = [sys.executable, "-c", _SUPERVISE, str(workers), str(directory)]
        command += [sys.executable, "-c", program, str(self.notes), str(code)]
        self.process = subprocess.Popen(command, stderr=self._log)

    def pids(self) -> list[int]:
        return [int(line) for line in self.notes.read_text().split()] if self.notes.exists() else []

    def wait_for(self, count: int) -> list[int]:
        wait_until(lambda: len(self.pids()) >= count, 20, what=f"{count} starts")
        return self.pids()

    def end(self, *signals: int) -> int:
        for each in signals:
            self.process.send_signal(each)
        return self.process.wait(20)

    def clean_up(self) -> None:
        self.process.kill()
        self.process.wait(10)
        for pid in self.pids():
            if pid and _alive(pid):
                os.kill(pid, signal.SIGKILL)
        self._log.close()


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


@pytest.fixture
def supervise(tmp_path: Path, request: pytest.FixtureRequest):  # type: ignore[no-untyped-def]
    def start(program: str, **options: int) -> Supervised:
        supervised = Supervised(tmp_path, program, **options)
        request.addfinalizer(supervised.clean_up)
        return supervised

    return start


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_all_workers_and_exits_0(supervise, number: int) -> None:  # type: ignore[no-untyped-def]
    supervised = supervise(_WORKER)
    pids = supervised.wait_for(2)
    assert supervised.end(number) == 0
    assert not any(map(_alive, pids))


def test_a_killed_worker_is_started_again(supervise) -> None:  # type: ignore[no-untyped-def]
    supervised = supervise(_WORKER)
    first = supervised.wait_for(2)
    os.kill(first[0], signal.SIGKILL)
    third = supervised.wait_for(3)[2]
    assert third not in first
    assert _alive(first[1]), "the other one goes on"
    assert supervised.end(signal.SIGTERM) == 0


def test_a_worker_that_fails_to_drain_is_in_the_exit_code(supervise) -> None:  # type: ignore[no-untyped-def]
    supervised = supervise(_WORKER, code=3)
    supervised.wait_for(2)
    assert supervised.end(signal.SIGTERM) == 3


@pytest.mark.parametrize("code", [1, 2])
def test_a_worker_that_never_gets_ready_ends_all_with_its_code(supervise, code: int) -> None:  # type: ignore[no-untyped-def]
    supervised = supervise(_FAILING, workers=1, code=code)
    assert supervised.process.wait(20) == code
    assert supervised.pids() == [0]


def test_a_second_signal_kills_what_does_not_end(supervise) -> None:  # type: ignore[no-untyped-def]
    supervised = supervise(_STUBBORN)
    pids = supervised.wait_for(2)
    supervised.process.send_signal(signal.SIGTERM)
    assert supervised.wait_for(4)[2:] == [0, 0], "both were told"
    with pytest.raises(subprocess.TimeoutExpired):
        supervised.process.wait(0.5)
    assert supervised.end(signal.SIGTERM) == 128 + signal.SIGKILL
    assert not any(map(_alive, pids))

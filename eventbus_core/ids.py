"""Event ids: UUID version 7 (RFC 9562), ascending within a process, so that ids sort by time of creation.

Python has ``uuid.uuid7`` only since 3.14.
"""

from __future__ import annotations

import os
import random
import threading
import time

_COUNTER_BITS = 12
_COUNTER_MAX = (1 << _COUNTER_BITS) - 1


class _Sequence:
    """Millisecond and counter of the last id. One per process: a forked child starts its own."""

    __slots__ = ("counter", "lock", "milliseconds", "random")

    def __init__(self) -> None:
        self.lock = threading.Lock()
        # An own generator: an application that calls random.seed() must not make two processes produce the same ids.
        self.random = random.Random(os.urandom(32))
        self.milliseconds = 0
        self.counter = 0

    def next(self) -> tuple[int, int, int]:
        """Milliseconds since 1970, a counter of 12 bits, and 62 random bits."""
        now = time.time_ns() // 1_000_000
        with self.lock:
            if now > self.milliseconds:
                self.milliseconds = now
                # The upper half stays free, to count in.
                self.counter = self.random.getrandbits(_COUNTER_BITS - 1)
            elif self.counter < _COUNTER_MAX:
                self.counter += 1
            else:
                # RFC 9562 §6.2 allows running ahead of the clock; it catches up at 2 to 4 million ids a second.
                self.milliseconds += 1
                self.counter = 0
            return self.milliseconds, self.counter, self.random.getrandbits(62)


_sequence = _Sequence()


def _start_anew() -> None:
    global _sequence
    _sequence = _Sequence()


os.register_at_fork(after_in_child=_start_anew)


def uuid7() -> str:
    """A new id, greater than all this process made before. Thread-safe; a forked child never repeats its parent's."""
    milliseconds, counter, noise = _sequence.next()
    digits = f"{(milliseconds << 80) | (0x7000 | counter) << 64 | (1 << 63) | noise:032x}"
    return f"{digits[:8]}-{digits[8:12]}-{digits[12:16]}-{digits[16:20]}-{digits[20:]}"

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

    __slots__ = ("beginning", "counter", "lock", "milliseconds", "random")

    def __init__(self) -> None:
        self.lock = threading.Lock()
        # An own generator: an application that calls random.seed() must not make two processes produce the same ids.
        self.random = random.Random(os.urandom(32))
        self.milliseconds = 0
        self.beginning = ""  # the millisecond as text, and the version: written once for many ids
        self.counter = 0

    def next(self) -> str:
        """48 bits of milliseconds since 1970, a counter of 12 bits, 62 random bits; version and variant in between."""
        now = time.time_ns() // 1_000_000
        with self.lock:
            if now > self.milliseconds:
                # The upper half stays free, to count in.
                self._begin(now, self.random.getrandbits(_COUNTER_BITS - 1))
            elif self.counter < _COUNTER_MAX:
                self.counter += 1
            else:
                # RFC 9562 §6.2 allows running ahead of the clock; it catches up at 2 to 4 million ids a second.
                self._begin(self.milliseconds + 1, 0)
            noise = f"{1 << 63 | self.random.getrandbits(62):x}"
            return f"{self.beginning}{self.counter:03x}-{noise[:4]}-{noise[4:]}"

    def _begin(self, milliseconds: int, counter: int) -> None:
        self.milliseconds = milliseconds
        self.beginning = f"{milliseconds >> 16:08x}-{milliseconds & 0xFFFF:04x}-7"
        self.counter = counter


_sequence = _Sequence()


def _start_anew() -> None:
    global _sequence
    _sequence = _Sequence()


os.register_at_fork(after_in_child=_start_anew)


def uuid7() -> str:
    """A new id, greater than all this process made before. Thread-safe; a forked child never repeats its parent's."""
    return _sequence.next()

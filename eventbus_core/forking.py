"""Noticing a fork: threads and connections do not survive one, so what was opened before must refuse to work after."""

from __future__ import annotations

import os

from eventbus_core.errors import Forked

_generation = 0


def _count_fork() -> None:
    global _generation
    _generation += 1


os.register_at_fork(after_in_child=_count_fork)


def generation() -> int:
    """How many forks lie between the first process and this one. Cheap enough for every call."""
    return _generation


def refuse_fork(opened_in: int, what: str) -> None:
    """Raise ``Forked`` when the object that was opened in generation ``opened_in`` is used in a child process."""
    if opened_in != _generation:
        raise Forked(f"this {what} was opened before a fork and cannot be used in the child: ask the bus for another")

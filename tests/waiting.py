"""Waiting in tests: the suite's one helper."""

from eventbus_conformance.waiting import wait_until

__all__ = ["wait_until"]

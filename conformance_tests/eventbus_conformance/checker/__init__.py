"""Judges a history: what was lost, invented, torn, left out, reordered, doubled; and whether anything was shown at all.

``judge(path)`` is all that a test needs; :class:`Expectations` say what the run was to show and how.
"""

from eventbus_conformance.checker.expectations import Expectations, Overlap, begin
from eventbus_conformance.checker.judging import judge
from eventbus_conformance.checker.verdict import Finding, Kind, Outcome, Verdict

__all__ = ["Expectations", "Finding", "Kind", "Outcome", "Overlap", "Verdict", "begin", "judge"]

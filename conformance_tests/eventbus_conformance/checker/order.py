"""Whether the records of each key were handled in the order of their sending, and by one member at a time."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence

from eventbus_conformance.checker.expectations import Expectations
from eventbus_conformance.checker.run import Delivered, Fault, Group, Handling, Run
from eventbus_conformance.checker.verdict import Finding, Kind


def reordered(run: Run, expected: Expectations) -> Iterator[Finding]:
    """Skips and illegal rewinds.

    Legal is the next record, unless the last one failed and was not acked nevertheless; the same one again; or a rewind
    that leaves out nothing unacked. A record is unacked until its ack was invoked: a rewind behind that is for
    ``repeats`` to judge.
    """
    if not expected.ordered:
        return
    for group in run.groups.values():
        window = around_freezes(run.faults.values(), group, expected.handlers)
        for key, handlings in _by_key(run, group).items():
            judged = _KeyOrder(run, group, key, handlings, apart=expected.overlap == "allowed")
            for each in handlings:
                yield from judged.step(each, tolerated=id(each) in window)


def reordered_log(run: Run) -> Iterator[Finding]:
    """Records of one key that lie in the log in another order than they were sent in."""
    top: dict[tuple[str, str], tuple[int, Delivered]] = {}
    known: set[str | None] = set()
    for each in run.log:
        if each.id not in run.sendings or each.id in known or each.line["key"] is None:
            continue
        known.add(each.id)
        sent = run.sendings[each.id].invoke
        before = top.get((sent["topic"], sent["key"]))
        if before is not None and sent["kseq"] < before[0]:
            message = f"{sent['topic']}/{sent['key']}: {each.id} lies behind {before[1].id}"
            yield Finding(Kind.REORDERED, message, (before[1].line, each.line))
        else:
            top[sent["topic"], sent["key"]] = sent["kseq"], each


def overlapping(run: Run, expected: Expectations) -> Iterator[Finding]:
    """Handlings of one key at once; of two members only where no overlap is promised."""
    for group in run.groups.values():
        window: frozenset[int] = frozenset()
        if expected.overlap == "at freeze":
            window = around_freezes(run.faults.values(), group, expected.handlers)
        for key, handlings in _by_key(run, group).items():
            for one, other in _crossing(each for each in handlings if id(each) not in window):
                if expected.overlap == "allowed" and one.member != other.member:
                    continue
                message = f"{key}: {one.member} at {one.id} and {other.member} at {other.id} at the same time"
                yield Finding(Kind.OVERLAP, message, (one.line, other.line))


def around_freezes(faults: Iterable[Fault], group: Group, handlers: int) -> frozenset[int]:
    """The handlings (their ``id()``) that no check of ``owned`` can prevent.

    Those that a member had in progress when it was frozen, and those that it had decided on: the first after the thaw,
    of records it had before. Each at most as many as it handles at once.
    """
    found: set[int] = set()
    for fault in faults:
        if fault.kind != "freeze":
            continue
        for member in fault.members or ():
            of = [each for each in group.handlings if each.member == member]
            had = {each.place for each in group.deliveries if each.member == member and each.at <= fault.end}
            before = [each for each in of if each.at <= fault.end][-handlers:]
            after = [each for each in of if each.at > fault.end][:handlers]
            found.update(id(each) for each in before if each.ended is None or each.until > fault.begin)
            found.update(id(each) for each in after if each.place in had)
    return frozenset(found)


class _KeyOrder:
    """Follows one key of one group. Records have dense numbers: of those that the group handled at all.

    What it never handled is lost or a hole, not out of order. ``apart``: members may overlap, so each goes its own way.
    """

    def __init__(self, run: Run, group: Group, key: str, handlings: Sequence[Handling], *, apart: bool) -> None:
        self._key = key
        self._apart = apart
        first: dict[str, Handling] = {}
        for each in handlings:
            first.setdefault(str(each.id), each)
        ordered = sorted(first.values(), key=lambda each: int(run.sendings[str(each.id)].invoke["kseq"]))
        self._index = {each.id: number for number, each in enumerate(ordered)}
        # A second copy in the log is stored twice, not out of order.
        self._places = {each.place for each in ordered}
        self._names = [str(each.id) for each in ordered]
        acks = (group.acks_invoked.get(each.place) for each in ordered)
        self._acked_at = [math.inf if ack is None else float(ack["at"]) for ack in acks]
        self._unacked = 0
        self._top: Handling | None = None
        self._lasts: dict[str, list[Handling]] = defaultdict(list)
        self._late: set[int] = set()

    def step(self, handling: Handling, *, tolerated: bool) -> Iterator[Finding]:
        """Judge the next handling. ``tolerated``: it may be anywhere, and then others may go on as if it were not."""
        if handling.place not in self._places:
            return
        while self._unacked < len(self._acked_at) and self._acked_at[self._unacked] <= handling.at:
            self._unacked += 1
        lasts = self._lasts[handling.member if self._apart else ""]
        at = self._index[handling.id]
        goes_on = any(self._follows(handling, last) for last in lasts)
        top = -1 if self._top is None else self._index[self._top.id]
        legal = goes_on or at <= min(self._unacked, top + 1)
        if not (legal or tolerated or at in self._late):
            yield self._finding(handling, at, top, lasts)
        if at > top and not (tolerated and at > top + 1):
            self._late.update(range(top + 1, at))
            self._top = handling
        if not tolerated:
            lasts.clear()
        lasts.append(handling)

    def _follows(self, handling: Handling, last: Handling) -> bool:
        at, before = self._index[handling.id], self._index[last.id]
        failed = last.ended is not None and not last.success and last.until <= handling.at
        return at == before or (at == before + 1 and not failed)

    def _finding(self, handling: Handling, at: int, top: int, lasts: Sequence[Handling]) -> Finding:
        before = " or ".join(str(last.id) for last in lasts) or "nothing"
        if at > top + 1:
            left_out = f"{self._names[top + 1]} had not been handled"
        else:
            left_out = f"{self._names[self._unacked]} had not been acked"
        message = f"{self._key}: {handling.id} (by {handling.member}) after {before}, though {left_out}"
        return Finding(Kind.REORDERED, message, (*(last.line for last in lasts), handling.line))


def _by_key(run: Run, group: Group) -> dict[str, list[Handling]]:
    """The handlings of what was sent, by key, in the order of their begin. Records without key have no order."""
    found: dict[str, list[Handling]] = defaultdict(list)
    for each in group.handlings:
        sending = run.sendings.get(each.id or "")
        if sending is not None and sending.invoke["key"] is not None:
            found[f"{sending.invoke['topic']}/{sending.invoke['key']}"].append(each)
    return found


def _crossing(handlings: Iterable[Handling]) -> Iterator[tuple[Handling, Handling]]:
    under_way: list[Handling] = []
    for each in handlings:
        under_way = [other for other in under_way if other.until > each.at]
        yield from ((other, each) for other in under_way)
        under_way.append(each)

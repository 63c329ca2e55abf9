"""Whether what came again had a reason to."""

from __future__ import annotations

import bisect
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence

from eventbus_conformance.checker.expectations import Expectations
from eventbus_conformance.checker.run import Delivered, Fault, Group, Handling, Hold, Place, Run
from eventbus_conformance.checker.verdict import Finding, Kind


def unstuck_acks(run: Run) -> Iterator[Finding]:
    """Deliveries of what had been acked durably before a fault or a change of members, and came back after it.

    One without any such change in between has no reason at all, and is a duplicate above the bound.
    """
    for group in run.groups.values():
        for each in _unstuck(run, group):
            ack = group.acks_ok[each.place]
            message = f"{each.id} at {each.place} came to {each.member} though {ack['by']}'s ack of it was durable"
            yield Finding(Kind.UNSTUCK, message, (ack, each.line))


def duplicates(run: Run, expected: Expectations) -> Iterator[Finding]:
    """Handlings beyond what explains them.

    Of one record: one, the retries of the policy, and one for each fault that touches it. A fault touches a record that
    was delivered to a member it is done to, was not durably acked before it, and was handled once more after it. Where
    moves are not announced, a move touches what was delivered to whoever held the partition. Of all records together:
    ``max_in_flight`` for each member that a fault is done to. What an unstuck ack brought back is not counted again.
    """
    for group in run.groups.values():
        moves = [] if expected.announced_moves else moved(group)
        losses = run.unexplained(group)
        extra = 0
        for place, handlings in _repeated(run, group).items():
            takers = {each.member for each in handlings}
            faults = [each for each in run.faults.values() if _touched(each, place, takers, handlings, group)]
            told = [
                each for each in moves if each[0] == (place.topic, place.partition) and each[1].at < handlings[-1].at
            ]
            # That such a loss has no reason itself is a doubt about the whole run.
            lost = [
                each
                for each in losses
                if each.partition == (place.topic, place.partition)
                and each.member in takers
                and each.at > handlings[0].at
            ]
            reasons = expected.retries + len(faults) + len(told) + len(lost)
            extra += max(0, len(handlings) - 1 - expected.retries)
            if len(handlings) - 1 > reasons:
                message = f"{handlings[0].id} at {place} was handled {len(handlings)} times, with {reasons} reasons"
                yield Finding(Kind.DUPLICATES, message, tuple(each.line for each in handlings))
        yield from _above_total(run, group, extra, expected)


def repeated(run: Run) -> int:
    """How many handlings were of what had been handled before."""
    return sum(len(each) - 1 for group in run.groups.values() for each in _handlings(group).values())


def moved(group: Group) -> list[tuple[tuple[str, int], Hold]]:
    """Each time that a partition was held by another member than before."""
    holder: dict[tuple[str, int], str] = {}
    found = []
    for hold in group.holds:
        for partition in sorted(hold.partitions):
            if holder.get(partition, hold.member) != hold.member:
                found.append((partition, hold))
            holder[partition] = hold.member
    return found


def _unstuck(run: Run, group: Group) -> Iterator[Delivered]:
    changes = sorted([*group.changes, *(fault.begin for fault in run.faults.values())])
    for each in group.deliveries:
        ack = group.acks_ok.get(each.place)
        if ack is not None and ack["at"] < each.at and not _forgotten(run, group, each):
            after_ack = bisect.bisect_right(changes, ack["at"])
            if after_ack < len(changes) and changes[after_ack] <= each.at:
                yield each


def _handlings(group: Group) -> Mapping[Place, Sequence[Handling]]:
    found: dict[Place, list[Handling]] = defaultdict(list)
    for each in group.handlings:
        found[each.place].append(each)
    return found


def _repeated(run: Run, group: Group) -> Mapping[Place, Sequence[Handling]]:
    """What was handled more than once, without the handlings that an unstuck ack brought back."""
    since: dict[tuple[str, Place], float] = {}
    for each in _unstuck(run, group):
        since.setdefault((each.member, each.place), each.at)
    found = {}
    for place, handlings in _handlings(group).items():
        kept = [each for each in handlings if since.get((each.member, place), each.at + 1) > each.at]
        if len(kept) > 1:
            found[place] = kept
    return found


def _touched(fault: Fault, place: Place, takers: set[str], handlings: Sequence[Handling], group: Group) -> bool:
    ack = group.acks_ok.get(place)
    return (
        any(fault.touches(member) for member in takers)
        and fault.begin < handlings[-1].at
        and (ack is None or ack["at"] >= fault.begin or fault.kind == "group-forgotten")
    )


def _forgotten(run: Run, group: Group, delivered: Delivered) -> bool:
    """Whether the broker was made to forget the group after this was acked, at the earliest, and before it came."""
    acked_at = group.acks_invoked[delivered.place]["at"]
    return any(
        each.kind == "group-forgotten" and acked_at <= each.end and each.begin <= delivered.at
        for each in run.faults.values()
    )


def _above_total(run: Run, group: Group, extra: int, expected: Expectations) -> Iterator[Finding]:
    if expected.max_in_flight is None or not expected.announced_moves:
        return
    members = {each.member for each in group.deliveries}
    touched = sum(sum(fault.touches(member) for member in members) for fault in run.faults.values())
    touched += len(run.unexplained(group))
    bound = touched * expected.max_in_flight
    if extra > bound:
        message = (
            f"group {group.name}: {extra} repeated, more than {touched} touched members x {expected.max_in_flight}"
        )
        yield Finding(Kind.DUPLICATES, message, tuple(fault.line for fault in run.faults.values()))

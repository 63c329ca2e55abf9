"""How much a run has shown, and what it has not."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping

from eventbus_conformance.checker.expectations import Expectations
from eventbus_conformance.checker.repeats import moved, repeated
from eventbus_conformance.checker.run import Fault, Group, Run


def counts(run: Run) -> Mapping[str, float]:
    """The numbers of a run, for reports."""
    outcomes = Counter(each.outcome for each in run.sendings.values())
    takeovers = [seconds for group in run.groups.values() for seconds in _takeovers(run, group)]
    return {
        "sent": len(run.sendings),
        "stored": outcomes["ok"],
        "failed": outcomes["failed"],
        "unknown": outcomes["unknown"],
        "delivered": sum(len(group.deliveries) for group in run.groups.values()),
        "handled": sum(_records(group) for group in run.groups.values()),
        "repeated": repeated(run),
        "members": max((_members(group) for group in run.groups.values()), default=0),
        "partitions": min((_partitions(group) for group in run.groups.values()), default=0),
        "moves": sum(len(moved(group)) for group in run.groups.values()),
        "faults": sum(fault.seen > 0 for fault in run.faults.values()),
        "worst takeover seconds": max(takeovers, default=0.0),
    }


def doubts(run: Run, expected: Expectations, torn: int) -> Iterator[str]:
    """Why the run shows nothing, though it broke no promise that was seen."""
    if not run.groups:
        yield "no group did anything"
    yield from _too_few(run, expected)
    for group in run.groups.values():
        if group.drained is None:
            yield f"group {group.name} was never asked whether it is drained, so what is missing may only be late"
        else:
            yield from _settled_late(run, group, group.drained["at"])
        for loss in run.unexplained(group):
            name = "{}[{}]".format(*loss.partition)
            yield f"{loss.member} lost {name} and nothing had been done to it: starved, or {loss.line['reason']}"
    for fault in run.faults.values():
        yield from _doubts_of(fault, run)
    kills = sum(len(fault.members or ()) for fault in run.faults.values() if fault.kind == "kill")
    if torn > kills:
        yield f"{torn} torn lines, with {kills} processes killed: something else wrote to the history"


def _too_few(run: Run, expected: Expectations) -> Iterator[str]:
    shown = counts(run)
    least = {
        "handled": min((_records(group) for group in run.groups.values()), default=0),
        **{name: shown[name] for name in ("members", "partitions", "moves", "faults", "unknown", "repeated")},
    }
    wanted = {
        "handled": ("records handled", expected.min_events),
        "members": ("members with work", expected.min_members),
        "partitions": ("partitions with work", expected.min_partitions),
        "moves": ("moves of a partition", expected.min_moves),
        "faults": ("faults with an effect", expected.min_faults),
        "unknown": ("sendings of unknown outcome", expected.min_unknown_sends),
        "repeated": ("repeated handlings", expected.min_redelivered),
    }
    for name, (what, number) in wanted.items():
        if least[name] < number:
            yield f"{least[name]:g} {what}, at least {number} wanted"


def _doubts_of(fault: Fault, run: Run) -> Iterator[str]:
    name = f"fault {fault.number} ({fault.kind})"
    if fault.seen == 0:
        yield f"{name}: no effect of it was seen"
    if not any(each.at > fault.begin for group in run.groups.values() for each in group.handlings[-1:]):
        yield f"{name}: nothing was handled after it"
    if fault.kind == "kill":
        alive = [each for each in sorted(fault.members or ()) if run.last_line.get(each, 0.0) > fault.end]
        if alive:
            yield f"{name}: {', '.join(alive)} still wrote after it"


def _settled_late(run: Run, group: Group, drained_at: float) -> Iterator[str]:
    here = {each.id for each in group.deliveries}
    late = [
        name
        for name, sending in run.sendings.items()
        if sending.outcome == "ok" and name not in here and not sending.by(drained_at)
    ]
    if late:
        yield f"{len(late)} records ({late[0]}...) were reported stored only after group {group.name} was drained"


def _records(group: Group) -> int:
    return len({each.id for each in group.handlings})


def _members(group: Group) -> int:
    return len({each.member for each in group.handlings})


def _partitions(group: Group) -> int:
    return len({(each.place.topic, each.place.partition) for each in group.handlings})


def _takeovers(run: Run, group: Group) -> Iterator[float]:
    """For each partition of a killed or frozen member, how long until another handled something of it."""
    for fault in run.faults.values():
        if fault.kind not in {"kill", "freeze"}:
            continue
        held: dict[str, frozenset[tuple[str, int]]] = defaultdict(frozenset)
        held.update({each.member: each.partitions for each in group.holds if each.at <= fault.begin})
        members = fault.members or frozenset()
        waiting = {partition for member in members for partition in held[member]}
        for each in group.handlings:
            partition = (each.place.topic, each.place.partition)
            if each.at > fault.begin and each.member not in members and partition in waiting:
                waiting.remove(partition)
                yield each.at - fault.begin

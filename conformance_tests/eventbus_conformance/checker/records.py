"""Whether what was delivered is what was sent, all of it, once, and settled."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator

from eventbus_conformance.checker.run import Delivered, Group, Handling, Place, Run, Sending
from eventbus_conformance.checker.verdict import Finding, Kind


def wrong_records(run: Run) -> Iterator[Finding]:
    """Phantoms, aborted and corrupt records: each once."""
    told: set[tuple[Kind, str]] = set()
    for delivered in run.seen:
        finding = _compare(delivered, run.sendings.get(delivered.id or ""))
        name = str(delivered.id or delivered.place)
        if finding is not None and (finding.kind, name) not in told:
            told.add((finding.kind, name))
            yield finding


def _compare(delivered: Delivered, sending: Sending | None) -> Finding | None:
    line = delivered.line
    if sending is None:
        return Finding(Kind.PHANTOM, f"{delivered.id} at {delivered.place} was never sent", (line,))
    sent = sending.invoke
    if sent["topic"] != line["topic"]:
        return Finding(
            Kind.PHANTOM, f"{delivered.id} was sent to {sent['topic']}, not to {line['topic']}", (sent, line)
        )
    differing = [name for name in ("sha256", "key", "kseq") if sent[name] != line[name]]
    if differing:
        return Finding(Kind.CORRUPT, f"{delivered.id}: not the {', '.join(differing)} that was sent", (sent, line))
    if sending.outcome == "failed":
        lines = (sent, sending.settled or sent, line)
        return Finding(Kind.ABORTED, f"{delivered.id} was reported not stored, and delivered", lines)
    return None


def stored_twice(run: Run) -> Iterator[Finding]:
    """One sending at two places, by what receipts, the log, and deliveries of all groups say."""
    places: dict[str, dict[Place, Delivered]] = defaultdict(dict)
    for each in run.seen:
        # What came from another topic is a phantom.
        if each.id in run.sendings and each.place.topic == run.sendings[each.id].invoke["topic"]:
            places[each.id].setdefault(each.place, each)
    for name, found in places.items():
        sending = run.sendings[name]
        elsewhere = None if sending.settled is None or sending.outcome != "ok" else _elsewhere(sending, found)
        if len(found) > 1 or elsewhere is not None:
            where = [str(place) for place in found] + ([f"{elsewhere} by its receipt"] if elsewhere else [])
            lines = tuple(each.line for each in found.values())
            yield Finding(Kind.STORED_TWICE, f"{name} lies at {' and '.join(where)}", (sending.invoke, *lines))


def _elsewhere(sending: Sending, found: dict[Place, Delivered]) -> str | None:
    """Where a receipt says that a record lies, if it was delivered from elsewhere only."""
    receipt = sending.settled or sending.invoke
    topic, partition, position = receipt["topic"], receipt["partition"], receipt["position"]
    if any((each.topic, each.partition) == (topic, partition) and position in {None, each.position} for each in found):
        return None
    return f"{topic}[{partition}]@{position}"


def unsettled(run: Run) -> Iterator[Finding]:
    """What is lost, left out or stuck: in the log, and in the groups of which the broker said how they stand."""
    seen = frozenset(each.id for each in run.seen)
    yield from _lost_from_log(run)
    for group in run.groups.values():
        if group.drained is None:
            continue
        if not group.is_drained:
            message = f"group {group.name}: {group.drained['lag']} records unsettled when the time to recover was up"
            yield Finding(Kind.STUCK, message, (group.drained,))
            continue
        yield from _lost(run, group, seen)
        yield from _holes(group)


def is_stored(sending: Sending, seen: frozenset[str | None]) -> bool:
    """Whether a record certainly lies in the log: it was reported so, or seen."""
    return sending.outcome == "ok" or (sending.outcome == "unknown" and sending.id in seen)


def _lost(run: Run, group: Group, seen: frozenset[str | None]) -> Iterator[Finding]:
    assert group.drained is not None
    here = {each.id for each in group.deliveries}
    for name, sending in run.sendings.items():
        sent = sending.invoke
        before_the_group = group.from_latest and sent["at"] <= group.ready_at
        if name not in here and is_stored(sending, seen) and not before_the_group and sending.by(group.drained["at"]):
            lines = (sent, *([sending.settled] if sending.settled else []), group.drained)
            yield Finding(Kind.LOST, f"{name} was stored, and never delivered to group {group.name}", lines)


def _lost_from_log(run: Run) -> Iterator[Finding]:
    found = {each.id for each in run.log}
    for name, sending in run.sendings.items():
        end = run.read_back.get(sending.invoke["topic"])
        if end is not None and sending.outcome == "ok" and name not in found and sending.by(end["at"]):
            lines = (sending.invoke, sending.settled or sending.invoke, end)
            yield Finding(Kind.LOST, f"{name} was reported stored, and does not lie in the log", lines)


def _holes(group: Group) -> Iterator[Finding]:
    assert group.drained is not None
    handled = {each.id for each in group.handlings if each.success or _given_up(each, group)}
    told: set[str | None] = set()
    for each in group.deliveries:
        if each.id not in handled and each.id not in told and each.at <= group.drained["at"]:
            told.add(each.id)
            message = f"{each.id} at {each.place} was never handled to the end, though group {group.name} is drained"
            yield Finding(Kind.HOLE, message, (each.line, group.drained))


def _given_up(handling: Handling, group: Group) -> bool:
    """Whether it failed and was acked nevertheless, as for a dead letter."""
    ack = group.acks_invoked.get(handling.place)
    return handling.ended is not None and ack is not None and ack["at"] >= handling.until

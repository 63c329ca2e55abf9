"""Correct runs of a small bus are valid, whatever happens in them; with one defect planted, that defect is found."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import assume, given, note, settings
from hypothesis import strategies as st

from conformance_tests.tests.made import Made
from conformance_tests.tests.small_bus import SmallBus
from eventbus_conformance.checker import Expectations, Kind, Verdict
from eventbus_conformance.checker.judging import judge_lines

Line = dict[str, Any]

seeds = st.integers(0, 2**40)


def judged(made: Made, **expected: Any) -> Verdict:
    verdict = judge_lines(made.lines, Expectations(min_events=0, min_members=0, min_partitions=0, **expected))
    note(verdict.explain())
    return verdict


@settings(max_examples=400)
@given(seed=seeds)
def test_a_correct_run_breaks_no_promise(seed: int) -> None:
    verdict = judged(SmallBus(random.Random(seed)).run())
    assert verdict.findings == []


@settings(max_examples=100)
@given(seed=seeds)
def test_a_correct_run_without_faults_repeats_nothing(seed: int) -> None:
    verdict = judged(SmallBus(random.Random(seed), faults=False).run(), overlap="never")
    assert (verdict.outcome, verdict.counts["repeated"]) == ("valid", 0)


Plant = Callable[[list[Line], random.Random], None]
PLANTS: dict[Kind, Plant] = {}


def planted(kind: Kind) -> Callable[[Plant], Plant]:
    def register(plant: Plant) -> Plant:
        PLANTS[kind] = plant
        return plant

    return register


@pytest.mark.parametrize("kind", Kind)
@settings(max_examples=60)
@given(seed=seeds)
def test_a_planted_defect_is_found(kind: Kind, seed: int) -> None:
    chance = random.Random(seed)
    # A freeze excuses one handling of each member, so there a defect may hide; the hand-made histories cover it.
    faults = kind is not Kind.DUPLICATES
    made = SmallBus(chance, faults=faults, freezes=False).run()
    PLANTS[kind](made.lines, chance)
    assert kind in judged(made).kinds


def pick(lines: list[Line], chance: random.Random, event: str, fits: Callable[[Line], bool] = bool) -> int:
    """Where some such line is."""
    found = [number for number, line in enumerate(lines) if line["event"] == event and fits(line)]
    assume(found)
    return chance.choice(found)


def stored(lines: list[Line]) -> set[str]:
    return {line["id"] for line in lines if line["event"] == "send-ok"}


def insert_after(lines: list[Line], number: int, *new: Line) -> None:
    """Put lines between this one and the next."""
    at = lines[number]["at"]
    for place, line in enumerate(new, 1):
        lines.insert(number + place, {**line, "at": at + place / (len(new) + 1)})


def again(line: Line, event: str, by: str | None = None) -> Line:
    """A line of a handling, made from another line of it."""
    return {**line, "event": event, "by": by or line["by"]}


@planted(Kind.LOST)
def lose(lines: list[Line], chance: random.Random) -> None:
    ok = stored(lines)
    gone = lines[pick(lines, chance, "deliver", lambda line: line["id"] in ok)]
    record = {"deliver", "handle-start", "handle-end"}
    lines[:] = [line for line in lines if line["event"] not in record or line["id"] != gone["id"]]


@planted(Kind.PHANTOM)
def invent(lines: list[Line], chance: random.Random) -> None:
    name = lines[pick(lines, chance, "deliver")]["id"]
    lines[:] = [line for line in lines if not (line["event"].startswith("send-") and line["id"] == name)]


@planted(Kind.ABORTED)
def abort(lines: list[Line], chance: random.Random) -> None:
    delivered = {line["id"] for line in lines if line["event"] == "deliver"}
    line = lines[pick(lines, chance, "send-ok", lambda line: line["id"] in delivered)]
    line.update(event="send-failed", error="no")


@planted(Kind.CORRUPT)
def corrupt(lines: list[Line], chance: random.Random) -> None:
    line = lines[pick(lines, chance, "deliver")]
    line.update(chance.choice([{"sha256": "0"}, {"key": "other"}, {"kseq": 99}]))


@planted(Kind.HOLE)
def leave_out(lines: list[Line], chance: random.Random) -> None:
    name = lines[pick(lines, chance, "handle-end")]["id"]
    lines[:] = [line for line in lines if line["event"] != "handle-end" or line["id"] != name]


@planted(Kind.UNSTUCK)
def come_back(lines: list[Line], chance: random.Random) -> None:
    ack = pick(lines, chance, "ack-ok")
    position = chance.choice(lines[ack]["positions"])
    place = lines[ack]["topic"], lines[ack]["partition"], position
    delivered = lines[
        pick(
            lines,
            chance,
            "deliver",
            lambda line: (line["topic"], line["partition"], line["position"]) == place,
        )
    ]
    changes = [number for number, line in enumerate(lines) if line["event"] in {"holds", "join", "fault-begin"}]
    later = [number for number in changes if number > ack]
    assume(later)
    insert_after(lines, chance.choice(later), again(delivered, "deliver", "heir"))


@planted(Kind.REORDERED)
def exchange(lines: list[Line], chance: random.Random) -> None:
    """Handle the second of two neighbours of a key before the first, at its first handling."""
    firsts: dict[str, int] = {}
    for number, line in enumerate(lines):
        if line["event"] == "handle-start":
            firsts.setdefault(line["id"], number)
    pairs = [(each, following(each)) for each in firsts if following(each) in firsts]
    assume(pairs)
    one, other = chance.choice(pairs)
    early = {**lines[firsts[other]], "at": lines[firsts[one]]["at"] - 0.5}
    lines.insert(firsts[one], early)
    lines.insert(firsts[one] + 1, {**early, "event": "handle-end", "at": early["at"] + 0.1})


def following(name: str) -> str:
    key, kseq = name.split("/")
    return f"{key}/{int(kseq) + 1}"


@planted(Kind.OVERLAP)
def overlap(lines: list[Line], chance: random.Random) -> None:
    number = pick(lines, chance, "handle-start")
    ended = any(line["event"] == "handle-end" and same(line, lines[number]) for line in lines[number:])
    assume(ended)
    line = lines[number]
    insert_after(lines, number, again(line, "handle-start", "intruder"), again(line, "handle-end", "intruder"))


def same(one: Line, other: Line) -> bool:
    return all(one[name] == other[name] for name in ("by", "topic", "partition", "position"))


@planted(Kind.STORED_TWICE)
def store_twice(lines: list[Line], chance: random.Random) -> None:
    copy = {**lines[pick(lines, chance, "deliver")], "position": "999"}
    insert_after(lines, len(lines) - 2, copy, again(copy, "handle-start"), again(copy, "handle-end"))


@planted(Kind.DUPLICATES)
def repeat(lines: list[Line], chance: random.Random) -> None:
    number = pick(lines, chance, "handle-end")
    insert_after(lines, number, again(lines[number], "handle-start"), lines[number])


@planted(Kind.STUCK)
def get_stuck(lines: list[Line], chance: random.Random) -> None:
    lines[pick(lines, chance, "drained")]["lag"] = 3

"""What a run did not show makes it unknown, never a pass."""

from pathlib import Path

import pytest

from conformance_tests.tests.good_histories import good, two_members
from conformance_tests.tests.made import Made, ids


def without(made: Made, event: str) -> Made:
    kept = Made()
    kept.lines = [each for each in made.lines if each["event"] != event]
    return kept


UNKNOWN = {
    "too few records": (good(), {"min_events": 13}, "12 records handled, at least 13 wanted"),
    "members that never shared": (good(), {"min_members": 3}, "2 members with work"),
    "one partition": (good(), {"min_partitions": 3}, "2 partitions with work"),
    "nothing moved": (good(), {"min_moves": 1}, "0 moves of a partition"),
    "no fault": (good(), {"min_faults": 1}, "0 faults with an effect"),
    "every outcome known": (good(), {"min_unknown_sends": 1}, "0 sendings of unknown outcome"),
    "nothing came again": (good(), {"min_redelivered": 1}, "0 repeated handlings"),
    "nobody asked whether it is drained": (without(good(), "drained"), {}, "never asked whether it is drained"),
    "reported stored after the end": (
        good().invoke("a/6").drained().line("send-ok", "sender", id="a/6", topic="t", partition=0, position="6"),
        {},
        "1 records (a/6...) were reported stored only after group g was drained",
    ),
    "no group": (Made().sent("a/0"), {"min_events": 0}, "no group did anything"),
    "a fault without effect": (
        two_members().took("m1", "a/0").fault("network", everybody=True).healed(0).took("m1", *ids("a", 1, 5)),
        {},
        "no effect of it was seen",
    ),
    "a fault that came too late": (good().killed("m1").drained(), {}, "nothing was handled after it"),
    "a killed member that goes on": (
        two_members().killed("m2").took("m1", *ids("a", 0, 5)).took("m2", *ids("b", 0, 5)).drained(),
        {},
        "m2 still wrote after it",
    ),
}


@pytest.mark.parametrize("name", UNKNOWN)
def test_unknown(name: str, tmp_path: Path) -> None:
    made, expected, doubt = UNKNOWN[name]
    verdict = made.judged(tmp_path, **expected)
    assert verdict.outcome == "unknown", verdict.explain()
    assert any(doubt in each for each in verdict.doubts), verdict.doubts
    assert f"not shown: {verdict.doubts[0]}" in verdict.explain()


def test_a_loss_without_a_fault_explains_what_it_repeated_and_leaves_a_doubt(tmp_path: Path) -> None:
    made = two_members().deliver("m1", "a/0", "a/1").handled("m1", "a/0", "a/1")
    made.line("lost", "m1", group="g", topic="t", partition=0, reason="the lease ran out").holds("m2", 0, 1)
    verdict = made.took("m2", *ids("a", 0, 5), *ids("b", 0, 5)).drained().judged(tmp_path)
    assert verdict.outcome == "unknown", verdict.explain()
    assert "m1 lost t[0] and nothing had been done to it" in verdict.explain()


def test_a_loss_that_a_fault_explains_leaves_no_doubt(tmp_path: Path) -> None:
    made = two_members().deliver("m1", "a/0").handled("m1", "a/0").fault("network", "m1")
    made.line("lost", "m1", group="g", topic="t", partition=0, reason="the lease ran out").healed().holds("m2", 0, 1)
    assert made.took("m2", *ids("a", 0, 5), *ids("b", 0, 5)).drained().judged(tmp_path).outcome == "valid"

"""Hand-made histories: each good one is valid, each bad one is invalid for exactly the promise that it breaks."""

import json
import time
from pathlib import Path

import pytest

from conformance_tests.tests.bad_order import BAD_ORDER
from conformance_tests.tests.bad_records import BAD_RECORDS
from conformance_tests.tests.good_histories import GOOD, good, kill_with_two_unacked, two_members
from conformance_tests.tests.made import Made, ids
from eventbus_conformance.checker import Expectations, Kind, begin, judge
from eventbus_conformance.history import History

BAD = BAD_RECORDS | BAD_ORDER


@pytest.mark.parametrize("name", GOOD)
def test_good(name: str, tmp_path: Path) -> None:
    verdict = GOOD[name].judged(tmp_path, retries=name.count("retry"))
    assert verdict.outcome == "valid", verdict.explain()


@pytest.mark.parametrize("name", BAD)
def test_bad(name: str, tmp_path: Path) -> None:
    kind, made = BAD[name]
    verdict = made.judged(tmp_path, retries=1 if kind is Kind.REORDERED else 0)
    assert (verdict.outcome, verdict.kinds) == ("invalid", {kind}), verdict.explain()
    assert all(each.lines for each in verdict.findings)
    assert f"{kind.value}: " in verdict.explain()


def test_one_exchange_is_one_finding(tmp_path: Path) -> None:
    made = Made().sent(*ids("a", 0, 2)).join("m1", 0).deliver("m1", *ids("a", 0, 2))
    verdict = made.handled("m1", "a/0", "a/2", "a/1").drained().judged(tmp_path)
    assert [each.message for each in verdict.findings] == [
        "t/a: a/2 (by m1) after a/0, though a/1 had not been handled"
    ]


def test_a_second_copy_is_not_out_of_order(tmp_path: Path) -> None:
    made = Made().sent(*ids("a", 0, 3)).join("m1", 0).deliver("m1", *ids("a", 0, 3)).handled("m1", *ids("a", 0, 3))
    made.deliver("m1", "a/1", position="4").start("m1", "a/1", position="4").end("m1", "a/1", position="4").drained()
    assert made.judged(tmp_path, stored_once=False).outcome == "valid"


def test_every_kind_has_a_bad_history() -> None:
    assert {kind for kind, _ in BAD.values()} == set(Kind)


PROMISED_LESS = {
    "two records exchanged": {"ordered": False},
    "at two positions": {"stored_once": False},
    "twice without a reason": {"retries": 1},
}


@pytest.mark.parametrize("name", PROMISED_LESS)
def test_what_is_not_promised_is_not_judged(name: str, tmp_path: Path) -> None:
    assert BAD[name][1].judged(tmp_path, **PROMISED_LESS[name]).outcome == "valid"


def test_a_freeze_explains_nothing_where_no_overlap_is_promised(tmp_path: Path) -> None:
    verdict = GOOD["a freeze with one handling in progress"].judged(tmp_path, overlap="never")
    assert verdict.kinds == {Kind.OVERLAP}


def test_members_may_overlap_where_moves_are_not_announced(tmp_path: Path) -> None:
    made = two_members().took("m1", "a/0").deliver("m1", *ids("a", 1, 3)).holds("m2", 0, 1).start("m1", "a/1")
    made.deliver("m2", *ids("a", 1, 3)).handled("m2", "a/1", "a/2").end("m1", "a/1").handled("m1", "a/2")
    made.handled("m2", "a/3").ack("m2", *ids("a", 1, 3)).took("m2", "a/4", "a/5", *ids("b", 0, 5)).drained()
    path = made.written(tmp_path)
    assert judge(path).kinds >= {Kind.OVERLAP, Kind.DUPLICATES}
    verdict = judge(path, Expectations(overlap="allowed", announced_moves=False))
    assert verdict.outcome == "valid", verdict.explain()


def test_unannounced_moves_may_repeat(tmp_path: Path) -> None:
    made = two_members().took("m1", "a/0").deliver("m1", "a/1").handled("m1", "a/1").holds("m1").holds("m2", 0, 1)
    made.took("m2", *ids("a", 1, 5), *ids("b", 0, 5)).drained()
    path = made.written(tmp_path)
    assert judge(path).kinds == {Kind.DUPLICATES}
    assert judge(path, Expectations(announced_moves=False)).outcome == "valid"


def test_one_fault_repeats_no_more_than_is_in_flight(tmp_path: Path) -> None:
    path = kill_with_two_unacked().took("m2", *ids("a", 2, 5)).drained().written(tmp_path)
    assert judge(path, Expectations(max_in_flight=2)).outcome == "valid"
    assert judge(path, Expectations(max_in_flight=1)).kinds == {Kind.DUPLICATES}


def test_a_finding_outweighs_a_doubt(tmp_path: Path) -> None:
    assert BAD["never sent"][1].judged(tmp_path, min_events=1000).outcome == "invalid"


def test_counts_say_how_much_there_was(tmp_path: Path) -> None:
    made = GOOD["a kill that repeats what was not acked"]
    counts = made.judged(tmp_path).counts
    takeover = next(
        each["at"]
        for each in made.lines
        if each["event"] == "handle-start" and (each["by"], each["id"]) == ("m2", "a/2")
    )
    killed = next(each["at"] for each in made.lines if each["event"] == "fault-begin")
    assert counts == {
        "sent": 12,
        "stored": 12,
        "failed": 0,
        "unknown": 0,
        "delivered": 16,
        "handled": 12,
        "repeated": 2,
        "members": 2,
        "partitions": 2,
        "moves": 1,
        "faults": 1,
        "worst takeover seconds": takeover - killed,
    }


def test_a_takeover_is_of_what_was_held_when_the_fault_began(tmp_path: Path) -> None:
    made = two_members().holds("m1").holds("m2", 0, 1).killed("m1").took("m2", *ids("a", 0, 5), *ids("b", 0, 5))
    assert made.drained().judged(tmp_path).counts["worst takeover seconds"] == 0


def test_more_torn_lines_than_deaths_are_a_doubt(tmp_path: Path) -> None:
    path = GOOD["a kill that repeats what was not acked"].written(tmp_path)
    for torn, outcome in enumerate(("valid", "valid", "unknown")):
        if torn:
            path.write_bytes(path.read_bytes() + b'{"event": "no\n')
        assert judge(path).outcome == outcome


def test_many_lines_are_judged_in_a_few_seconds(tmp_path: Path) -> None:
    made = Made()
    keys = "abcd"
    made.sent(*(each for key in keys for each in ids(key, 0, 3499)))
    for number, key in enumerate(keys):
        made.join(f"m{key}", number).took(f"m{key}", *ids(key, 0, 3499))
    path = made.drained().written(tmp_path)
    assert len(History(path).lines()) > 95_000
    started = time.process_time()
    assert judge(path, Expectations(min_events=14_000)).outcome == "valid"
    assert time.process_time() - started < 10


def test_what_is_no_history_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "history.jsonl"
    with pytest.raises(FileNotFoundError):
        judge(path)
    path.touch()
    with pytest.raises(ValueError, match="empty"):
        judge(path)
    path.write_text(json.dumps(good().lines[0]) + "\n")
    with pytest.raises(ValueError, match="does not begin with its expectations"):
        judge(path)
    with pytest.raises(FileExistsError):
        begin(path, Expectations())
    path.write_text(json.dumps({"event": "expectations", "by": "test", "version": 99, "at": 0.0}) + "\n")
    with pytest.raises(ValueError, match="version 99"):
        judge(path)


@pytest.mark.parametrize(
    "line", [{"event": "surprise"}, {"event": "send-ok", "id": "never invoked"}, {"event": "deliver", "group": "g"}]
)
def test_a_line_that_belongs_to_no_history_is_refused(line: dict[str, str], tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no line of a history"):
        good().line(by="m1", **line).judged(tmp_path)


def test_an_id_is_of_one_record(tmp_path: Path) -> None:
    made = Made().invoke("a/0").line("send-invoke", "s", topic="t", id="a/0", key="b", kseq=0, sha256="5")
    with pytest.raises(ValueError, match="given to two records"):
        made.judged(tmp_path)


def test_a_sending_is_named_once(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="given to two records"):
        good().sent("a/0").judged(tmp_path)

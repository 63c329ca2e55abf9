"""Histories are written by several processes, some of which are killed, and read meanwhile."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from eventbus_conformance.checker import Expectations, begin
from eventbus_conformance.history import History, Writer
from eventbus_conformance.numbered import digest, numbered, read_numbered
from eventbus_core.records import Delivery, Position, Record, Stored


def delivery(name: str, key: str = "k", kseq: int = 0, partition: int = 1) -> Delivery:
    record = numbered(name, key, kseq, b"value")
    return Delivery(Record("t", b"value", key.encode(), record.headers), partition, Position(3, kseq))


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "history.jsonl"
    begin(path, Expectations(min_events=7), broker="none")
    return path


def test_the_first_line_says_what_is_expected(path: Path) -> None:
    first = History(path).lines()[0]
    assert Expectations.read(first) == Expectations(min_events=7)
    assert first["about"] == {"broker": "none"}


def test_without_a_first_line_nothing_can_be_written(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        Writer(tmp_path / "history.jsonl", "m1")


def test_a_history_is_read_while_it_is_written(path: Path) -> None:
    history = History(path)
    with Writer(path, "m1") as first, Writer(path, "m2") as second:
        first.holds("g", [("t", 2), ("t", 1)])
        first.deliver("g", delivery("a", kseq=0))
        assert history.count() == 0
        first.handle_start("g", delivery("a", kseq=0))
        assert history.count() == 1
        second.deliver("g", delivery("b", kseq=1))
        second.handle_start("g", delivery("b", kseq=1))
    assert history.handled_by() == {"m1": 1, "m2": 1}
    assert history.held("m1") == {1, 2}
    one, other = history.handled()
    assert (one.member, one.pid, one.key, one.seq, one.partition) == ("m1", os.getpid(), "k", 0, 1)
    assert (one.position, other.seq) == (Position(3, 0), 1)
    assert one.at <= other.at
    assert [each.member for each in history.handled("m2")] == ["m2"]
    assert history.events("leave") == []


def test_every_line_says_who_wrote_it_and_when(path: Path) -> None:
    one, other = delivery("a", kseq=0), delivery("b", kseq=1, partition=2)
    with Writer(path, "all") as writer:
        writer.send_invoke("t", numbered("a", "k", 0, b"value"))
        writer.send_ok("a", Stored("t", 1, Position(3, 0), 0))
        writer.send_ok("b", Stored("t", 1, None, 0))
        writer.send_failed("c", ValueError("no"))
        writer.send_unknown("d", TimeoutError())
        writer.handle_end("g", one)
        writer.handle_failed("g", other)
        writer.ack_invoke("g", [one, other])
        writer.ack_ok("g", [one])
        with writer.fault("freeze", ["m1"]) as fault:
            fault.saw(2)
        writer.drained("g", 0)
    lines = History(path).lines()[1:]
    assert {each["by"] for each in lines} == {"all"}
    assert [each["at"] for each in lines] == sorted(each["at"] for each in lines)
    told = [{name: value for name, value in each.items() if name not in {"by", "pid", "at"}} for each in lines]
    place = {"group": "g", "topic": "t", "partition": 1}
    assert told == [
        {"event": "send-invoke", "topic": "t", "id": "a", "key": "k", "kseq": 0, "sha256": digest(b"value")},
        {"event": "send-ok", "id": "a", "topic": "t", "partition": 1, "position": "3-0"},
        {"event": "send-ok", "id": "b", "topic": "t", "partition": 1, "position": None},
        {"event": "send-failed", "id": "c", "error": "ValueError('no')"},
        {"event": "send-unknown", "id": "d", "error": "TimeoutError()"},
        {"event": "handle-end", "id": "a", "position": "3-0", **place},
        {"event": "handle-failed", "id": "b", "position": "3-1", **place, "partition": 2},
        {"event": "ack-invoke", "positions": ["3-0"], **place},
        {"event": "ack-invoke", "positions": ["3-1"], **place, "partition": 2},
        {"event": "ack-ok", "positions": ["3-0"], **place},
        {"event": "fault-begin", "fault": told[10]["fault"], "kind": "freeze", "members": ["m1"]},
        {"event": "fault-end", "fault": told[10]["fault"], "seen": 2},
        {"event": "drained", "group": "g", "lag": 0},
    ]


def test_faults_are_told_apart(path: Path) -> None:
    with Writer(path, "one") as one, one.fault("broker-kill") as first, one.fault("kill", ["m1"]) as second:
        assert first.number != second.number
    assert [each["members"] for each in History(path).events("fault-begin")] == [None, ["m1"]]
    assert [each["fault"] for each in History(path).events("fault-end")] == [second.number, first.number]


def test_a_fault_that_raises_has_ended(path: Path) -> None:
    with Writer(path, "test") as writer, pytest.raises(RuntimeError), writer.fault("network"):
        raise RuntimeError
    assert [each["seen"] for each in History(path).events("fault-end")] == [0]


def test_a_torn_line_costs_only_itself(path: Path) -> None:
    history = History(path)
    with path.open("ab") as file, Writer(path, "m2") as writer:
        file.write(b'{"event": "note", "by": "m1", "what": "\\\\"{\\\\"event\\\\": ')
        file.flush()
        assert len(history.lines()) == 1
        writer.note("after a kill")
        writer.note("and on")
        file.write(b'{"event": "no')
    assert [each["what"] for each in history.events("note")] == ["after a kill", "and on"]
    assert history.torn == 1


def test_lines_of_many_processes_do_not_mix(path: Path) -> None:
    program = (
        "import sys; from pathlib import Path; from eventbus_conformance.history import Writer\n"
        "writer = Writer(Path(sys.argv[1]), sys.argv[2])\n"
        "for number in range(2000): writer.note('x' * (number % 300), number=number)"
    )
    names = [f"m{number}" for number in range(4)]
    running = [subprocess.Popen([sys.executable, "-c", program, str(path), name]) for name in names]
    assert [each.wait(60) for each in running] == [0] * 4
    history = History(path)
    for name in names:
        assert [each["number"] for each in history.events("note", name)] == list(range(2000))
    assert history.torn == 0


def test_a_record_says_which_it_is() -> None:
    sent = numbered("a", "k", 3, b"value")
    assert read_numbered(Record("t", b"value", b"k", sent.headers)) == sent
    assert read_numbered(Record("t", b"other", b"k", sent.headers)) != sent
    assert numbered("a", "k", 3, None).sha256 != numbered("a", "k", 3, b"").sha256
    stranger = read_numbered(Record("t", b"value", b"\xff"))
    assert (stranger.id, stranger.kseq, stranger.key) == (None, -1, "\\xff")
    json.dumps(stranger)

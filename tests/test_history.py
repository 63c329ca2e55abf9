import json
import os

from eventbus_conformance.history import Handled, History, Writer, duplicated, lost, phantoms, reordered, stored_twice
from eventbus_core.records import Delivery, Position, Record


def handled(*numbers: int, key: str = "k", partition: int = 0, member: str = "m") -> list[Handled]:
    return [Handled(member, 1, key, seq, partition, Position(seq), float(at)) for at, seq in enumerate(numbers)]


SENT = [("k", number) for number in range(4)]


def test_a_clean_history_has_no_faults():
    clean = handled(0, 1, 2, 3)
    assert [lost(SENT, clean), phantoms(SENT, clean), duplicated(clean), reordered(clean), stored_twice(clean)] == [
        []
    ] * 5


def test_what_is_missing_is_lost():
    assert lost(SENT, handled(0, 1, 3)) == [("k", 2)]


def test_what_was_never_sent_is_a_phantom():
    assert phantoms(SENT, handled(0, 1, 2, 3, 4)) == [("k", 4)]


def test_a_later_record_first_is_reordered():
    assert len(reordered(handled(0, 2, 1, 3))) == 1
    assert reordered([*handled(0, 1), *handled(0, 1, key="other")]) == []


def test_going_back_over_what_was_handled_is_a_repeat_and_no_reorder():
    repeated = handled(0, 1, 2, 1, 2, 3)
    assert reordered(repeated) == []
    assert duplicated(repeated) == [("k", 1), ("k", 2)]
    assert stored_twice(repeated) == []


def test_going_back_to_what_was_left_out_is_reordered():
    assert len(reordered(handled(0, 1, 3, 1, 2, 3))) == 1


def test_one_record_at_two_places_is_stored_twice():
    again = [each._replace(position=Position(9)) for each in handled(2)]
    assert stored_twice([*handled(0, 1, 2, 3), *again]) == [("k", 2)]


def test_a_history_is_read_while_it_is_written(tmp_path):
    path = tmp_path / "history"
    history = History(path)
    assert history.count() == 0
    with Writer(path, "m1") as first, Writer(path, "m2") as second:
        first.note("holds", partitions=[1, 2])
        first.handled(Delivery(Record("t", b"7", b"k"), 1, Position(3, 4)))
        assert history.count() == 1
        second.handled(Delivery(Record("t", b"8", b"k"), 1, Position(3, 5)))
    with path.open("ab") as file:
        file.write(json.dumps({"event": "joined", "member": "m3"}).encode()[:10])
    assert history.handled_by() == {"m1": 1, "m2": 1}
    assert history.held("m1") == {1, 2}
    one, other = history.handled()
    assert (one.member, one.pid, one.key, one.seq, one.partition) == ("m1", os.getpid(), "k", 7, 1)
    assert one.position == Position(3, 4)
    assert one.at <= other.at
    assert history.events("joined") == []

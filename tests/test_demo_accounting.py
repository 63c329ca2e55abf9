import pytest

from eventbus_core.cli.demo_accounting import Handled, account, takeover_seconds
from eventbus_core.cli.demo_history import HistoryReader, HistoryWriter

PUBLISHED = [("a", 0), ("a", 1), ("a", 2), ("b", 0)]


def test_all_handled_once_in_order():
    found = account(PUBLISHED, [("a", 0), ("b", 0), ("a", 1), ("a", 2)])
    assert found == (4, 4, 0, 0, 0, 0)
    assert found.good


def test_an_event_never_handled_is_lost():
    found = account(PUBLISHED, [("a", 0), ("b", 0), ("a", 2)])
    assert (found.handled, found.lost) == (3, 1)
    assert not found.good


def test_a_second_handling_is_a_duplicate_and_no_disorder():
    found = account(PUBLISHED, [("a", 0), ("a", 1), ("a", 0), ("a", 1), ("a", 2), ("b", 0)])
    assert (found.duplicated, found.out_of_order, found.lost) == (2, 0, 0)
    assert found.good


def test_a_first_handling_behind_a_later_event_of_the_key_is_out_of_order():
    found = account(PUBLISHED, [("a", 1), ("a", 0), ("b", 0), ("a", 2)])
    assert (found.out_of_order, found.lost, found.duplicated) == (1, 0, 0)
    assert not found.good


def test_every_event_behind_a_later_one_counts():
    assert account(PUBLISHED, [("a", 2), ("a", 0), ("a", 1), ("b", 0)]).out_of_order == 2


def test_an_event_that_nobody_published_is_unexpected_unless_its_send_is_uncertain():
    history = [*PUBLISHED, ("c", 0)]
    assert account(PUBLISHED, history).unexpected == 1
    assert not account(PUBLISHED, history).good
    assert account(PUBLISHED, history, uncertain=[("c", 0)]).good


def handled(member: str, partition: int, at: float) -> Handled:
    return Handled(("a", 0), member, partition, at)


def test_takeover_ends_with_the_last_of_the_victims_partitions():
    history = [
        handled("victim", 0, 1.0),
        handled("victim", 1, 1.0),
        handled("other", 2, 1.0),
        handled("victim", 2, 0.5),
        handled("other", 0, 4.0),
        handled("third", 1, 6.0),
        handled("third", 1, 9.0),
    ]
    assert takeover_seconds(history, "victim", killed_at=2.0) == pytest.approx(4.0)


def test_no_takeover_when_the_victim_held_nothing():
    history = [handled("victim", 0, 1.0), handled("other", 0, 1.5), handled("other", 0, 4.0)]
    assert takeover_seconds(history, "victim", killed_at=2.0) is None


def test_a_history_comes_back_in_the_order_of_all_its_writers(tmp_path):
    path = tmp_path / "history"
    reader = HistoryReader(path)
    first, second = HistoryWriter(path, "m1"), HistoryWriter(path, "m2")
    first.joined()
    second.handled(3, ("a", 0))
    first.handled(4, ("a", 1))
    reader.read()
    second.handled(3, ("a", 0))
    reader.read()
    assert reader.joined == {"m1"}
    assert [each.event for each in reader.handled] == [("a", 0), ("a", 1), ("a", 0)]
    assert reader.holders == {3: "m2", 4: "m1"}
    assert reader.seen == {("a", 0), ("a", 1)}
    for each in (reader, first, second):
        each.close()

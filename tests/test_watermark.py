"""From acks in any order to gap-free prefixes."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from eventbus_core.records import Assignment
from eventbus_core.watermark import Watermark
from tests.scripted import deliveries


@given(st.permutations(range(12)), st.integers(0, 12))
def test_a_prefix_never_covers_what_is_not_acked(order: list[int], count: int) -> None:
    watermark = Watermark()
    items = deliveries(Assignment("t", 0, 1), range(12))
    watermark.deliver(items)
    acked: set[int] = set()
    taken = -1
    for number in order[:count]:
        watermark.settle([items[number]])
        watermark.settle([items[number]])  # repeating is harmless
        acked.add(number)
        prefix = watermark.take_prefix()
        if prefix is not None:
            assert prefix.order > taken
            taken = prefix.order
        assert acked >= set(range(taken + 1))
        assert taken + 1 not in acked  # the prefix is as long as it can be
    assert len(watermark) == 12 - (taken + 1)


def test_what_nobody_received_can_be_retracted() -> None:
    watermark = Watermark()
    items = deliveries(Assignment("t", 0, 1), range(5))
    watermark.deliver(items)
    watermark.retract(3)
    assert [watermark.settle([each]) for each in items[:2]] == [1, 1]
    assert len(watermark) == 0


def test_a_prefix_that_did_not_get_through_is_taken_again_unless_it_grew() -> None:
    watermark = Watermark()
    items = deliveries(Assignment("t", 0, 1), range(3))
    watermark.deliver(items)
    watermark.settle(items[:1])
    first = watermark.take_prefix()
    assert first is items[0]
    watermark.put_back(first)
    assert watermark.take_prefix() is items[0]
    watermark.settle(items[1:2])
    watermark.put_back(items[0])
    assert watermark.take_prefix() is items[1]

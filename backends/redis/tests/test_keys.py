from __future__ import annotations

import pytest
from redis.crc import key_slot

from eventbus_core.errors import InvalidRecord
from eventbus_redis.keys import Keys


def test_all_keys_of_a_partition_lie_in_one_slot():
    keys = Keys("eb")
    slots = set()
    for partition in range(16):
        mine = {
            key_slot(each.encode())
            for each in (
                keys.stream("a.b", partition),
                keys.meta("a.b", partition),
                keys.cursor("a.b", partition, "g-1"),
            )
        }
        assert len(mine) == 1
        slots |= mine
    assert len(slots) > 8  # and partitions are spread


def test_what_one_script_touches_of_a_group_lies_in_one_slot():
    keys = Keys("eb")
    assert len({key_slot(each("t", "g", "1").encode()) for each in (keys.members, keys.leases)}) == 1
    assert len({key_slot(each("t").encode()) for each in (keys.topic, keys.groups)}) == 1


def test_names_that_would_break_the_tag_are_refused():
    for name in ("", "a{b", "a}b", "a|b"):
        with pytest.raises(InvalidRecord):
            Keys("eb").stream(name, 0)

"""Sharing by leases, over the memory backend's store: never two owners, quotas, announced moves, expiry."""

from __future__ import annotations

import random
import uuid
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from eventbus_core import Unavailable
from eventbus_core.backend import Assigned, Group, Lost, Revoking
from eventbus_core.backend.leases import Beat, LeasedConsumer, quota
from eventbus_core.memory import MemoryBackend, MemorySettings
from eventbus_core.records import Assignment, lease_clock
from tests.waiting import wait_until


@given(st.sets(st.text(min_size=1, max_size=5), min_size=1, max_size=9), st.integers(0, 70), st.text(max_size=5))
def test_quotas_add_up_and_differ_by_one_at_most(members: set[str], partitions: int, topic: str) -> None:
    shares = [quota(each, members, topic, partitions) for each in members]
    assert sum(shares) == partitions
    assert max(shares) - min(shares) <= 1


class Sharing:
    """Members of one group, polled by hand."""

    def __init__(self, partitions: int, lease_seconds: float) -> None:
        self.backend = MemoryBackend(MemorySettings(name=uuid.uuid4().hex, lease_seconds=lease_seconds))
        self.backend.admin().create_topic("t", partitions)
        self.partitions = partitions
        self.holds: dict[LeasedConsumer, set[Assignment]] = {}
        self.moves = 0

    def join(self) -> LeasedConsumer:
        member = self.backend.consumer(Group("g", ("t",), "earliest", uuid.uuid4().hex, 5.0))
        self.holds[member] = set()
        return member

    def leave(self, member: LeasedConsumer) -> None:
        member.close()
        del self.holds[member]

    def poll(self, member: LeasedConsumer) -> None:
        for change in member.poll(0, 0.0, ()).changes:
            if isinstance(change, Assigned):
                self.holds[member].add(change.assignment)
                self.moves += 1
            elif isinstance(change, Revoking):
                member.release(change.assignment)
                self.holds[member].discard(change.assignment)
            elif isinstance(change, Lost):
                self.holds[member].discard(change.assignment)
        owned = [each.partition for holds in self.holds.values() for each in holds if each.owned]
        assert len(owned) == len(set(owned)), "two members own one partition"

    def balanced(self) -> bool:
        for member in list(self.holds):
            self.poll(member)
        sizes = [len([each for each in holds if each.owned]) for holds in self.holds.values()]
        return sum(sizes) == self.partitions and max(sizes) - min(sizes) <= 1


def test_members_that_join_and_leave_share_evenly_and_never_overlap() -> None:
    chance = random.Random(7)
    sharing = Sharing(partitions=16, lease_seconds=30.0)
    members = [sharing.join()]
    wait_until(sharing.balanced, 5, what="one member having all")
    for _ in range(12):
        if len(members) > 1 and chance.random() < 0.45:
            sharing.leave(members.pop(chance.randrange(len(members))))
        else:
            members.append(sharing.join())
        wait_until(sharing.balanced, 5, what=f"{len(members)} members sharing evenly")
    assert sharing.moves > 40


def test_a_member_that_joins_takes_no_more_than_its_share() -> None:
    sharing = Sharing(partitions=12, lease_seconds=30.0)
    for _ in range(3):
        sharing.join()
    wait_until(sharing.balanced, 5, what="three members sharing")
    sharing.moves = 0
    sharing.join()
    wait_until(sharing.balanced, 5, what="four members sharing")
    assert sharing.moves == 3


def test_a_silent_member_is_replaced_and_its_late_calls_change_nothing() -> None:
    sharing = Sharing(partitions=4, lease_seconds=0.5)
    silent = sharing.join()
    wait_until(sharing.balanced, 5, what="the first having all")
    holds = list(sharing.holds[silent])
    other = sharing.join()

    def taken_over() -> bool:
        sharing.poll(other)
        return len(sharing.holds[other]) == 4

    wait_until(taken_over, 5, what="the takeover")
    assert not any(each.owned for each in holds)
    silent.release(holds[0])  # the zombie wakes up
    assert all(each.owned for each in sharing.holds[other])
    polled = silent.poll(10, 0.0, ())
    assert {change.assignment for change in polled.changes if isinstance(change, Lost)} <= set(holds)
    assert not polled.deliveries


def test_a_hold_that_lapses_during_a_beat_stays_lost() -> None:
    sharing = Sharing(partitions=1, lease_seconds=0.6)
    member = sharing.join()
    wait_until(sharing.balanced, 5, what="the member having it")
    (hold,) = sharing.holds[member]
    store, started = member.beat, lease_clock()

    def slow(topic: str, held: Sequence[Assignment]) -> Beat:
        seen = store(topic, held)
        hold.valid_until = started  # as if the answer had taken longer than what was left
        return seen

    member.beat = slow  # type: ignore[method-assign]

    def lost() -> bool:
        return any(isinstance(each, Lost) and each.assignment is hold for each in member.poll(0, 0.05, ()).changes)

    wait_until(lost, 5, what="the loss")
    assert not hold.owned


def test_one_failing_release_does_not_keep_the_other_partitions() -> None:
    sharing = Sharing(partitions=3, lease_seconds=30.0)
    member = sharing.join()
    wait_until(sharing.balanced, 5, what="the member having all")
    give_back = member.give_back
    tried: list[int] = []

    def failing(assignment: Assignment) -> None:
        tried.append(assignment.partition)
        if assignment.partition == 1:
            raise Unavailable("away")
        give_back(assignment)

    member.give_back = failing  # type: ignore[method-assign]
    with pytest.raises(Unavailable):
        member.close()
    assert sorted(tried) == [0, 1, 2]
    del sharing.holds[member]
    other = sharing.join()

    def took_two() -> bool:
        sharing.poll(other)
        return len(sharing.holds[other]) == 2

    wait_until(took_two, 5, what="the released partitions at another member")


def test_a_seek_of_a_wanted_partition_leaves_nothing_behind() -> None:
    sharing = Sharing(partitions=2, lease_seconds=30.0)
    member = sharing.join()
    wait_until(sharing.balanced, 5, what="the member having all")
    sharing.join().poll(0, 0.0, ())
    member._next_beat = 0.0
    (revoking,) = [each for each in member.poll(0, 0.0, ()).changes if isinstance(each, Revoking)]
    member.seek(revoking.assignment, "earliest")
    assert not member._revoking

"""Backends over a store: operators' verbs, also when somebody else does the same meanwhile."""

from __future__ import annotations

import uuid

import pytest

from eventbus_core import Conflict, NotFound, Position, Record
from eventbus_core.backend import Group, Outgoing
from eventbus_core.backend.store.consumer import StoreConsumer
from tests.memory_store import ShelfBackend


@pytest.fixture
def backend() -> ShelfBackend:
    backend = ShelfBackend()
    backend.admin().create_topic("t", 1)
    return backend


def joined(backend: ShelfBackend) -> StoreConsumer:
    return backend.consumer(Group("g", ("t",), "earliest", uuid.uuid4().hex, 5.0))


def send(backend: ShelfBackend, *values: bytes) -> None:
    producer = backend.producer(max_records=100, max_bytes=1 << 20)
    producer.send([Outgoing(n, Record("t", value, b"k")) for n, value in enumerate(values)])
    assert len(producer.poll(0.0)) == len(values)


def test_a_group_with_members_is_left_alone_by_operators(backend: ShelfBackend) -> None:
    admin, member = backend.admin(), joined(backend)
    send(backend, b"a")
    member.poll(0, 0.0, ())
    assert [(each.name, each.topics, each.members) for each in admin.groups()] == [("g", ("t",), 1)]
    with pytest.raises(Conflict, match="has 1 members"):
        admin.set_position("g", "t", 0, "latest")
    with pytest.raises(Conflict, match="has 1 members"):
        admin.delete_group("g")
    member.close()
    admin.set_position("g", "t", 0, "latest")
    assert [each.records for each in admin.lag("g", "t")] == [0]
    admin.delete_group("g")
    assert admin.groups() == []
    with pytest.raises(NotFound, match="no group g"):
        admin.delete_group("g")
    with pytest.raises(NotFound, match="no position"):
        admin.lag("g", "t")


def test_a_topic_is_described_and_not_made_twice(backend: ShelfBackend) -> None:
    admin = backend.admin()
    send(backend, b"a", b"b")
    assert admin.topics() == ["t"]
    assert admin.describe_topic("t")[1:4] == (1, (Position(1, 0),), (Position(2, 0),))
    admin.create_topic("t", 1)
    with pytest.raises(Conflict, match="with 1 partitions, not 2"):
        admin.create_topic("t", 2)
    with pytest.raises(NotFound, match="no partition 1"):
        admin.read("t", 1, "earliest", 1, 0.0)
    with pytest.raises(NotFound, match="create it first"):
        admin.describe_topic("other")


def test_a_group_that_is_taken_up_while_it_is_moved_stays_where_it_is(backend: ShelfBackend) -> None:
    send(backend, b"a")
    joined(backend).close()

    def takes_it_up() -> None:
        backend.shelf.meanwhile["put"] = taken  # the first put is for the clock

    def taken() -> None:
        joined(backend).poll(0, 0.0, ())

    backend.shelf.meanwhile["put"] = takes_it_up
    with pytest.raises(Conflict, match="taken up by a member"):
        backend.admin().set_position("g", "t", 0, "latest")
    assert backend.admin().lag("g", "t")[0].settled == Position(1, 0)


def test_of_two_that_make_a_topic_one_does(backend: ShelfBackend) -> None:
    def another() -> None:
        backend.admin().create_topic("new", 2)
        send_to_new()

    def send_to_new() -> None:
        producer = backend.producer(max_records=100, max_bytes=1 << 20)
        producer.send([Outgoing(0, Record("new", b"a"))])
        assert len(producer.poll(0.0)) == 1

    backend.shelf.meanwhile["put"] = another
    with pytest.raises(Conflict, match="with 2 partitions, not 3"):
        backend.admin().create_topic("new", 3)
    assert sum(len(backend.admin().read("new", n, "earliest", 9, 0.0)) for n in range(2)) == 1
    assert len(backend.shelf.logs) == 1 + 2

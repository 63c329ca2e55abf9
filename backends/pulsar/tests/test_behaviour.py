"""Encoding, sending and errors on the real broker."""

from __future__ import annotations

import contextlib
import gc
import itertools
import socket
import threading
import time

import _pulsar
import pytest
from pulsar import exceptions as px
from pydantic import ValidationError

from eventbus_core.backend import Outgoing
from eventbus_core.errors import EventBusError, NotFound, SendFailed, Unavailable
from eventbus_core.records import Record, Stored
from eventbus_pulsar import PulsarBackend, PulsarSettings, lanes
from eventbus_pulsar.connection import open_client
from eventbus_pulsar.errors import _CLASSES, class_of, of_status
from eventbus_pulsar.members import connected_members, members_topic
from eventbus_pulsar.partitioning import murmur3
from eventbus_pulsar.rest import Rest
from tests.waiting import wait_until


@pytest.mark.parametrize(
    ("key", "java"),
    # org.apache.pulsar.client.impl.Murmur3Hash32 of Pulsar 4.0.8
    [("", 0), ("a", 1009084850), ("ab", 465557343), ("abc", 870159354), ("abcd", 1139631978), ("abcde", 1755028214),
     ("order-1", 1970427425), ("order-2", 1101609887), ("customer/42", 698204263), ("café", 605818632),
     ("日本語", 631534231), ("\0", 1364076727), ("the quick brown fox jumps over the lazy dog", 48128767),
     ("ÿþ", 226289726)],
)  # fmt: skip
def test_keys_are_hashed_as_the_java_client_does(key, java):
    assert murmur3(key.encode()) & 0x7FFFFFFF == java


def test_every_exception_of_the_client_is_mapped():
    classes = {each for each in vars(px).values() if isinstance(each, type) and issubclass(each, Exception)}
    classes |= {each for each in vars(_pulsar).values() if isinstance(each, type) and issubclass(each, Exception)}
    assert classes - set(_CLASSES) == {px.PulsarException}
    assert all(issubclass(class_of(each), EventBusError) for each in classes)


RECORDS = [
    (b"v", None, ()),
    (None, b"k", ()),
    (b"", b"", ()),
    (b"\xff\x00", b"\xff\xfe\x00", (("b", b"1"), ("a", b"2"))),
    (b"v", "日本".encode(), (("z", b""), ("z", b"2"), ("", b"\xff\x00"))),
    (None, None, (("eb.key", b"mine"), ("ce_id", b"1"))),
    (b"x" * (2 * 1024 * 1024 - 8), b"k", (("h", b"\xff" * 7),)),
]


def test_records_come_back_byte_for_byte(bus):
    sent = [Record(bus.topic, value, key, headers, at + 1) for at, (value, key, headers) in enumerate(RECORDS)]
    sent += [Record(bus.topic, b"t", b"t", (), 0), Record(bus.topic, b"t", b"t", (), -5)]
    assert all(isinstance(each.outcome, Stored) for each in bus.send(bus.producer(), sent))
    assert [each.record for each in bus.receive(bus.consumer(), len(sent))] == sent
    assert [each.record for each in bus.admin.read(bus.topic, 0, "earliest", 100, 5)] == sent


def test_a_record_too_large_for_the_broker_fails_and_the_next_is_stored(bus):
    outcomes = [each.outcome for each in bus.send(bus.producer(), [Record(bus.topic, b"x" * (6 << 20)), "next"])]
    assert isinstance(outcomes[0], SendFailed)
    assert isinstance(outcomes[1], Stored)


def test_without_the_inner_producer_sends_settle_by_callbacks(bus, monkeypatch):
    monkeypatch.setattr(lanes, "inner_producer", lambda client: None)
    values = [str(number) for number in range(500)]
    settled = bus.send(bus.producer(), values)
    assert all(isinstance(each.outcome, Stored) for each in settled)
    assert bus.values(bus.receive(bus.consumer(), 500)) == values


def test_lost_replies_store_nothing_twice(bus, proxy):
    sender = bus.producer(proxy.url)
    bus.send(sender, ["first"])
    total, settled, sent = 3000, 0, 0
    while sent < total:
        sender.send([Outgoing(sent + at, Record(bus.topic, b"%d" % (sent + at), b"k")) for at in range(1000)])
        sent += 1000
        proxy.swallow, before = True, proxy.swallowed
        wait_until(lambda before=before: proxy.swallowed > before, 5, what="a reply was lost")
        proxy.cut()
        proxy.swallow = False
        settled += len(sender.poll(0.5))

    def all_settled() -> bool:
        nonlocal settled
        settled += len(sender.poll(0.2))
        return settled >= total

    wait_until(all_settled, 30, what="all sends settled")
    stored = [each.record.value for each in bus.admin.read(bus.topic, 0, "earliest", 10_000, 5)]
    assert stored == [b"first", *(b"%d" % number for number in range(total))]


def test_an_unknown_topic_fails_at_once(bus):
    settled = bus.send(bus.producer(), [Record("no-such-topic", b"v")], timeout=5)
    assert isinstance(settled[0].outcome, SendFailed)
    assert isinstance(settled[0].outcome.__cause__, NotFound)
    bus.topic, real = "no-such-topic", bus.topic
    try:
        with pytest.raises(NotFound):
            bus.consumer()
    finally:
        bus.topic = real


def test_a_deleted_topic_ends_the_producer_with_an_error(bus):
    sender = bus.producer()
    bus.send(sender, ["1"])
    bus.admin.delete_topic(bus.topic)
    sender.send([Outgoing(9, Record(bus.topic, b"2", b"k"))])

    def ended() -> bool:
        try:
            return any(not isinstance(each.outcome, Stored) for each in sender.poll(0.2))
        except EventBusError as error:
            return not error.retryable

    wait_until(ended, 20, what="the producer ends")
    sender.close()
    bus.admin.create_topic(bus.topic, 1)


def test_a_refused_port_is_told_in_time(bus):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    started = time.monotonic()
    with pytest.raises(Unavailable):
        bus.at(f"pulsar://127.0.0.1:{port}").producer(max_records=1, max_bytes=1)
    with pytest.raises(Unavailable):
        PulsarBackend(PulsarSettings(url=bus.broker.url, admin_url=f"http://127.0.0.1:{port}")).admin()
    assert time.monotonic() - started < 5


def test_credentials_in_the_url_setting_are_not_shown():
    settings = PulsarSettings(url="pulsar://:s3cret@localhost:1", connect_timeout_seconds=0.5)
    assert settings.url == "pulsar://localhost:1"
    assert settings.token is not None
    assert settings.token.get_secret_value() == "s3cret"
    assert "s3cret" not in repr(settings)
    with pytest.raises(ValidationError) as refused:
        PulsarSettings.from_url("pulsar://:s3cret@localhost:1?cert_file=x")
    assert "cret" not in str(refused.value)
    with pytest.raises(ValidationError, match="use token") as refused:
        PulsarSettings(admin_url="http://me:s3cret@localhost:1")
    assert "cret" not in str(refused.value)


def test_a_call_under_way_while_the_interface_closes_leaves_no_connection_open(bus):
    for turn in range(60):
        rest = Rest(bus.backend.settings)
        calling = threading.Event()

        def call(rest=rest, calling=calling) -> None:
            calling.set()
            with contextlib.suppress(RuntimeError):  # closed before it began
                rest.check("looking")

        thread = threading.Thread(target=call)
        thread.start()
        calling.wait(5)
        thread.join(turn % 6 / 1000)
        rest.close()
        thread.join(10)
        del rest, call, thread
        gc.collect()  # an open socket would be a ResourceWarning, which fails the run


def test_takeover_capability_follows_the_settings():
    usual = PulsarBackend(PulsarSettings())
    patient = PulsarBackend(PulsarSettings(silent_seconds=30))
    added = patient.capabilities.max_takeover_seconds - usual.capabilities.max_takeover_seconds
    assert added == 28


def test_a_broker_that_met_another_write_is_asked_again():
    """Seen after a restart of the broker: HTTP 500 with BadVersionException for the mark of a position."""
    assert of_status(500, "storing the position", "BadVersionException").retryable
    assert not of_status(403, "storing the position", "").retryable


def test_members_can_be_listed_while_others_are_just_coming(bus, monkeypatch):
    settings = bus.backend.settings
    rest, client = Rest(settings), open_client(settings)
    name = members_topic(bus.topic, "g")
    rest.call("PUT", rest.volatile(name), "making the topic")
    call, done, failures = rest.call, threading.Event(), []

    def noted(*args, **options):
        try:
            return call(*args, **options)
        except Unavailable as error:
            failures.append(error)
            raise

    def come_and_go(number):
        for turn in itertools.takewhile(lambda _: not done.is_set(), itertools.count()):
            client.subscribe(f"non-persistent://public/default/{name}", f"m{number}-{turn}").close()

    monkeypatch.setattr(rest, "call", noted)
    threads = [threading.Thread(target=come_and_go, args=(number,)) for number in range(4)]
    for each in threads:
        each.start()
    try:
        wait_until(
            lambda: connected_members(rest, bus.topic, "g") is not None and len(failures) >= 2,
            60,
            every=0,
            what="the broker to fail on a member that is just coming",
        )
    finally:
        done.set()
        for each in threads:
            each.join()
        client.close()
        rest.close()

"""Tokens, grants and certificates on a broker that asks for them. A refusal is told within five seconds."""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager

import pytest

from eventbus_core import Consumer, EventBus
from eventbus_core.errors import AccessDenied, EventBusError, SendFailed
from eventbus_core.records import Delivery
from eventbus_pulsar import PulsarBackend, PulsarSettings
from tests.lossy_proxy import LossyProxy
from tests.secured_brokers import Authority, SecuredPulsar, secured_pulsar
from tests.waiting import wait_until

AT_ONCE = 5.0
"""Seconds within which a refusal must be told, half of the client's timeout; measured: 0.01 to 0.2 s."""

Open = Callable[..., EventBus]


@pytest.fixture(scope="module")
def secured() -> SecuredPulsar:
    broker = secured_pulsar()
    body = {"adminRoles": ["shop"], "allowedClusters": ["standalone"]}
    broker.request("POST", "tenants/public", body)
    for role, actions in {"member": ["produce", "consume"], "writer": ["produce"], "reader": ["consume"]}.items():
        broker.request("POST", f"namespaces/public/default/permissions/{role}", actions)
    return broker


@pytest.fixture
def open_bus(secured: SecuredPulsar) -> Iterator[Open]:
    with ExitStack() as opened:

        def open_it(token: str | None, **settings: object) -> EventBus:
            fields = {"url": secured.url, "admin_url": secured.admin_url, "token": token, **settings}
            return opened.enter_context(EventBus(PulsarBackend(PulsarSettings.model_validate(fields))))

        yield open_it


@pytest.fixture
def topic(secured: SecuredPulsar, open_bus: Open) -> str:
    name = f"t-{uuid.uuid4().hex[:12]}"
    open_bus(secured.token("shop")).admin().create_topic(name, 2)
    return name


@contextmanager
def refused(token: str | None, *says: str) -> Iterator[None]:
    started = time.monotonic()
    with pytest.raises(EventBusError) as caught:
        yield
    assert time.monotonic() - started < AT_ONCE
    error: BaseException = caught.value
    if isinstance(error, SendFailed):
        assert error.__cause__ is not None
        error = error.__cause__
    assert isinstance(error, AccessDenied)
    for each in says:
        assert each in str(caught.value)
    shown = repr(caught.getrepr(chain=True, showlocals=False)) + str(caught.value)
    assert not token or token not in shown
    assert "<html" not in shown


def receive_one(consumer: Consumer) -> Delivery:
    return wait_until(lambda: consumer.receive(1, timeout=0.2), 15, what="the record")[0]


def test_an_admin_of_the_tenant_may_do_everything(secured, open_bus, topic):
    bus = open_bus(secured.token("shop"))
    with bus.producer() as producer:
        assert producer.send(topic, b"v", key=b"k").result(10).topic == topic
    with bus.consumer(topic, group="g") as consumer:
        consumer.ack(receive_one(consumer))
        consumer.flush()
    assert sum(each.records for each in bus.admin().lag("g", topic)) == 0
    assert topic in bus.admin().topics()


@pytest.mark.parametrize("kind", ["forged", "missing", "expired"])
def test_a_token_that_is_not_accepted_is_told_at_once(secured, open_bus, topic, kind):
    tokens = {
        "forged": secured.token("admin", secret=b"another secret, as long as needed"),
        "missing": None,
        "expired": secured.token("admin", seconds=-60),
    }
    token = tokens[kind]
    bus = open_bus(token)
    with bus.producer() as producer, refused(token, topic, "token"):
        producer.send(topic, b"v").result(30)
    with refused(token, topic, "token"):
        bus.consumer(topic, group="g")
    with refused(token, "token"):
        bus.admin().topics()


@pytest.mark.parametrize(("role", "may"), [("stranger", ""), ("writer", "send"), ("reader", "")])
def test_what_is_not_granted_is_told_at_once(secured, open_bus, topic, role, may):
    token = secured.token(role)
    bus = open_bus(token)
    with bus.producer() as producer:
        if may == "send":
            producer.send(topic, b"v").result(10)
        else:
            with refused(token, topic, "grant"):
                producer.send(topic, b"v").result(30)
    with refused(token, topic, "grant"):
        bus.consumer(topic, group="g")
    with refused(token, topic, "grant"):
        bus.admin().describe_topic(topic)


def test_joining_a_group_needs_an_admin_of_the_tenant_and_says_so(secured, open_bus, topic):
    token = secured.token("member")
    with refused(token, topic, "admin of tenant 'public'"):
        open_bus(token).consumer(topic, group="g")


def test_a_token_that_expires_ends_what_is_open_instead_of_being_tried_for_ever(secured, open_bus, topic, monkeypatch):
    # The cut is what tells them, and not a question whether the topic has grown.
    monkeypatch.setattr("eventbus_pulsar.producer.COUNT_SECONDS", 60.0)
    monkeypatch.setattr("eventbus_pulsar.consumer._COUNT_SECONDS", 60.0)
    proxy = LossyProxy(secured.url)
    bus = open_bus(secured.token("shop", seconds=10), url=proxy.url)
    expires = time.time() + 11
    with bus.producer() as producer, bus.consumer(topic, group="g") as consumer:
        producer.send(topic, b"v", key=b"k").result(10)
        receive_one(consumer)
        wait_until(lambda: time.time() > expires, 15, what="the token has expired")
        proxy.cut()
        started = time.monotonic()
        with pytest.raises(EventBusError) as unsent:
            producer.send(topic, b"v", key=b"k").result(30)
        assert isinstance(unsent.value.__cause__, AccessDenied)
        assert time.monotonic() - started < 10
        with pytest.raises(AccessDenied, match="token"):
            wait_until(lambda: consumer.receive(1, timeout=1), 10, what="the consumer ends")
    proxy.close()


def test_a_record_above_the_limit_of_the_broker_fails_alone(open_bus, secured, topic):
    """The client's mark passes over such a record as if it were stored: the limit here is 1 MiB, not the usual 5."""
    bus = open_bus(secured.token("shop"))
    with bus.producer() as producer:
        sizes = [10, 1_500_000, 20, 900_000, 2_000_000, 30]
        receipts = [producer.send(topic, b"x" * size, key=b"k") for size in sizes]
        for size, receipt in zip(sizes, receipts, strict=True):
            if size < 1024 * 1024:
                assert receipt.result(20).topic == topic
            else:
                with pytest.raises(SendFailed, match="so large"):
                    receipt.result(20)
    stored = [len(each.record.value or b"") for each in bus.read(topic)]
    assert stored == [size for size in sizes if size < 1024 * 1024]


def test_tls_with_the_right_authority_and_with_wrong_ones(secured, open_bus, topic, tmp_path):
    token = secured.token("shop")
    urls = {"url": secured.tls_url, "admin_url": secured.tls_admin_url}
    bus = open_bus(token, **urls, ca_file=secured.authority.ca_file)
    with bus.producer() as producer, bus.consumer(topic, group="g") as consumer:
        producer.send(topic, b"v", key=b"k").result(10)
        assert receive_one(consumer).record.value == b"v"
    other = Authority("another-authority").ca_file
    for ca_file in (other, None):
        bus = open_bus(token, **urls, ca_file=ca_file)
        with bus.producer() as producer, refused(token, topic, "ca_file"):
            producer.send(topic, b"v").result(30)
        with refused(token, topic, "ca_file"):
            bus.consumer(topic, group="g")
        with refused(token, "ca_file"):
            bus.admin().topics()
    mixed = open_bus(token, **{**urls, "admin_url": secured.admin_url}, ca_file=other)
    with refused(token, "ca_file"):
        mixed.admin().topics()

"""Who may do what, on a broker with TLS, users and access rules."""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.parse import urlencode

import pytest

from eventbus_core import EventBus
from eventbus_core.errors import AccessDenied, SendError, SendFailed
from eventbus_core.records import Stored
from tests.secured_brokers import PASSWORDS, Authority, SecuredKafka, secured_kafka
from tests.waiting import wait_until

AT_ONCE = 5.0
"""Seconds, half of what an attempt takes that ends with its timeout; measured: 0.15 to 0.4 for a password, 0.02 for a
certificate, 0.06 for an access rule."""

MECHANISMS = [("PLAIN", "paula"), ("SCRAM-SHA-512", "sara")]


@pytest.fixture(scope="module")
def kafka() -> SecuredKafka:
    return secured_kafka()


@pytest.fixture
def topic(kafka: SecuredKafka) -> str:
    name = f"secured-{uuid.uuid4().hex[:12]}"
    with open_bus(kafka, "admin") as bus, bus.admin() as admin:
        admin.create_topic(name, 2)
    return name


def open_bus(
    kafka: SecuredKafka,
    user: str,
    password: str | None = None,
    mechanism: str = "PLAIN",
    ca_file: Path | None = None,
    **options: str,
) -> EventBus:
    options |= {"sasl_mechanism": mechanism, "ca_file": str(ca_file or kafka.authority.ca_file)}
    credentials = f"{user}:{PASSWORDS[user] if password is None else password}"
    return EventBus(f"kafka+tls://{credentials}@{kafka.sasl_servers}?{urlencode(options)}")


def open_certified(kafka: SecuredKafka, **files: Path) -> EventBus:
    return EventBus(f"kafka+tls://{kafka.mutual_tls_servers}?{urlencode({k: str(v) for k, v in files.items()})}")


def publish(bus: EventBus, topic: str) -> None:
    with bus.producer() as producer:
        producer.send(topic, b"v").result(10)


def consume(bus: EventBus, topic: str) -> None:
    bus.consumer(topic, group=f"g-{topic}").close()


def administer(bus: EventBus, topic: str) -> None:
    with bus.admin() as admin:
        admin.describe_topic(topic)


def refusal(attempt: Callable[[], object]) -> AccessDenied:
    """The AccessDenied that an attempt ends with, at once; of a send it is the cause of what the receipt says."""
    began = time.monotonic()
    with pytest.raises((AccessDenied, SendFailed)) as caught:
        attempt()
    assert time.monotonic() - began < AT_ONCE
    error = caught.value.__cause__ if isinstance(caught.value, SendFailed) else caught.value
    assert isinstance(error, AccessDenied)
    for password in (*PASSWORDS.values(), "wrong-pw-5"):
        assert password not in f"{caught.value} {error} {error.__cause__!r}"
    return error


def round_trip(bus: EventBus, topic: str) -> None:
    with bus.producer() as producer:
        assert isinstance(producer.send(topic, b"hello", key=b"k").result(10), Stored)
    with bus.consumer(topic, group=f"g-{topic}", start="earliest") as consumer:
        received: list[bytes | None] = []
        wait_until(
            lambda: received.extend(each.record.value for each in consumer.receive(timeout=0.2)) or received,
            15,
            what="the record",
        )
    assert received == [b"hello"]


@pytest.fixture(params=MECHANISMS, ids=[name for name, _ in MECHANISMS])
def mechanism(request: pytest.FixtureRequest) -> tuple[str, str]:
    chosen: tuple[str, str] = request.param
    return chosen


def test_the_right_password_works(kafka: SecuredKafka, topic: str, mechanism: tuple[str, str]) -> None:
    name, user = mechanism
    kafka.allow(user, "TOPIC", topic, "READ", "WRITE")
    kafka.allow(user, "GROUP", f"g-{topic}", "READ")
    with open_bus(kafka, user, mechanism=name) as bus:
        round_trip(bus, topic)


@pytest.mark.parametrize("use", [publish, consume, administer])
@pytest.mark.parametrize("user", [None, "nobody"], ids=["wrong password", "unknown user"])
def test_wrong_credentials_are_an_error_at_once(
    kafka: SecuredKafka,
    topic: str,
    mechanism: tuple[str, str],
    user: str | None,
    use: Callable[[EventBus, str], None],
) -> None:
    name, known = mechanism
    with open_bus(kafka, user or known, "wrong-pw-5", name) as bus:
        error = refusal(lambda: use(bus, topic))
    assert f"user {user or known!r}" in str(error)
    assert "check sasl_*" in str(error)


@pytest.mark.parametrize("use", [publish, consume, administer])
def test_a_user_without_rights_is_told_so_at_once(
    kafka: SecuredKafka, topic: str, use: Callable[[EventBus, str], None]
) -> None:
    with open_bus(kafka, "nora") as bus:
        error = refusal(lambda: use(bus, topic))
    assert error.topic == topic
    assert topic in str(error)
    assert "ACLs of user 'nora'" in str(error)


def test_a_user_who_may_not_join_the_group_is_told_so_at_once(kafka: SecuredKafka, topic: str) -> None:
    kafka.allow("nora", "TOPIC", topic, "READ")
    with open_bus(kafka, "nora") as bus:
        error = refusal(lambda: consume(bus, topic))
    assert f"group 'g-{topic}'" in str(error)
    assert "ACLs of user 'nora'" in str(error)


def test_the_consumer_protocol_takes_one_right_more(kafka: SecuredKafka, topic: str) -> None:
    kafka.allow("paula", "TOPIC", topic, "READ", "WRITE")
    kafka.allow("paula", "GROUP", f"g-{topic}", "READ")
    with open_bus(kafka, "paula", group_protocol="consumer") as bus:
        error = refusal(lambda: consume(bus, topic))
        assert "session timeout of group" in str(error)
        kafka.allow("paula", "GROUP", f"g-{topic}", "DESCRIBE_CONFIGS")
        round_trip(bus, topic)


@pytest.mark.parametrize("use", [publish, consume, administer])
def test_a_broker_of_another_authority_is_refused_at_once(
    kafka: SecuredKafka, topic: str, use: Callable[[EventBus, str], None]
) -> None:
    with open_bus(kafka, "paula", ca_file=Authority("another").ca_file) as bus:
        error = refusal(lambda: use(bus, topic))
    assert "certificate" in str(error)
    assert "ca_file" in str(error)


def test_a_certificate_is_enough(kafka: SecuredKafka, topic: str) -> None:
    carol = kafka.authority.identity("carol")
    files = {"ca_file": kafka.authority.ca_file, "cert_file": carol.cert_file, "key_file": carol.key_file}
    with open_certified(kafka, **files) as bus:
        round_trip(bus, topic)


@pytest.mark.parametrize("use", [publish, consume, administer])
def test_a_client_without_certificate_is_refused_at_once(
    kafka: SecuredKafka, topic: str, use: Callable[[EventBus, str], None]
) -> None:
    with open_certified(kafka, ca_file=kafka.authority.ca_file) as bus:
        error = refusal(lambda: use(bus, topic))
    assert "the anonymous client" in str(error)
    assert "cert_file" in str(error)


def test_a_certificate_of_another_authority_is_refused_at_once(kafka: SecuredKafka, topic: str) -> None:
    stranger = Authority("stranger").identity("carol")
    files = {"ca_file": kafka.authority.ca_file, "cert_file": stranger.cert_file, "key_file": stranger.key_file}
    with open_certified(kafka, **files) as bus:
        error = refusal(lambda: administer(bus, topic))
    assert str(stranger.cert_file) in str(error)


@pytest.fixture
def changed_password(kafka: SecuredKafka, topic: str) -> Iterator[None]:
    kafka.allow("sara", "TOPIC", topic, "READ", "WRITE")
    kafka.allow("sara", "GROUP", f"g-{topic}", "READ")
    kafka.allow("paula", "TOPIC", topic, "WRITE")
    yield
    kafka.set_scram_password("sara", PASSWORDS["sara"])


@pytest.mark.usefixtures("changed_password")
def test_a_password_that_is_changed_ends_what_is_open(kafka: SecuredKafka, topic: str) -> None:
    with open_bus(kafka, "sara", mechanism="SCRAM-SHA-512") as bus, open_bus(kafka, "paula") as other:
        consumer = bus.consumer(topic, group=f"g-{topic}")
        producer, welcome = bus.producer(), other.producer()
        for each in (producer, welcome):
            each.send(topic, b"before").result(10)
        kafka.set_scram_password("sara", "another-pw-6")
        kafka.restart()

        def refused() -> AccessDenied | None:
            try:
                consumer.receive(timeout=0.1)
            except AccessDenied as error:
                return error
            return None

        wait_until(refused, 20, what="the consumer is told")
        with pytest.raises(SendError) as caught:
            producer.send(topic, b"v").result(20)
        assert isinstance(caught.value.__cause__, AccessDenied)
        assert "user 'sara'" in str(caught.value)
        # Whoever is still welcome has only seen a restart.
        welcome.send(topic, b"after").result(20)

"""TLS and access rules, on a server of this module's own. Each refusal comes at once, and names no secret."""

from __future__ import annotations

import re
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from pydantic import ValidationError
from redis import Redis

from eventbus_core import EventBus
from eventbus_core.errors import AccessDenied, SendError, SendFailed, SettingsError
from eventbus_redis.settings import RedisSettings
from tests.secured_brokers import Authority
from tests.waiting import wait_until

from .own_server import OwnServer

AT_ONCE_SECONDS = 3.0
"""Far below every timeout and retry that an outage would get (``send_timeout_seconds`` is 120)."""
README = Path(__file__).parents[1] / "README.md"
SECRET = "s3cret-of-the-bus"


@pytest.fixture(scope="module")
def authority() -> Authority:
    return Authority("redis-authority")


@pytest.fixture(scope="module")
def server(authority: Authority) -> Iterator[OwnServer]:
    identity = authority.identity("redis")
    files = {"CERT": identity.cert_file, "KEY": identity.key_file, "CA": authority.ca_file}
    tls = ["--tls-port", "6390", "--tls-cert-file", "/tmp/CERT", "--tls-key-file", "/tmp/KEY"]
    tls += ["--tls-ca-cert-file", "/tmp/CA", "--tls-auth-clients", "optional"]
    started = OwnServer(*tls, files={name: path.read_text() for name, path in files.items()})
    yield started
    started.close()


@pytest.fixture
def raw(server: OwnServer) -> Iterator[Redis]:
    with server.raw() as client:
        client.flushall()
        yield client
        for name in client.acl_users():
            if name != "default":
                client.acl_deluser(name)


def rules() -> dict[str, list[str]]:
    """The rules that the README gives, by user: what one would paste into ``redis-cli``."""
    found = re.findall(r"^ACL SETUSER (\S+) on >PASSWORD (.+)$", README.read_text(), re.MULTILINE)
    return {user: rule.split() for user, rule in found}


def grant(raw: Redis, user: str) -> None:
    """Make the user as the README says."""
    raw.execute_command("ACL", "SETUSER", user, "reset", "on", f">{SECRET}", *rules()[user])


def with_user(url: str, user: str, password: str = SECRET) -> str:
    return url.replace("://", f"://{user}:{password}@")


def ways_in(bus: EventBus) -> dict[str, Callable[[], object]]:
    """Everything that contacts the server, as calls that raise what it answered."""

    def send() -> None:
        with bus.producer() as producer:
            receipt = producer.send("orders", b"v")
            try:
                receipt.result(30)
            except SendError as error:
                found = error.__cause__
        assert found is not None
        raise found

    return {
        "producer": send,
        "consumer": lambda: bus.consumer("orders", group="g"),
        "admin": lambda: bus.admin().topics(),
    }


def assert_denied_everywhere(url: str, match: str) -> None:
    for name, way in ways_in(EventBus(url)).items():
        started = time.monotonic()
        with pytest.raises(AccessDenied, match=match) as caught:
            way()
        assert time.monotonic() - started < AT_ONCE_SECONDS, name
        assert SECRET not in "".join(str(each) for each in chain(caught.value))


def chain(error: BaseException | None) -> Iterator[BaseException]:
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        yield error
        error = error.__cause__ or error.__context__


def round_trip(url: str) -> None:
    topic = f"t-{uuid.uuid4().hex[:8]}"
    with EventBus(url) as bus, bus.admin() as admin:
        admin.create_topic(topic, 2)
        with bus.producer() as producer:
            producer.send(topic, b"v").result(10)
        with bus.consumer(topic, group="g") as consumer:
            found = wait_until(lambda: consumer.receive(1, timeout=0.2), 10, what="the record")
        assert found[0].record.value == b"v"


def test_tls_with_a_trusted_certificate(server, authority):
    round_trip(f"{server.tls_url}?ca_file={authority.ca_file}")


def test_tls_with_a_client_certificate_where_one_is_demanded(server, authority, raw):
    client = authority.identity("client")
    trusting = f"{server.tls_url}?ca_file={authority.ca_file}"
    raw.config_set("tls-auth-clients", "yes")
    try:
        round_trip(f"{trusting}&cert_file={client.cert_file}&key_file={client.key_file}")
        assert_denied_everywhere(trusting, "cert_file and key_file")
    finally:
        raw.config_set("tls-auth-clients", "optional")


def test_a_server_of_an_unknown_authority_is_refused_at_once(server):
    other = Authority("another-authority")
    url = with_user(f"{server.tls_url}?ca_file={other.ca_file}", "bus")
    assert_denied_everywhere(url, "CERTIFICATE_VERIFY_FAILED.*check ca_file")


def test_a_server_with_another_name_is_refused_at_once(server, authority):
    url = f"{server.tls_url}?ca_file={authority.ca_file}".replace("127.0.0.1", "127.0.0.2")
    assert_denied_everywhere(url, "verify_hostname")
    round_trip(url + "&verify_hostname=false")


def test_a_file_that_is_not_there_is_an_error_of_the_settings(tmp_path):
    with pytest.raises(ValidationError, match="ca_file"):
        RedisSettings(url="redis+tls://127.0.0.1", ca_file=tmp_path / "nowhere.pem")
    with pytest.raises(SettingsError, match="ca_file"):
        EventBus(f"redis+tls://127.0.0.1?ca_file={tmp_path / 'nowhere.pem'}").admin()


@pytest.mark.parametrize("user", ["bus", "nobody", "default"])
def test_a_wrong_user_or_password_is_denied_at_once(server, raw, user):
    grant(raw, "bus")
    raw.execute_command("ACL", "SETUSER", "default", "resetpass", ">other")
    raw_again = Redis(port=server.port, password="other")
    try:
        assert_denied_everywhere(with_user(server.url, user, SECRET + "-wrong"), "username and password")
        assert_denied_everywhere(server.url, "username and password|NOAUTH|Authentication")
    finally:
        raw_again.execute_command("ACL", "SETUSER", "default", "nopass")
        raw_again.close()


def test_a_user_that_may_do_nothing_is_denied_at_once(server, raw):
    raw.execute_command("ACL", "SETUSER", "bus", "reset", "on", f">{SECRET}", "+info")
    assert_denied_everywhere(with_user(server.url, "bus"), "README")


def test_a_user_removed_while_in_use_ends_the_consumer(server, raw):
    grant(raw, "bus")
    with EventBus(with_user(server.url, "bus")) as bus:
        bus.admin().create_topic("orders", 1)
        consumer = bus.consumer("orders", group="g")
        raw.acl_deluser("bus")
        with pytest.raises(AccessDenied) as caught:
            wait_until(lambda: consumer.receive(1, timeout=0.2), 10, what="the end of the consumer")
        assert SECRET not in str(caught.value)


def test_a_writer_may_write_and_neither_read_nor_manage(server, raw):
    grant(raw, "bus")
    grant(raw, "bus-writer")
    EventBus(with_user(server.url, "bus")).admin().create_topic("orders", 2)
    with EventBus(with_user(server.url, "bus-writer")) as bus:
        assert bus.producer().send("orders", b"v").result(10).partition in {0, 1}
        for way in (ways_in(bus)["consumer"], lambda: bus.admin().create_topic("more", 1)):
            with pytest.raises(AccessDenied, match="README"):
                way()


def test_a_command_that_a_script_lacks_fails_the_send_at_once(server, raw):
    grant(raw, "bus")
    EventBus(with_user(server.url, "bus")).admin().create_topic("orders", 1)
    raw.execute_command("ACL", "SETUSER", "bus", "-xadd")
    with EventBus(with_user(server.url, "bus")) as bus:
        started = time.monotonic()
        with pytest.raises(SendFailed) as caught:
            bus.producer().send("orders", b"v").result(30)
        assert time.monotonic() - started < AT_ONCE_SECONDS
        assert isinstance(caught.value.__cause__, AccessDenied)


def use_everything(bus: EventBus, raw: Redis) -> None:
    """Each verb of producer, consumer and admin once, beside entries of others, and a group with one pending."""
    with bus.admin() as admin:
        admin.create_topic("orders", 2)
        for stream in raw.keys("eb:{orders.*}:s"):
            raw.xadd(stream, {"by": "hand"}, id="9999999999999-0")
        with bus.producer() as producer:
            for number in range(20):
                producer.send("orders", b"v", key=str(number).encode()).result(10)
        for stream in raw.keys("eb:{orders.*}:s"):
            raw.xgroup_create(stream, "foreign", "0")
            raw.xreadgroup("foreign", "me", {stream: ">"}, count=1)
        raw.hset("eb:{orders.0}:m", mapping={f"P:former-{number}": "1 0 1 0 1 0" for number in range(1000)})
        with bus.consumer("orders", group="g") as one:
            wait_until(lambda: len(one.assignments) == 2, 10, what="both partitions")
            with bus.consumer("orders", group="g") as two:
                wait_until(lambda: len(one.assignments) == 1 == len(two.assignments), 10, what="one each")
            wait_until(lambda: len(one.assignments) == 2, 10, what="both partitions again")
            one.seek("earliest", topic="orders", partition=0)
            one.ack(*wait_until(lambda: one.receive(20, timeout=0.2), 10, what="records"))
        admin.lag("g", "orders")
        admin.groups()
        admin.describe_topic("orders")
        admin.set_position("g", "orders", "earliest")
        admin.delete_group("g")
        admin.delete_topic("orders")


def test_the_documented_rule_is_enough_and_holds_no_command_that_is_not_needed(server, raw):
    grant(raw, "bus")
    raw.config_resetstat()
    with EventBus(with_user(server.url, "bus") + "?retention_records=5") as bus:
        use_everything(bus, raw)
    granted = {word.removeprefix("+") for word in rules()["bus"] if word.startswith("+")}
    used = {name.removeprefix("cmdstat_") for name in raw.info("commandstats")}
    assert granted - used == set()

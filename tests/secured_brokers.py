"""Brokers that ask who is there: TLS, user names and access rules. Each starts once per process, in a container.

Certificates are made anew for each run by the ``openssl`` command; the tests that need them are skipped without it.
"""

from __future__ import annotations

import atexit
import base64
import hashlib
import hmac
import json
import os
import secrets
import shutil
import subprocess
import tempfile
import time
import urllib.request
from dataclasses import dataclass, field
from functools import cache
from http.client import HTTPException
from pathlib import Path
from typing import Any

import pytest

from tests.brokers import IMAGES, READY_TIMEOUT, _free_port, _Missing
from tests.waiting import wait_until

PASSWORDS = {"admin": "admin-pw-1", "paula": "paula-pw-2", "sara": "sara-pw-3", "nora": "nora-pw-4"}
"""The users. ``admin`` may do everything, ``paula`` and ``sara`` what tests allow them, ``nora`` nothing."""


@dataclass(frozen=True)
class Identity:
    """A certificate and its private key, as PEM files."""

    cert_file: Path
    key_file: Path


class Authority:
    """Signs certificates; ``ca_file`` is what trusts them."""

    def __init__(self, name: str) -> None:
        if shutil.which("openssl") is None:
            pytest.skip("no openssl command to make certificates with")
        self._folder = Path(tempfile.mkdtemp(prefix="eventbus-certificates-"))
        atexit.register(shutil.rmtree, self._folder, ignore_errors=True)
        own = self._make(name, ["-addext", "basicConstraints=critical,CA:TRUE"])
        self.ca_file, self._ca_key = own.cert_file, own.key_file

    def identity(self, name: str) -> Identity:
        """A certificate in this name, for a server at 127.0.0.1 or for a client."""
        signed = ["-CA", str(self.ca_file), "-CAkey", str(self._ca_key)]
        return self._make(name, [*signed, "-addext", "subjectAltName=IP:127.0.0.1,DNS:localhost"])

    def _make(self, name: str, extra: list[str]) -> Identity:
        made = Identity(self._folder / f"{name}.pem", self._folder / f"{name}.key")
        new = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", f"/CN={name}"]
        command = [*new, *extra, "-out", str(made.cert_file), "-keyout", str(made.key_file)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
        assert done.returncode == 0, done.stderr
        return made


@dataclass(frozen=True)
class SecuredKafka:
    """A Kafka broker with ACLs and two listeners, both with TLS: for users, and for clients with a certificate.

    The certificate's name ``carol`` may do everything.
    """

    sasl_servers: str
    mutual_tls_servers: str
    authority: Authority
    container: Any

    def restart(self) -> None:
        """Kill it and start it with its data: every client has to connect and log in anew."""
        self.container.kill("KILL")
        self.container.wait(timeout=30)
        self.container.start()
        self.wait_ready()

    def wait_ready(self) -> None:
        """Wait until the broker lets ``admin`` in."""
        from confluent_kafka import KafkaException

        def answers() -> bool:
            try:
                return bool(self.admin_client().list_topics(timeout=3).brokers)
            except KafkaException:
                return False

        wait_until(answers, READY_TIMEOUT, every=0.2, what="the secured Kafka answers")

    def admin_client(self) -> Any:
        """Kafka's own admin client, as the user ``admin``."""
        from confluent_kafka.admin import AdminClient

        return AdminClient(
            {
                "bootstrap.servers": self.sasl_servers,
                "security.protocol": "SASL_SSL",
                "ssl.ca.location": str(self.authority.ca_file),
                "sasl.mechanism": "PLAIN",
                "sasl.username": "admin",
                "sasl.password": PASSWORDS["admin"],
                "log_level": 0,
            }
        )

    def set_scram_password(self, user: str, password: str) -> None:
        """Make a SCRAM user, or change its password; returns when the broker accepts it."""
        from confluent_kafka.admin import ScramCredentialInfo, ScramMechanism, UserScramCredentialUpsertion

        info = ScramCredentialInfo(ScramMechanism.SCRAM_SHA_512, 4096)
        change = UserScramCredentialUpsertion(user, info, password.encode())
        admin = self.admin_client()
        for answer in admin.alter_user_scram_credentials([change]).values():
            answer.result(10)

    def allow(self, user: str, kind: str, name: str, *operations: str) -> None:
        """Let a user do ``operations`` ("READ", ...) with a resource: ``kind`` is "TOPIC" or "GROUP"."""
        from confluent_kafka.admin import AclBinding, AclOperation, AclPermissionType, ResourcePatternType, ResourceType

        bindings = [
            AclBinding(
                ResourceType[kind],
                name,
                ResourcePatternType.LITERAL,
                f"User:{user}",
                "*",
                AclOperation[operation],
                AclPermissionType.ALLOW,
            )
            for operation in operations
        ]
        admin = self.admin_client()
        for answer in admin.create_acls(bindings).values():
            answer.result(10)


@cache
def secured_kafka() -> SecuredKafka:
    """Give the broker; where Docker is missing, skips the calling test, or fails it if Kafka is required."""
    try:
        from docker.errors import DockerException  # type: ignore[import-untyped]
        from testcontainers.core.container import DockerContainer
    except ImportError as error:
        _Missing(f"testcontainers is not installed ({error})").give_up("kafka")
    authority = Authority("kafka-authority")
    sasl_port, tls_port = _free_port(), _free_port()
    image = os.environ.get("EVENTBUS_TEST_KAFKA_IMAGE", IMAGES["kafka"])
    try:
        container = DockerContainer(image)
        container.with_bind_ports(9092, sasl_port).with_bind_ports(9094, tls_port)
        container.env.update(_kafka_environment(authority, sasl_port, tls_port))
        container.start()
    except (DockerException, OSError) as error:
        _Missing(f"Docker cannot run {image} ({error})").give_up("kafka")
    atexit.register(container.stop)
    started = SecuredKafka(
        f"127.0.0.1:{sasl_port}", f"127.0.0.1:{tls_port}", authority, container.get_wrapped_container()
    )
    started.wait_ready()
    started.set_scram_password("sara", PASSWORDS["sara"])
    return started


def _kafka_environment(authority: Authority, sasl_port: int, tls_port: int) -> dict[str, str]:
    server = authority.identity("kafka")
    plain_users = " ".join(f'user_{name}="{PASSWORDS[name]}"' for name in ("admin", "paula", "nora"))
    login = "org.apache.kafka.common.security"
    # Brokers and controllers talk without a name, inside the container only.
    listeners = {"SASL": 9092, "TLS": 9094}
    inside = "INSIDE://127.0.0.1:9095,CONTROLLER://127.0.0.1:9093"
    settings = {
        "node_id": "1",
        "process_roles": "broker,controller",
        "listeners": ",".join([*(f"{name}://0.0.0.0:{port}" for name, port in listeners.items()), inside]),
        "advertised_listeners": f"SASL://127.0.0.1:{sasl_port},TLS://127.0.0.1:{tls_port},INSIDE://127.0.0.1:9095",
        "controller_listener_names": "CONTROLLER",
        "controller_quorum_voters": "1@127.0.0.1:9093",
        "listener_security_protocol_map": "SASL:SASL_SSL,TLS:SSL,INSIDE:PLAINTEXT,CONTROLLER:PLAINTEXT",
        "inter_broker_listener_name": "INSIDE",
        "sasl_enabled_mechanisms": "PLAIN,SCRAM-SHA-512",
        "listener_name_sasl_plain_sasl_jaas_config": f"{login}.plain.PlainLoginModule required {plain_users};",
        "listener_name_sasl_scram-sha-512_sasl_jaas_config": f"{login}.scram.ScramLoginModule required;",
        "ssl_keystore_type": "PEM",
        "ssl_keystore_key": _one_line(server.key_file),
        "ssl_keystore_certificate_chain": _one_line(server.cert_file),
        "ssl_truststore_type": "PEM",
        "ssl_truststore_certificates": _one_line(authority.ca_file),
        "listener_name_tls_ssl_client_auth": "required",
        "authorizer_class_name": "org.apache.kafka.metadata.authorizer.StandardAuthorizer",
        "super_users": "User:admin;User:ANONYMOUS;User:CN=carol",
        "auto_create_topics_enable": "false",
        "group_initial_rebalance_delay_ms": "0",
        "group_min_session_timeout_ms": "1000",
        "broker_session_timeout_ms": "2000",
        "broker_heartbeat_interval_ms": "300",
        "offsets_topic_replication_factor": "1",
        "offsets_topic_num_partitions": "4",
        "transaction_state_log_replication_factor": "1",
        "transaction_state_log_min_isr": "1",
    }
    return {f"KAFKA_{name.upper()}": value for name, value in settings.items()} | {"KAFKA_HEAP_OPTS": "-Xmx512m"}


def _one_line(pem: Path) -> str:
    """The file as a value of a Java properties file."""
    return pem.read_text().strip().replace("\n", "\\n")


@dataclass(frozen=True)
class SecuredPulsar:
    """A Pulsar that wants a token from everybody; ``admin`` may do everything. It takes no message above 1 MiB."""

    url: str
    admin_url: str
    tls_url: str
    tls_admin_url: str
    authority: Authority
    secret: bytes = field(repr=False)

    def token(self, role: str, *, secret: bytes | None = None, seconds: int | None = None) -> str:
        """A token of a role; forged, with another secret; good for so many seconds only."""
        claims: dict[str, object] = {"sub": role} | ({"exp": int(time.time()) + seconds} if seconds else {})
        parts = [_base64(json.dumps(each).encode()) for each in ({"alg": "HS256", "typ": "JWT"}, claims)]
        signature = hmac.new(secret or self.secret, ".".join(parts).encode(), hashlib.sha256).digest()
        return ".".join([*parts, _base64(signature)])

    def answers(self) -> bool:
        try:
            return self.request("GET", "brokers/health") == b"ok"
        except (OSError, HTTPException):
            return False

    def request(self, method: str, path: str, body: object = None) -> bytes:
        """A request to the admin interface, as ``admin``."""
        headers = {"Authorization": f"Bearer {self.token('admin')}", "Content-Type": "application/json"}
        url, data = f"{self.admin_url}/admin/v2/{path}", json.dumps(body).encode() if body else None
        request = urllib.request.Request(url, data, headers, method=method)
        with urllib.request.urlopen(request, timeout=10) as response:
            return bytes(response.read())


@cache
def secured_pulsar() -> SecuredPulsar:
    """Give the broker; where Docker is missing, skips the calling test, or fails it if Pulsar is required."""
    try:
        from docker.errors import DockerException
        from testcontainers.core.container import DockerContainer
    except ImportError as error:
        _Missing(f"testcontainers is not installed ({error})").give_up("pulsar")
    ports = [_free_port() for _ in range(4)]
    plain, rest, tls, tls_rest = (f"127.0.0.1:{port}" for port in ports)
    broker = SecuredPulsar(
        f"pulsar://{plain}",
        f"http://{rest}",
        f"pulsar+ssl://{tls}",
        f"https://{tls_rest}",
        Authority("pulsar-authority"),
        secrets.token_bytes(32),
    )
    image = os.environ.get("EVENTBUS_TEST_PULSAR_IMAGE", IMAGES["pulsar"])
    try:
        container = DockerContainer(image)
        for port in ports:
            container.with_bind_ports(port, port)
        server = broker.authority.identity("pulsar")
        container.with_envs(BROKER_PEM=server.cert_file.read_text(), BROKER_KEY=server.key_file.read_text())
        container.with_env("PULSAR_MEM", "-Xms512m -Xmx512m -XX:MaxDirectMemorySize=512m")
        container.with_command(["bash", "-c", _PULSAR_COMMAND, "standalone", *_pulsar_settings(broker, ports)])
        container.start()
    except (DockerException, OSError) as error:
        _Missing(f"Docker cannot run {image} ({error})").give_up("pulsar")
    atexit.register(container.stop)
    wait_until(broker.answers, READY_TIMEOUT, every=0.2, what="the secured Pulsar answers")
    return broker


_PULSAR_COMMAND = r"""
for file in BROKER_PEM BROKER_KEY; do printf '%s' "${!file}" >"conf/$file"; done
for setting in "$@"; do
    sed -i -E "/^#? *${setting%%=*}=/d" conf/standalone.conf
    printf '\n%s' "$setting" >>conf/standalone.conf
done
exec bin/pulsar standalone -nfw -nss
"""


def _pulsar_settings(broker: SecuredPulsar, ports: list[int]) -> list[str]:
    names = ("brokerServicePort", "webServicePort", "brokerServicePortTls", "webServicePortTls")
    return [
        *(f"{name}={port}" for name, port in zip(names, ports, strict=True)),
        "advertisedAddress=127.0.0.1",
        "allowAutoTopicCreation=false",
        "maxMessageSize=1048576",
        "tlsCertificateFilePath=conf/BROKER_PEM",
        "tlsKeyFilePath=conf/BROKER_KEY",
        "authenticationEnabled=true",
        "authenticationProviders=org.apache.pulsar.broker.authentication.AuthenticationProviderToken",
        f"tokenSecretKey=data:;base64,{base64.b64encode(broker.secret).decode()}",
        "authorizationEnabled=true",
        "superUserRoles=admin",
        "brokerClientAuthenticationPlugin=org.apache.pulsar.client.impl.auth.AuthenticationToken",
        f"brokerClientAuthenticationParameters=token:{broker.token('admin')}",
    ]


def _base64(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()

"""What an operator can set, and the client options that follow from it."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final, Literal, Self
from urllib.parse import unquote, urlsplit

from pydantic import ConfigDict, Field, SecretStr, field_validator, model_validator

from eventbus_core.backend import BackendSettings

#: Room that Kafka's framing of one record batch takes beside key, value and headers.
FRAMING_BYTES: Final = 4_096

#: Options that the guarantees rest on, or that a typed setting stands for.
_RESERVED: Final = frozenset(
    {
        "acks",
        "allow.auto.create.topics",
        "auto.commit.interval.ms",
        "auto.offset.reset",
        "bootstrap.servers",
        "compression.codec",
        "compression.type",
        "delivery.report.only.error",
        "delivery.timeout.ms",
        "enable.auto.commit",
        "enable.auto.offset.store",
        "enable.gapless.guarantee",
        "enable.idempotence",
        "enable.partition.eof",
        "error_cb",
        "group.id",
        "group.instance.id",
        "group.protocol",
        "group.remote.assignor",
        "heartbeat.interval.ms",
        "isolation.level",
        "linger.ms",
        "max.in.flight",
        "max.in.flight.requests.per.connection",
        "max.poll.interval.ms",
        "message.max.bytes",
        "message.send.max.retries",
        "message.timeout.ms",
        "metadata.broker.list",
        "offset.store.method",
        "on_commit",
        "on_delivery",
        "partition.assignment.strategy",
        "partitioner",
        "queue.buffering.max.kbytes",
        "queue.buffering.max.messages",
        "queue.buffering.max.ms",
        "queuing.strategy",
        "request.required.acks",
        "retries",
        "sasl.mechanism",
        "sasl.mechanisms",
        "sasl.password",
        "sasl.username",
        "security.protocol",
        "session.timeout.ms",
        "ssl.ca.location",
        "ssl.certificate.location",
        "ssl.key.location",
        "ssl.key.password",
        "topic.metadata.propagation.max.ms",
        "transaction.timeout.ms",
        "transactional.id",
    }
)


class KafkaSettings(BackendSettings):
    """Settings of the Kafka backend. In a URL: ``kafka://user:password@host1:9092,host2:9092?compression=lz4``.

    ``kafka+tls://`` turns TLS on; credentials in the URL turn SASL on. Raises ``pydantic.ValidationError``.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)

    bootstrap_servers: str = "127.0.0.1:9092"
    """``host:port``, several joined by commas."""
    security_protocol: Literal["PLAINTEXT", "SSL", "SASL_PLAINTEXT", "SASL_SSL"] = "PLAINTEXT"
    sasl_mechanism: Literal["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512", "GSSAPI", "OAUTHBEARER"] = "PLAIN"
    sasl_username: str | None = None
    sasl_password: SecretStr | None = None
    ca_file: Path | None = None
    """PEM file of the authorities that brokers' certificates are trusted by; none: the system's."""
    cert_file: Path | None = None
    """PEM file of this client's certificate (mutual TLS)."""
    key_file: Path | None = None
    key_password: SecretStr | None = None
    group_protocol: Literal["classic", "consumer"] = "classic"
    """``classic``: every broker; ``session_timeout_seconds`` is ours. ``consumer``: brokers of 4.0 and later (KIP-848);
    moves disturb less, but the session timeout is the group's or the broker's (``consumer.session.timeout.ms``, 45 s
    unless the operator changes it). It is read when joining, which takes the right DESCRIBE_CONFIGS on the group."""
    session_timeout_seconds: float = Field(default=10.0, ge=1.0)
    """A member that is silent this long is replaced (classic protocol). At least the broker's
    ``group.min.session.timeout.ms``, 6 s by default."""
    replication_factor: int | None = Field(default=None, ge=1)
    """Copies of topics that the admin creates; None: the broker's default. From 3 on, writes need two in-sync ones."""
    linger_ms: float = Field(default=5.0, ge=0)
    """How long a record may wait for others to share a request."""
    compression: Literal["none", "gzip", "snappy", "lz4", "zstd"] = "none"
    max_record_bytes: int = Field(default=1_044_480, ge=1)
    """Largest sum of key, value and header bytes. The broker's ``message.max.bytes`` must be 4,096 above it."""
    client_options: dict[str, str | int | float | bool] = Field(default_factory=dict, repr=False)
    """Raw options of librdkafka, for what has no setting. Options that delivery guarantees rest on are refused."""

    @classmethod
    def fields_of_url(cls, url: str) -> dict[str, Any]:
        """``kafka://`` and ``kafka+tls://``; several hosts joined by commas."""
        parts = urlsplit(url)
        credentials, _, hosts = parts.netloc.rpartition("@")
        tls = parts.scheme == "kafka+tls"
        fields: dict[str, Any] = {"bootstrap_servers": hosts}
        if credentials:
            user, _, password = credentials.partition(":")
            fields["sasl_username"] = unquote(user)
            fields["sasl_password"] = unquote(password)
        if credentials or tls:
            fields["security_protocol"] = ("SASL_" if credentials else "") + ("SSL" if tls else "PLAINTEXT")
        return fields

    @field_validator("bootstrap_servers")
    @classmethod
    def _some_host(cls, value: str) -> str:
        if not value.strip(", "):
            raise ValueError("name at least one broker, e.g. 'kafka1:9092'")
        return value

    @field_validator("client_options")
    @classmethod
    def _no_reserved_option(cls, value: dict[str, Any]) -> dict[str, Any]:
        refused = sorted(_RESERVED & {name.removeprefix("topic.") for name in value} | (_RESERVED & value.keys()))
        if refused:
            raise ValueError(
                f"{', '.join(refused)}: reserved, because delivery guarantees or a setting of its own rest on it"
            )
        return value

    @model_validator(mode="after")
    def _complete(self) -> Self:
        sasl = self.security_protocol.startswith("SASL_")
        if self.sasl_username is not None and not sasl:
            raise ValueError("sasl_username needs security_protocol SASL_SSL or SASL_PLAINTEXT")
        if sasl and self.sasl_mechanism not in {"GSSAPI", "OAUTHBEARER"} and self.sasl_password is None:
            raise ValueError(f"{self.sasl_mechanism} needs sasl_username and sasl_password")
        if (self.cert_file is None) != (self.key_file is None):
            raise ValueError("mutual TLS needs both cert_file and key_file")
        return self

    @property
    def user(self) -> str:
        """Who the brokers take this client for; for error messages."""
        if self.security_protocol.startswith("SASL_"):
            return "the client" if self.sasl_username is None else f"user {self.sasl_username!r}"
        return "the anonymous client" if self.cert_file is None else f"the client of {self.cert_file}"

    def client_config(self) -> dict[str, Any]:
        """The options that every client has in common, secrets in the clear: never log it."""
        secrets = {"sasl.password": self.sasl_password, "ssl.key.password": self.key_password}
        optional = {
            "sasl.username": self.sasl_username,
            "ssl.ca.location": self.ca_file and str(self.ca_file),
            "ssl.certificate.location": self.cert_file and str(self.cert_file),
            "ssl.key.location": self.key_file and str(self.key_file),
            **{name: secret.get_secret_value() for name, secret in secrets.items() if secret is not None},
        }
        sasl = {"sasl.mechanism": self.sasl_mechanism} if self.security_protocol.startswith("SASL_") else {}
        return {
            "log_level": 0,
            # Reconnecting after an outage should take about a second, not ten.
            "reconnect.backoff.max.ms": 1000,
            **self.client_options,
            "bootstrap.servers": self.bootstrap_servers,
            "security.protocol": self.security_protocol,
            "message.max.bytes": min(self.max_record_bytes + FRAMING_BYTES, 1_000_000_000),
            "allow.auto.create.topics": False,
            **sasl,
            **{name: value for name, value in optional.items() if value is not None},
        }

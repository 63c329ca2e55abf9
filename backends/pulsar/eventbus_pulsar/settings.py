"""What an operator can set for Pulsar."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Self
from urllib.parse import unquote, urlsplit

from pydantic import ConfigDict, Field, SecretStr, model_validator

from eventbus_core.backend import BackendSettings

#: A frozen owner keeps its subscription while the broker probes it: ``connectionLivenessCheckTimeoutMillis``, 5000.
BROKER_PROBE_SECONDS = 5.0


class PulsarSettings(BackendSettings):
    """URL: ``pulsar://[:token@]host:6650/tenant/namespace?admin_url=…``; ``pulsar+tls://`` for TLS."""

    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)

    url: str = "pulsar://localhost:6650"
    """The broker or proxy: ``pulsar://`` or ``pulsar+ssl://``. A token in it is moved to ``token``."""
    admin_url: str = "http://localhost:8080"
    """The admin REST interface: ``http://`` or ``https://``."""
    tenant: str = "public"
    namespace: str = "default"
    token: SecretStr | None = None
    """A JSON web token, for the broker and the admin interface."""
    ca_file: Path | None = None
    """PEM file of the authorities to trust; the certifi set if not given."""
    cert_file: Path | None = None
    """PEM client certificate, for mutual TLS; needs ``key_file``."""
    key_file: Path | None = None
    tls_validate_hostname: bool = True
    lease_seconds: float = Field(default=4.0, gt=1)
    """A member that could not beat, or heard no beat of its own, for this long stops using its partitions."""
    silent_seconds: float = Field(default=2.0, gt=0.5)
    """A member not heard for this long is no longer counted, and the others try its partitions. Safe at any value: the
    broker refuses them while the owner lives."""
    beat_seconds: float = Field(default=0.5, gt=0)
    receiver_queue_records: int = Field(default=30, ge=1, le=100_000)
    """What the client asks for ahead, per partition. The broker answers in producers' batches, so that with small
    records a hundred times as many may come (``preciseDispatcherFlowControl`` in ``broker.conf``). Records of a lost
    partition are dropped undelivered: ahead costs memory, not order."""
    batch_records: int = Field(default=500, ge=1)
    """Most records in a batch. A takeover after a crash repeats a batch that was settled in part."""
    batch_bytes: int = Field(default=262_144, ge=1024)
    batch_delay_milliseconds: int = Field(default=2, ge=1)
    """How long a record waits for others to share its batch."""
    retention_minutes: int = Field(default=10_080, ge=-1)
    """How long topics made by this bus keep settled records; -1: for ever. Unsettled records are always kept."""
    client_log_file: Path | None = None
    """Where the native client logs; nowhere if not given. Not to a Python logger: its threads outlive Python."""

    @model_validator(mode="before")
    @classmethod
    def _move_token(cls, data: Any) -> Any:
        """The URL is shown in messages."""
        if not isinstance(data, dict) or not isinstance(data.get("url"), str) or "@" not in data["url"]:
            return data
        parts = urlsplit(data["url"])
        credentials, _, address = parts.netloc.rpartition("@")
        token = unquote(credentials.partition(":")[2])
        return {**({"token": token} if token else {}), **data, "url": parts._replace(netloc=address).geturl()}

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if "@" in urlsplit(self.admin_url).netloc:
            raise ValueError("admin_url is shown in messages, so it must not hold credentials: use token")
        if self.lease_seconds >= BROKER_PROBE_SECONDS:
            raise ValueError(
                f"lease_seconds must be below {BROKER_PROBE_SECONDS:g}, after which the broker gives partitions of a "
                "silent member away: the member must know before, by its own clock"
            )
        if self.silent_seconds < 2 * self.beat_seconds:
            raise ValueError("silent_seconds must be at least twice beat_seconds")
        if (self.cert_file is None) != (self.key_file is None):
            raise ValueError("cert_file and key_file go together")
        return self

    @property
    def tls(self) -> bool:
        """Whether the connection to the broker is encrypted."""
        return self.url.startswith("pulsar+ssl://")

    @classmethod
    def fields_of_url(cls, url: str) -> dict[str, Any]:
        parts = urlsplit(url)
        tls = parts.scheme in ("pulsar+tls", "pulsar+ssl")
        host = parts.hostname or "localhost"
        shown = f"[{host}]" if ":" in host else host
        port = parts.port or (6651 if tls else 6650)
        fields: dict[str, Any] = {
            "url": f"{'pulsar+ssl' if tls else 'pulsar'}://{shown}:{port}",
            "admin_url": f"https://{shown}:8443" if tls else f"http://{shown}:8080",
        }
        if parts.password:
            fields["token"] = unquote(parts.password)
        folders = [unquote(each) for each in parts.path.split("/") if each]
        fields.update(zip(("tenant", "namespace"), folders, strict=False))
        return fields

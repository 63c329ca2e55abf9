"""The settings of the NATS backend."""

from __future__ import annotations

from typing import Any
from urllib.parse import unquote, urlsplit

from pydantic import ConfigDict, Field, FilePath, SecretStr

from eventbus_core.backend.store import StoreSettings


class NatsSettings(StoreSettings):
    """Where NATS is, and how to log in."""

    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)

    url: str = Field(default="nats://localhost:4222", pattern=r"^(nats|tls)://[^@/?#]+$")
    """``nats://host:port``, or ``tls://``; credentials are fields of their own."""
    username: str | None = None
    password: SecretStr | None = None
    ca_file: FilePath | None = None
    """Certificates to trust with ``tls://``, PEM; None: the system's."""

    @classmethod
    def fields_of_url(cls, url: str) -> dict[str, Any]:
        """The address without credentials, user and password."""
        parts = urlsplit(url)
        found = {"url": parts._replace(netloc=parts.netloc.rpartition("@")[2], path=parts.path.rstrip("/")).geturl()}
        credentials = {"username": parts.username, "password": parts.password}
        return found | {name: unquote(each) for name, each in credentials.items() if each}

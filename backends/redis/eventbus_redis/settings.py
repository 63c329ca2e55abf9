"""The settings of the Redis backend."""

from __future__ import annotations

from typing import Any
from urllib.parse import unquote, urlsplit

from pydantic import ConfigDict, Field, FilePath, SecretStr, field_validator, model_validator

from eventbus_core.backend import BackendSettings

_RESERVED = frozenset(
    {
        "db",
        "decode_responses",
        "driver_info",
        "host",
        "parser_class",
        "password",
        "port",
        "protocol",
        "socket_connect_timeout",
        "socket_timeout",
        "ssl_ca_certs",
        "ssl_certfile",
        "ssl_check_hostname",
        "ssl_keyfile",
        "username",
    }
)
_SCHEMES = {"redis": False, "redis+tls": True, "rediss": True}


class RedisSettings(BackendSettings):
    """Where Redis is, how to log in, how long leases live and what is kept."""

    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)

    url: str = "redis://localhost:6379/0"
    """``redis://host:port/database``, or ``redis+tls://``. Credentials in it are moved to the fields below."""
    username: str | None = None
    """ACL user; None: the default user."""
    password: SecretStr | None = None
    tls: bool = False
    ca_file: FilePath | None = None
    """Certificates to trust, PEM; None: the system's."""
    cert_file: FilePath | None = None
    key_file: FilePath | None = None
    verify_hostname: bool = True
    lease_seconds: float = Field(default=10.0, gt=0.2)
    """How long a member that says nothing keeps its partitions; half as long again after half of it without a sign of
    anybody in the group, since it may have been the server that was away."""
    prefix: str = Field(default="eb", pattern=r"^[^{}|\s]+$")
    """Every key starts with it; one server can hold several buses."""
    retention_seconds: float | None = Field(default=None, gt=0)
    """Settled records older than this are removed; None: never. What a group has not settled always stays."""
    retention_records: int | None = Field(default=None, ge=1)
    """More settled records per partition than this are removed, the oldest first; None: never."""
    client_options: dict[str, Any] = Field(default_factory=dict, repr=False)
    """Raw keyword arguments for ``redis.connection.Connection``, for what has no setting; the others are refused."""

    @property
    def address(self) -> tuple[str, int, int]:
        """Host, port and database."""
        parts = urlsplit(self.url)
        return parts.hostname or "localhost", parts.port or 6379, int(parts.path.strip("/") or 0)

    @model_validator(mode="before")
    @classmethod
    def _move_credentials(cls, data: Any) -> Any:
        if isinstance(data, dict) and isinstance(data.get("url"), str):
            return {**cls.fields_of_url(data["url"]), **{name: each for name, each in data.items() if name != "url"}}
        return data

    @field_validator("url")
    @classmethod
    def _check_url(cls, url: str) -> str:
        parts = urlsplit(url)
        if parts.scheme not in _SCHEMES:
            raise ValueError(f"the scheme must be one of {', '.join(_SCHEMES)}, as in redis://localhost:6379/0")
        database = parts.path.strip("/")
        if database and not database.isdecimal():
            raise ValueError("the path must be a database number, as in redis://localhost:6379/0")
        if parts.query:
            raise ValueError("options are settings of their own, not part of the url")
        _ = parts.port
        return url

    @field_validator("client_options")
    @classmethod
    def _no_reserved_option(cls, options: dict[str, Any]) -> dict[str, Any]:
        refused = sorted(_RESERVED & options.keys())
        if refused:
            raise ValueError(f"{', '.join(refused)}: reserved, as a setting or the way replies are read rests on it")
        return options

    @classmethod
    def fields_of_url(cls, url: str) -> dict[str, Any]:
        """Address without credentials, user, password and whether TLS is on."""
        parts = urlsplit(url)
        found: dict[str, Any] = {"url": parts._replace(netloc=parts.netloc.rpartition("@")[2]).geturl()}
        if parts.username:
            found["username"] = unquote(parts.username)
        if parts.password:
            found["password"] = SecretStr(unquote(parts.password))
        if _SCHEMES.get(parts.scheme):
            found["tls"] = True
        return found

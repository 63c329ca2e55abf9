"""One socket to Redis, and exchanges of many commands at a time.

redis-py's ``Connection`` is used directly: its clients and pools retry commands by themselves, and its cluster client
was seen to run a script eleven times after one lost reply.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple, TypeAlias

from redis import exceptions as client
from redis.connection import Connection, SSLConnection

from eventbus_core.errors import BrokerError, Unavailable
from eventbus_redis.errors import NAME, mapped
from eventbus_redis.script import Script
from eventbus_redis.settings import RedisSettings

_SEND_BYTES = 64 << 10
"""So much is gathered before it is sent: few system calls for many small commands, and an early start of large ones."""

Command: TypeAlias = Sequence[bytes | str | int]
Reply: TypeAlias = Any


class Call(NamedTuple):
    """A script with its keys and arguments."""

    script: Script
    keys: Sequence[str]
    args: Sequence[bytes | str | int]

    def by_digest(self) -> Command:
        """The command that assumes the server to know the script."""
        return ("EVALSHA", self.script.digest, len(self.keys), *self.keys, *self.args)

    def by_body(self) -> Command:
        """The command that teaches the server the script."""
        return ("EVAL", self.script.body, len(self.keys), *self.keys, *self.args)


class Link:
    """One connection; opens itself when needed. Calls must not overlap.

    A call lasts ``request_timeout_seconds`` at most, plus what the command itself waits.
    """

    def __init__(self, settings: RedisSettings) -> None:
        self._settings = settings
        self._connection: Any = _connection(settings)  # redis-py leaves these methods untyped
        self._connection_used = False

    def open(self) -> None:
        """Connect, log in, and refuse a server on which the bus would lose records. Unavailable, AccessDenied."""
        info = self.command("INFO", doing="connecting")
        facts = dict(line.split(":", 1) for line in info.decode().splitlines() if ":" in line)
        problem = _problem(facts)
        if problem:
            self.close()
            raise BrokerError(f"redis: {problem}", backend=NAME)

    def command(self, *command: bytes | str | int, doing: str, topic: str | None = None, wait: float = 0.0) -> Reply:
        """One command that may be repeated. Raises the mapped error."""
        return self.exchange([command], doing=doing, topic=topic, wait=wait)[0]

    def call(
        self, script: Script, keys: Sequence[str], args: Sequence[bytes | str | int], *, doing: str, topic: str
    ) -> Reply:
        """One script. Raises the mapped error."""
        return self.exchange([Call(script, keys, args)], doing=doing, topic=topic)[0]

    def exchange(
        self, requests: Sequence[Call | Command], *, doing: str, topic: str | None = None, wait: float = 0.0
    ) -> list[Reply]:
        """Scripts, and commands that may be repeated; again once when the connection breaks.

        Raises the first mapped error.
        """
        replies = self._repeated(requests, doing, topic, wait)
        for reply in replies:
            if isinstance(reply, Exception):
                raise mapped(reply, doing, topic=topic)
        return replies

    def exchange_once(self, calls: Iterable[Call], *, doing: str) -> list[Reply | client.ResponseError]:
        """Scripts, not repeated; errors that the server answered are in the list.

        A call is sent before the next is taken from ``calls``, so the server works while the client makes the next.
        Unavailable: the connection broke, and any of them may have run. AccessDenied: at login, none of them ran.
        """
        return self._exchange(calls, doing, None, self._deadline(0.0))

    def close(self) -> None:
        """Close the socket; the next call opens another."""
        self._connection.disconnect()
        self._connection_used = False

    def _repeated(self, requests: Sequence[Call | Command], doing: str, topic: str | None, wait: float) -> list[Reply]:
        was_used, deadline = self._connection_used, self._deadline(wait)
        try:
            return self._exchange(requests, doing, topic, deadline)
        except Unavailable as error:
            # A connection that was cut while idle shows it only now; a server that does not answer gets no second try.
            if not was_used or isinstance(error.__cause__, client.TimeoutError | client.BusyLoadingError):
                raise
        return self._exchange(requests, doing, topic, deadline)

    def _deadline(self, wait: float) -> float:
        return time.monotonic() + self._settings.request_timeout_seconds + wait

    def _exchange(
        self, requests: Iterable[Call | Command], doing: str, topic: str | None, deadline: float
    ) -> list[Reply]:
        try:
            sent = self._send(requests)
            replies = [self._read(deadline) for _ in sent]
            unknown = [at for at, reply in enumerate(replies) if isinstance(reply, client.NoScriptError)]
            if unknown:
                again = self._send([call.by_body() for at in unknown if isinstance(call := sent[at], Call)])
                for at, reply in zip(unknown, [self._read(deadline) for _ in again], strict=True):
                    replies[at] = reply
        except (client.RedisError, OSError, ValueError) as error:
            self.close()
            found = mapped(error, doing, topic=topic)
            raise found from error
        except BaseException:
            # Replies that nobody read would answer the next command.
            self.close()
            raise
        return replies

    def _send(self, requests: Iterable[Call | Command]) -> list[Call | Command]:
        connection = self._connection
        sent: list[Call | Command] = []
        packed: list[bytes] = []
        size = 0
        for request in requests:
            sent.append(request)
            for piece in connection.pack_command(*(request.by_digest() if isinstance(request, Call) else request)):
                packed.append(piece)
                size += len(piece)
            if size >= _SEND_BYTES:
                connection.send_packed_command([b"".join(packed)], check_health=False)
                packed, size = [], 0
        if packed:
            connection.send_packed_command([b"".join(packed)], check_health=False)
            self._connection_used = True
        return sent

    def _read(self, deadline: float) -> Reply:
        try:
            return self._connection.read_response(timeout=max(0.001, deadline - time.monotonic()))
        except client.ResponseError as error:
            return error


def _connection(settings: RedisSettings) -> Any:
    host, port, database = settings.address
    options: dict[str, Any] = {
        "host": host,
        "port": port,
        "db": database,
        "username": settings.username,
        "password": settings.password.get_secret_value() if settings.password else None,
        "socket_timeout": settings.request_timeout_seconds,
        "socket_connect_timeout": min(settings.connect_timeout_seconds, settings.request_timeout_seconds),
        "protocol": 2,
        "driver_info": None,
    }
    if not settings.tls:
        plain: Any = Connection
        return plain(**{**options, **settings.client_options})
    options |= {
        "ssl_ca_certs": str(settings.ca_file) if settings.ca_file else None,
        "ssl_certfile": str(settings.cert_file) if settings.cert_file else None,
        "ssl_keyfile": str(settings.key_file) if settings.key_file else None,
        "ssl_check_hostname": settings.verify_hostname,
    }
    return SSLConnection(**{**options, **settings.client_options})


def _problem(facts: dict[str, str]) -> str | None:
    policy = facts.get("maxmemory_policy", "noeviction")
    if policy.startswith("allkeys"):
        return (
            f"maxmemory-policy is {policy}, so Redis may remove records and positions at any time; "
            "set it to noeviction (CONFIG SET maxmemory-policy noeviction, and in redis.conf)"
        )
    if facts.get("cluster_enabled") == "1":
        return "Redis Cluster is not supported yet; use a single primary (replicas are fine)"
    version = facts.get("redis_version", "7.0")
    if int(version.split(".", 1)[0]) < 7:
        return f"server {version} is too old; 7.0 or later is needed"
    return None

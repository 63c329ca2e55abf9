"""Connecting with nats-py, and what its exceptions mean."""

from __future__ import annotations

import math
import ssl
from collections.abc import Awaitable, Callable
from typing import Final

from nats.aio.client import Client
from nats.errors import (
    AuthorizationError,
    ConnectionClosedError,
    Error,
    NoRespondersError,
    NoServersError,
    StaleConnectionError,
)
from nats.js.errors import NoStreamResponseError, NotFoundError, ServerError, ServiceUnavailableError

from eventbus_core.errors import AccessDenied, BrokerError, EventBusError, Unavailable
from eventbus_nats.settings import NatsSettings

FAILURES: Final = (Error, OSError)
"""All that the client raises."""
# A stream that is not found belongs to a deleted topic, or to a server that is starting. Which, the next look-up of
# the topic tells.
_AWAY: Final = (
    OSError,
    ConnectionClosedError,
    NoRespondersError,
    NoServersError,
    NoStreamResponseError,
    NotFoundError,
    ServerError,
    ServiceUnavailableError,
    StaleConnectionError,
)


async def connected(settings: NatsSettings, client: Client, ended: Callable[[], Awaitable[None]]) -> None:
    """Connect; ``ended`` is called when the connection is gone. Its own reconnecting is off."""
    try:
        await client.connect(
            settings.url,
            user=settings.username,
            password=settings.password.get_secret_value() if settings.password else None,
            tls=ssl.create_default_context(cafile=settings.ca_file) if settings.url.startswith("tls:") else None,
            connect_timeout=math.ceil(settings.connect_timeout_seconds),
            allow_reconnect=False,
            closed_cb=ended,
            error_cb=_told,
        )
    except FAILURES as error:
        # A server that is starting may hang up at once, which the client has no class for.
        raise mapped(error, settings, other=Unavailable) from error


def mapped(error: Exception, settings: NatsSettings, *, other: type[EventBusError] = BrokerError) -> EventBusError:
    """The error of ours for one of the client's; ``other``: for what has no class here."""
    kind = Unavailable if isinstance(error, _AWAY) else other
    denied = isinstance(error, AuthorizationError) or "violation" in str(error).lower()
    if denied or isinstance(error, ssl.SSLError):
        kind = AccessDenied
    return kind(f"{settings.url}: {error or type(error).__name__}", backend="nats")


async def _told(error: Exception) -> None:
    """The client tells connection errors here too; the call that meets one raises it."""

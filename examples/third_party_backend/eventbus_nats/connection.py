"""A connection with its loop thread: nats-py is asyncio only, the interface is not."""

from __future__ import annotations

import asyncio
import math
import ssl
import threading
from collections import Counter
from collections.abc import Callable, Coroutine
from contextlib import suppress
from typing import Any, Final, TypeVar

from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.errors import (
    AuthorizationError,
    ConnectionClosedError,
    Error,
    NoRespondersError,
    NoServersError,
    StaleConnectionError,
)
from nats.js import JetStreamContext
from nats.js.errors import NoStreamResponseError, NotFoundError, ServerError, ServiceUnavailableError

from eventbus_core.errors import AccessDenied, BrokerError, EventBusError, Unavailable
from eventbus_nats.settings import NatsSettings

NAME: Final = "nats"
FAILURES: Final = (Error, OSError, TimeoutError)
"""All that the client raises."""
# A stream that is not found belongs to a deleted topic, or to a server that is starting. Which, the next look-up of
# the topic tells.
_AWAY: Final = (
    OSError,
    TimeoutError,
    ConnectionClosedError,
    NoRespondersError,
    NoServersError,
    NoStreamResponseError,
    NotFoundError,
    ServerError,
    ServiceUnavailableError,
    StaleConnectionError,
)
_CLOSE_SECONDS: Final = 1.0
T = TypeVar("T")


def mapped(
    error: Exception, doing: str, topic: str | None = None, *, other: type[EventBusError] = BrokerError
) -> EventBusError:
    """The error of ours for one of the client's, which becomes its cause; ``other``: for what has no class here."""
    kind = Unavailable if isinstance(error, _AWAY) else other
    denied = isinstance(error, AuthorizationError) or "violation" in str(error).lower()
    if denied or isinstance(error, ssl.SSLError):
        kind = AccessDenied
    found = kind(f"nats: {doing}: {error or type(error).__name__}", topic=topic, backend=NAME)
    found.__cause__ = error
    return found


class Link:
    """One connection; connects itself when needed. Calls must not overlap.

    The client's own reconnecting is off: it would send what it has buffered after an outage, when the caller was long
    told that it failed.
    """

    def __init__(self, settings: NatsSettings) -> None:
        self._settings = settings
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="eventbus-nats", daemon=True)
        self._thread.start()
        self._client: Client | None = None
        self._closed: asyncio.Future[None]
        self._watched: list[str] = []
        self.js: JetStreamContext
        self.heard: Counter[str] = Counter()
        """How many messages came to each watched subject."""
        self.woken = asyncio.Event()
        """Set by each of them."""

    def call(
        self, doing: str, work: Callable[[], Coroutine[Any, Any, T]], topic: str | None = None, *, wait: float = 0.0
    ) -> T:
        """Run ``work`` on the loop, for ``request_timeout_seconds`` and ``wait``. Raises errors of ours only."""
        seconds = self._settings.request_timeout_seconds + wait
        try:
            return asyncio.run_coroutine_threadsafe(self._call(work, seconds), self._loop).result()
        except FAILURES as error:
            raise mapped(error, doing, topic) from error

    def close(self) -> None:
        """Close the connection and end the thread."""
        if self._loop.is_closed():
            return
        asyncio.run_coroutine_threadsafe(self._disconnect(), self._loop).result()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    async def watch(self, subject: str) -> None:
        """Set ``woken`` on every message to the subject, also after a reconnection."""
        assert self._client is not None
        self._watched.append(subject)
        await self._client.subscribe(subject, cb=self._wake)

    async def _call(self, work: Callable[[], Coroutine[Any, Any, T]], seconds: float) -> T:
        async with asyncio.timeout(seconds):
            if self._client is None or not self._client.is_connected:
                await self._connect()
            task = asyncio.ensure_future(work())
            either: tuple[asyncio.Future[Any], ...] = (task, self._closed)
            try:
                await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
                if not task.done():
                    raise ConnectionClosedError
                return task.result()
            finally:
                task.cancel()

    async def _connect(self) -> None:
        await self._disconnect()
        settings = self._settings
        closed = self._closed = self._loop.create_future()

        async def ended() -> None:
            if not closed.done():
                closed.set_result(None)

        client = self._client = Client()
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
            for subject in self._watched:
                await client.subscribe(subject, cb=self._wake)
        except FAILURES as error:
            await self._disconnect()
            # A server that is starting may hang up at once, which the client has no class for.
            raise mapped(error, "connecting", other=Unavailable) from error
        self.js = client.jetstream(timeout=settings.request_timeout_seconds)
        self.woken.set()

    async def _disconnect(self) -> None:
        if self._client is not None:
            client, self._client = self._client, None
            with suppress(TimeoutError):  # it flushes first, and a frozen server takes nothing
                async with asyncio.timeout(_CLOSE_SECONDS):
                    await client.close()

    async def _wake(self, message: Msg) -> None:
        self.heard[message.subject] += 1
        self.woken.set()


async def _told(error: Exception) -> None:
    """The client tells connection errors here too; the call that meets one raises it."""

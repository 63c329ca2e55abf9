"""Pulsar's admin REST interface: one request, with credentials, in bounded time, errors as those of the bus."""

from __future__ import annotations

import threading
from typing import Any
from urllib.parse import quote

import httpx

from eventbus_core.errors import Unavailable
from eventbus_pulsar.errors import of_status
from eventbus_pulsar.settings import PulsarSettings
from eventbus_pulsar.tls import context, untrusted


class Rest:
    """A connection pool to the admin interface; any thread may call. Every call blocks for at most its timeouts."""

    def __init__(self, settings: PulsarSettings, *, most_seconds: float = float("inf")) -> None:
        """``most_seconds``: a bound below the settings' timeouts."""
        self._settings = settings
        connect, request = settings.connect_timeout_seconds, settings.request_timeout_seconds
        self._tenant_path = f"{quote(settings.tenant, safe='')}/{quote(settings.namespace, safe='')}"
        headers = {"Authorization": f"Bearer {settings.token.get_secret_value()}"} if settings.token else {}
        self._http = httpx.Client(
            base_url=settings.admin_url.rstrip("/") + "/admin/v2",
            headers=headers,
            timeout=httpx.Timeout(min(request, most_seconds), connect=min(connect, most_seconds)),
            verify=context(settings) if settings.admin_url.startswith("https://") else False,
            follow_redirects=True,
        )
        self._lock = threading.Lock()
        self._under_way = 0
        self._closing = False

    def topic(self, name: str) -> str:
        """The path of a topic."""
        return f"/persistent/{self._tenant_path}/{quote(name, safe='')}"

    def partition(self, name: str, partition: int) -> str:
        """The path of one partition of a topic."""
        return f"{self.topic(name)}-partition-{partition}"

    def group(self, name: str, partition: int, group: str) -> str:
        """The path of a subscription of one partition."""
        return f"{self.partition(name, partition)}/subscription/{quote(group, safe='')}"

    def volatile(self, name: str) -> str:
        """The path of a non-persistent topic."""
        return f"/non-persistent/{self._tenant_path}/{quote(name, safe='')}"

    @property
    def space(self) -> str:
        """The path under which the topics of the namespace are listed."""
        return f"/persistent/{self._tenant_path}"

    def check(self, doing: str, topic: str | None = None) -> None:
        """One request that every valid token may make. Raises AccessDenied, Unavailable."""
        self.call("GET", "/clusters", doing, topic=topic)

    def call(
        self,
        method: str,
        path: str,
        doing: str,
        *,
        body: Any = None,
        accept: tuple[int, ...] = (),
        topic: str | None = None,
    ) -> Any:
        """The decoded answer; None for an empty one and for the statuses in ``accept``, which are then no errors."""
        try:
            answer = self._request(method, path, body)
        except httpx.TransportError as error:
            refused = untrusted(error, doing, str(self._http.base_url), topic)
            if refused is not None:
                raise refused from error
            raise Unavailable(
                f"{doing}: the admin interface {self._http.base_url} does not answer "
                f"({type(error).__name__}: {error}); check admin_url",
                topic=topic,
                backend="pulsar",
            ) from error
        if answer.status_code in accept:
            return None
        if answer.status_code >= 300:
            raise of_status(answer.status_code, doing, self._reason(answer), topic)
        return answer.json() if answer.content else None

    def close(self) -> None:
        """Close the connections; the last call that is under way in another thread does it, if there is one."""
        with self._lock:
            self._closing = True
            idle = not self._under_way
        if idle:
            self._http.close()

    def _request(self, method: str, path: str, body: Any) -> httpx.Response:
        with self._lock:
            self._under_way += 1
        try:
            return self._http.request(method, path, json=body)
        finally:
            with self._lock:
                self._under_way -= 1
                last = self._closing and not self._under_way
            if last:
                # Closing earlier would leave the connection of this call open: it returns to a pool that is closed.
                self._http.close()

    def _reason(self, answer: httpx.Response) -> str:
        """What the broker says, which is a page of HTML where it did not get as far as looking at the request."""
        try:
            reason = str(answer.json()["reason"])[:300]
        except (ValueError, KeyError, TypeError):
            reason = answer.reason_phrase
            if answer.status_code == 401:
                remedy = "set token to one that the broker accepts" if self._settings.token else "no token is set"
                return f"{reason}; {remedy}"
        if answer.status_code in (401, 403):
            tenant, namespace = self._settings.tenant, self._settings.namespace
            reason += (
                f"; grant the role of the token produce and consume in {tenant}/{namespace} "
                f"(joining a group and managing topics take an admin of tenant {tenant!r})"
            )
        return reason

"""Pulsar's admin REST interface: one request, with credentials, in bounded time, errors as those of the bus."""

from __future__ import annotations

import ssl
from typing import Any
from urllib.parse import quote

import httpx

from eventbus_core.errors import SettingsError, Unavailable
from eventbus_pulsar.errors import of_status
from eventbus_pulsar.settings import PulsarSettings


class Rest:
    """A connection pool to the admin interface; any thread may call. Every call blocks for at most its timeouts."""

    def __init__(self, settings: PulsarSettings) -> None:
        self._tenant_path = f"{quote(settings.tenant, safe='')}/{quote(settings.namespace, safe='')}"
        headers = {"Authorization": f"Bearer {settings.token.get_secret_value()}"} if settings.token else {}
        self._http = httpx.Client(
            base_url=settings.admin_url.rstrip("/") + "/admin/v2",
            headers=headers,
            timeout=httpx.Timeout(settings.request_timeout_seconds, connect=settings.connect_timeout_seconds),
            verify=_context(settings) if settings.admin_url.startswith("https://") else False,
            follow_redirects=True,
        )

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

    def check(self) -> None:
        """One request that every valid token may make. Raises AccessDenied, Unavailable."""
        self.call("GET", "/clusters", "connecting")

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
            answer = self._http.request(method, path, json=body)
        except httpx.TransportError as error:
            raise Unavailable(
                f"{doing}: the admin interface {self._http.base_url} does not answer "
                f"({type(error).__name__}: {error}); check admin_url",
                topic=topic,
                backend="pulsar",
            ) from error
        if answer.status_code in accept:
            return None
        if answer.status_code >= 300:
            raise of_status(answer.status_code, doing, _reason(answer), topic)
        return answer.json() if answer.content else None

    def close(self) -> None:
        """Close the connections."""
        self._http.close()


def _reason(answer: httpx.Response) -> str:
    try:
        return str(answer.json()["reason"])
    except (ValueError, KeyError, TypeError):
        return answer.text


def _context(settings: PulsarSettings) -> ssl.SSLContext:
    try:
        context = ssl.create_default_context(cafile=settings.ca_file)
        if settings.cert_file and settings.key_file:
            context.load_cert_chain(settings.cert_file, settings.key_file)
    except OSError as error:
        raise SettingsError(f"cannot read ca_file, cert_file or key_file: {error}", backend="pulsar") from error
    context.check_hostname = settings.tls_validate_hostname
    return context

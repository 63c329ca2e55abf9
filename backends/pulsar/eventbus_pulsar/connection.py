"""Opening and closing the native client in bounded time."""

from __future__ import annotations

import atexit
import os
import socket
import threading
import weakref
from urllib.parse import urlsplit

import pulsar

from eventbus_core.errors import Unavailable
from eventbus_pulsar.errors import ClientError, translated
from eventbus_pulsar.settings import PulsarSettings
from eventbus_pulsar.tls import context, untrusted

_open: weakref.WeakSet[pulsar.Client] = weakref.WeakSet()


def open_client(settings: PulsarSettings) -> pulsar.Client:
    """A client whose port was seen to answer: the client itself would say ``Timeout`` for a refused one.

    Raises Unavailable, or AccessDenied for a certificate that is not trusted.
    """
    _knock(settings)
    files = {
        "tls_trust_certs_file_path": settings.ca_file,
        "tls_certificate_file_path": settings.cert_file,
        "tls_private_key_file_path": settings.key_file,
    }
    try:
        client = pulsar.Client(
            settings.url,
            authentication=pulsar.AuthenticationToken(settings.token.get_secret_value()) if settings.token else None,
            operation_timeout_seconds=max(1, round(settings.connect_timeout_seconds)),
            connection_timeout_ms=max(1, int(settings.connect_timeout_seconds * 1000)),
            tls_validate_hostname=settings.tls_validate_hostname,
            logger=pulsar.FileLogger(pulsar.LoggerLevel.Warn, str(settings.client_log_file or os.devnull)),
            **{name: str(path) for name, path in files.items() if path is not None},
        )
    except (ClientError, ValueError) as error:
        raise translated(error, f"opening a client for {settings.url}") from error
    _open.add(client)
    return client


def close_client(client: pulsar.Client, seconds: float) -> None:
    """Close it, waiting for at most ``seconds``: with a broker gone the client's own close may take long."""
    _open.discard(client)
    closing = threading.Thread(target=_close, args=(client,), name="eventbus-pulsar-close", daemon=True)
    closing.start()
    closing.join(seconds)


def data_topic(settings: PulsarSettings, topic: str, partition: int) -> str:
    """The client's name of one partition."""
    return f"persistent://{settings.tenant}/{settings.namespace}/{topic}-partition-{partition}"


def _knock(settings: PulsarSettings) -> None:
    parts = urlsplit(settings.url)
    address = (parts.hostname or "localhost", parts.port or (6651 if settings.tls else 6650))
    try:
        with socket.create_connection(address, settings.connect_timeout_seconds) as knocking:
            if settings.tls:
                context(settings).wrap_socket(knocking, server_hostname=address[0]).close()
    except OSError as error:
        refused = untrusted(error, "connecting", settings.url)
        if refused is not None:
            raise refused from error
        raise Unavailable(f"cannot connect to {settings.url}: {error}; check url", backend="pulsar") from error


def _close(client: pulsar.Client) -> None:
    try:
        client.close()
    except pulsar.AlreadyClosed:
        return
    except ClientError:
        client.shutdown()


@atexit.register
def _close_all() -> None:
    # An interpreter that exits with sends under way aborts in the native client's threads.
    for client in list(_open):
        close_client(client, 5.0)

"""Whom to trust, for the broker's port and the admin interface alike."""

from __future__ import annotations

import ssl

import httpx

from eventbus_core.errors import AccessDenied, SettingsError
from eventbus_pulsar.settings import PulsarSettings


def context(settings: PulsarSettings) -> ssl.SSLContext:
    """The TLS side of the settings. Raises SettingsError: a file cannot be read."""
    try:
        made = ssl.create_default_context(cafile=settings.ca_file) if settings.ca_file else httpx.create_ssl_context()
        if settings.cert_file and settings.key_file:
            made.load_cert_chain(settings.cert_file, settings.key_file)
    except OSError as error:
        raise SettingsError(f"cannot read ca_file, cert_file or key_file: {error}", backend="pulsar") from error
    made.check_hostname = settings.tls_validate_hostname
    return made


def untrusted(error: BaseException, doing: str, address: str, topic: str | None = None) -> AccessDenied | None:
    """The error to raise if a certificate is what a connection failed of; it will not pass by itself."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, ssl.SSLCertVerificationError):
            return AccessDenied(
                f"{doing}: the certificate of {address} is not trusted ({cause.verify_message}); check ca_file and the "
                "host name",
                topic=topic,
                backend="pulsar",
            )
        cause = cause.__cause__ or cause.__context__
    return None

"""Pulsar's exceptions and HTTP answers as errors of the bus."""

from __future__ import annotations

import pulsar
from pulsar import exceptions as px

from eventbus_core.errors import (
    AccessDenied,
    BrokerError,
    Conflict,
    EventBusError,
    InvalidRecord,
    NotFound,
    SettingsError,
    TooLarge,
    Unavailable,
)

_CLASSES: dict[type[Exception], type[EventBusError]] = {
    px.UnknownError: BrokerError,
    px.InvalidConfiguration: SettingsError,
    px.Timeout: Unavailable,
    px.LookupError: Unavailable,
    px.ConnectError: Unavailable,
    px.ReadError: Unavailable,
    px.AuthenticationError: AccessDenied,
    px.AuthorizationError: AccessDenied,
    px.ErrorGettingAuthenticationData: AccessDenied,
    px.BrokerMetadataError: Unavailable,
    px.BrokerPersistenceError: Unavailable,
    px.ChecksumError: BrokerError,
    px.ConsumerBusy: Conflict,
    px.NotConnected: Unavailable,
    px.AlreadyClosed: BrokerError,
    px.InvalidMessage: InvalidRecord,
    px.ConsumerNotInitialized: BrokerError,
    px.ProducerNotInitialized: BrokerError,
    px.ProducerBusy: Conflict,
    px.TooManyLookupRequestException: Unavailable,
    px.InvalidTopicName: InvalidRecord,
    px.InvalidUrl: SettingsError,
    px.ServiceUnitNotReady: Unavailable,
    px.OperationNotSupported: BrokerError,
    px.ProducerBlockedQuotaExceededError: Unavailable,
    px.ProducerBlockedQuotaExceededException: Unavailable,
    px.ProducerQueueIsFull: Unavailable,
    px.MessageTooBig: TooLarge,
    px.TopicNotFound: NotFound,
    px.SubscriptionNotFound: NotFound,
    px.ConsumerNotFound: NotFound,
    px.UnsupportedVersionError: BrokerError,
    px.TopicTerminated: Conflict,
    px.CryptoError: BrokerError,
    px.IncompatibleSchema: Conflict,
    px.ConsumerAssignError: BrokerError,
    px.CumulativeAcknowledgementNotAllowedError: BrokerError,
    px.TransactionCoordinatorNotFoundError: BrokerError,
    px.InvalidTxnStatusError: BrokerError,
    px.NotAllowedError: BrokerError,
    px.TransactionConflict: BrokerError,
    px.TransactionNotFound: BrokerError,
    px.ProducerFenced: Conflict,
    px.MemoryBufferIsFull: Unavailable,
    px.Interrupted: Unavailable,
}


def class_of(error: type[BaseException]) -> type[EventBusError]:
    """The class of the bus for an exception class of the client; the bare base class is a ``BrokerError``."""
    return next((_CLASSES[each] for each in error.__mro__ if each in _CLASSES), BrokerError)


def translated(error: Exception, doing: str, topic: str | None = None) -> EventBusError:
    """An error of the bus that says what was being done; raise it ``from error``."""
    if isinstance(error, ValueError):
        return SettingsError(f"{doing}: {error}", topic=topic, backend="pulsar")
    kind = class_of(type(error))
    remedy = "; grant the role of the token what it needs" if kind is AccessDenied else ""
    found = kind(f"{doing}: {type(error).__name__}: {error}{remedy}", topic=topic, backend="pulsar")
    found.__cause__ = error
    return found


def of_status(status: int, doing: str, answer: str, topic: str | None = None) -> EventBusError:
    """The error for a status of the admin interface."""
    kind: type[EventBusError] = BrokerError
    if status in (401, 403):
        kind = AccessDenied
    elif status == 404:
        kind = NotFound
    elif status in (409, 412):
        kind = Conflict
    elif status in (408, 429, 500, 502, 503, 504):
        # 500 also stands for two writes of one cursor that met (BadVersionException): the next one gets through.
        kind = Unavailable
    return kind(f"{doing}: HTTP {status} {answer}", topic=topic, backend="pulsar")


ClientError = pulsar.PulsarException

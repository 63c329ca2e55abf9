"""Every error of the event bus.

::

    EventBusError
    ├── ConfigurationError         before any I/O; fix the configuration
    │   ├── SettingsError
    │   ├── LoadError              .reason: one of five
    │   └── Unsupported            .capability
    ├── UsageError                 the caller's mistake
    │   ├── InvalidRecord
    │   │   └── TooLarge
    │   ├── Closed
    │   └── Forked
    ├── BufferFull                 retryable: nothing was taken
    ├── SendError
    │   ├── SendFailed             certainly not stored
    │   └── SendUnknown            may be stored
    ├── BrokerError
    │   ├── Unavailable            retryable
    │   ├── AccessDenied
    │   ├── NotFound
    │   └── Conflict
    ├── DecodeError                not an event, or not of the wanted type
    ├── HandlerFailed              an event was given up and on_failure="stop"
    └── PositionGone               records vanished and the consumer was told to stop

    BatchFailed                    raised by batch handlers, not by the bus

``retryable`` is a constant of the class. The client library's exception, where there was one, is ``__cause__``.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Literal, TypeAlias

LoadReason: TypeAlias = Literal["unknown", "client_missing", "import_failed", "version_mismatch", "duplicate"]


class EventBusError(Exception):
    """The base of all. ``topic`` and ``backend`` say what it was about, where that is known."""

    retryable: ClassVar[bool] = False

    def __init__(self, message: str, *, topic: str | None = None, backend: str | None = None) -> None:
        super().__init__(message)
        self.topic = topic
        self.backend = backend


class ConfigurationError(EventBusError):
    """Something is wrong before any I/O took place."""


class SettingsError(ConfigurationError):
    """A setting is unknown, misspelt, missing or out of range."""


class LoadError(ConfigurationError):
    """A backend could not be loaded; ``reason`` says which of the five ways."""

    def __init__(self, message: str, *, reason: LoadReason, backend: str | None = None) -> None:
        super().__init__(message, backend=backend)
        self.reason: LoadReason = reason


class Unsupported(ConfigurationError):
    """The backend lacks a capability that was asked for."""

    def __init__(self, message: str, *, capability: str, backend: str | None = None) -> None:
        super().__init__(message, backend=backend)
        self.capability = capability


class UsageError(EventBusError):
    """The caller's mistake."""


class InvalidRecord(UsageError):
    """The record cannot be sent as it is: topic name, header, key, value or timestamp. Nothing was taken."""


class TooLarge(InvalidRecord):
    """The record exceeds the backend's limit. Nothing was taken."""


class Closed(UsageError):
    """The bus, producer or consumer was closed before."""


class Forked(UsageError):
    """The object was made in the parent process; open a new one in the child."""


class BufferFull(EventBusError):
    """There was no room in the send buffer within the time allowed. Nothing was taken: send it again later."""

    retryable = True


class SendError(EventBusError):
    """What ``Receipt.result`` raises."""


class SendFailed(SendError):
    """The record is certainly not stored."""


class SendUnknown(SendError):
    """The record may or may not be stored: the broker did not say so in time."""


class BrokerError(EventBusError):
    """The broker refused, for a reason that fits none of the classes below."""


class Unavailable(BrokerError):
    """The broker cannot be reached or does not answer in time. The next call reconnects."""

    retryable = True


class AccessDenied(BrokerError):
    """Wrong credentials, an untrusted certificate, or no permission."""


class NotFound(BrokerError):
    """The topic, partition or group does not exist."""


class Conflict(BrokerError):
    """It exists in another shape, or is in use."""


class DecodeError(EventBusError):
    """The record is not an event, or not one of the wanted type."""


class HandlerFailed(EventBusError):
    """An event could not be handled, and its subscription says to stop. Its exception is ``__cause__``."""


class BatchFailed(Exception):
    """For batch handlers to raise: these events failed, each with its error; the others are done.

    Later events of a failed event's key in the same batch count as not handled, as they may not go before it.
    """

    def __init__(self, failures: Mapping[Any, Exception]) -> None:
        super().__init__(f"{len(failures)} events of a batch failed")
        self.failures = dict(failures)


class PositionGone(EventBusError):
    """Records that the group had not settled were removed, and the consumer was opened with ``on_gap="stop"``."""

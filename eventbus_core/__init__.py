"""One event bus, any broker: what applications import. Backends are chosen in configuration.

Authors of backends import :mod:`eventbus_core.backend` as well.
"""

from eventbus_core.admin import Admin
from eventbus_core.bus import EventBus
from eventbus_core.capabilities import Capabilities, Durability, Reach
from eventbus_core.codecs import Codec
from eventbus_core.consumer import Consumer
from eventbus_core.errors import (
    AccessDenied,
    BatchFailed,
    BrokerError,
    BufferFull,
    Closed,
    ConfigurationError,
    Conflict,
    DecodeError,
    EventBusError,
    Forked,
    HandlerFailed,
    InvalidRecord,
    LoadError,
    NotFound,
    PositionGone,
    SendError,
    SendFailed,
    SendUnknown,
    SettingsError,
    TooLarge,
    Unavailable,
    Unsupported,
    UsageError,
)
from eventbus_core.events import Event, event_type
from eventbus_core.hooks import Hooks
from eventbus_core.outbox import Outbox
from eventbus_core.producer import Producer
from eventbus_core.receipts import Receipt
from eventbus_core.records import Delivery, Position, Record, Stored
from eventbus_core.settings import Settings
from eventbus_core.subscriptions import Batch, Retry
from eventbus_core.worker import Worker

__all__ = [
    "AccessDenied",
    "Admin",
    "Batch",
    "BatchFailed",
    "BrokerError",
    "BufferFull",
    "Capabilities",
    "Closed",
    "Codec",
    "ConfigurationError",
    "Conflict",
    "Consumer",
    "DecodeError",
    "Delivery",
    "Durability",
    "Event",
    "EventBus",
    "EventBusError",
    "Forked",
    "HandlerFailed",
    "Hooks",
    "InvalidRecord",
    "LoadError",
    "NotFound",
    "Outbox",
    "Position",
    "PositionGone",
    "Producer",
    "Reach",
    "Receipt",
    "Record",
    "Retry",
    "SendError",
    "SendFailed",
    "SendUnknown",
    "Settings",
    "SettingsError",
    "Stored",
    "TooLarge",
    "Unavailable",
    "Unsupported",
    "UsageError",
    "Worker",
    "event_type",
]

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
    BrokerError,
    BufferFull,
    Closed,
    ConfigurationError,
    Conflict,
    DecodeError,
    EventBusError,
    Forked,
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
from eventbus_core.producer import Producer
from eventbus_core.receipts import Receipt
from eventbus_core.records import Delivery, Position, Record, Stored
from eventbus_core.settings import Settings

__all__ = [
    "AccessDenied",
    "Admin",
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
    "Hooks",
    "InvalidRecord",
    "LoadError",
    "NotFound",
    "Position",
    "PositionGone",
    "Producer",
    "Reach",
    "Receipt",
    "Record",
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
    "event_type",
]

"""Every exception of redis-py, and what it means here."""

from __future__ import annotations

from typing import Any

from redis import exceptions as client

from eventbus_core.errors import AccessDenied, BrokerError, EventBusError, NotFound, Unavailable, UsageError

NAME = "redis"

CLASSES: dict[type[BaseException], type[EventBusError]] = {
    client.RedisError: BrokerError,
    client.ConnectionError: Unavailable,
    client.TimeoutError: Unavailable,
    client.BusyLoadingError: Unavailable,
    client.MaxConnectionsError: Unavailable,
    client.ReadOnlyError: Unavailable,
    client.TryAgainError: Unavailable,
    client.ClusterDownError: Unavailable,
    client.MasterDownError: Unavailable,
    client.ClusterError: Unavailable,
    client.OutOfMemoryError: Unavailable,
    client.AuthenticationError: AccessDenied,
    client.AuthorizationError: AccessDenied,
    client.AuthenticationWrongNumberOfArgsError: AccessDenied,
    client.NoPermissionError: AccessDenied,
    client.ExternalAuthProviderError: AccessDenied,
    client.NoScriptError: BrokerError,
    client.ResponseError: BrokerError,
    client.InvalidResponse: BrokerError,
    client.DataError: BrokerError,
    client.PubSubError: BrokerError,
    client.WatchError: BrokerError,
    client.ExecAbortError: BrokerError,
    client.ModuleError: BrokerError,
    client.LockError: BrokerError,
    client.LockNotOwnedError: BrokerError,
    client.ChildDeadlockedError: UsageError,
    client.AskError: BrokerError,
    client.MovedError: BrokerError,
    client.ClusterCrossSlotError: BrokerError,
    client.RedisClusterException: BrokerError,
    client.SlotNotCoveredError: Unavailable,
    client.CrossSlotTransactionError: BrokerError,
    client.InvalidPipelineStack: BrokerError,
    client.IncorrectPolicyType: BrokerError,
}
"""By class; a class that is not in here (of a newer redis-py) counts as its nearest base."""
for _newer in ("NoSuchFieldsetError",):
    if hasattr(client, _newer):
        CLASSES[getattr(client, _newer)] = BrokerError

_BY_CODE: dict[str, type[EventBusError]] = {
    "NOREPLICAS": Unavailable,
    "MISCONF": Unavailable,
    "BUSY": Unavailable,
    "UNKILLABLE": Unavailable,
    "NOAUTH": AccessDenied,
    "WRONGPASS": AccessDenied,
    "NOPERM": AccessDenied,
}

_REMEDY: dict[type[BaseException], str] = {
    client.OutOfMemoryError: "Redis is full: raise maxmemory, or let groups settle records and set retention",
    client.ReadOnlyError: "this is a replica: give the primary's address in the setting url",
    client.AuthenticationError: "check the settings username and password",
    client.NoPermissionError: "give the ACL user +@all on the keys of the bus, or see the README for the commands",
    client.MovedError: "Redis Cluster is not supported yet: use a single primary",
}


def class_of(error: BaseException) -> type[EventBusError]:
    """The class that a client exception becomes."""
    if type(error) is client.ResponseError:
        found = _BY_CODE.get(str(error).partition(" ")[0])
        if found:
            return found
    for each in type(error).__mro__:
        if each in CLASSES:
            return CLASSES[each]
    return BrokerError


def mapped(error: BaseException, doing: str, *, topic: str | None = None) -> EventBusError:
    """The error of ours for a client exception, which becomes its cause."""
    remedy = next((text for each, text in _REMEDY.items() if isinstance(error, each)), "")
    message = f"redis: {doing}: {error}" + (f"; {remedy}" if remedy else "")
    found = class_of(error)(message, topic=topic, backend=NAME)
    found.__cause__ = error
    return found


def gone(topic: str) -> NotFound:
    """The topic was deleted, recreated or emptied behind our back."""
    return NotFound(
        f"redis: topic {topic} does not exist any more in the form it was opened: it was deleted, recreated, or the "
        "server lost its data; check the server, create the topic if need be, and open again",
        topic=topic,
        backend=NAME,
    )


def unexpected(script: str, reply: Any, topic: str) -> BrokerError:
    """A script answered what this version does not know."""
    return BrokerError(
        f"redis: script {script} answered {reply!r}; are several versions of eventbus-redis in use?",
        topic=topic,
        backend=NAME,
    )

"""Every exception of redis-py, and what it means here."""

from __future__ import annotations

import ssl
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

_IN_SCRIPT = ("ACL failure in script", "The user executing the script can't")
"""How an error begins that a script met for want of permission, in Redis 7.2 and later, and in 7.0."""

_PASSING = (ssl.SSLEOFError, ssl.SSLZeroReturnError, ssl.SSLSyscallError, ssl.SSLWantReadError, ssl.SSLWantWriteError)
"""What an interrupted connection causes; every other TLS error means that the two sides do not fit together."""

_TLS_REMEDY = (
    "check ca_file (the authority that signed the server's certificate), verify_hostname (the name in it), "
    "cert_file and key_file"
)
_PERMISSION_REMEDY = "give the ACL user the commands and keys that the README of eventbus-redis lists"

_REMEDY: dict[type[BaseException], str] = {
    client.OutOfMemoryError: "Redis is full: raise maxmemory, or let groups settle records and set retention",
    client.ReadOnlyError: "this is a replica: give the primary's address in the setting url",
    client.AuthenticationError: "check the settings username and password",
    client.NoPermissionError: _PERMISSION_REMEDY,
    client.MovedError: "Redis Cluster is not supported yet: use a single primary",
}


def class_of(error: BaseException) -> type[EventBusError]:
    """The class that a client exception becomes."""
    if _tls_fault(error) or _denied_in_script(error):
        return AccessDenied
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
    if _tls_fault(error):
        remedy = _TLS_REMEDY
    elif _denied_in_script(error):
        remedy = _PERMISSION_REMEDY
    message = f"redis: {doing}: {error}" + (f"; {remedy}" if remedy else "")
    found = class_of(error)(message, topic=topic, backend=NAME)
    found.__cause__ = error
    return found


def _tls_fault(error: BaseException | None) -> bool:
    """Whether TLS failed for good; redis-py raises a connection error while it handles that one."""
    for _ in range(3):
        if isinstance(error, ssl.SSLError):
            return not isinstance(error, _PASSING)
        error = error and (error.__cause__ or error.__context__)
    return False


def _denied_in_script(error: BaseException) -> bool:
    return isinstance(error, client.ResponseError) and str(error).startswith(_IN_SCRIPT)


def gone(topic: str) -> NotFound:
    """The topic was deleted, recreated or emptied behind our back."""
    return NotFound(
        f"redis: topic {topic} does not exist any more in the form it was opened: it was deleted, recreated, or the "
        "server lost its data; check the server, delete what is left of the topic, create it and open again",
        topic=topic,
        backend=NAME,
    )


def forgotten(group: str, topic: str) -> NotFound:
    """The group's position was deleted behind our back."""
    return NotFound(
        f"redis: group {group} was deleted in topic {topic}; open the consumer again to make it anew",
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

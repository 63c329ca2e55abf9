"""What each error code of the Kafka client means in the event bus's terms.

The sets below name every code of confluent-kafka 2.16; a code that is in none is a plain ``BrokerError``, and for a
send *unknown*, never *failed*.
"""

# ruff: noqa: SIM905  (long lists of names are read as text)
from __future__ import annotations

import re
from typing import Final

from confluent_kafka import KafkaError, KafkaException
from confluent_kafka.error import ConsumeError, ProduceError

from eventbus_core.errors import (
    AccessDenied,
    BrokerError,
    Conflict,
    EventBusError,
    NotFound,
    SendFailed,
    SendUnknown,
    Unavailable,
)

ACCESS_DENIED: Final = frozenset(
    """_AUTHENTICATION _SSL SASL_AUTHENTICATION_FAILED UNSUPPORTED_SASL_MECHANISM ILLEGAL_SASL_STATE
    CLUSTER_AUTHORIZATION_FAILED GROUP_AUTHORIZATION_FAILED TOPIC_AUTHORIZATION_FAILED
    TRANSACTIONAL_ID_AUTHORIZATION_FAILED DELEGATION_TOKEN_AUTHORIZATION_FAILED DELEGATION_TOKEN_AUTH_DISABLED
    DELEGATION_TOKEN_EXPIRED DELEGATION_TOKEN_NOT_FOUND DELEGATION_TOKEN_OWNER_MISMATCH
    DELEGATION_TOKEN_REQUEST_NOT_ALLOWED PRINCIPAL_DESERIALIZATION_FAILURE SECURITY_DISABLED UNACCEPTABLE_CREDENTIAL
    """.split()
)
NOT_FOUND: Final = frozenset(
    """UNKNOWN_TOPIC_OR_PART UNKNOWN_TOPIC_ID _UNKNOWN_TOPIC _UNKNOWN_PARTITION _UNKNOWN_GROUP GROUP_ID_NOT_FOUND
    RESOURCE_NOT_FOUND""".split()
)
CONFLICT: Final = frozenset(
    """TOPIC_ALREADY_EXISTS NON_EMPTY_GROUP GROUP_SUBSCRIBED_TO_TOPIC UNKNOWN_MEMBER_ID ILLEGAL_GENERATION
    STALE_MEMBER_EPOCH FENCED_MEMBER_EPOCH FENCED_INSTANCE_ID INCONSISTENT_GROUP_PROTOCOL DUPLICATE_RESOURCE _CONFLICT
    REASSIGNMENT_IN_PROGRESS UNRELEASED_INSTANCE_ID""".split()
)
# _NOENT: "no leaders found", which the client says of partitions just after an outage (librdkafka 2.16).
UNAVAILABLE: Final = frozenset(
    """_TRANSPORT _TIMED_OUT _TIMED_OUT_QUEUE _ALL_BROKERS_DOWN _RESOLVE _WAIT_COORD _WAIT_CACHE _NODE_UPDATE
    _DESTROY_BROKER _UNKNOWN_BROKER _IN_PROGRESS _PREV_IN_PROGRESS _INTR _RETRY _QUEUE_FULL _ISR_INSUFF _MSG_TIMED_OUT
    _MAX_POLL_EXCEEDED _ASSIGNMENT_LOST _PARTIAL _NOENT
    _OUTDATED BROKER_NOT_AVAILABLE COORDINATOR_LOAD_IN_PROGRESS COORDINATOR_NOT_AVAILABLE NOT_COORDINATOR
    NOT_CONTROLLER NOT_LEADER_FOR_PARTITION LEADER_NOT_AVAILABLE REPLICA_NOT_AVAILABLE NOT_ENOUGH_REPLICAS
    NOT_ENOUGH_REPLICAS_AFTER_APPEND REQUEST_TIMED_OUT NETWORK_EXCEPTION REBALANCE_IN_PROGRESS MEMBER_ID_REQUIRED
    OFFSET_NOT_AVAILABLE KAFKA_STORAGE_ERROR UNSTABLE_OFFSET_COMMIT THROTTLING_QUOTA_EXCEEDED FENCED_LEADER_EPOCH
    UNKNOWN_LEADER_EPOCH STALE_BROKER_EPOCH STALE_CTRL_EPOCH LISTENER_NOT_FOUND PREFERRED_LEADER_NOT_AVAILABLE
    ELIGIBLE_LEADERS_NOT_AVAILABLE FETCH_SESSION_ID_NOT_FOUND INVALID_FETCH_SESSION_EPOCH CONCURRENT_TRANSACTIONS
    GROUP_MAX_SIZE_REACHED REBOOTSTRAP_REQUIRED UNKNOWN_CONTROLLER_ID""".split()
)
OTHER: Final = frozenset(
    """DUPLICATE_SEQUENCE_NUMBER DUPLICATE_VOTER ELECTION_NOT_NEEDED FEATURE_UPDATE_FAILED FENCED_STATE_EPOCH
    INCONSISTENT_TOPIC_ID INCONSISTENT_VOTER_SET INVALID_COMMIT_OFFSET_SIZE INVALID_CONFIG INVALID_GROUP_ID INVALID_MSG
    INVALID_MSG_SIZE INVALID_PARTITIONS INVALID_PRINCIPAL_TYPE INVALID_PRODUCER_EPOCH INVALID_PRODUCER_ID_MAPPING
    INVALID_RECORD INVALID_RECORD_STATE INVALID_REGISTRATION INVALID_REGULAR_EXPRESSION INVALID_REPLICATION_FACTOR
    INVALID_REPLICA_ASSIGNMENT INVALID_REQUEST INVALID_REQUIRED_ACKS INVALID_SESSION_TIMEOUT
    INVALID_SHARE_SESSION_EPOCH INVALID_TIMESTAMP INVALID_TRANSACTION_TIMEOUT INVALID_TXN_STATE INVALID_UPDATE_VERSION
    INVALID_VOTER_KEY LOG_DIR_NOT_FOUND MISMATCHED_ENDPOINT_TYPE MSG_SIZE_TOO_LARGE NO_REASSIGNMENT_IN_PROGRESS
    OFFSET_METADATA_TOO_LARGE OFFSET_OUT_OF_RANGE OPERATION_NOT_ATTEMPTED OUT_OF_ORDER_SEQUENCE_NUMBER POLICY_VIOLATION
    PRODUCER_FENCED RECORD_LIST_TOO_LARGE SHARE_SESSION_LIMIT_REACHED SHARE_SESSION_NOT_FOUND STREAMS_INVALID_TOPOLOGY
    STREAMS_INVALID_TOPOLOGY_EPOCH STREAMS_TOPOLOGY_FENCED TELEMETRY_TOO_LARGE TOPIC_DELETION_DISABLED TOPIC_EXCEPTION
    TRANSACTION_ABORTABLE TRANSACTION_COORDINATOR_FENCED UNKNOWN UNKNOWN_PRODUCER_ID UNKNOWN_SUBSCRIPTION_ID
    UNSUPPORTED_ASSIGNOR UNSUPPORTED_COMPRESSION_TYPE UNSUPPORTED_ENDPOINT_TYPE UNSUPPORTED_FOR_MESSAGE_FORMAT
    UNSUPPORTED_VERSION VOTER_NOT_FOUND _APPLICATION _ASSIGN_PARTITIONS _AUTO_OFFSET_RESET _BAD_COMPRESSION _BAD_MSG
    _CRIT_SYS_RESOURCE _DESTROY _EXISTING_SUBSCRIPTION _FAIL _FATAL _FENCED _FS _GAPLESS_GUARANTEE _INCONSISTENT
    _INVALID_ARG _INVALID_DIFFERENT_RECORD _INVALID_TYPE _KEY_DESERIALIZATION _KEY_SERIALIZATION _LOG_TRUNCATION
    _NOOP _NOT_CONFIGURED _NOT_IMPLEMENTED _NO_OFFSET _PARTITION_EOF _PURGE_INFLIGHT _PURGE_QUEUE _READ_ONLY
    _REVOKE_PARTITIONS _STATE _UNDERFLOW _UNKNOWN_PROTOCOL _UNSUPPORTED_FEATURE _VALUE_DESERIALIZATION
    _VALUE_SERIALIZATION""".split()
)

SEND_FAILED: Final = frozenset(
    """MSG_SIZE_TOO_LARGE INVALID_TIMESTAMP INVALID_RECORD TOPIC_AUTHORIZATION_FAILED UNKNOWN_TOPIC_OR_PART
    _UNKNOWN_TOPIC _UNKNOWN_PARTITION""".split()
)
"""Delivery errors that mean *certainly not written*, provided that the connection was undisturbed since the send: the
broker's refusal could otherwise be that of a repeated request whose first try was stored. Purged and timed-out records
were found in the log later (librdkafka 2.16, Kafka 4.1, cut replies), so they are unknown."""

CLIENT_ERRORS: Final = (KafkaException, ConsumeError, ProduceError)
"""The exception classes that carry a ``KafkaError``; serialisation errors derive from these two and are never used."""

_CERTIFICATE_ALERT: Final = re.compile(r"SSL routines:.*\balert .*(certificate|unknown ca)")

_CLASSES: Final[tuple[tuple[frozenset[str], type[BrokerError]], ...]] = (
    (ACCESS_DENIED, AccessDenied),
    (NOT_FOUND, NotFound),
    (CONFLICT, Conflict),
    (UNAVAILABLE, Unavailable),
)
_REMEDIES: Final[dict[type[BrokerError], str]] = {
    AccessDenied: "check credentials, certificates and the ACLs of {user}",
    NotFound: "check the name, or create it",
    Conflict: "it exists in another shape or is in use",
    Unavailable: "check that the brokers at bootstrap_servers are up and reachable",
    BrokerError: "see the client's error",
}


def kafka_error(error: BaseException) -> KafkaError | None:
    """The ``KafkaError`` inside a client's exception, if there is one."""
    inner = error.args[0] if error.args else None
    return inner if isinstance(inner, KafkaError) else None


def refused(error: KafkaError) -> bool:
    """Whether a connection's error means that trying again is of no use: one side does not trust the other.

    A certificate that the broker misses or does not accept is a transport error to the client, with OpenSSL's text for
    the alert that the broker sent (librdkafka 2.16).
    """
    alert = error.name() == "_TRANSPORT" and _CERTIFICATE_ALERT.search(error.str()) is not None
    return alert or error.name() in ACCESS_DENIED


def error_class(code_name: str) -> type[BrokerError]:
    """The event bus's error for a code's name."""
    return next((kind for names, kind in _CLASSES if code_name in names), BrokerError)


def broker_error(
    what: str, error: KafkaError, *, topic: str | None = None, hint: str = "", user: str = "this client"
) -> BrokerError:
    """The event bus's error for a client's; ``hint`` is what the connection said last, if that may be the cause."""
    kind = AccessDenied if refused(error) else error_class(error.name())
    cause = f" (connection: {hint})" if hint and kind is Unavailable else ""
    remedy = _REMEDIES[kind].format(user=user)
    raised = kind(f"{what}: {error.str()} [{error.name()}]{cause}; {remedy}", topic=topic, backend="kafka")
    raised.__cause__ = KafkaException(error)
    return raised


def of_exception(
    what: str, error: Exception, *, topic: str | None = None, hint: str = "", user: str = "this client"
) -> EventBusError:
    """The event bus's error for any exception of the client library."""
    inner = kafka_error(error)
    if inner is not None:
        raised = broker_error(what, inner, topic=topic, hint=hint, user=user)
    elif isinstance(error, TimeoutError):
        raised = Unavailable(
            f"{what}: no answer in time{f' (connection: {hint})' if hint else ''}", topic=topic, backend="kafka"
        )
    else:
        raised = BrokerError(f"{what}: {type(error).__name__}: {error}", topic=topic, backend="kafka")
    raised.__cause__ = error
    return raised


def send_outcome(
    error: KafkaError, topic: str, *, disturbed: bool, user: str = "this client"
) -> SendFailed | SendUnknown:
    """How a send ended whose delivery report carries ``error``; ``disturbed``: a connection failed since the send."""
    certain = error.name() in SEND_FAILED and not disturbed
    kind: type[SendFailed | SendUnknown] = SendFailed if certain else SendUnknown
    cause = broker_error(f"send to {topic!r}", error, topic=topic, user=user)
    outcome = kind(str(cause), topic=topic, backend="kafka")
    outcome.__cause__ = cause
    return outcome

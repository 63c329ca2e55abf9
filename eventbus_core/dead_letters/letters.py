"""Dead letters as records and back: the original untouched, and after it headers that say what happened.

Nothing here does I/O. The topics of a group's dead letters in ``orders``, for the group ``billing``:

- ``orders.billing.dlq`` holds the dead letters;
- ``orders.billing.redrive`` leads back to this group only; its workers receive it beside ``orders``.
"""

from __future__ import annotations

import hashlib
import time
import traceback
from datetime import datetime
from types import TracebackType
from typing import Literal, NamedTuple, Self, TypeAlias, get_args

from eventbus_core.records import Delivery, Headers, Position, Record
from eventbus_core.validation import check_group, check_topic

Reason: TypeAlias = Literal["failed", "undecodable", "unknown", "parked"]
"""Why: the handler gave up; the record is no event of its type; nobody handles its type; its key is parked."""

REDRIVE_HEADER = "eb-redrive"
"""The last header of a redriven record: the run, the dead letter, and where the original came from."""

_PREFIX = "eb-dlq-"
_FIRST = _PREFIX + "group"
_DONE = _PREFIX + "done"
_DETAILS = frozenset(_PREFIX + name for name in ("first-at", "timestamp", "build", "error-message", "stack-hash"))
_MESSAGE_BYTES = 1024
_NAME_BYTES = 200


class DeadLetterId(NamedTuple):
    """Where a dead letter lies in its topic; written ``partition@position``."""

    partition: int
    position: Position

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read what ``str`` wrote. Raises ``ValueError`` for anything else."""
        partition, at, position = text.partition("@")
        if not at or not position or not partition.isascii() or not partition.isdecimal():
            raise ValueError(f"not a dead letter: {text!r} (expected partition@position, e.g. '0@42')")
        return cls(int(partition), Position.parse(position))

    def __str__(self) -> str:
        return f"{self.partition}@{self.position}"


class DeadLetter(NamedTuple):
    """What a dead letter says. ``origin`` is where ``original`` lay in its topic.

    ``again`` names the dead letter that was redriven and failed once more, and ``run`` the redrive; None for a first
    failure. ``parks``: later events of the key follow it. Details are None where the original left no room for them.
    """

    original: Record
    group: str
    origin: DeadLetterId
    reason: Reason
    parks: bool
    attempts: int
    error_type: str
    last_at: datetime
    again: DeadLetterId | None
    run: str | None
    first_at: datetime | None
    error_message: str | None
    stack_hash: str | None
    build: str | None


class Mark(NamedTuple):
    """A record among the dead letters that says that one of them is discharged."""

    of: DeadLetterId


def dlq_topic(topic: str, group: str) -> str:
    """The topic of the dead letters. ``InvalidRecord``: the two names together are too long."""
    return check_topic(f"{topic}.{group}.dlq")


def redrive_topic(topic: str, group: str) -> str:
    """The topic that leads dead letters back to the group. ``InvalidRecord`` like ``dlq_topic``."""
    return check_topic(f"{topic}.{group}.redrive")


def dlq_group(group: str) -> str:
    """The group whose position in the dead letters says up to where they are discharged."""
    return check_group(f"{group}.dlq")


def source_topic(topic: str, group: str) -> str:
    """The topic whose events come in ``topic``, which is it or its redrive topic."""
    return topic.removesuffix(f".{group}.redrive")


def make(
    delivery: Delivery,
    group: str,
    error: BaseException | None,
    *,
    reason: Reason,
    attempts: int,
    first_at: datetime,
    last_at: datetime,
    build: str,
    max_bytes: int,
    parks: bool = False,
) -> Record:
    """The dead letter of a delivery that ``group`` could not handle; to be stored before the delivery is acked.

    Key, value and headers are the delivery's, ours follow. Send it with ``Producer.send_record``: the original may
    have been as large as a record can be, and then what cannot be left out exceeds ``max_bytes`` by up to 1 KiB,
    which every backend keeps free. Of a redriven record it makes a note on its dead letter (``DeadLetter.again``).

    Args:
        delivery: From the topic or from its redrive topic.
        group: That of the handler, whose name and version is ``build``.
        error: What the handler raised last; None for ``parked``.
        reason: See ``Reason``.
        attempts: How often the handler was called, for the first time at ``first_at``; 0 if it was not.
        last_at: When it failed last; aware, as ``first_at``.
        max_bytes: The backend's ``max_record_bytes``.
        parks: Whether later events of the key are to follow it.
    """
    original = delivery.record
    topic = source_topic(original.topic, group)
    headers, origin, again = _origin(delivery, redriven=topic != original.topic)
    needed = {
        "group": group,
        "topic": topic,
        "origin": str(origin),
        "reason": reason,
        "parks": "key" if parks and original.key is not None else "",
        "attempts": str(attempts),
        "error-type": _cut(_type_name(error), _NAME_BYTES),
        "last-at": last_at.isoformat(),
        "again": again,
    }
    details = {
        "first-at": first_at.isoformat(),
        "timestamp": "" if original.timestamp_ms is None else str(original.timestamp_ms),
        "build": _cut(build, _NAME_BYTES),
        **_about(error),
    }
    ours = _headers(needed)
    with_details = ours + _headers(details)
    if size_of(original) + _bytes_of(with_details) <= max_bytes:
        ours = with_details
    return Record(dlq_topic(topic, group), original.value, original.key, headers + ours, int(time.time() * 1000))


def without_details(letter: Record) -> Record:
    """A dead letter with those headers only that it cannot do without; the original stays whole."""
    begin = max(at for at, (name, _) in enumerate(letter.headers) if name == _FIRST)
    ours = tuple(each for each in letter.headers[begin:] if each[0] not in _DETAILS)
    return letter._replace(headers=letter.headers[:begin] + ours)


def _origin(delivery: Delivery, *, redriven: bool) -> tuple[Headers, DeadLetterId, str]:
    """The original's headers, where it came from, and of which dead letter and redrive it failed again."""
    headers = delivery.record.headers
    if redriven and headers and headers[-1][0] == REDRIVE_HEADER:
        try:
            run, of, came_from = headers[-1][1].decode().split(" ")
            return headers[:-1], DeadLetterId.parse(came_from), f"{DeadLetterId.parse(of)} {run}"
        except ValueError:
            pass  # somebody else's: a record like any other
    return headers, DeadLetterId(delivery.partition, delivery.position), ""


def _about(error: BaseException | None) -> dict[str, str]:
    if error is None:
        return {}
    return {"error-message": _cut(_message(error), _MESSAGE_BYTES), "stack-hash": stack_hash(error)}


def redriven(letter: DeadLetter, of: DeadLetterId, run: str) -> Record:
    """The original once more, for the failed group only; so with the same event id. Its timestamp is now."""
    header = REDRIVE_HEADER, f"{run} {of} {letter.origin}".encode()
    original = letter.original
    return original._replace(
        topic=redrive_topic(original.topic, letter.group),
        headers=(*original.headers, header),
        timestamp_ms=int(time.time() * 1000),
    )


def mark(of: DeadLetterId, topic: str, group: str, key: bytes) -> Record:
    """The record that says that a dead letter is discharged. ``key`` must lead to the dead letter's partition."""
    headers = _headers({"group": group, "topic": topic, "done": str(of)})
    return Record(dlq_topic(topic, group), b"", key, headers, int(time.time() * 1000))


def parse(record: Record, topic: str, group: str) -> DeadLetter | Mark | None:
    """What a record of the topic of dead letters says; None: it is none of this topic and group."""
    # The original may be a dead letter itself, of another group: ours is what begins last.
    begin = max((at for at, (name, _) in enumerate(record.headers) if name == _FIRST), default=None)
    if begin is None:
        return None
    try:
        said = {name.removeprefix(_PREFIX): value.decode() for name, value in record.headers[begin:]}
        if (said["group"], said["topic"]) != (group, topic):
            return None
        if "done" in said:
            return Mark(DeadLetterId.parse(said["done"]))
        return _letter(record, record.headers[:begin], said)
    except (KeyError, ValueError):
        return None


def _letter(record: Record, headers: Headers, said: dict[str, str]) -> DeadLetter | None:
    reason = next((each for each in get_args(Reason) if each == said["reason"]), None)
    if reason is None:
        return None
    again, _, run = said.get("again", "").partition(" ")
    timestamp = int(said["timestamp"]) if "timestamp" in said else None
    return DeadLetter(
        original=Record(said["topic"], record.value, record.key, headers, timestamp),
        group=said["group"],
        origin=DeadLetterId.parse(said["origin"]),
        reason=reason,
        parks="parks" in said,
        attempts=int(said["attempts"]),
        error_type=said.get("error-type", ""),
        last_at=datetime.fromisoformat(said["last-at"]),
        again=DeadLetterId.parse(again) if again else None,
        run=run or None,
        first_at=datetime.fromisoformat(said["first-at"]) if "first-at" in said else None,
        error_message=said.get("error-message"),
        stack_hash=said.get("stack-hash"),
        build=said.get("build"),
    )


def size_of(record: Record) -> int:
    """Bytes of key, value and headers."""
    return len(record.key or b"") + len(record.value or b"") + _bytes_of(record.headers)


def stack_hash(error: BaseException) -> str:
    """The same for failures of one kind: types of the error and its causes, and the functions that were on the stack.

    Without line numbers, so that an edit elsewhere in a file does not make it another; without the bus's own frames.
    """
    parts = []
    cause: BaseException | None = error
    seen: set[int] = set()
    while cause is not None and id(cause) not in seen:
        seen.add(id(cause))
        parts.append(_type_name(cause))
        parts.extend(_functions(cause.__traceback__))
        cause = cause.__cause__ or (None if cause.__suppress_context__ else cause.__context__)
    return hashlib.sha256("\n".join(parts).encode(errors="backslashreplace")).hexdigest()[:12]


def _functions(trace: TracebackType | None) -> list[str]:
    frames = [
        (str(frame.f_globals.get("__name__", "")), frame.f_code.co_qualname) for frame, _ in traceback.walk_tb(trace)
    ]
    return [f"{module}:{name}" for module, name in frames if module.partition(".")[0] != "eventbus_core"]


def _type_name(error: BaseException | None) -> str:
    if error is None:
        return ""
    kind = type(error)
    return kind.__qualname__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__qualname__}"


def _message(error: BaseException) -> str:
    try:
        return str(error)
    except Exception as failure:  # noqa: BLE001  (foreign code; a dead letter without a message beats none)
        return f"(its message cannot be read: {type(failure).__name__})"


def _cut(text: str, limit: int) -> str:
    raw = text.encode(errors="backslashreplace")
    return raw[:limit].decode(errors="ignore")


def _headers(said: dict[str, str]) -> Headers:
    return tuple((_PREFIX + name, text.encode()) for name, text in said.items() if text)


def _bytes_of(headers: Headers) -> int:
    return sum(len(name.encode()) + len(value) for name, value in headers)

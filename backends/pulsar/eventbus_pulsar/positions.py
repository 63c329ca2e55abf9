"""Positions and message ids: a position is (ledger, entry, index in the batch)."""

from __future__ import annotations

from typing import Any

import _pulsar

from eventbus_core.records import Position


def position_of(identity: Any) -> Position:
    """The position of a client message id; index 0 for a message outside a batch."""
    index: int = identity.batch_index()
    # Without the Python code of Position's constructor, and a call less: this runs for every record.
    return tuple.__new__(Position, (identity.ledger_id(), identity.entry_id(), index if index > 0 else 0))  # noqa: FURB136


def message_id(partition: int, position: Position) -> Any:
    """The client message id of a position; missing numbers count as 0."""
    ledger, entry, index = (*position, 0, 0, 0)[:3]
    return _pulsar.MessageId(partition, ledger, entry, index)


def entry_id(partition: int, ledger: int, entry: int) -> Any:
    """The client message id of a whole entry."""
    return _pulsar.MessageId(partition, ledger, entry, -1)


def batch_size(identity: Any) -> int:
    """How many records share the entry of a received message id (1 outside a batch).

    The id's public, serialised form is the protocol's ``MessageIdData``; field 6 is the batch size.
    """
    data: bytes = identity.serialize()
    at = 0
    while at < len(data):
        tag, at = _varint(data, at)
        number, at = _varint(data, at)
        if tag & 7 == 2:
            at += number
        elif tag >> 3 == 6:
            return number
    return 1


def _varint(data: bytes, at: int) -> tuple[int, int]:
    number = shift = 0
    while True:
        byte = data[at]
        at += 1
        number |= (byte & 0x7F) << shift
        if byte < 0x80:
            return number, at
        shift += 7

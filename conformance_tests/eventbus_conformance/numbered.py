"""Records that tell which they are, so that each can be followed from its sending to every handling of it."""

from __future__ import annotations

import hashlib
from typing import NamedTuple

from eventbus_core.records import Headers, Record

ID_HEADER = "conformance-id"
KSEQ_HEADER = "conformance-kseq"


class Numbered(NamedTuple):
    """A record as a history names it.

    ``id``: unique in the run; None for a record that nobody numbered. ``kseq``: its place among the records of its key,
    counted from 0 in the order of sending. ``sha256``: of the value, ``null`` for None.
    """

    id: str | None
    key: str | None
    kseq: int
    sha256: str

    @property
    def headers(self) -> Headers:
        """What to send along."""
        return ((ID_HEADER, str(self.id).encode()), (KSEQ_HEADER, str(self.kseq).encode()))


def numbered(record_id: str, key: str, kseq: int, value: bytes | None) -> Numbered:
    """Name a record that is to be sent."""
    return Numbered(record_id, key, kseq, digest(value))


def read_numbered(record: Record) -> Numbered:
    """What a received record says it is. One without number comes back with id None and kseq -1."""
    headers = dict(record.headers)
    name = headers.get(ID_HEADER)
    key = None if record.key is None else record.key.decode(errors="backslashreplace")
    kseq = int(headers[KSEQ_HEADER]) if name is not None and KSEQ_HEADER in headers else -1
    return Numbered(None if name is None else name.decode(), key, kseq, digest(record.value))


def digest(value: bytes | None) -> str:
    """The sha256 of a value, in hex."""
    return "null" if value is None else hashlib.sha256(value).hexdigest()

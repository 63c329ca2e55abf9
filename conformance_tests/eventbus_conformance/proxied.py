"""One connection through the proxy. Everything here runs in the proxy's own thread."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import socket
import struct
from collections import deque
from collections.abc import Callable
from enum import Enum
from typing import Literal, NamedTuple, Self, TypeAlias, cast
from urllib.parse import urlsplit

Way: TypeAlias = Literal["to broker", "to client"]

BACK: dict[Way, Way] = {"to broker": "to client", "to client": "to broker"}

_QUEUE_BYTES = 1024 * 1024


class Address(NamedTuple):
    """Host and port; as text ``host:port``."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"{self.host}:{self.port}"

    @classmethod
    def of(cls, text: str) -> Self:
        """Read ``host:port``, or a URL with both. Raises ``ValueError`` for anything else."""
        parts = urlsplit(text if "://" in text else f"tcp://{text}")
        if not parts.hostname or parts.port is None:
            raise ValueError(f"no address: {text!r} (expected host:port)")
        return cls(parts.hostname, parts.port)


@dataclasses.dataclass
class Counts:
    """What happened.

    ``accepted``: connections that came; ``broken``: connections that were cut; ``held``: pieces that had to wait for a
    silence to end; ``dropped``: replies that were dropped.
    """

    accepted: int = 0
    broken: int = 0
    held: int = 0
    dropped: int = 0


@dataclasses.dataclass
class Orders:
    """What all connections have to do. Used in the proxy's thread only."""

    counts: Counts
    target: Address | None
    rename: tuple[bytes, bytes] = (b"", b"")
    refusing: bool = False
    silent: set[Way] = dataclasses.field(default_factory=set)
    delay: dict[Way, float] = dataclasses.field(default_factory=dict)
    drop: Callable[[bytes], bool] | None = None
    drop_nth: int = 1
    drop_refuses: bool = False

    def heal(self) -> None:
        """Do nothing special any more."""
        self.refusing = False
        self.drop = None
        self.silent.clear()
        self.delay.clear()

    def arm(self, when: Callable[[bytes], bool], nth: int, *, refuse: bool) -> None:
        """Drop the n-th such reply; then refuse new connections, if wanted."""
        self.drop, self.drop_nth, self.drop_refuses = when, nth, refuse

    def drops(self, reply: bytes) -> bool:
        """Whether this is the reply to drop."""
        if self.drop is None or not self.drop(reply):
            return False
        self.drop_nth -= 1
        if self.drop_nth > 0:
            return False
        self.drop = None
        self.refusing = self.refusing or self.drop_refuses
        self.counts.dropped += 1
        return True


class _Mark(Enum):
    """What can be on its way besides bytes."""

    NO_MORE = "the sender has said all"
    LOST = "the connection is lost"


_Piece: TypeAlias = bytes | _Mark


class End(asyncio.Protocol):
    """One end of a connection. ``way``: where what is read here goes."""

    def __init__(self, connection: Connection, way: Way) -> None:
        self._connection = connection
        self._way: Way = way

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._connection.made(cast("asyncio.Transport", transport), self._way)

    def data_received(self, data: bytes) -> None:
        self._connection.take(data, self._way)

    def eof_received(self) -> bool:
        self._connection.take(_Mark.NO_MORE, self._way)
        return True

    def connection_lost(self, _: Exception | None) -> None:
        self._connection.take(_Mark.LOST, self._way)

    def pause_writing(self) -> None:
        self._connection.full.add(BACK[self._way])

    def resume_writing(self) -> None:
        self._connection.full.discard(BACK[self._way])
        self._connection.go_on()


class Connection:
    """Two ends, and what is on its way between them."""

    def __init__(self, orders: Orders) -> None:
        self.full: set[Way] = set()
        self.over = False
        self._orders = orders
        self._ends: dict[Way, asyncio.Transport] = {}  # by where what is read there goes
        self._queues: dict[Way, deque[tuple[float, _Piece]]] = {way: deque() for way in BACK}
        self._bytes: dict[Way, int] = dict.fromkeys(BACK, 0)
        self._said_all: set[Way] = set()
        self._lost: set[Way] = set()
        self._connecting: asyncio.Task[None] | None = None

    def made(self, end: asyncio.Transport, way: Way) -> None:
        """An end is connected."""
        self._ends[way] = end
        if self.over:
            end.abort()

    def take(self, piece: _Piece, way: Way) -> None:
        """Something was read, or an end was lost."""
        if self.over or way in self._lost:
            return
        if isinstance(piece, bytes) and way == "to client":
            piece = _Mark.LOST if self._orders.drops(piece) else piece.replace(*self._orders.rename)
        if piece is _Mark.LOST:
            self._lost.add(way)
        self._orders.counts.held += way in self._orders.silent
        due = asyncio.get_running_loop().time() + self._orders.delay.get(way, 0.0)
        self._queues[way].append((due, piece))
        if isinstance(piece, bytes):
            self._bytes[way] += len(piece)
            if self._bytes[way] > _QUEUE_BYTES:
                self._ends[way].pause_reading()
        self.go_on()

    def go_on(self) -> None:
        """Move whatever may move."""
        if self.over:
            return
        if self._connecting is None and "to broker" not in self._orders.silent:
            self._connecting = asyncio.get_running_loop().create_task(self._connect())
        for way in BACK:
            self._move(way)

    def reset(self) -> None:
        """End it at once with a TCP reset at both ends."""
        if not self.over:
            self.over = True
            self._orders.counts.broken += 1
            for end in self._ends.values():
                tcp = end.get_extra_info("socket")
                # An end that was lost while nothing got through is closed already.
                if tcp.fileno() >= 0:
                    # Not to linger is what makes the kernel reset instead of saying goodbye.
                    tcp.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                end.abort()

    async def _connect(self) -> None:
        assert self._orders.target is not None, "without a target connections are refused"
        host, port = self._orders.target
        loop = asyncio.get_running_loop()
        try:
            await loop.create_connection(lambda: End(self, "to client"), host, port)
        except OSError:
            self.reset()
        else:
            self.go_on()

    def _move(self, way: Way) -> None:
        loop, queue, sink = asyncio.get_running_loop(), self._queues[way], self._ends.get(BACK[way])
        while queue and sink is not None and not self.over and way not in self._orders.silent | self.full:
            due, piece = queue[0]
            if due > loop.time():
                loop.call_at(due, self._move, way)
                return
            queue.popleft()
            self._forward(piece, way, sink)

    def _forward(self, piece: _Piece, way: Way, sink: asyncio.Transport) -> None:
        if isinstance(piece, bytes):
            sink.write(piece)
            self._bytes[way] -= len(piece)
            if self._bytes[way] <= _QUEUE_BYTES and not self._ends[way].is_closing():
                self._ends[way].resume_reading()
            return
        if piece is _Mark.NO_MORE:
            self._said_all.add(way)
            # That end may have been lost meanwhile; then there is nobody to tell.
            with contextlib.suppress(OSError):
                sink.write_eof()
        if piece is _Mark.LOST or len(self._said_all) == len(BACK):
            self.over = True
            for end in self._ends.values():
                end.close()

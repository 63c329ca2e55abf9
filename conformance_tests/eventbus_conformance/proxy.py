"""A TCP proxy in front of a broker, which loses, delays and cuts what a test tells it to.

It forwards bytes and knows no protocol. It chooses its port when it is made, so a broker that is started later can
advertise it.
"""

from __future__ import annotations

import asyncio
import socket
import threading
from collections.abc import Callable
from typing import Literal, Self, TypeAlias, TypeVar

from eventbus_conformance.proxied import BACK, Address, Connection, Counts, End, Orders, Way

__all__ = ["Address", "Counts", "Proxy", "Way", "Ways"]

T = TypeVar("T")

Ways: TypeAlias = Literal["to broker", "to client", "both"]

_START_SECONDS = 10.0


class Proxy:
    """Forwards connections to a broker. Its methods may be called from any thread and act before they return.

    ``target``: where the broker is, if that is known already (else ``point_at``; until then connections are refused).
    ``port``: where to listen, 0 for any. ``announced``: the address by which the broker calls itself in its replies,
    for one that cannot be told to advertise the proxy: the proxy puts its own there, which must have the same length.

    Attributes:
        address: where clients connect.
        counts: what happened so far.

    """

    def __init__(self, target: Address | None = None, *, port: int = 0, announced: Address | None = None) -> None:
        self._listener = socket.create_server(("127.0.0.1", port))
        self.address = Address(*self._listener.getsockname())
        self.counts = Counts()
        self._orders = Orders(self.counts, target)
        if announced is not None:
            self._orders.rename = str(announced).encode(), str(self.address).encode()
            if len(str(announced)) != len(str(self.address)):
                self._listener.close()
                raise ValueError(f"{announced} and {self.address} differ in length, and lengths in frames must stay")
        self._connections: set[Connection] = set()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._run, name=f"proxy {self.address}", daemon=True)
        self._thread.start()
        self._listening = self._call(lambda: self._loop.create_task(self._listen()))

    @property
    def open(self) -> int:
        """How many connections are open now."""
        return sum(not each.over for each in self._connections)

    def point_at(self, target: Address) -> None:
        """Forward new connections to there."""
        self._orders.target = target

    def cut(self) -> int:
        """Reset every connection that is open, at both ends; new ones are welcome. Returns how many were open."""
        return self._call(self._cut)

    def refuse(self) -> int:
        """Cut, and reset new connections at once until ``heal``. Returns how many were open."""
        self._orders.refusing = True
        return self.cut()

    def silence(self, ways: Ways = "both") -> None:
        """Let nothing through until ``heal``, not even ends of connections; what was said meanwhile arrives then.

        That is what a broken network does to TCP. Nobody learns of it but by timeouts of their own. New connections are
        taken; the broker sees them only if what is said to it gets through.
        """
        self._call(lambda: self._orders.silent.update(_each(ways)))

    def delay(self, seconds: float, ways: Ways = "both") -> None:
        """Let everything arrive later by this much, in order, until ``heal``."""
        self._call(lambda: self._orders.delay.update(dict.fromkeys(_each(ways), seconds)))

    def drop_reply(
        self, when: Callable[[bytes], bool] | None = None, *, nth: int = 1, then_refuse: bool = False
    ) -> None:
        """Drop one piece of what the broker says, the n-th for which ``when`` is true, and end its connection.

        A piece is what one read of the socket gave: a whole reply, if the client waits for it before it asks again. The
        connection must end: no TCP connection goes on without bytes that were sent. Earlier replies still arrive. With
        ``then_refuse`` new connections are refused from that moment until ``heal``: the client cannot ask again yet.
        """
        self._call(lambda: self._orders.arm(when or bool, nth, refuse=then_refuse))

    def heal(self) -> None:
        """End refusing, silence and delay, and what is to be dropped; what was held goes on its way."""
        self._call(self._heal)

    def close(self) -> None:
        """Cut everything and stop listening. Idempotent."""
        if self._thread.is_alive():
            self._call(self._cut)
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join(_START_SECONDS)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # The rest runs in the proxy's own thread.

    def _run(self) -> None:
        try:
            self._loop.run_forever()
            for task in asyncio.all_tasks(self._loop):
                task.cancel()
            # One more round closes the sockets of aborted connections.
            self._loop.run_until_complete(asyncio.sleep(0))
        finally:
            self._listener.close()
            self._loop.close()

    def _call(self, act: Callable[[], T]) -> T:
        async def acting() -> T:
            return act()

        return asyncio.run_coroutine_threadsafe(acting(), self._loop).result(_START_SECONDS)

    async def _listen(self) -> None:
        self._listener.setblocking(False)  # noqa: FBT003  (its only parameter)
        while True:
            near, _ = await self._loop.sock_accept(self._listener)
            await self._take(near)

    async def _take(self, near: socket.socket) -> None:
        self.counts.accepted += 1
        connection = Connection(self._orders)
        self._connections = {connection, *(each for each in self._connections if not each.over)}
        await self._loop.connect_accepted_socket(lambda: End(connection, "to broker"), near)
        if self._orders.refusing or self._orders.target is None:
            connection.reset()
        else:
            connection.go_on()

    def _cut(self) -> int:
        open_now = [each for each in self._connections if not each.over]
        self._connections.clear()
        for each in open_now:
            each.reset()
        return len(open_now)

    def _heal(self) -> None:
        self._orders.heal()
        for each in list(self._connections):
            each.go_on()


def _each(ways: Ways) -> tuple[Way, ...]:
    return tuple(BACK) if ways == "both" else (ways,)

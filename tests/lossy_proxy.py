"""A TCP proxy in front of a broker that loses what the tests tell it to lose."""

from __future__ import annotations

import contextlib
import socket
import threading
from urllib.parse import urlsplit


class LossyProxy:
    """Forwards to a broker at ``scheme://host:port`` until told to lose something.

    A Pulsar client connects to the address that a lookup names, so with Pulsar the proxy puts its own there.

    Attributes:
        url: where clients connect.
        drop_next_reply: the next piece of a reply is lost, and its connection is cut.
        dropped: how often that happened.
        swallow: what the broker says is lost, connections stay.
        swallowed: how many pieces were lost so.
        swallow_requests: what the clients say is lost, connections stay.
        last_request: what was last passed on to the broker.
        refuse: new connections end at once.

    """

    def __init__(self, url: str) -> None:
        parts = urlsplit(url)
        self._target = parts.hostname or "", parts.port or 0
        self._listener = socket.create_server(("127.0.0.1", 0))
        port = self._listener.getsockname()[1]
        self.url = f"{parts.scheme}://127.0.0.1:{port}"
        self._rename = (b"", b"")
        if parts.scheme == "pulsar":
            self._rename = f"127.0.0.1:{self._target[1]}".encode(), f"127.0.0.1:{port}".encode()
            assert len(self._rename[0]) == len(self._rename[1]), "the frames' lengths must stay"
        self.drop_next_reply = False
        self.dropped = 0
        self.swallow = False
        self.swallowed = 0
        self.swallow_requests = False
        self.last_request = b""
        self.refuse = False
        self._sockets: list[socket.socket] = []
        threading.Thread(target=self._accept, daemon=True).start()

    def cut(self) -> None:
        """End every connection that is open now."""
        sockets, self._sockets = self._sockets, []
        for each in sockets:
            with contextlib.suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        # Closing alone would not wake the thread that accepts.
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self.cut()

    def _accept(self) -> None:
        while True:
            try:
                near, _ = self._listener.accept()
            except OSError:
                return
            if self.refuse:
                near.close()
                continue
            try:
                far = socket.create_connection(self._target)
            except OSError:
                near.close()
                continue
            self._sockets += (near, far)
            threading.Thread(target=self._pump, args=(near, far, False), daemon=True).start()
            threading.Thread(target=self._pump, args=(far, near, True), daemon=True).start()

    def _pump(self, source: socket.socket, sink: socket.socket, replies: bool) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(65536):
                if replies and self.drop_next_reply:
                    self.drop_next_reply = False
                    self.dropped += 1
                    break
                if replies and self.swallow:
                    self.swallowed += 1
                elif replies:
                    sink.sendall(data.replace(*self._rename) if self._rename[0] else data)
                elif not self.swallow_requests:
                    sink.sendall(data)
                    self.last_request = data
        for each in (source, sink):
            with contextlib.suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)
            each.close()

"""Liveness and readiness of a worker process: a file that is renewed, and HTTP endpoints over the same facts."""

from __future__ import annotations

import json
import os
import threading
import time
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, NamedTuple, Self

from eventbus_core.errors import UsageError

RENEW_SECONDS = 1.0
#: A file that was not renewed for so long belongs to a process that is dead or stuck.
STALE_SECONDS = 10.0


class Health(NamedTuple):
    """``alive``: restart me if not. ``ready``: every group has joined and the broker is there."""

    alive: bool
    ready: bool


Ask = Callable[[], Health]


def read(path: Path) -> Health:
    """What a health file says; neither alive nor ready when it is missing, unreadable or stale."""
    try:
        document = json.loads(path.read_bytes())
        fresh = time.time() - float(document["at"]) < STALE_SECONDS
        return Health(bool(document["alive"]) and fresh, bool(document["ready"]) and fresh)
    except (OSError, ValueError, KeyError, TypeError):
        return Health(alive=False, ready=False)


class HealthFile:
    """Writes the state to a file every second, in a thread, replacing it whole; removes it when left."""

    def __init__(self, path: Path, ask: Ask) -> None:
        self._path = path
        self._ask = ask
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run, name="eventbus-health", daemon=True)

    def __enter__(self) -> Self:
        try:
            self._write()
        except OSError as error:
            raise UsageError(f"the health file {self._path} cannot be written: {error.strerror}") from error
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stopped.set()
        self._thread.join()
        self._path.unlink(missing_ok=True)

    def _run(self) -> None:
        while not self._stopped.wait(RENEW_SECONDS):
            self._write()

    def _write(self) -> None:
        beside = self._path.with_name(f"{self._path.name}.{os.getpid()}")
        beside.write_text(json.dumps({**self._ask()._asdict(), "at": time.time(), "pid": os.getpid()}))
        beside.replace(self._path)


class HealthServer:
    """``GET /live`` and ``GET /ready``: 200 or 503, with both facts as JSON. Serves in a thread."""

    def __init__(self, port: int, ask: Ask, *, host: str = "") -> None:
        class Handler(_Handler):
            health = staticmethod(ask)

        try:
            self._server = ThreadingHTTPServer((host, port), Handler)
        except OSError as error:
            raise UsageError(f"the health port {port} cannot be opened: {error.strerror}") from error
        self._server.daemon_threads = True
        self.port: int = self._server.server_address[1]
        self._thread = threading.Thread(target=self._server.serve_forever, name="eventbus-health", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


class _Handler(BaseHTTPRequestHandler):
    health: Ask

    def do_GET(self) -> None:
        health = self.health()
        wanted = {"/live": health.alive, "/ready": health.ready}.get(self.path.partition("?")[0])
        if wanted is None:
            self.send_error(404, "use /live or /ready")
            return
        body = json.dumps(health._asdict()).encode()
        self.send_response(200 if wanted else 503)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002
        """Probes come every few seconds: no lines for them."""

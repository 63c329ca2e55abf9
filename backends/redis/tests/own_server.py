"""A Redis of a test's own, to be emptied, restarted or secured."""

from __future__ import annotations

import os
from collections.abc import Mapping

from redis import ConnectionError as NotYet
from redis import Redis

from eventbus_conformance.containers import DockerBroker, free_port
from eventbus_conformance.harness import NoBroker
from tests.brokers import IMAGES, _Missing

_START = 'for name in $FILES; do printenv "$name" >"/tmp/$name"; done; exec redis-server "$@"'


class OwnServer:
    """A container with redis-server and these options, on port 6379 or, with TLS, on 6390. It keeps nothing on disk."""

    def __init__(self, *options: str, files: Mapping[str, str] | None = None) -> None:
        self.port, self.tls_port = free_port(), free_port()
        files = files or {}
        self._broker = DockerBroker(
            os.environ.get("EVENTBUS_TEST_REDIS_IMAGE", IMAGES["redis"]),
            ports={6379: self.port, 6390: self.tls_port},
            env={**files, "FILES": " ".join(files)},
            entrypoint=["sh", "-c", _START, "sh"],
            command=["--protected-mode", "no", "--save", "", *options],
            answers=self._answers,
        )
        try:
            self._broker.up()
        except NoBroker as error:
            _Missing(str(error)).give_up("redis")

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}/0"

    @property
    def tls_url(self) -> str:
        return f"redis+tls://127.0.0.1:{self.tls_port}/0"

    def raw(self) -> Redis:
        """A client of the default user."""
        return Redis(port=self.port, socket_timeout=5)

    def restart(self) -> None:
        """Kill it and start it anew, with nothing in it."""
        self._broker.restart()

    def close(self) -> None:
        self._broker.remove()

    def _answers(self) -> bool:
        try:
            with self.raw() as client:
                return bool(client.ping())
        except NotYet:
            return False

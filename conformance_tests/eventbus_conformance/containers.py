"""Brokers in Docker containers that tests may kill, stop, freeze and start again with their data and their address."""

from __future__ import annotations

import random
import socket
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from eventbus_conformance.harness import NoBroker
from eventbus_conformance.waiting import wait_until

_given: set[int] = set()


def free_port() -> int:
    """A port of this host for a broker.

    Chosen by us: Docker gives a container new random ports at every start, which breaks a restart. It lies below the
    ports that systems give to outgoing connections, one of which could take it while a killed broker is down. A
    process gives none twice, as a broker may bind its port long after it was given.
    """
    while True:
        port = random.randrange(20_000, 30_000)
        if port in _given:
            continue
        with socket.socket() as listener:
            try:
                listener.bind(("127.0.0.1", port))
            except OSError:
                continue
        _given.add(port)
        return port


class DockerBroker:
    """A broker in a container of ours: the ``Controls`` of a harness.

    Args:
        image: Name and tag.
        ports: Ports of this host by ports of the container (see ``free_port``).
        answers: Whether the broker answers a request of its own protocol, asked until it does; does not raise.
        env: Environment of the container.
        command: Instead of the image's.
        entrypoint: The same.
        ready_seconds: How long a start may take.
        host_network: Whether its ports are ports of this host, without mapping: nodes of a cluster reach each other so.
    """

    def __init__(
        self,
        image: str,
        *,
        ports: Mapping[int, int],
        answers: Callable[[], bool],
        env: Mapping[str, str] | None = None,
        command: Sequence[str] | None = None,
        entrypoint: Sequence[str] | None = None,
        ready_seconds: float = 90.0,
        host_network: bool = False,
    ) -> None:
        self.image = image
        self._ports = dict(ports)
        self._answers = answers
        self._env = dict(env or {})
        self._command = list(command) if command is not None else None
        self._options: dict[str, Any] = {} if entrypoint is None else {"entrypoint": list(entrypoint)}
        if host_network:
            self._options["network"] = "host"
        self._ready_seconds = ready_seconds
        self._owner: Any = None
        self._begun_at = 0.0

    def up(self) -> None:
        """Make the container and start it. ``NoBroker``: Docker cannot. ``AssertionError``: it does not answer."""
        from docker.errors import DockerException  # type: ignore[import-untyped]  # noqa: PLC0415  (Docker only)
        from testcontainers.core.container import DockerContainer  # noqa: PLC0415

        try:
            container = DockerContainer(self.image)
            for inside, outside in self._ports.items():
                container.with_bind_ports(inside, outside)
            container.with_envs(**self._env)
            container.with_kwargs(**self._options)
            if self._command is not None:
                container.with_command(self._command)
            self._owner = container
            container.start()
        except (DockerException, OSError) as error:
            self._owner = None
            raise NoBroker(f"Docker cannot run {self.image}: {error}") from error
        self.wait_ready()

    @property
    def version(self) -> str:
        """The image and its digest."""
        image = self._container.image
        digests = image.attrs.get("RepoDigests") or [image.id]
        return f"{self.image} ({digests[0].rpartition('@')[2]})"

    def log(self, *, seconds: float) -> str:
        """What it has written in the last seconds, since it was started."""
        written: bytes = self._container.logs(since=max(self._begun_at, time.time() - seconds))
        return written.decode(errors="replace")

    def kill(self) -> None:
        """SIGKILL; returns when it is gone. The container's file system is kept."""
        self._container.kill("KILL")
        self._container.wait(timeout=30)

    def stop(self) -> None:
        """SIGTERM, and SIGKILL if it takes more than 30 s."""
        self._container.stop(timeout=30)

    def start(self) -> None:
        """Start a killed or stopped one; returns when it answers."""
        self.begin()
        self.wait_ready()

    def begin(self) -> None:
        """Start a killed or stopped one without waiting until it answers."""
        self._begun_at = time.time()
        self._container.start()

    def restart(self) -> None:
        """Kill, then start."""
        self.kill()
        self.start()

    def pause(self) -> None:
        """Freeze all of its processes."""
        self._container.pause()

    def unpause(self) -> None:
        """Let a frozen one go on; returns when it answers."""
        self._container.unpause()
        self.wait_ready()

    def remove(self) -> None:
        """Remove it with its data, whatever its state."""
        if self._owner is not None:
            self._owner.stop()
        self._owner = None

    def wait_ready(self, unless: Callable[[], bool] = lambda: False) -> None:
        """Wait until it answers, or ``unless`` says that it is not worth while."""
        try:
            what = f"{self.image} answers"
            wait_until(lambda: unless() or self._answers(), self._ready_seconds, every=0.1, what=what)
        except AssertionError as error:
            log = self._container.logs(tail=30).decode(errors="replace")
            raise AssertionError(f"{error}\n{log}") from None

    @property
    def _container(self) -> Any:
        assert self._owner is not None, "the broker is not up"
        return self._owner.get_wrapped_container()

"""``eventbus run``: the handlers of an application, as a process."""

from __future__ import annotations

import os
import signal
import sys
import tempfile
import threading
from contextlib import ExitStack
from pathlib import Path
from types import FrameType
from typing import Annotated, Literal, NoReturn

import typer

from eventbus_core.cli.options import JsonOption
from eventbus_core.cli.output import print_json
from eventbus_core.errors import UsageError
from eventbus_core.process.application import load_bus
from eventbus_core.process.ending import end_in_time
from eventbus_core.process.health import Ask, Health, HealthFile, HealthServer, read
from eventbus_core.process.logs import set_up
from eventbus_core.process.supervisor import Supervisor, end_with_parent
from eventbus_core.worker import Worker


def run(
    application: Annotated[str, typer.Argument(help="MODULE:NAME of the EventBus, e.g. shop.handlers:bus.")],
    *,
    group: Annotated[list[str] | None, typer.Option("--group", help="Only this group; may be repeated.")] = None,
    workers: Annotated[int, typer.Option("--workers", min=1, help="Processes; one that ends is started again.")] = 1,
    reload: Annotated[bool, typer.Option("--reload", help="Start again when a Python file here changes.")] = False,
    health_file: Annotated[
        Path | None, typer.Option("--health-file", help="Written every second; see `eventbus health`.")
    ] = None,
    health_port: Annotated[
        int | None, typer.Option("--health-port", min=0, max=65535, help="Serves GET /live and GET /ready.")
    ] = None,
    log_format: Annotated[Literal["text", "json"], typer.Option("--log-format", help="Log lines on stderr.")] = "text",
    log_level: Annotated[
        Literal["debug", "info", "warning", "error"], typer.Option("--log-level", help="The least level shown.")
    ] = "info",
    supervised_by: Annotated[int | None, typer.Option("--supervised-by", hidden=True)] = None,
) -> int:
    """Run the handlers until SIGTERM or SIGINT: then those that run may finish (`drain_seconds`), and it exits 0.

    A second signal stops at once, and a broker that does not answer makes the end no longer than `drain_seconds` plus 5
    s; what was not finished is handled again elsewhere. An error that trying again cannot mend ends with one line and a
    code that is not 0; losing the broker does not.
    """
    set_up(log_format, log_level)
    if workers == 1 and not reload:
        return _run_here(application, group or [], health_file, health_port, supervised_by)
    command = [sys.executable, "-m", "eventbus_core.cli", "run", application, "--supervised-by", str(os.getpid())]
    command += ["--log-format", log_format, "--log-level", log_level]
    command += [part for name in group or () for part in ("--group", name)]
    with ExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="eventbus-")))
        supervisor = Supervisor(command, workers, directory)
        _publish_health(stack, supervisor.health, health_file, health_port)
        if reload:
            _reload_on_change(stack, supervisor)
        return supervisor.run()


def health(
    file: Annotated[Path, typer.Argument(help="What --health-file named.")],
    *,
    ready: Annotated[bool, typer.Option("--ready", help="Ask for readiness instead of liveness.")] = False,
    as_json: JsonOption = False,
) -> int:
    """Exit 0 when the worker that writes FILE is alive (or ready), else 1: for probes that run a command."""
    found = read(file)
    if as_json:
        print_json(found._asdict())
    else:
        typer.echo(f"{'alive' if found.alive else 'not alive'}, {'ready' if found.ready else 'not ready'}")
    return 0 if (found.ready if ready else found.alive) else 1


def _run_here(
    application: str, groups: list[str], health_file: Path | None, health_port: int | None, supervised_by: int | None
) -> int:
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, _leave)  # until the worker takes them over
    if supervised_by is not None:
        end_with_parent(supervised_by)
    with load_bus(application) as bus, ExitStack() as stack:
        worker = Worker(bus, groups=groups)
        _publish_health(stack, lambda: Health(worker.healthy, worker.ready), health_file, health_port)
        end_in_time(worker.wait_stopping, bus.settings.drain_seconds)
        unfinished = worker.run()
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, signal.SIG_DFL)  # the bus is closed now, and another signal need not wait for it
    if unfinished:
        typer.echo(
            f"error: {unfinished} handlers were still running after drain_seconds; their events are handled again",
            err=True,
        )
    return 1 if unfinished else 0


def _leave(_: int, __: FrameType | None) -> NoReturn:
    sys.exit(0)


def _publish_health(stack: ExitStack, ask: Ask, file: Path | None, port: int | None) -> None:
    if file is not None:
        stack.enter_context(HealthFile(file, ask))
    if port is not None:
        server = stack.enter_context(HealthServer(port, ask))
        typer.echo(f"health on port {server.port}: /live, /ready", err=True)


def _reload_on_change(stack: ExitStack, supervisor: Supervisor) -> None:
    try:
        from watchfiles import PythonFilter, watch  # noqa: PLC0415 - optional: for development only
    except ImportError as error:
        raise UsageError("--reload needs watchfiles: pip install 'eventbus-core[reload]'") from error
    stopped = threading.Event()
    stack.callback(stopped.set)

    def observe() -> None:
        for _ in watch(Path.cwd(), watch_filter=PythonFilter(), stop_event=stopped):
            supervisor.reload()

    threading.Thread(target=observe, name="eventbus-reload", daemon=True).start()

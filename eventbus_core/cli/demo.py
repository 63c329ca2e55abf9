"""``eventbus demo``: the main job in one command, with an account of every event."""

from __future__ import annotations

import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn
from rich.progress import Progress as Bars

from eventbus_core.capabilities import Capabilities
from eventbus_core.cli.demo_member import Target
from eventbus_core.cli.demo_run import Demo, Plan, Progress, Result
from eventbus_core.cli.options import JsonOption, UrlOption
from eventbus_core.cli.output import print_json, print_table

_PATIENCE_SECONDS = 60.0
_DEFINITIONS = (
    "duplicated: handled again, which at-least-once allows after a kill; lost: published and never handled;\n"
    "out of order: first handled after a later event of the same key had been handled for the first time."
)


def demo(
    *,
    backend: Annotated[
        str | None, typer.Option("--backend", help="A backend by name, with its configured settings. Default: memory.")
    ] = None,
    url: UrlOption = None,
    events: Annotated[int, typer.Option(min=1, help="How many events are published.")] = 20_000,
    members: Annotated[int, typer.Option(min=1, help="Members of each group.")] = 4,
    producers: Annotated[int, typer.Option(min=1, help="Producers, each in a thread, with keys of its own.")] = 3,
    groups: Annotated[int, typer.Option(min=1, help="Groups; each handles every event.")] = 2,
    partitions: Annotated[int, typer.Option(min=1, help="Partitions of the topic.")] = 8,
    no_kill: Annotated[bool, typer.Option("--no-kill", help="Let all members live.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Publish, handle in groups, kill a member midway, and account for every event.

    Members are processes and the kill is a SIGKILL wherever the backend crosses processes; on memory they are threads,
    one of which is abandoned. Exit code 1 when anything was lost or out of order.
    """
    if backend is not None and url is not None:
        raise typer.BadParameter("give --backend or --url, not both", param_hint="--backend")
    if members < 2 and not no_kill:
        raise typer.BadParameter("killing one of 1 leaves nobody: give 2, or --no-kill", param_hint="--members")
    target = Target(url, backend or (None if url else "memory"))
    with target.open() as bus, tempfile.TemporaryDirectory(prefix="eventbus-demo-") as folder:
        patience = _patience(bus.capabilities)
        plan = Plan(events, producers, groups, members, partitions, not no_kill, patience)
        run = Demo(plan, target, bus, Path(folder))
        with _shown(plan, list(run.groups)) as progress:
            result = run.run(progress)
    if as_json:
        print_json(_document(result))
    else:
        _print(result)
    for what in result.left_behind:
        sys.stderr.write(f"warning: left behind: {what}\n")
    if result.problem is not None:
        sys.stderr.write(f"error: {' '.join(result.problem.split())}\n")
    if not result.good:
        raise typer.Exit(1)


def _patience(capabilities: Capabilities) -> float:
    return max(_PATIENCE_SECONDS, 2 * capabilities.max_takeover_seconds)


@contextmanager
def _shown(plan: Plan, groups: list[str]) -> Iterator[Progress]:
    """Progress on stderr: bars on a terminal, else a line every two seconds."""
    console = Console(stderr=True)
    if not console.is_terminal:
        yield _lines(plan)
        return
    columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn()
    with Bars(*columns, console=console, transient=True) as bars:
        sent_bar = bars.add_task("published", total=plan.events)
        group_bars = {group: bars.add_task(f"handled by {group}", total=plan.events) for group in groups}

        def show(sent: int, handled: dict[str, int]) -> None:
            bars.update(sent_bar, completed=sent)
            for group, number in handled.items():
                bars.update(group_bars[group], completed=number)

        yield show


def _lines(plan: Plan) -> Progress:
    next_line = time.monotonic() + 2

    def show(sent: int, handled: dict[str, int]) -> None:
        nonlocal next_line
        if time.monotonic() >= next_line:
            next_line = time.monotonic() + 2
            counts = ", ".join(str(number) for number in handled.values())
            sys.stderr.write(f"published {sent} of {plan.events}; handled, by group: {counts}\n")

    return show


def _print(result: Result) -> None:
    columns = ["group", "published", "handled", "duplicated", "lost", "out of order", "unexpected"]
    print_table(columns, [(group, *account) for group, account in result.accounts.items()])
    typer.echo(_DEFINITIONS)
    if result.kill is not None:
        what = f"killed {result.kill.member} of {result.kill.group} ({result.kill.how})"
        taken = result.takeover_seconds
        then = "nobody had to take over" if taken is None else f"others had all its partitions after {taken:.2f} s"
        typer.echo(f"{what}; {then}")
    if result.failed_sends or result.unknown_sends:
        typer.echo(f"sends that failed: {result.failed_sends}, of unknown outcome: {result.unknown_sends}")
    verdict = "every event accounted for" if result.good else "PROBLEM"
    typer.echo(f"{result.backend}: {verdict}, in {result.seconds:.1f} s")


def _document(result: Result) -> dict[str, Any]:
    kill = result.kill
    return {
        "ok": result.good,
        "problem": result.problem,
        "backend": result.backend,
        "topic": result.topic,
        "groups": [{"group": group, **account._asdict()} for group, account in result.accounts.items()],
        "failed_sends": result.failed_sends,
        "unknown_sends": result.unknown_sends,
        "killed": None if kill is None else {"group": kill.group, "member": kill.member, "how": kill.how},
        "takeover_seconds": result.takeover_seconds,
        "seconds": result.seconds,
        "left_behind": result.left_behind,
    }

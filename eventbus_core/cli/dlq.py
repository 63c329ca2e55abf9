"""``eventbus dlq``: dead letters: look at them, send them back to their group, drop them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Annotated, Any

import typer

from eventbus_core.cli.options import JsonOption, UrlOption, open_bus
from eventbus_core.cli.output import json_bytes, print_json, print_table, shown_bytes
from eventbus_core.dead_letters.index import Entry, Kind
from eventbus_core.dead_letters.letters import DeadLetterId
from eventbus_core.dead_letters.queue import DeadLetterQueue
from eventbus_core.dead_letters.redrive import Redriven
from eventbus_core.dead_letters.redrive import drop as drop_entries
from eventbus_core.dead_letters.redrive import redrive as redrive_entries

app = typer.Typer(help="Dead letters: what a group could not handle. Look at them, redrive or drop them.")

TopicArgument = Annotated[str, typer.Argument(help="The topic that the events came from.")]
GroupArgument = Annotated[str, typer.Argument(help="The group that could not handle them.")]
DryRunOption = Annotated[bool, typer.Option("--dry-run", help="Show what would be done, and do nothing.")]


@app.command("list")
def list_letters(
    topic: TopicArgument,
    group: GroupArgument,
    *,
    limit: Annotated[int | None, typer.Option("--limit", "-n", min=1, help="The oldest so many.")] = None,
    url: UrlOption = None,
    as_json: JsonOption = False,
) -> None:
    """List the dead letters, the oldest first; with --json one document a line."""
    with _queue(url, topic, group) as queue:
        entries = queue.index.entries()
    shown = entries[:limit]
    if as_json:
        for entry in shown:
            print_json(_document(entry))
        return
    _print_entries(shown)
    typer.echo(f"{len(entries)} dead letters" + ("" if len(shown) == len(entries) else f", {len(shown)} shown"))


@app.command()
def show(
    topic: TopicArgument,
    group: GroupArgument,
    letter: Annotated[str, typer.Argument(help="A dead letter, as `list` names it.")],
    *,
    url: UrlOption = None,
    as_json: JsonOption = False,
) -> None:
    """Show one dead letter: the original, and how it failed last."""
    with _queue(url, topic, group) as queue:
        entry = queue.entry(_identity(letter))
        original = queue.letter(entry).original
    if as_json:
        headers = [[name, json_bytes(value)] for name, value in original.headers]
        print_json(_document(entry) | {"headers": headers, "value": json_bytes(original.value)})
        return
    said = {name: value for name, value in _document(entry).items() if name != "key" and value is not None}
    print_table(["", ""], [(name, str(value)) for name, value in said.items()])
    typer.echo(f"\nkey    {shown_bytes(original.key)}")
    for name, value in original.headers:
        typer.echo(f"header {name}: {shown_bytes(value)}")
    typer.echo(f"value  {shown_bytes(original.value)}")


@app.command()
def groups(topic: TopicArgument, group: GroupArgument, *, url: UrlOption = None, as_json: JsonOption = False) -> None:
    """Show the dead letters by how they failed, the most frequent first."""
    with _queue(url, topic, group) as queue:
        documents = [_kind(kind) for kind in queue.index.kinds()]
    if as_json:
        print_json(documents)
        return
    print_table(list(_KIND), [[document[name] for name in _KIND] for document in documents])


@app.command()
def redrive(
    topic: TopicArgument,
    group: GroupArgument,
    *,
    count: Annotated[int | None, typer.Option(min=1, help="At most so many, the oldest.")] = None,
    canary: Annotated[int, typer.Option(min=1, help="How many to try first.")] = 1,
    rate: Annotated[float | None, typer.Option(help="At most so many a second.")] = None,
    timeout: Annotated[float, typer.Option(help="Seconds to wait while no event is settled.")] = 60.0,
    dry_run: DryRunOption = False,
    url: UrlOption = None,
    as_json: JsonOption = False,
) -> int:
    """Send dead letters back to their group, and to no other; stop when one fails again (exit code 1).

    Its worker must run. They keep their ids, and attempts count from 1.
    """
    with _queue(url, topic, group) as queue:
        chosen = queue.index.entries()[:count]
        if dry_run:
            _report_plan("redriven", chosen, as_json=as_json)
            return 0
        outcome = redrive_entries(
            queue, count=count, canary=canary, rate=rate, timeout=timeout, progress=_tell_progress(len(chosen))
        )
        left = len(queue.index.entries())
    if as_json:
        failed = [_document(entry) for entry in outcome.failed]
        print_json({"handled": [str(entry.id) for entry in outcome.handled], "failed": failed, "left": left})
    else:
        typer.echo(f"{len(outcome.handled)} handled, {len(outcome.failed)} failed again, {left} left")
        if outcome.failed:
            _print_entries(outcome.failed)
    return 1 if outcome.failed else 0


@app.command()
def drop(
    topic: TopicArgument,
    group: GroupArgument,
    letters: Annotated[list[str] | None, typer.Argument(help="Dead letters, as `list` names them.")] = None,
    *,
    everything: Annotated[bool, typer.Option("--all", help="All that are there now.")] = False,
    dry_run: DryRunOption = False,
    url: UrlOption = None,
    as_json: JsonOption = False,
) -> None:
    """Discharge dead letters without handling them. There is no way back."""
    identities = [_identity(letter) for letter in letters or ()]
    if everything == bool(identities):
        raise typer.BadParameter("name the dead letters to drop, or use --all")
    with _queue(url, topic, group) as queue:
        chosen = queue.index.entries() if everything else [queue.entry(each) for each in dict.fromkeys(identities)]
        if dry_run:
            _report_plan("dropped", chosen, as_json=as_json)
            return
        if chosen:
            drop_entries(queue, chosen)
        left = len(queue.index.entries())
    if as_json:
        print_json({"dropped": [str(entry.id) for entry in chosen], "left": left})
    else:
        typer.echo(f"{len(chosen)} dropped, {left} left")


@contextmanager
def _queue(url: str | None, topic: str, group: str) -> Iterator[DeadLetterQueue]:
    with open_bus(url) as bus:
        queue = DeadLetterQueue(bus, topic, group)
        if not queue.partitions:
            bus.admin().lag(group, topic)  # an error, if it is a slip of the pen that nothing is there
        if queue.foreign:
            typer.echo(f"note: {queue.foreign} records there are no dead letters of this topic and group", err=True)
        yield queue


def _identity(text: str) -> DeadLetterId:
    try:
        return DeadLetterId.parse(text)
    except ValueError as error:
        raise typer.BadParameter(str(error)) from error


def _tell_progress(total: int) -> Any:
    def tell(outcome: Redriven) -> None:
        typer.echo(f"{len(outcome.handled)} of {total} handled", err=True)

    return tell


def _report_plan(what: str, chosen: Sequence[Entry], *, as_json: bool) -> None:
    if as_json:
        print_json({"dry_run": True, what: [str(entry.id) for entry in chosen]})
        return
    _print_entries(chosen)
    keys = {entry.first.original.key for entry in chosen}
    typer.echo(f"{len(chosen)} dead letters of {len(keys)} keys would be {what}")


def _print_entries(entries: Sequence[Entry]) -> None:
    rows = [
        (
            str(entry.id),
            entry.latest.last_at.isoformat(timespec="seconds"),
            shown_bytes(entry.first.original.key),
            entry.event_type,
            entry.latest.reason,
            entry.latest.attempts,
            entry.latest.error_type or None,
            _first_line(entry.latest.error_message),
        )
        for entry in entries
    ]
    print_table(["id", "last failure", "key", "type", "reason", "attempts", "error", "message"], rows)


def _first_line(text: str | None) -> str | None:
    return text.splitlines()[0][:80] if text else None


def _document(entry: Entry) -> dict[str, Any]:
    first, last = entry.first, entry.latest
    identity = next((value for name, value in first.original.headers if name == "ce_id"), None)
    return {
        "id": str(entry.id),
        "event_type": entry.event_type,
        "event_id": json_bytes(identity),
        "key": json_bytes(first.original.key),
        "position": str(first.origin),
        "timestamp_ms": first.original.timestamp_ms,
        "value_bytes": entry.value_bytes,
        "reason": last.reason,
        "parks_its_key": first.parks,
        "error_type": last.error_type or None,
        "error_message": last.error_message,
        "stack_hash": last.stack_hash,
        "attempts": last.attempts,
        "first_at": (first.first_at or first.last_at).isoformat(),
        "last_at": last.last_at.isoformat(),
        "build": last.build,
        "repeats": len(entry.repeats),
    }


_KIND = ("records", "event_type", "reason", "error_type", "stack_hash", "first_at", "last_at", "oldest")


def _kind(kind: Kind) -> dict[str, Any]:
    letters = [_document(entry) for entry in kind.entries]
    return {
        "records": len(letters),
        "event_type": kind.event_type,
        "reason": kind.reason,
        "error_type": kind.error_type or None,
        "stack_hash": kind.stack_hash,
        "first_at": min(letter["first_at"] for letter in letters),
        "last_at": max(letter["last_at"] for letter in letters),
        "oldest": letters[0]["id"],
    }

"""``eventbus topics``: create, list, describe and delete topics."""

from __future__ import annotations

from typing import Annotated

import typer

from eventbus_core.cli.options import JsonOption, UrlOption, open_bus
from eventbus_core.cli.output import print_json, print_table

app = typer.Typer(help="Create, list, describe and delete topics.")

TopicArgument = Annotated[str, typer.Argument(help="The topic's name.")]


@app.command()
def create(
    topic: TopicArgument,
    *,
    partitions: Annotated[int, typer.Option("--partitions", "-p", min=1, help="How many partitions it gets.")] = 4,
    url: UrlOption = None,
    as_json: JsonOption = False,
) -> None:
    """Create a topic. It is there already with as many partitions: nothing happens."""
    with open_bus(url) as bus, bus.admin() as admin:
        admin.create_topic(topic, partitions)
    if as_json:
        print_json({"topic": topic, "partitions": partitions})
    else:
        typer.echo(f"{topic}: {partitions} partitions")


@app.command("list")
def list_topics(*, url: UrlOption = None, as_json: JsonOption = False) -> None:
    """List the topics, one a line."""
    with open_bus(url) as bus, bus.admin() as admin:
        names = list(admin.topics())
    if as_json:
        print_json(names)
    else:
        for name in names:
            typer.echo(name)


@app.command()
def describe(topic: TopicArgument, *, url: UrlOption = None, as_json: JsonOption = False) -> None:
    """Show a topic's partitions, where they begin and end, and its retention."""
    with open_bus(url) as bus, bus.admin() as admin:
        info = admin.describe_topic(topic)
    rows = [
        (partition, None if first is None else str(first), None if end is None else str(end))
        for partition, (first, end) in enumerate(zip(info.firsts, info.ends, strict=True))
    ]
    if as_json:
        print_json(
            {
                "topic": info.name,
                "retention_seconds": info.retention_seconds,
                "partitions": [{"partition": number, "first": first, "end": end} for number, first, end in rows],
            }
        )
        return
    kept = "kept without limit of time" if info.retention_seconds is None else f"kept for {info.retention_seconds:g} s"
    typer.echo(f"{info.name}: {info.partitions} partitions, {kept}")
    print_table(["partition", "first", "end"], rows)


@app.command()
def delete(topic: TopicArgument, *, url: UrlOption = None, as_json: JsonOption = False) -> None:
    """Delete a topic with all its records and all groups' positions in it. There is no way back."""
    with open_bus(url) as bus, bus.admin() as admin:
        admin.delete_topic(topic)
    if as_json:
        print_json({"topic": topic, "deleted": True})
    else:
        typer.echo(f"{topic}: deleted")

"""``eventbus lag``: how far behind a group is."""

from __future__ import annotations

from typing import Annotated

import typer

from eventbus_core.cli.options import JsonOption, UrlOption, open_bus
from eventbus_core.cli.output import print_json, print_table
from eventbus_core.errors import NotFound


def lag(
    group: Annotated[str, typer.Argument(help="The group.")],
    topic: Annotated[str | None, typer.Argument(help="One topic; without it, all topics of the group.")] = None,
    *,
    url: UrlOption = None,
    as_json: JsonOption = False,
) -> None:
    """Show how many records a group has not settled yet, per partition. An unknown group is an error."""
    with open_bus(url) as bus, bus.admin() as admin:
        lags = list(admin.lag(group, topic))
    if not lags:
        raise NotFound(f"group {group!r} has no position in any topic: nobody has joined it yet, or it was deleted")
    rows = [
        (
            each.topic,
            each.partition,
            None if each.settled is None else str(each.settled),
            None if each.end is None else str(each.end),
            each.records,
        )
        for each in lags
    ]
    columns = ["topic", "partition", "settled", "end", "records"]
    total = sum(each.records for each in lags)
    if as_json:
        partitions = [dict(zip(columns, row, strict=True)) for row in rows]
        print_json({"group": group, "records": total, "partitions": partitions})
        return
    print_table(columns, rows)
    typer.echo(f"{total} records behind")

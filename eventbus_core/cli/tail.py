"""``eventbus tail``: the records of a topic, without a group."""

from __future__ import annotations

from datetime import UTC, datetime
from itertools import islice
from typing import Annotated

import typer

from eventbus_core.cli.options import JsonOption, UrlOption, open_bus, parse_start
from eventbus_core.cli.output import json_bytes, print_json, shown_bytes
from eventbus_core.records import Delivery


def tail(
    topic: Annotated[str, typer.Argument(help="The topic.")],
    *,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Wait for more, until interrupted.")] = False,
    start: Annotated[str, typer.Option("--from", help="earliest, latest, or a time with offset.")] = "earliest",
    limit: Annotated[int | None, typer.Option("--limit", "-n", min=1, help="Stop after so many records.")] = None,
    url: UrlOption = None,
    as_json: JsonOption = False,
) -> None:
    """Print a topic's records, in order per partition; with --json one JSON document a line. Moves no group."""
    where = parse_start(start)
    with open_bus(url) as bus:
        for delivery in islice(bus.read(topic, start=where, follow=follow), limit):
            if as_json:
                print_json(_document(delivery))
            else:
                typer.echo(_line(delivery))


def _document(delivery: Delivery) -> dict[str, object]:
    record = delivery.record
    return {
        "topic": record.topic,
        "partition": delivery.partition,
        "position": str(delivery.position),
        "timestamp_ms": record.timestamp_ms,
        "key": json_bytes(record.key),
        "value": json_bytes(record.value),
        "headers": [[name, json_bytes(value)] for name, value in record.headers],
    }


def _line(delivery: Delivery) -> str:
    record = delivery.record
    moment = "-"
    if record.timestamp_ms is not None:
        moment = datetime.fromtimestamp(record.timestamp_ms / 1000, UTC).isoformat(timespec="milliseconds")
    headers = " ".join(f"{name}={shown_bytes(value)}" for name, value in record.headers)
    place = f"{delivery.partition}@{delivery.position}"
    return f"{moment} {place} {shown_bytes(record.key)} {shown_bytes(record.value)}" + (
        f"  {headers}" if headers else ""
    )

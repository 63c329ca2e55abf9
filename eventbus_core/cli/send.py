"""``eventbus send``: one record."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from eventbus_core.cli.options import JsonOption, UrlOption, open_bus
from eventbus_core.cli.output import print_json


def send(
    topic: Annotated[str, typer.Argument(help="The topic.")],
    value: Annotated[str | None, typer.Argument(help="The value; without it, or as -, all of standard input.")] = None,
    *,
    key: Annotated[str | None, typer.Option("--key", "-k", help="The key: its records keep their order.")] = None,
    header: Annotated[
        list[str] | None, typer.Option("--header", "-H", help="NAME=VALUE; may be repeated, the order is kept.")
    ] = None,
    url: UrlOption = None,
    as_json: JsonOption = False,
) -> None:
    """Send one record and wait until it is stored."""
    headers = [_header(text) for text in header or ()]
    raw = sys.stdin.buffer.read() if value is None or value == "-" else _bytes(value)
    with open_bus(url) as bus, bus.producer() as producer:
        stored = producer.send(topic, raw, key=None if key is None else _bytes(key), headers=headers).result()
    if as_json:
        print_json(
            {
                "topic": stored.topic,
                "partition": stored.partition,
                "position": None if stored.position is None else str(stored.position),
                "timestamp_ms": stored.timestamp_ms,
            }
        )
    else:
        place = f"{stored.topic}[{stored.partition}]"
        typer.echo(f"stored in {place}" + ("" if stored.position is None else f" at {stored.position}"))


def _header(text: str) -> tuple[str, bytes]:
    name, equals, value = text.partition("=")
    if not equals or not name:
        raise typer.BadParameter(f"{text!r} is not NAME=VALUE", param_hint="--header")
    return name, _bytes(value)


def _bytes(argument: str) -> bytes:
    # The shell's bytes that are not UTF-8 reach Python as surrogates; they go out as they came in.
    return argument.encode(errors="surrogateescape")

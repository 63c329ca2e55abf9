"""Options that several commands share, and the bus that they lead to."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Literal

import typer

from eventbus_core import EventBus

UrlOption = Annotated[
    str | None,
    typer.Option(
        "--url", help="The bus, e.g. redis://localhost:6379. Default: the environment (EVENTBUS_…), then eventbus.toml."
    ),
]
JsonOption = Annotated[bool, typer.Option("--json", help="Machine-readable output.")]


def open_bus(url: str | None) -> EventBus:
    """The bus of a URL, or of the settings; connects at first use."""
    return EventBus(url)


def parse_start(text: str) -> Literal["earliest", "latest"] | datetime:
    """Where to start reading: earliest, latest or a time with its offset from UTC. Raises ``BadParameter``."""
    match text:
        case "earliest":
            return "earliest"
        case "latest":
            return "latest"
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        moment = None
    if moment is None or moment.tzinfo is None:
        raise typer.BadParameter(
            f"{text!r} is neither earliest nor latest nor a time with an offset, such as 2030-01-31T12:00:00Z"
        )
    return moment

"""How the commands write: tables for people, JSON for programs; results on stdout, everything else on stderr."""

from __future__ import annotations

import base64
import json
import sys
from collections.abc import Iterable, Sequence
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text


def print_json(document: object) -> None:
    """One JSON document on one line."""
    sys.stdout.write(json.dumps(document, ensure_ascii=False) + "\n")
    sys.stdout.flush()


def print_table(columns: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """A table; numbers to the right, None as a dash. Content is never read as markup."""
    table = Table(box=None, pad_edge=False)
    held = [list(row) for row in rows]
    for index, column in enumerate(columns):
        numeric = bool(held) and all(isinstance(row[index], int | float | None) for row in held)
        table.add_column(column, justify="right" if numeric else "left", overflow="fold")
    for row in held:
        table.add_row(*map(_cell, row))
    # Piped output is not folded to the width of a terminal that is not there.
    console = Console(width=None if sys.stdout.isatty() else 1000, highlight=False)
    with console.capture() as captured:
        console.print(table)
    sys.stdout.writelines(line.rstrip() + "\n" for line in captured.get().splitlines())


def _cell(content: object) -> Text:
    match content:
        case None:
            return Text("-")
        case bool():
            return Text("yes" if content else "no")
        case float():
            return Text(f"{content:g}")
        case _:
            return Text(str(content))


def json_bytes(raw: bytes | None) -> Any:
    """Bytes for JSON: the text where they are UTF-8, else ``{"base64": …}``; null stays null."""
    if raw is None:
        return None
    try:
        return raw.decode()
    except UnicodeDecodeError:
        return {"base64": base64.b64encode(raw).decode()}


def shown_bytes(raw: bytes | None) -> str:
    """Bytes for a person: the text where it can be printed, else as Python writes bytes."""
    if raw is None:
        return "-"
    try:
        text = raw.decode()
    except UnicodeDecodeError:
        return repr(raw)
    return text if text.isprintable() else repr(raw)

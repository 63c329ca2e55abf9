"""Make one table, and one page, from the reports of many runs; nothing is in them that is not in the reports."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from eventbus_conformance.rendering import rendered
from eventbus_conformance.reports import Report, Unfit, read

DONE: Final = 0
STALE: Final = 1
USAGE: Final = 2


def markdown(reports: Sequence[Report]) -> str:
    """The tables for the documentation."""
    return rendered("backends.md.j2", reports)


def page(reports: Sequence[Report]) -> str:
    """A page that stands alone: it works from a file, without network."""
    return rendered("backends.html.j2", reports)


def main(arguments: Sequence[str] | None = None) -> int:
    """Read the command line (by default this process's) and make the tables; returns the exit code.

    0: done; 1: with ``--check``, a file is not what the reports say; 2: the reports cannot be read or compared.
    """
    parser = argparse.ArgumentParser(prog="eventbus-conformance matrix", description=__doc__)
    parser.add_argument("reports", type=Path, nargs="+", metavar="REPORT.json")
    parser.add_argument("--markdown", type=Path, metavar="FILE", help="write the tables as Markdown")
    parser.add_argument("--html", type=Path, metavar="FILE", help="write a page with filters")
    parser.add_argument("--check", action="store_true", help="write nothing; exit code 1 when a file is stale")
    given = parser.parse_args(arguments)
    wanted = [(given.markdown, markdown), (given.html, page)]
    if not any(path for path, _ in wanted):
        parser.error("name what to make: --markdown FILE, --html FILE, or both")
    try:
        reports = read(given.reports)
        made = {path: make(reports) for path, make in wanted if path is not None}
        if given.check:
            return _check(made)
        for path, text in made.items():
            path.write_text(text, "utf-8")
    except (OSError, Unfit) as error:
        return _fail(str(error), USAGE)
    return DONE


def _check(made: dict[Path, str]) -> int:
    stale = [str(path) for path, text in made.items() if not path.is_file() or path.read_text("utf-8") != text]
    if not stale:
        return DONE
    return _fail(f"{', '.join(stale)}: not what the reports say; make it anew, without --check", STALE)


def _fail(message: str, code: int) -> int:
    print(f"error: {message}", file=sys.stderr)  # noqa: T201
    return code

"""The command ``eventbus-conformance``."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping, Sequence
from typing import Final

from eventbus_conformance import check, matrix, skeleton

COMMANDS: Final[Mapping[str, Callable[[Sequence[str]], int]]] = {
    "check": check.main,
    "matrix": matrix.main,
    "new": skeleton.main,
}
_HELP: Final = """\
check FILE...          judge the histories of runs again
matrix REPORT.json...  make the tables that compare backends, from the reports of runs
new NAME [DIR]         write the start of a backend

'eventbus-conformance COMMAND --help' says more. The suite itself is run by pytest:
'pytest --pyargs eventbus_conformance --eventbus-backend NAME'.
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code. ``arguments``: default ``sys.argv``."""
    parser = argparse.ArgumentParser(
        prog="eventbus-conformance", epilog=_HELP, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("command", choices=COMMANDS, metavar="COMMAND", help="one of those below")
    parser.add_argument("arguments", nargs=argparse.REMAINDER, metavar="...", help="what it is about")
    given = parser.parse_args(arguments)
    return COMMANDS[given.command](given.arguments)

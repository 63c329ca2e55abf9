"""Judges kept histories again: ``python -m eventbus_conformance.check FILE...``.

What is expected of each is in its first line. Exit code 0: all valid; 1: one is invalid; 3: none is invalid, but one is
unknown; 2: a file is no history.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

from eventbus_conformance.checker import Outcome, judge

EXIT_CODES: dict[Outcome, int] = {"valid": 0, "invalid": 1, "unknown": 3}
NO_HISTORY = 2


def check(files: Sequence[Path], *, lines: bool = False) -> int:
    """Judge and print; returns the exit code. ``lines``: print the lines that show each finding, too."""
    outcomes: list[Outcome] = []
    for file in files:
        try:
            verdict = judge(file)
        except (OSError, ValueError) as error:
            print(f"{file}: {error}", file=sys.stderr)  # noqa: T201
            return NO_HISTORY
        print(f"{file}: {verdict.explain()}")  # noqa: T201
        for finding in verdict.findings if lines else ():
            print(f"\n{finding.kind.value}: {finding.message}")  # noqa: T201
            for line in finding.lines:
                print(f"  {json.dumps(line)}")  # noqa: T201
        outcomes.append(verdict.outcome)
    return next((EXIT_CODES[each] for each in ("invalid", "unknown", "valid") if each in outcomes), NO_HISTORY)


def main(arguments: Sequence[str] | None = None) -> int:
    """Read the command line (by default this process's) and check; returns the exit code."""
    parser = argparse.ArgumentParser(prog="eventbus-conformance check", description=__doc__)
    parser.add_argument("files", type=Path, nargs="+", metavar="FILE")
    parser.add_argument("--lines", action="store_true", help="print the lines of the history that show each finding")
    given = parser.parse_args(arguments)
    return check(given.files, lines=given.lines)


if __name__ == "__main__":
    sys.exit(main())

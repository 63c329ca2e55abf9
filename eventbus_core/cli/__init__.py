"""The ``eventbus`` command.

Exit codes: 0 done; 1 a problem was found, or the broker said no; 2 wrong usage or configuration; 130 interrupted.
An error is one line on stderr, ``error: …``; there are no tracebacks of expected failures.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence

import typer

from eventbus_core.cli import backends, demo, dlq, lag, run, send, tail, topics
from eventbus_core.errors import ConfigurationError, EventBusError, UsageError

_PROBLEM = 1
_USAGE = 2
_INTERRUPTED = 130

#: The base of what typer raises for a wrong command line: click's, or, in newer releases, a copy inside typer.
_CommandLineError: type[typer.BadParameter] = typer.BadParameter.__mro__[2]

app = typer.Typer(
    name="eventbus",
    help="Look at, and work with, an event bus on any broker.",
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
app.command("backends")(backends.backends)
app.add_typer(topics.app, name="topics")
app.command("send")(send.send)
app.command("tail")(tail.tail)
app.command("lag")(lag.lag)
app.add_typer(dlq.app, name="dlq")
app.command("run")(run.run)
app.command("health")(run.health)
app.command("demo")(demo.demo)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code. ``arguments``: default ``sys.argv``."""
    try:
        outcome = app(args=arguments, prog_name="eventbus", standalone_mode=False)
    except (KeyboardInterrupt, typer.Abort):
        return _INTERRUPTED
    except typer.Exit as leave:
        return leave.exit_code
    except _CommandLineError as mistake:
        return _fail(mistake.format_message(), _USAGE)
    except EventBusError as error:
        return _fail(str(error), _USAGE if isinstance(error, ConfigurationError | UsageError) else _PROBLEM)
    except BrokenPipeError:
        # The reader (head, less) has seen enough. Python's own flush at exit must not complain about it.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return _PROBLEM
    return outcome if isinstance(outcome, int) else 0


def _fail(message: str, code: int) -> int:
    sys.stderr.write(f"error: {' '.join(message.split())}\n")
    return code

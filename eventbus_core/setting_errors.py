"""What pydantic says about settings, in our words: the name, where it was stated, and never the value."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import TypeVar

from pydantic import BaseModel, ValidationError

from eventbus_core.errors import SettingsError
from eventbus_core.loading import nearest

R = TypeVar("R")
_QUOTED = re.compile(r"""(["'])(.+?)\1""")


def validated(
    kind: type[BaseModel], block: str | None, origin: Callable[[tuple[str, ...]], str], build: Callable[[], R]
) -> R:
    """What ``build`` returns. Its ValidationError about a ``kind`` becomes SettingsError.

    ``origin`` tells where the setting at a path was stated.
    """
    try:
        return build()
    except ValidationError as error:
        found = error.errors(include_url=False, include_context=False)
    # Raised out here, so that the error of pydantic, which quotes the values, is not even its context.
    problems = [
        _problem(kind, block, tuple(map(str, one["loc"])), one["type"], _told(one["msg"], one["input"]), origin)
        for one in found
    ]
    raise SettingsError("; ".join(problems), backend=block)


def _told(message: str, given: object) -> str:
    """The message without the parts of the value that it quotes.

    What a plugin's validator raises may quote them: urllib says "Port could not be cast ... as 'half-a-password'".
    """
    values = given.values() if isinstance(given, Mapping) else [given]
    texts = [value for value in values if isinstance(value, str)]
    return _QUOTED.sub(lambda quoted: "'...'" if any(quoted[2] in text for text in texts) else quoted[0], message)


def _problem(
    kind: type[BaseModel],
    block: str | None,
    path: tuple[str, ...],
    problem: str,
    message: str,
    origin: Callable[[tuple[str, ...]], str],
) -> str:
    name = ".".join(path if block is None else (block, *path))
    place = origin(path)
    where = f" ({place})" if place else ""
    if problem == "extra_forbidden":
        hint = nearest(path[-1], list(kind.model_fields)) if len(path) == 1 else ""
        return f"unknown setting {name!r}{where}{hint or '; there are ' + ', '.join(kind.model_fields)}"
    if problem == "missing":
        return f"setting {name!r} is missing"
    return f"setting {name!r}{where}: {message}"

"""Write the start of a backend: a plugin that installs, and that the suite tests at once, and fails."""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Final

from jinja2 import Environment, PackageLoader, StrictUndefined

from eventbus_core import loading
from eventbus_core.backend import API_VERSION

DONE: Final = 0
USAGE: Final = 2

_NAME: Final = re.compile(r"[a-z][a-z0-9]*")
_SUFFIX: Final = ".j2"


class Refused(Exception):
    """The skeleton cannot be written; the message says why."""


def files(name: str) -> Mapping[str, str]:
    """The files of a plugin for a backend of this name, by their paths."""
    environment = Environment(
        loader=PackageLoader("eventbus_conformance", "templates/skeleton"),
        keep_trailing_newline=True,
        undefined=StrictUndefined,
    )
    values = {
        "name": name,
        "title": name.capitalize(),
        "core": version("eventbus-core"),
        "suite": version("eventbus-conformance"),
        "api_version": API_VERSION,
    }
    return {
        template.removesuffix(_SUFFIX).replace("package/", f"eventbus_{name}/"): (
            environment.get_template(template).render(values)
        )
        for template in environment.list_templates(extensions=[_SUFFIX[1:]])
    }


def write(name: str, folder: Path) -> None:
    """Write a plugin into a folder that is empty or not there. Raises ``Refused``, ``OSError``."""
    if not _NAME.fullmatch(name):
        raise Refused(f"{name!r} is no name for a backend: lower-case letters and digits, as in acme://host")
    if name in loading.names():
        raise Refused(f"a backend {name!r} is installed already; choose another name")
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise Refused(f"{folder} is there already, and not an empty folder")
    for path, text in files(name).items():
        target = folder / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(text, "utf-8")


def main(arguments: Sequence[str] | None = None) -> int:
    """Read the command line (by default this process's) and write; returns the exit code: 0 done, 2 refused."""
    parser = argparse.ArgumentParser(prog="eventbus-conformance new", description=__doc__)
    parser.add_argument("name", metavar="NAME", help="of the backend: NAME://host is its URL")
    parser.add_argument("folder", type=Path, nargs="?", metavar="DIR", help="where to (default: eventbus-NAME)")
    given = parser.parse_args(arguments)
    folder = given.folder or Path(f"eventbus-{given.name}")
    try:
        write(given.name, folder)
    except (Refused, OSError) as error:
        print(f"error: {error}", file=sys.stderr)  # noqa: T201
        return USAGE
    print(  # noqa: T201
        f"{folder} is written. Next:\n"
        f"  pip install -e '{folder}[test]'\n"
        f"  pytest --pyargs eventbus_conformance --eventbus-backend {given.name} --eventbus-level core\n"
        f"{folder / 'README.md'} says in which order to go on."
    )
    return DONE

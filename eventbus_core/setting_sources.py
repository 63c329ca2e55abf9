"""Where settings come from: the environment, a TOML file, a URL, arguments; and the search for misspelt names.

pydantic-settings ignores an environment variable it does not know, so a misspelt one would go unnoticed: here every
variable with our prefix has to name a setting. Each value remembers where it was stated, for error messages.
"""

from __future__ import annotations

import json
import os
import re
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeAlias

from eventbus_core import loading
from eventbus_core.backend import BackendSettings
from eventbus_core.errors import LoadError, SettingsError
from eventbus_core.setting_errors import validated

PREFIX = "EVENTBUS_"
CONFIG_VARIABLE = "EVENTBUS_CONFIG"
DEFAULT_FILE = "eventbus.toml"

_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9_.-]*(\+[a-z0-9]*)?")
_EXEMPT = re.compile(r"EVENTBUS_(CONFIG$|TEST_)")
# What Kubernetes puts into every pod when some Service is called "eventbus" or "eventbus-redis".
_KUBERNETES = re.compile(r"EVENTBUS(_\w+)?_(SERVICE_(HOST|PORT(_\w+)?)|PORT_\d+_(TCP|UDP|SCTP)(_(PROTO|PORT|ADDR))?)$")
_KUBERNETES_PORT = re.compile(r"(tcp|udp|sctp)://[0-9.:\[\]a-f]+$")

Place: TypeAlias = tuple[str, ...]


class Stated:
    """A value and where it was stated. Its repr hides the value, which may be a secret."""

    __slots__ = ("origin", "value")

    def __init__(self, value: object, origin: str) -> None:
        self.value = value
        self.origin = origin

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Stated) and self.value == other.value

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        return f"<stated by {self.origin}>"


Layer: TypeAlias = dict[Place, Stated]
"""What one source states, flat: ``("redis", "url")`` is the setting ``url`` of the block ``redis``."""


def from_environment(fields: Sequence[str]) -> Layer:
    """What ``EVENTBUS_*`` variables state. SettingsError: one of them names no setting."""
    layer: Layer = {}
    for variable, value in os.environ.items():
        name = variable.upper()
        if not name.startswith(PREFIX) or _EXEMPT.match(name) or _is_kubernetes(name, value):
            continue
        path = tuple(name[len(PREFIX) :].lower().split("__"))
        _check_name(path, variable, "environment variable", fields)
        layer[path] = Stated(value, f"environment variable {variable}")
    return layer


def _is_kubernetes(name: str, value: str) -> bool:
    return bool(_KUBERNETES.match(name) or (name.endswith("PORT") and _KUBERNETES_PORT.match(value)))


def from_file(fields: Sequence[str]) -> Layer:
    """What the file of ``EVENTBUS_CONFIG`` states, else ``eventbus.toml`` here, if there is one.

    SettingsError: it cannot be read, or a name in it is no setting.
    """
    stated = os.environ.get(CONFIG_VARIABLE)
    path = Path(stated or DEFAULT_FILE)
    try:
        content = tomllib.loads(path.read_text("utf-8"))
    except FileNotFoundError as error:
        if not stated:
            return {}
        raise SettingsError(f"{CONFIG_VARIABLE} names {stated!r}, which does not exist") from error
    except (OSError, UnicodeDecodeError) as error:
        raise SettingsError(f"settings file {str(path)!r} cannot be read: {type(error).__name__}") from error
    except tomllib.TOMLDecodeError as error:
        raise SettingsError(f"settings file {str(path)!r} is not TOML: {error}") from error
    return _from_mapping(content, str(path), fields)


def from_arguments(arguments: Mapping[str, Any], fields: Sequence[str]) -> Layer:
    """What keyword arguments state; a block is a mapping, or the backend's settings object."""
    plain = {
        name: _stated_fields(value) if isinstance(value, BackendSettings) else value
        for name, value in arguments.items()
    }
    return _from_mapping(plain, "the arguments", fields)


def _from_mapping(content: Mapping[str, Any], source: str, fields: Sequence[str]) -> Layer:
    layer: Layer = {}
    for name, value in content.items():
        if name in fields or name == "url":
            layer[name,] = Stated(value, f"{name!r} in {source}")
            continue
        _check_name((name, "*"), name, f"{source}:", fields)
        if not isinstance(value, Mapping):
            raise SettingsError(f"{name!r} in {source} must be a table of the settings of backend {name!r}")
        _flatten((name,), value, source, layer)
    return layer


def _flatten(path: Place, table: Mapping[str, Any], source: str, layer: Layer) -> None:
    for name, value in table.items():
        if isinstance(value, Mapping) and value:
            _flatten((*path, name), value, source, layer)
        else:
            layer[(*path, name)] = Stated(value, f"{'.'.join((*path, name))!r} in {source}")


def _check_name(path: Place, written: str, source: str, fields: Sequence[str]) -> None:
    """Refuse a name that is neither a setting of the bus nor the block of a backend that exists."""
    blocks = {*loading.names(), *loading.KNOWN_DISTRIBUTIONS}
    known = path[0] in blocks if len(path) > 1 else path[0] in fields or path[0] == "url"
    if known and all(path):
        return
    from_variable = source.startswith("environment")
    if from_variable:
        right = [f"{PREFIX}{name.upper()}" for name in (*fields, "url")]
        right += [f"{PREFIX}{block}__{name}".upper() for block in blocks for name in _settings_of(block)]
        hint = loading.nearest(written.upper(), right)
        listed = ", ".join(right[: len(fields) + 1]) + f" and {PREFIX}<BACKEND>__<SETTING>"
    else:
        right = [*fields, "url", *blocks]
        hint = loading.nearest(written, right)
        listed = ", ".join(right)
    raise SettingsError(f"{source} {written}: there is no such setting{hint or f'; there are {listed}'}")


def _settings_of(block: str) -> list[str]:
    try:
        return list(loading.load(block).settings_type.model_fields)
    except LoadError:
        return ["url"]  # only for a suggestion: a backend that is broken or absent has no names to suggest


def expand_url(layer: Layer, url: str, origin: str) -> None:
    """Replace a URL by what it states: the backend and its settings. Settings the layer has beside it go first."""
    name = backend_of(url, origin)
    beside = layer.get(("backend",))
    if beside is not None and beside.value != name:
        raise SettingsError(f"{origin} is for backend {name!r}, but {beside.origin} says {beside.value!r}")
    layer["backend",] = Stated(name, origin)
    for field, value in _stated_fields(settings_of_url(url, origin)).items():
        layer.setdefault((name, field), Stated(value, origin))


def backend_of(url: str, origin: str) -> str:
    """The backend a URL names by its scheme. The URL itself is never shown: it may hold a password."""
    scheme, found, _ = url.partition("://")
    name, _, transport = scheme.lower().partition("+")
    if not found or not _SCHEME.fullmatch(scheme):
        raise SettingsError(f"{origin} is not a URL: it must be like redis://host:6379 or memory://")
    if transport not in {"", "tls"}:
        raise SettingsError(f"{origin} has the scheme {scheme!r}; for TLS write {name}+tls://")
    return name


def settings_of_url(url: str, origin: str) -> BackendSettings:
    """What the plugin makes of a URL. LoadError; SettingsError: the plugin refuses it."""
    name = backend_of(url, origin)
    settings_type = loading.load(name).settings_type
    try:
        return validated(settings_type, name, lambda _path: origin, lambda: settings_type.from_url(url))
    except ValueError as error:
        kind = type(error).__name__
    # Not as a cause: what urllib says about a bad port quotes it, and it may be half of a password.
    raise SettingsError(f"{origin} is not a URL that backend {name!r} understands ({kind})", backend=name)


def _stated_fields(settings: BackendSettings) -> dict[str, Any]:
    return {name: getattr(settings, name) for name in sorted(settings.model_fields_set)}


def merge(layers: Sequence[Layer]) -> Layer:
    """One layer out of several; later ones win, setting by setting, also inside of tables."""
    merged: Layer = {}
    for layer in layers:
        for path, stated in layer.items():
            for other in [one for one in merged if one[: len(path)] == path or path[: len(one)] == one]:
                del merged[other]
            merged[path] = stated
    return merged


def nested(layer: Layer) -> dict[str, Any]:
    """The values of a layer as tables in tables."""
    result: dict[str, Any] = {}
    for path, stated in layer.items():
        table = result
        for name in path[:-1]:
            table = table.setdefault(name, {})
        table[path[-1]] = stated.value
    return result


def parse_json_text(text: str) -> Any:
    """A list or table that an environment variable holds as JSON; the text itself where it is not one."""
    if text[:1] in {"[", "{"}:
        try:
            return json.loads(text)
        except ValueError:
            return text
    return text

"""The settings of a bus.

From, the later winning: the defaults; ``eventbus.toml`` in the current directory, or the file that ``EVENTBUS_CONFIG``
names; the environment (``EVENTBUS_BACKEND=redis``, ``EVENTBUS_REDIS__URL=redis://host``, or ``EVENTBUS_URL`` alone);
arguments. A name that is no setting is an error, from every source. One block per backend holds its settings::

    backend = "redis"
    source = "/shop/orders"

    [redis]
    url = "redis://redis.internal:6379"
"""

from __future__ import annotations

import sys
from pathlib import Path
from types import UnionType
from typing import Annotated, Any, Literal, Self, Union, get_args, get_origin

from pydantic import Field, PrivateAttr, SecretStr, field_validator
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict

from eventbus_core import loading, setting_sources
from eventbus_core.backend import BackendSettings
from eventbus_core.setting_errors import validated
from eventbus_core.setting_sources import Layer, Stated

_MIB = 1024 * 1024
_CONTROL_CHARACTERS = [*map(chr, range(0x20)), *map(chr, range(0x7F, 0xA0))]


def _program() -> str:
    """``/`` and the name of the program, as the source of its events."""
    path = Path(sys.argv[0] or "python")
    return f"/{(path.parent.name if path.stem == '__main__' else path.stem).replace(' ', '-').lstrip('-') or 'python'}"


class Settings(BaseSettings):
    """Frozen. Built by ``Settings()`` or ``load()`` from all sources, arguments first; ``from_url`` adds a URL to them.

    Raises:
        SettingsError: An unknown, misspelt or impossible setting; names it and its source, never its value.
    """

    model_config = SettingsConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True, validate_default=False)

    backend: str = Field(default="memory", min_length=1)
    """The name of the backend; ``eventbus backends`` lists what is installed."""
    source: str = Field(default_factory=_program, min_length=1)
    """The CloudEvents ``source`` of what this process publishes, a URI reference such as ``/shop/orders``."""
    send_buffer_records: int = Field(default=100_000, ge=1)
    """Most records a producer keeps that are not settled yet."""
    send_buffer_bytes: int = Field(default=64 * _MIB, ge=1)
    """Most bytes of such records: keys, values and headers."""
    send_wait_seconds: float = Field(default=30.0, ge=0, allow_inf_nan=False)
    """How long a send waits for room in the buffer before BufferFull."""
    drain_seconds: float = Field(default=30.0, gt=0, allow_inf_nan=False)
    """How long handlers may finish when partitions move or the process ends."""

    _blocks: Layer = PrivateAttr(default_factory=dict)

    def __init__(self, **arguments: Any) -> None:
        self._build(setting_sources.from_arguments(arguments, _fields()))

    def _build(self, arguments: Layer) -> None:
        fields = _fields()
        layers = [setting_sources.from_file(fields), setting_sources.from_environment(fields), arguments]
        backend = _chosen(layers)
        for layer in layers:
            url = layer.pop(("url",), None)
            if url is not None and (not isinstance(url.value, str) or _named(url) == backend):
                setting_sources.expand_url(layer, str(url.value), url.origin)
        merged = setting_sources.merge(layers)
        own = {path[0]: stated for path, stated in merged.items() if len(path) == 1}
        values: dict[str, Any] = {name: stated.value for name, stated in own.items()}
        validated(
            type(self),
            None,
            lambda path: own[path[0]].origin if path and path[0] in own else "",
            lambda: BaseSettings.__init__(self, **values),
        )
        self._blocks.update({path: stated for path, stated in merged.items() if len(path) > 1})

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],  # noqa: ARG003
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,  # noqa: ARG003
        dotenv_settings: PydanticBaseSettingsSource,  # noqa: ARG003
        file_secret_settings: PydanticBaseSettingsSource,  # noqa: ARG003
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Only what ``setting_sources`` merged: its reading of the environment refuses misspelt names."""
        return (init_settings,)

    @field_validator("source")
    @classmethod
    def _source_is_text(cls, source: str) -> str:
        if any(sign in source for sign in (" ", *_CONTROL_CHARACTERS)):
            raise ValueError("must be a URI reference, without blanks or control characters")
        return source

    @classmethod
    def load(cls, **arguments: Any) -> Self:
        """From the file, the environment and the arguments. Raises SettingsError."""
        return cls(**arguments)

    @classmethod
    def from_url(cls, url: str, **arguments: Any) -> Self:
        """As ``load``, with the backend and its settings that a URL states: the scheme is the backend's name, ``+tls``
        behind it turns TLS on, query parameters are settings. Imports the backend. Raises SettingsError, LoadError.
        """
        return cls(url=url, **arguments)

    def backend_settings(self) -> BackendSettings:
        """The validated settings of the chosen backend. Imports it. Raises SettingsError, LoadError."""
        kind = loading.load(self.backend).settings_type
        block = {path[1:]: stated for path, stated in self._blocks.items() if path[0] == self.backend}
        values = setting_sources.nested({path: _read_text(kind, path, stated) for path, stated in block.items()})

        def origin(path: tuple[str, ...]) -> str:
            near = [stated for one, stated in block.items() if one[: len(path)] == path or path[: len(one)] == one]
            return near[0].origin if path and near else ""

        return validated(kind, self.backend, origin, lambda: kind.model_validate(values))


def _fields() -> tuple[str, ...]:
    return tuple(Settings.model_fields)


def _named(url: Stated) -> str:
    return setting_sources.backend_of(str(url.value), url.origin)


def _chosen(layers: list[Layer]) -> str:
    """The backend that the strongest layer names, by itself or by a URL: URLs for others need no loading."""
    for layer in reversed(layers):
        if ("url",) in layer:
            return _named(layer["url",])
        if ("backend",) in layer:
            return str(layer["backend",].value)
    return str(Settings.model_fields["backend"].default)


def _read_text(kind: type[BackendSettings], path: tuple[str, ...], stated: Stated) -> Stated:
    """Lists and tables come as JSON in an environment variable; text that is wanted as text stays as it is."""
    field = kind.model_fields.get(path[0])
    if not isinstance(stated.value, str) or (len(path) == 1 and field is not None and _takes_text(field.annotation)):
        return stated
    return Stated(setting_sources.parse_json_text(stated.value), stated.origin)


def _takes_text(annotation: object) -> bool:
    if annotation in {str, SecretStr}:
        return True
    is_choice = get_origin(annotation) in {Union, UnionType, Annotated, Literal}
    return is_choice and any(isinstance(one, str) or _takes_text(one) for one in get_args(annotation))

"""How an event's data becomes bytes and comes back.

A codec is pure: the same data gives the same bytes on every machine, and it does no I/O.
"""

from __future__ import annotations

import dataclasses
from functools import cache
from typing import Any, Protocol, TypeVar

from pydantic import BaseModel, PydanticUserError, TypeAdapter, ValidationError
from pydantic_core import PydanticSerializationError, to_json

from eventbus_core.errors import DecodeError, InvalidRecord, UsageError

T = TypeVar("T")

_SHOWN_PROBLEMS = 3
_adapters: dict[type[Any], TypeAdapter[Any]] = {}


class Codec(Protocol):
    """Turns the data of one event into bytes and back. Used by several threads at once."""

    @property
    def content_type(self) -> str:
        """The media type of the bytes, which travels in the ``content-type`` header."""

    def encode(self, data: object) -> bytes:
        """The bytes of ``data``. Raises ``InvalidRecord`` when it cannot be written."""

    def decode(self, raw: bytes, into: type[T]) -> T:
        """The data that ``raw`` stands for. Raises ``DecodeError`` when it is not one of ``into``."""


class PydanticCodec:
    """JSON through pydantic: for models and for dataclasses. Readers ignore fields they do not know, as pydantic does.

    Aliases are what travels, so a field with an alias reads back what it wrote. What was written is read back at once,
    validators included, so that no event is published that its own class cannot read. That is cheaper than pydantic's
    own check of a field's type while writing, and finds more.
    """

    content_type = "application/json"

    def encode(self, data: object) -> bytes:
        """Write JSON. Refused: what cannot be read back, and NaN or infinity written as null.

        JSON has no such numbers; a class that needs them says ``ser_json_inf_nan="strings"`` in its configuration.
        """
        kind = type(data)
        adapter = _adapter(kind)
        try:
            raw = adapter.serializer.to_json(data, by_alias=True, warnings=False)
            again = adapter.validator.validate_json(raw)
        except (PydanticSerializationError, PydanticUserError) as error:
            raise InvalidRecord(f"{kind.__qualname__} cannot be written as JSON: {error}") from error
        except ValidationError as error:
            raise InvalidRecord(
                f"{kind.__qualname__} would be written as JSON that it cannot read back: {_problems(error)}"
            ) from None
        if b"null" in raw and _loses_numbers(adapter, data, again):
            raise InvalidRecord(
                f"{kind.__qualname__} cannot be written as JSON: it holds NaN or infinity, which would be read back as "
                'null; use None, or ser_json_inf_nan="strings" in its configuration'
            )
        return raw

    def decode(self, raw: bytes, into: type[T]) -> T:
        """Read and validate JSON."""
        try:
            data: T = _adapter(into).validator.validate_json(raw)
        except ValidationError as error:
            # Without its cause, whose text quotes the data: an event may hold what no log should.
            raise DecodeError(f"the data is no {into.__qualname__}: {_problems(error)}") from None
        return data


def _adapter(kind: type[Any]) -> TypeAdapter[Any]:
    adapter = _adapters.get(kind)
    if adapter is None:
        adapter = _adapters.setdefault(kind, TypeAdapter(kind))
    return adapter


def _loses_numbers(adapter: TypeAdapter[Any], data: object, again: object) -> bool:
    """Whether NaN or infinity in the data is something else in what was read back."""
    written, read = (
        to_json(adapter.serializer.to_python(each, mode="json", warnings=False), inf_nan_mode="constants")
        for each in (data, again)
    )
    return written != read and (b"NaN" in written or b"Infinity" in written)


def _problems(error: ValidationError) -> str:
    found = error.errors(include_input=False, include_url=False, include_context=False)
    shown = [f"{'.'.join(map(str, one['loc'])) or 'the whole'}: {one['msg']}" for one in found[:_SHOWN_PROBLEMS]]
    if len(found) > _SHOWN_PROBLEMS:
        shown.append(f"and {len(found) - _SHOWN_PROBLEMS} more")
    return "; ".join(shown)


class MsgspecCodec:
    """JSON through msgspec, several times faster: for ``msgspec.Struct`` classes and dataclasses.

    Needs ``pip install eventbus-core[msgspec]``; UsageError without it.
    """

    content_type = "application/json"

    def __init__(self) -> None:
        try:
            import msgspec  # noqa: PLC0415 - optional: most applications do without
        except ImportError as error:
            raise UsageError("MsgspecCodec needs msgspec: pip install 'eventbus-core[msgspec]'") from error
        self._encoder = msgspec.json.Encoder()
        self._to_builtins = msgspec.to_builtins
        self._decoder_for = msgspec.json.Decoder
        self._decoders: dict[type[Any], Any] = {}
        self._error = msgspec.MsgspecError

    def encode(self, data: object) -> bytes:
        """Write JSON; fields are not validated. NaN and infinity, which msgspec writes as null, are refused."""
        try:
            raw = self._encoder.encode(data)
            plain = self._to_builtins(data) if b"null" in raw else None
        except (self._error, TypeError, ValueError, RecursionError) as error:
            raise InvalidRecord(f"{type(data).__qualname__} cannot be written as JSON: {error}") from error
        if plain is not None and to_json(plain, inf_nan_mode="constants") != to_json(plain, inf_nan_mode="null"):
            raise InvalidRecord(f"{type(data).__qualname__} cannot be written as JSON: it holds NaN or infinity")
        return raw

    def decode(self, raw: bytes, into: type[T]) -> T:
        """Read and validate JSON."""
        decoder = self._decoders.get(into)
        if decoder is None:
            decoder = self._decoders.setdefault(into, self._decoder_for(into))
        try:
            data: T = decoder.decode(raw)
        except (self._error, UnicodeDecodeError, RecursionError) as error:
            raise DecodeError(f"the data is no {into.__qualname__}: {error}") from error
        return data


@cache
def _msgspec_codec() -> MsgspecCodec:
    return MsgspecCodec()


_PYDANTIC = PydanticCodec()


def default_codec(kind: type[Any]) -> Codec:
    """The codec for a class that named none. UsageError: no codec of ours understands the class."""
    if issubclass(kind, BaseModel) or dataclasses.is_dataclass(kind):
        return _PYDANTIC
    if hasattr(kind, "__struct_fields__"):
        return _msgspec_codec()
    raise UsageError(
        f"{kind.__qualname__} is neither a pydantic model, nor a dataclass, nor a msgspec.Struct. Make it one "
        "(@event_type goes above @dataclass), or name a codec: @event_type(..., codec=...)"
    )

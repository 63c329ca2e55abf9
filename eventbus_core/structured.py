"""CloudEvents in structured JSON mode, read only: the JSON event format 1.0.2 with its data kept byte for byte."""

from __future__ import annotations

import binascii
import json
from base64 import b64decode

from eventbus_core.errors import DecodeError

STRUCTURED_PREFIX = b"application/cloudevents"
_JSON_FORMAT = "application/cloudevents+json"
_DECODER = json.JSONDecoder()
_BLANKS = " \t\n\r"


def parse_structured(content_type: str, value: bytes) -> tuple[dict[str, str], bytes | None]:
    """The attributes, as text, and the bytes of the data; None without data. Raises DecodeError."""
    media_type = content_type.split(";", maxsplit=1)[0].strip().lower()
    if media_type != _JSON_FORMAT:
        raise DecodeError(f"its format {media_type!r} is not supported, only {_JSON_FORMAT!r}")
    try:
        members = _members(value.decode())
    except (ValueError, RecursionError) as error:
        # The text of a JSON error tells a place, never the contents; UnicodeDecodeError is a ValueError.
        raise DecodeError(f"it is not a JSON object ({type(error).__name__})") from error
    raw, encoded = members.pop("data", None), members.pop("data_base64", None)
    attributes = {name: _text(name, read) for name, (read, _) in members.items() if read is not None}
    if raw is not None and encoded is not None:
        raise DecodeError("it has both 'data' and 'data_base64'")
    if encoded is not None:
        return attributes, _binary(encoded[0])
    if raw is None:
        return attributes, None
    read, source = raw
    kind = attributes.setdefault("datacontenttype", "application/json").split(";")[0].strip().lower()
    if isinstance(read, str) and not kind.endswith(("/json", "+json")):
        return attributes, _utf8(read)
    return attributes, _utf8(source)


def _members(text: str) -> dict[str, tuple[object, str]]:
    """The members of one JSON object: what was read, and the text it was read from.

    The text matters: reading numbers and writing them again would change a decimal fraction of many digits.
    """
    members: dict[str, tuple[object, str]] = {}
    at = _expect(text, _skip(text, 0), "{")
    at = _skip(text, at)
    if text[at : at + 1] == "}":
        at += 1
    else:
        while True:
            at = _skip(text, at)
            _expect(text, at, '"')
            name, at = _DECODER.raw_decode(text, at)
            start = _skip(text, _expect(text, _skip(text, at), ":"))
            value, at = _DECODER.raw_decode(text, start)
            if name in members:
                raise ValueError(f"member {name!r} appears twice")
            members[name] = value, text[start:at]
            at = _skip(text, at)
            if text[at : at + 1] == "}":
                at += 1
                break
            at = _expect(text, at, ",")
    if _skip(text, at) != len(text):
        raise ValueError("text after the object")
    return members


def _skip(text: str, at: int) -> int:
    while at < len(text) and text[at] in _BLANKS:
        at += 1
    return at


def _expect(text: str, at: int, sign: str) -> int:
    if text[at : at + 1] != sign:
        raise ValueError(f"{sign} expected at {at}")
    return at + 1


def _text(name: str, value: object) -> str:
    if isinstance(value, str):
        return value
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int):
        return str(value)
    raise DecodeError(f"its attribute {name!r} is neither text nor a number nor a boolean")


def _binary(encoded: object) -> bytes:
    if not isinstance(encoded, str):
        raise DecodeError("its 'data_base64' is not text")
    try:
        return b64decode(encoded, validate=True)
    except (binascii.Error, ValueError) as error:
        raise DecodeError("its 'data_base64' is not base64") from error


def _utf8(text: str) -> bytes:
    try:
        return text.encode()
    except UnicodeEncodeError as error:
        raise DecodeError("its data holds half a surrogate pair") from error

"""What all Lua scripts have in common; each lies in the module that calls it.

All answer the same to a blind repeat, so that a lost reply may simply be asked for again. The reply is a list whose
first element says what happened.
"""

from __future__ import annotations

import hashlib
from typing import NamedTuple


class Script(NamedTuple):
    """A script and its digest."""

    name: str
    body: bytes
    digest: str


def script(name: str, body: str, *, deny_oom: bool = False) -> Script:
    """A script. Unless ``deny_oom``, it runs when Redis is full too: otherwise no backlog could ever drain."""
    raw = ("#!lua\n" if deny_oom else "#!lua flags=allow-oom\n").encode() + body.encode()
    return Script(name, raw, hashlib.sha1(raw).hexdigest())  # noqa: S324  (Redis names scripts by SHA-1)


NOW = """
local clock = redis.call('TIME')
local now = clock[1] * 1000 + math.floor(clock[2] / 1000)
"""
"""Lua: the server's time in milliseconds, as ``now``."""

OWN = """
local function own(stream, from)
  local first
  while true do
    local found = redis.call('XRANGE', stream, from, '+', 'COUNT', 1)[1]
    if not found then return nil end
    local ms, o = string.match(found[1], '(%d+)-(%d+)')
    first = first or ms
    if #found[2] == 2 and found[2][1] == 'r' and o ~= '0' then return ms, o, first end
    from = '(' .. found[1]
  end
end
"""
"""Lua: time and ordinal of our first entry at or after ``from``, and the time of the first entry of anybody there."""

"""Retention: removing what is old and settled by every group. Off unless the settings ask for it."""

from __future__ import annotations

import time
from collections.abc import Sequence

from eventbus_redis.connection import Call, Link
from eventbus_redis.keys import Keys
from eventbus_redis.script import NOW, OWN, script
from eventbus_redis.settings import RedisSettings

_EVERY_SECONDS = 10.0
_PRODUCERS_MS = 24 * 3600 * 1000
_ROUNDS = 10
"""One round removes about 10,000 entries (the default LIMIT of XTRIM ~)."""


_TRIM = script(
    "trim",
    NOW
    + OWN
    + """
-- KEYS stream, meta, cursor...; ARGV incarnation, retention ms or '', retention records or '', producers' ms
local meta = redis.call('HMGET', KEYS[2], 'inc', 'n', 'swept')
if meta[1] ~= ARGV[1] or redis.call('EXISTS', KEYS[1]) == 0 then return {'GONE'} end
if redis.call('HLEN', KEYS[2]) > 1000 then
  -- A part at a time: all at once would hold up the server when there were many short-lived producers.
  local swept, raw = unpack(redis.call('HSCAN', KEYS[2], meta[3] or '0', 'COUNT', 500))
  redis.call('HSET', KEYS[2], 'swept', swept)
  for i = 1, #raw, 2 do
    local at = string.sub(raw[i], 1, 2) == 'P:' and string.match(raw[i + 1], '%d+ %d+ %d+ (%d+)')
    if at and tonumber(at) < now - tonumber(ARGV[4]) then redis.call('HDEL', KEYS[2], raw[i]) end
  end
end
local first = redis.call('XRANGE', KEYS[1], '-', '+', 'COUNT', 1)[1]
if not first or (ARGV[2] == '' and ARGV[3] == '') then return {'OK', 0} end
local function parts(id)
  local ms, o = string.match(id, '(%d+)-(%d+)')
  return tonumber(ms), tonumber(o)
end
local function less(ams, ao, bms, bo) return ams < bms or (ams == bms and ao < bo) end
local ms, o = 0, 0
if ARGV[2] ~= '' then ms = now - tonumber(ARGV[2]) end
local want = ARGV[3] ~= '' and tonumber(meta[2]) - tonumber(ARGV[3]) + 1 or 0
local low, lowest = parts(first[1])
if want > lowest then
  -- Entries are sorted by ms and by ordinal: bisect for the ms of the ordinal that may stay.
  local high = parts(redis.call('XREVRANGE', KEYS[1], '+', '-', 'COUNT', 1)[1][1]) + 1
  while high - low > 1 do
    local middle = math.floor((low + high) / 2)
    local _, ordinal = own(KEYS[1], string.format('%d', middle))
    if ordinal and tonumber(ordinal) <= want then low = middle else high = middle end
  end
  if less(ms, o, low, want) then ms, o = low, want end
end
local function floor(fms, fo)
  if less(fms, fo + 1, ms, o) then ms, o = fms, fo + 1 end
end
for i = 3, #KEYS do
  local cursor = redis.call('HMGET', KEYS[i], 'inc', 'ms', 'o')
  if cursor[1] == ARGV[1] then floor(tonumber(cursor[2]), tonumber(cursor[3])) end
end
for _, info in ipairs(redis.call('XINFO', 'GROUPS', KEYS[1])) do
  local group = {}
  for i = 1, #info, 2 do group[info[i]] = info[i + 1] end
  local fms, fo = parts(group['last-delivered-id'])
  floor(fms, fo)
  if group.pending > 0 then
    local pms, po = parts(redis.call('XPENDING', KEYS[1], group.name)[2])
    floor(pms, po - 1)
  end
end
return {'OK', redis.call('XTRIM', KEYS[1], 'MINID', '~', string.format('%d-%d', ms, o))}
""",
)


class Trimming:
    """Run by the owner of a partition; also sweeps what is remembered of producers that were silent for a day.

    It never passes the cursor of a group, be it ours or native, nor what a native group has pending. Redis removes
    whole nodes of about 100 entries, so up to that many more than asked for stay.
    """

    def __init__(self, settings: RedisSettings, keys: Keys) -> None:
        self._keys = keys
        seconds, records = settings.retention_seconds, settings.retention_records
        self._limits = "" if seconds is None else int(seconds * 1000), "" if records is None else records
        self._next: dict[str, float] = {}

    def run(self, link: Link, topic: str, incarnation: str, partitions: Sequence[int]) -> None:
        """Trim these partitions if it is time."""
        if not partitions or time.monotonic() < self._next.get(topic, 0.0):
            return
        self._next[topic] = time.monotonic() + _EVERY_SECONDS
        for _ in range(_ROUNDS):
            if self.trim(link, topic, incarnation, partitions) < 1000 * len(partitions):
                break

    def trim(self, link: Link, topic: str, incarnation: str, partitions: Sequence[int]) -> int:
        """One round, now; how many entries were removed."""
        raw = link.command("SMEMBERS", self._keys.groups(topic), doing="trimming", topic=topic)
        groups = sorted(name.decode() for name in raw)
        calls = [
            Call(
                _TRIM,
                (
                    self._keys.stream(topic, partition),
                    self._keys.meta(topic, partition),
                    *(self._keys.cursor(topic, partition, group) for group in groups),
                ),
                (incarnation, *self._limits, _PRODUCERS_MS),
            )
            for partition in partitions
        ]
        return sum(reply[1] for reply in link.exchange(calls, doing="trimming", topic=topic) if reply[0] == b"OK")

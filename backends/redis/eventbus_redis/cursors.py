"""Where a group stands in each partition: a fenced hash that only the newest token moves."""

from __future__ import annotations

from typing import NamedTuple

from eventbus_core.records import Position
from eventbus_redis.connection import Call, Link, Reply
from eventbus_redis.errors import forgotten, gone, unexpected
from eventbus_redis.keys import Keys
from eventbus_redis.script import OWN, script
from eventbus_redis.topics import Shape, topic_shape

# from: an entry id, '-' (beginning) or '$' (end). The place just before the first entry at or after it.
# Entries of others that come before ours are still to be read, and told.
_LOCATE = (
    OWN
    + """
local function locate(stream, from, n, ms)
  if from ~= '$' then
    local at, ordinal, first = own(stream, from)
    if at then
      if first ~= at then at = string.format('%d', tonumber(first) - 1) end
      return at, string.format('%d', tonumber(ordinal) - 1)
    end
  end
  return ms, n
end
"""
)

# The native group shows the cursor to the server's own tools; one that was destroyed by hand comes back.
_MIRROR = """
local function mirror(stream, group, ms, o)
  local id = ms .. '-' .. o
  local done = redis.pcall('XGROUP', 'SETID', stream, group, id, 'ENTRIESREAD', o)
  if type(done) == 'table' and done.err then
    redis.call('XGROUP', 'CREATE', stream, group, id, 'ENTRIESREAD', o)
  end
end
"""

# A token serves one holder: leases that the server forgot are counted from 1 again, and may give an equal one.
_STALE = """
local function stale(ep, holder, token, me)
  ep, token = tonumber(ep), tonumber(token)
  return ep > token or (ep == token and holder ~= me)
end
"""

_OPEN = script(
    "open",
    _LOCATE
    + _MIRROR
    + """
-- KEYS cursor, stream, meta; ARGV incarnation, group, from
local meta = redis.call('HMGET', KEYS[3], 'inc', 'n', 'ms')
if meta[1] ~= ARGV[1] or redis.call('EXISTS', KEYS[2]) == 0 then return {'GONE'} end
if redis.call('HGET', KEYS[1], 'inc') == ARGV[1] then return {'OK'} end
local ms, o = locate(KEYS[2], ARGV[3], meta[2], meta[3])
mirror(KEYS[2], ARGV[2], ms, o)
redis.call('HSET', KEYS[1], 'inc', ARGV[1], 'ep', 0, 'ow', '', 'ms', ms, 'o', o)
return {'OK'}
""",
)

_CLAIM = script(
    "claim",
    _STALE
    + _MIRROR
    + """
-- KEYS cursor, stream, meta; ARGV incarnation, group, holder, token
local meta = redis.call('HMGET', KEYS[3], 'inc', 'n', 'ms')
if meta[1] ~= ARGV[1] then return {'GONE'} end
local cursor = redis.call('HMGET', KEYS[1], 'inc', 'ep', 'ms', 'o', 'ow')
if cursor[1] ~= ARGV[1] then return {'NOGROUP'} end
if stale(cursor[2], cursor[5], ARGV[4], ARGV[3]) then return {'STALE', tonumber(cursor[2])} end
local ms, o = cursor[3], cursor[4]
-- The server lost its newest records: the group goes on behind the last one that is left.
if tonumber(o) > tonumber(meta[2]) then
  ms, o = meta[3], meta[2]
  mirror(KEYS[2], ARGV[2], ms, o)
end
redis.call('HSET', KEYS[1], 'ep', ARGV[4], 'ow', ARGV[3], 'ms', ms, 'o', o)
return {'OK', tonumber(ms), tonumber(o)}
""",
)

_ACK = script(
    "ack",
    _MIRROR
    + """
-- KEYS cursor, stream; ARGV incarnation, group, token, ms, ordinal
local cursor = redis.call('HMGET', KEYS[1], 'inc', 'ep', 'o')
if not cursor[1] and redis.call('EXISTS', KEYS[2]) == 1 then return {'NOGROUP'} end
if cursor[1] ~= ARGV[1] then return {'GONE'} end
if cursor[2] ~= ARGV[3] then return {'FENCED', tonumber(cursor[2])} end
if tonumber(cursor[3]) >= tonumber(ARGV[5]) then return {'OK'} end
if redis.call('EXISTS', KEYS[2]) == 0 then return {'GONE'} end
mirror(KEYS[2], ARGV[2], ARGV[4], ARGV[5])
redis.call('HSET', KEYS[1], 'ms', ARGV[4], 'o', ARGV[5])
return {'OK'}
""",
)

_SEEK = script(
    "seek",
    _STALE
    + _LOCATE
    + _MIRROR
    + """
-- KEYS cursor, stream, meta; ARGV incarnation, group, holder, token, from
local meta = redis.call('HMGET', KEYS[3], 'inc', 'n', 'ms')
if meta[1] ~= ARGV[1] or redis.call('EXISTS', KEYS[2]) == 0 then return {'GONE'} end
local cursor = redis.call('HMGET', KEYS[1], 'inc', 'ep', 'ow')
if cursor[1] ~= ARGV[1] then return {'NOGROUP'} end
if stale(cursor[2], cursor[3], ARGV[4], ARGV[3]) then return {'STALE', tonumber(cursor[2])} end
local ms, o = locate(KEYS[2], ARGV[5], meta[2], meta[3])
mirror(KEYS[2], ARGV[2], ms, o)
redis.call('HSET', KEYS[1], 'ep', ARGV[4], 'ow', ARGV[3], 'ms', ms, 'o', o)
return {'OK', tonumber(ms), tonumber(o)}
""",
)

_CHECK = script(
    "check",
    """
-- KEYS cursor, stream, meta; ARGV incarnation, token
local meta = redis.call('HMGET', KEYS[3], 'inc', 'n')
local cursor = redis.call('HMGET', KEYS[1], 'inc', 'ep')
if meta[1] ~= ARGV[1] or redis.call('EXISTS', KEYS[2]) == 0 then return {'GONE'} end
if not cursor[1] then return {'NOGROUP'} end
if cursor[1] ~= ARGV[1] then return {'GONE'} end
if cursor[2] ~= ARGV[2] then return {'FENCED', tonumber(cursor[2])} end
return {'OK', tonumber(meta[2])}
""",
)

_FORGET = script(
    "forget",
    """
-- KEYS cursor, stream; ARGV group
redis.call('DEL', KEYS[1])
if redis.call('EXISTS', KEYS[2]) == 1 then redis.call('XGROUP', 'DESTROY', KEYS[2], ARGV[1]) end
return {'OK'}
""",
)


class Stale(NamedTuple):
    """The token was refused: the partition has seen one as high as ``epoch``."""

    epoch: int


class Cursors(NamedTuple):
    """The positions of a group in one topic: (ms, ordinal) of the last settled record."""

    link: Link
    keys: Keys
    topic: str
    group: str
    incarnation: str

    def claim(self, partition: int, holder: str, token: int) -> tuple[int, int] | Stale:
        """Take the cursor for the holder of a token; where it stands. NotFound: topic or group are gone."""
        args = (self.incarnation, self.group, holder, token)
        return self._place(_CLAIM.name, self._call(Call(_CLAIM, self._names(partition), args)))

    def seek(self, partition: int, holder: str, token: int, entry: str) -> tuple[int, int] | Stale:
        """Take the cursor and move it to just before the first record at or after ``entry``. NotFound."""
        args = (self.incarnation, self.group, holder, token, entry)
        return self._place(_SEEK.name, self._call(Call(_SEEK, self._names(partition), args)))

    def ack(self, partition: int, token: int, settled: Position) -> Call:
        """Moves the cursor forward. Answers OK, FENCED and the newest token, NOGROUP or GONE."""
        args = (self.incarnation, self.group, token, settled[0], settled[1])
        return Call(_ACK, self._names(partition)[:2], args)

    def check(self, partition: int, token: int) -> Call:
        """Answers OK and the last ordinal of the log, FENCED and the newest token, NOGROUP or GONE."""
        return Call(_CHECK, self._names(partition), (self.incarnation, token))

    def forget(self, partition: int) -> Call:
        """Removes the cursor."""
        return Call(_FORGET, self._names(partition)[:2], (self.group,))

    def open(self, partition: int, entry: str) -> Call:
        """Makes the cursor at ``entry``, where there is none. Answers OK or GONE."""
        return Call(_OPEN, self._names(partition), (self.incarnation, self.group, entry))

    def _names(self, partition: int) -> tuple[str, str, str]:
        keys, topic = self.keys, self.topic
        return keys.cursor(topic, partition, self.group), keys.stream(topic, partition), keys.meta(topic, partition)

    def _call(self, call: Call) -> Reply:
        return self.link.exchange([call], doing=f"script {call.script.name}", topic=self.topic)[0]

    def _place(self, name: str, reply: Reply) -> tuple[int, int] | Stale:
        match reply:
            case [b"OK", ms, ordinal]:
                return ms, ordinal
            case [b"STALE", epoch]:
                return Stale(epoch)
            case [b"GONE"]:
                raise gone(self.topic)
            case [b"NOGROUP"]:
                raise forgotten(self.group, self.topic)
        raise unexpected(name, reply, self.topic)


def open_group(link: Link, keys: Keys, topic: str, group: str, entry: str) -> Shape:
    """Make the group's positions where there are none, at ``entry`` if the group is new. NotFound."""
    shape = topic_shape(link, keys, topic)
    cursors = Cursors(link, keys, topic, group, shape.incarnation)
    known = link.command("SISMEMBER", keys.groups(topic), group, doing="opening the group", topic=topic)
    calls = [cursors.open(partition, "-" if known else entry) for partition in range(shape.partitions)]
    if any(reply[0] == b"GONE" for reply in link.exchange(calls, doing="opening the group", topic=topic)):
        raise gone(topic)
    if not known:
        link.command("SADD", keys.groups(topic), group, doing="opening the group", topic=topic)
    return shape

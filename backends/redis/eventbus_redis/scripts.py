"""The Lua scripts. All answer the same to a blind repeat, so that a lost reply may simply be asked for again.

Every script but ``WRITE`` runs when Redis is full (``allow-oom``): otherwise no backlog could ever drain.
Reply: a list whose first element says what happened.
"""

from __future__ import annotations

import hashlib
from typing import NamedTuple


class Script(NamedTuple):
    """A script and its digest."""

    name: str
    body: bytes
    digest: str


def _script(name: str, body: str, *, deny_oom: bool = False) -> Script:
    raw = ("#!lua\n" if deny_oom else "#!lua flags=allow-oom\n").encode() + body.encode()
    return Script(name, raw, hashlib.sha1(raw).hexdigest())  # noqa: S324  (Redis names scripts by SHA-1)


_NOW = """
local clock = redis.call('TIME')
local now = clock[1] * 1000 + math.floor(clock[2] / 1000)
"""

# from: an entry id, '-' (beginning) or '$' (end). The place just before the first entry at or after it.
_LOCATE = """
local function locate(stream, from, n, ms)
  if from ~= '$' then
    local found = redis.call('XRANGE', stream, from, '+', 'COUNT', 1)[1]
    if found then
      local at, ordinal = string.match(found[1], '(%d+)-(%d+)')
      return at, string.format('%d', tonumber(ordinal) - 1)
    end
  end
  return ms, n
end
"""

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

WRITE = _script(
    "write",
    """
-- KEYS stream, meta; ARGV incarnation, writer, first, rebase, times (one per record, 0: the server's), record...
-- An entry's id has the highest time so far, so that a search by id is a search by the records' own times.
local producer = 'P:' .. ARGV[2]
local seen = redis.call('HMGET', KEYS[2], 'inc', 'n', 'ms', producer)
if seen[1] ~= ARGV[1] then return {'GONE'} end
local first, count = tonumber(ARGV[3]), #ARGV - 5
if seen[4] then
  local next, start, size, at, ordinal, now = string.match(seen[4], '(%d+) (%d+) (%d+) (%d+) (%d+) (%d+)')
  next = tonumber(next)
  if first ~= next then
    if first == tonumber(start) and count == tonumber(size) then
      return {'DUP', tonumber(at), tonumber(ordinal), tonumber(now)}
    end
    if first < next then return {'OLD', next} end
    if ARGV[4] ~= '1' then return {'GAP', next} end
  end
elseif first > 0 and ARGV[4] ~= '1' then
  return {'GAP', 0}
end
local clock = redis.call('TIME')
local now = clock[1] * 1000 + math.floor(clock[2] / 1000)
local before, n = tonumber(seen[3]), tonumber(seen[2])
local ms, prefix, i = before, string.format('%d-', before), 5
for time in string.gmatch(ARGV[5], '%d+') do
  time = tonumber(time)
  if time == 0 then time = now end
  if time > ms then
    ms = time
    prefix = string.format('%d-', ms)
  end
  i = i + 1
  if not redis.call('XADD', KEYS[1], 'NOMKSTREAM', prefix .. string.format('%d', n + i - 5), 'r', ARGV[i]) then
    return {'GONE'}
  end
end
redis.call('HSET', KEYS[2], 'n', string.format('%d', n + count), 'ms', string.format('%d', ms), producer,
  string.format('%d %d %d %d %d %d', first + count, first, count, before, n + 1, now))
return {'OK', before, n + 1, now}
""",
    deny_oom=True,
)

BEAT = _script(
    "beat",
    _NOW
    + """
-- KEYS members, leases; ARGV member, ttl ms, partitions, then (partition, token) of what the member holds
local ttl = tonumber(ARGV[2])
local raw, lease = redis.call('HGETALL', KEYS[2]), {}
for i = 1, #raw, 2 do lease[raw[i]] = raw[i + 1] end
local grace = tonumber(lease.grace or 0)
-- Everybody was silent: it was the server that was away. Let the members speak before any of them is declared dead.
if now - tonumber(lease.last or now) > ttl / 2 then
  grace = now + math.floor(ttl / 2)
  redis.call('HSET', KEYS[2], 'grace', string.format('%d', grace))
end
redis.call('ZADD', KEYS[1], string.format('%d', now + ttl), ARGV[1])
if now >= grace then redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', string.format('(%d', now)) end
redis.call('HSET', KEYS[2], 'last', string.format('%d', now))
local members, alive = redis.call('ZRANGE', KEYS[1], 0, -1), {}
for _, name in ipairs(members) do alive[name] = true end
local claimed, held, free = {}, {}, {}
for i = 4, #ARGV, 2 do
  if lease['o:' .. ARGV[i]] == ARGV[1] and lease['k:' .. ARGV[i]] == ARGV[i + 1] then
    held[#held + 1] = tonumber(ARGV[i])
    claimed[ARGV[i]] = true
  end
end
for p = 0, tonumber(ARGV[3]) - 1 do
  local name = tostring(p)
  local owner = lease['o:' .. name]
  if not owner or not alive[owner] or (owner == ARGV[1] and not claimed[name]) then free[#free + 1] = p end
end
return {'OK', members, free, held}
""",
)

ACQUIRE = _script(
    "acquire",
    """
-- KEYS members, leases; ARGV member, partition, floor: every token given out is above it
local owner = redis.call('HGET', KEYS[2], 'o:' .. ARGV[2])
if owner and owner ~= ARGV[1] and redis.call('ZSCORE', KEYS[1], owner) then return {'BUSY'} end
if not redis.call('ZSCORE', KEYS[1], ARGV[1]) then return {'BUSY'} end
local token = math.max(tonumber(redis.call('HGET', KEYS[2], 'tok') or 0), tonumber(ARGV[3])) + 1
local text = string.format('%d', token)
redis.call('HSET', KEYS[2], 'tok', text, 'o:' .. ARGV[2], ARGV[1], 'k:' .. ARGV[2], text)
return {'OK', token}
""",
)

RENEW = _script(
    "renew",
    """
-- KEYS leases; ARGV member, partition: a higher token for the lease that the member has
if redis.call('HGET', KEYS[1], 'o:' .. ARGV[2]) ~= ARGV[1] then return {'FENCED'} end
local token = redis.call('HINCRBY', KEYS[1], 'tok', 1)
redis.call('HSET', KEYS[1], 'k:' .. ARGV[2], token)
return {'OK', token}
""",
)

OPERATE = _script(
    "operate",
    _NOW
    + """
-- KEYS members, leases; ARGV floor: a token for an operator, unless the group has members
local live = redis.call('ZCOUNT', KEYS[1], now, '+inf')
if live > 0 then return {'BUSY', live} end
local token = math.max(tonumber(redis.call('HGET', KEYS[2], 'tok') or 0), tonumber(ARGV[1])) + 1
redis.call('HSET', KEYS[2], 'tok', string.format('%d', token))
return {'OK', token}
""",
)

MEMBERS = _script(
    "members",
    _NOW
    + """
-- KEYS members
return {'OK', redis.call('ZRANGEBYSCORE', KEYS[1], now, '+inf')}
""",
)

RELEASE = _script(
    "release",
    """
-- KEYS leases; ARGV member, partition, token
local owner, token = redis.call('HGET', KEYS[1], 'o:' .. ARGV[2]), redis.call('HGET', KEYS[1], 'k:' .. ARGV[2])
if owner == ARGV[1] and token == ARGV[3] then
  redis.call('HDEL', KEYS[1], 'o:' .. ARGV[2], 'k:' .. ARGV[2])
end
return {'OK'}
""",
)

LEAVE = _script(
    "leave",
    """
-- KEYS members; ARGV member
redis.call('ZREM', KEYS[1], ARGV[1])
return {'OK'}
""",
)

OPEN = _script(
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

CLAIM = _script(
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

ACK = _script(
    "ack",
    _MIRROR
    + """
-- KEYS cursor, stream; ARGV incarnation, group, token, ms, ordinal
local cursor = redis.call('HMGET', KEYS[1], 'inc', 'ep', 'o')
if cursor[1] ~= ARGV[1] then return {'GONE'} end
if cursor[2] ~= ARGV[3] then return {'FENCED', tonumber(cursor[2])} end
if tonumber(cursor[3]) >= tonumber(ARGV[5]) then return {'OK'} end
if redis.call('EXISTS', KEYS[2]) == 0 then return {'GONE'} end
mirror(KEYS[2], ARGV[2], ARGV[4], ARGV[5])
redis.call('HSET', KEYS[1], 'ms', ARGV[4], 'o', ARGV[5])
return {'OK'}
""",
)

SEEK = _script(
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

CHECK = _script(
    "check",
    """
-- KEYS cursor, stream, meta; ARGV incarnation, token
local meta = redis.call('HMGET', KEYS[3], 'inc', 'n')
local cursor = redis.call('HMGET', KEYS[1], 'inc', 'ep')
if meta[1] ~= ARGV[1] or cursor[1] ~= ARGV[1] or redis.call('EXISTS', KEYS[2]) == 0 then return {'GONE'} end
if cursor[2] ~= ARGV[2] then return {'FENCED', tonumber(cursor[2])} end
return {'OK', tonumber(meta[2])}
""",
)

TRIM = _script(
    "trim",
    _NOW
    + """
-- KEYS stream, meta, cursor...; ARGV incarnation, retention ms or '', retention records or '', producers' ms
local meta = redis.call('HMGET', KEYS[2], 'inc', 'n')
if meta[1] ~= ARGV[1] or redis.call('EXISTS', KEYS[1]) == 0 then return {'GONE'} end
if redis.call('HLEN', KEYS[2]) > 1000 then
  local raw = redis.call('HGETALL', KEYS[2])
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
    local found = redis.call('XRANGE', KEYS[1], string.format('%d', middle), '+', 'COUNT', 1)[1]
    local ordinal
    if found then ordinal = select(2, parts(found[1])) end
    if ordinal and ordinal <= want then low = middle else high = middle end
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

DECLARE = _script(
    "declare",
    """
-- KEYS topic; ARGV incarnation, partitions
local seen = redis.call('HMGET', KEYS[1], 'inc', 'N', 'state')
if seen[1] then return {'OLD', seen[1], tonumber(seen[2]), seen[3]} end
redis.call('HSET', KEYS[1], 'inc', ARGV[1], 'N', ARGV[2], 'state', 'creating')
return {'OK', ARGV[1], tonumber(ARGV[2]), 'creating'}
""",
)

CREATE = _script(
    "create",
    """
-- KEYS stream, meta; ARGV incarnation
if redis.call('HGET', KEYS[2], 'inc') == ARGV[1] then return {'OK'} end
redis.call('DEL', KEYS[1], KEYS[2])
redis.call('XGROUP', 'CREATE', KEYS[1], 'eventbus', '$', 'MKSTREAM')
redis.call('XGROUP', 'DESTROY', KEYS[1], 'eventbus')
redis.call('HSET', KEYS[2], 'inc', ARGV[1], 'n', 0, 'ms', 0)
return {'OK'}
""",
)

FORGET = _script(
    "forget",
    """
-- KEYS cursor, stream; ARGV group
redis.call('DEL', KEYS[1])
if redis.call('EXISTS', KEYS[2]) == 1 then redis.call('XGROUP', 'DESTROY', KEYS[2], ARGV[1]) end
return {'OK'}
""",
)

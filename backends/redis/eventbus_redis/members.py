"""Who is in a group, and who holds which partition by which token: the leases of one topic.

A token is given out once, and each is higher than all before it: cursors refuse all but the newest.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from eventbus_core.errors import Conflict
from eventbus_redis.connection import Call, Link, Reply
from eventbus_redis.errors import NAME
from eventbus_redis.keys import Keys
from eventbus_redis.script import NOW, Script, script

_BEAT = script(
    "beat",
    NOW
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

_ACQUIRE = script(
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

_RENEW = script(
    "renew",
    """
-- KEYS leases; ARGV member, partition: a higher token for the lease that the member has
if redis.call('HGET', KEYS[1], 'o:' .. ARGV[2]) ~= ARGV[1] then return {'FENCED'} end
local token = redis.call('HINCRBY', KEYS[1], 'tok', 1)
redis.call('HSET', KEYS[1], 'k:' .. ARGV[2], token)
return {'OK', token}
""",
)

_OPERATE = script(
    "operate",
    NOW
    + """
-- KEYS members, leases; ARGV floor: a token for an operator, unless the group has members
local live = redis.call('ZCOUNT', KEYS[1], now, '+inf')
if live > 0 then return {'BUSY', live} end
local token = math.max(tonumber(redis.call('HGET', KEYS[2], 'tok') or 0), tonumber(ARGV[1])) + 1
redis.call('HSET', KEYS[2], 'tok', string.format('%d', token))
return {'OK', token}
""",
)

_MEMBERS = script(
    "members",
    NOW
    + """
-- KEYS members
return {'OK', redis.call('ZRANGEBYSCORE', KEYS[1], now, '+inf')}
""",
)

_RELEASE = script(
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

_LEAVE = script(
    "leave",
    """
-- KEYS members; ARGV member
redis.call('ZREM', KEYS[1], ARGV[1])
return {'OK'}
""",
)


class Members(NamedTuple):
    """The members and leases of a group in one topic."""

    link: Link
    topic: str
    group: str
    keys: tuple[str, str]

    @classmethod
    def of(cls, link: Link, keys: Keys, topic: str, group: str, incarnation: str) -> Members:
        """Those of this incarnation of the topic."""
        names = keys.members(topic, group, incarnation), keys.leases(topic, group, incarnation)
        return cls(link, topic, group, names)

    def beat(self, member: str, lease_ms: int, partitions: int, held: Sequence[tuple[int, int]]) -> Call:
        """Renews the membership and the leases on ``held`` (partition, token).

        Answers OK, the names of all members, the free partitions, and those of ``held`` that are the member's.
        """
        pairs = [number for pair in held for number in pair]
        return Call(_BEAT, self.keys, (member, lease_ms, partitions, *pairs))

    def acquire(self, member: str, partition: int, floor: int) -> int | None:
        """A token above ``floor`` and all earlier ones; None: a living member has the partition."""
        answer = self._call(_ACQUIRE, self.keys, member, partition, floor)
        return None if answer[0] == b"BUSY" else int(answer[1])

    def renew(self, member: str, partition: int) -> int | None:
        """A higher token for the lease that the member has; None: it has none."""
        answer = self._call(_RENEW, self.keys[1:], member, partition)
        return None if answer[0] == b"FENCED" else int(answer[1])

    def operate(self, floor: int) -> int:
        """A token for an operator, above ``floor``. Conflict: the group has members."""
        answer, number = self._call(_OPERATE, self.keys, floor)
        if answer == b"BUSY":
            raise self._in_use(number)
        return int(number)

    def living(self) -> list[bytes]:
        """The names of those whose membership has not run out."""
        found: list[bytes] = self._call(_MEMBERS, self.keys[:1])[1]
        return found

    def refuse(self) -> None:
        """Conflict, if there are members."""
        members = self.living()
        if members:
            raise self._in_use(len(members))

    def release(self, member: str, partition: int, token: int) -> None:
        """Free the lease, if it is still this one."""
        self._call(_RELEASE, self.keys[1:], member, partition, token)

    def leave(self, member: str) -> Call:
        """Ends the membership."""
        return Call(_LEAVE, self.keys[:1], (member,))

    def _call(self, which: Script, keys: Sequence[str], *args: str | int) -> Reply:
        return self.link.call(which, keys, args, doing=f"script {which.name}", topic=self.topic)

    def _in_use(self, members: int) -> Conflict:
        return Conflict(
            f"redis: group {self.group} has {members} members in topic {self.topic}; stop them first (a killed one "
            "leaves when its lease ends)",
            topic=self.topic,
            backend=NAME,
        )

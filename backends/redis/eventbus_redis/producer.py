"""Producing: one script per partition and batch, all partitions in one exchange."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any, TypeAlias

from redis import exceptions as client

from eventbus_core.backend.batching import BatchProducer, WriteBatch
from eventbus_core.errors import BrokerError, EventBusError, NotFound, SendFailed, Unavailable
from eventbus_core.records import Position, Record, Stored
from eventbus_redis.connection import Call, Link
from eventbus_redis.encoding import encode
from eventbus_redis.errors import NAME, class_of, gone, mapped, unexpected
from eventbus_redis.keys import Keys
from eventbus_redis.script import script
from eventbus_redis.settings import RedisSettings
from eventbus_redis.topics import Shape, topic_shape

_log = logging.getLogger(__name__)

Outcome: TypeAlias = Sequence[Stored] | EventBusError

MAX_BATCH_RECORDS = 500
MAX_BATCH_BYTES = 1 << 20

# Per record, and half the time of the classes' own constructors, which are written in Python.
_tuple = tuple.__new__

_WRITE = script(
    "write",
    """
-- KEYS stream, meta; ARGV incarnation, writer, first, rebase, runs, record...
-- A run is a time (0: the server's) and how many records come with it.
-- An entry's id has the highest time so far, so that a search by id is a search by the records' own times.
local call, format = redis.call, string.format
local log, meta, producer = KEYS[1], KEYS[2], 'P:' .. ARGV[2]
local seen = call('HMGET', meta, 'inc', 'n', 'ms', producer)
if seen[1] ~= ARGV[1] or call('EXISTS', log) == 0 then return {'GONE'} end
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
local clock = call('TIME')
local now = clock[1] * 1000 + math.floor(clock[2] / 1000)
local before, n = tonumber(seen[3]), tonumber(seen[2])
local ms, at = before, 5
for time, size in string.gmatch(ARGV[5], '(%d+) (%d+)') do
  time = tonumber(time)
  if time == 0 then time = now end
  if time > ms then ms = time end
  local id = format('%d-', ms) .. '%d'
  local from = at + 1
  if at == 5 then
    local done = redis.pcall('XADD', log, format(id, n + 1), 'r', ARGV[6])
    if type(done) == 'table' and done.err then
      -- Somebody else wrote to the log, and made its newest id: ours are behind that one.
      local info = call('XINFO', 'STREAM', log)
      for i = 1, #info, 2 do
        if info[i] == 'last-generated-id' then ms = tonumber(string.match(info[i + 1], '%d+')) + 1 end
      end
      before = ms
      id = format('%d-', ms) .. '%d'
      call('XADD', log, format(id, n + 1), 'r', ARGV[6])
    end
    from = 7
  end
  for i = from, at + size do
    call('XADD', log, format(id, n + i - 5), 'r', ARGV[i])
  end
  at = at + size
end
call('HSET', meta, 'n', format('%d', n + count), 'ms', format('%d', ms), producer,
  format('%d %d %d %d %d %d', first + count, first, count, before, n + 1, now))
return {'OK', before, n + 1, now}
""",
    deny_oom=True,
)


class RedisProducer(BatchProducer):
    """A batch is written whole or not at all, once, however often it is sent.

    The write script keeps the writer's last batch beside the log: the same one again is answered with its places.
    ``SendFailed`` is only reported for a batch of which no earlier attempt is unaccounted for.
    """

    def __init__(self, settings: RedisSettings) -> None:
        super().__init__(max_batch_records=MAX_BATCH_RECORDS, max_batch_bytes=MAX_BATCH_BYTES)
        self._link = Link(settings)
        self._keys = Keys(settings.prefix)
        self._shapes: dict[str, Shape] = {}
        # Encoded batches under way, and whether an earlier attempt may have been written.
        self._encoded: dict[tuple[str, int], tuple[int, list[bytes]]] = {}
        self._doubtful: set[tuple[str, int]] = set()
        self._link.open()

    def partition_count(self, topic: str) -> int:
        shape = self._shapes.get(topic)
        if shape is None:
            shape = self._shapes[topic] = topic_shape(self._link, self._keys, topic)
        return shape.partitions

    def write(self, batches: Sequence[WriteBatch]) -> Sequence[Outcome]:
        outcomes = self._attempt(batches, rebase=False)
        behind = [at for at, outcome in enumerate(outcomes) if isinstance(outcome, _Behind)]
        if behind:
            again = self._attempt([batches[at] for at in behind], rebase=True)
            for at, outcome in zip(behind, again, strict=True):
                outcomes[at] = outcome
        for batch, outcome in zip(batches, outcomes, strict=True):
            place = batch.topic, batch.partition
            if isinstance(outcome, Unavailable):
                continue
            self._encoded.pop(place, None)
            self._doubtful.discard(place)
        return outcomes

    def close(self) -> None:
        super().close()
        self._encoded.clear()
        self._link.close()

    def _attempt(self, batches: Sequence[WriteBatch], *, rebase: bool) -> list[Outcome]:
        outcomes: list[Outcome] = [_MISSING] * len(batches)
        known: list[int] = []
        for at, batch in enumerate(batches):
            try:
                self.partition_count(batch.topic)
            except NotFound as error:
                outcomes[at] = _failed(error, batch.topic)
            except Unavailable as error:
                outcomes[at] = error
            else:
                known.append(at)
        try:
            replies = self._link.exchange_once(
                (self._call(batches[at], rebase=rebase) for at in known), doing="writing records"
            )
        except Unavailable as error:
            for at in known:
                self._doubtful.add((batches[at].topic, batches[at].partition))
                outcomes[at] = error
            return outcomes
        for at, reply in zip(known, replies, strict=True):
            outcomes[at] = self._outcome(batches[at], reply)
        return outcomes

    def _call(self, batch: WriteBatch, *, rebase: bool) -> Call:
        topic, partition = batch.topic, batch.partition
        cached = self._encoded.get((topic, partition))
        if cached is None or cached[0] != batch.first:
            encoded = [_runs(batch.records), *map(encode, batch.records)]
            cached = self._encoded[topic, partition] = batch.first, encoded
        keys = self._keys.stream(topic, partition), self._keys.meta(topic, partition)
        return Call(_WRITE, keys, (self._shapes[topic].incarnation, batch.writer, batch.first, int(rebase), *cached[1]))

    def _outcome(self, batch: WriteBatch, reply: Any) -> Outcome:
        topic, partition = batch.topic, batch.partition
        if isinstance(reply, client.ResponseError):
            return self._refused(batch, reply)
        match reply:
            case [b"OK" | b"DUP", ms, first, now]:
                return _places(batch, ms, first, now)
            case [b"GAP", known]:
                if known:
                    _log.error(
                        "redis lost records that it had confirmed (a failover or a restore?): topic %s partition %d, "
                        "writer %s, its records %d to %d; later records are written behind what is left",
                        topic, partition, batch.writer, known, batch.first - 1,
                    )  # fmt: skip
                return _BEHIND
            case [b"GONE"]:
                self._shapes.pop(topic, None)
                return _failed(gone(topic), topic)
        return unexpected("write", reply, topic)

    def _refused(self, batch: WriteBatch, error: client.ResponseError) -> EventBusError:
        """The server answered an error, so this attempt wrote nothing; an earlier one may have."""
        found = mapped(error, "writing records", topic=batch.topic)
        full = isinstance(error, client.OutOfMemoryError)
        if (batch.topic, batch.partition) in self._doubtful or (class_of(error) is Unavailable and not full):
            return found
        return _failed(found, batch.topic)


def _runs(records: Sequence[Record]) -> bytes:
    """The times that raise the highest time so far, and how many records come with each; 0: the server's time."""
    runs: list[list[int]] = []
    highest = 0
    timed = True
    for record in records:
        time = 0 if record.timestamp_ms is None else max(1, record.timestamp_ms)
        if time > highest or (timed and not time):
            runs.append([time, 0])
            highest = max(highest, time)
            timed = bool(time)
        runs[-1][1] += 1
    return " ".join([f"{time} {count}" for time, count in runs]).encode()


def _places(batch: WriteBatch, ms: int, first: int, now: int) -> list[Stored]:
    """Where the script put the batch: an entry's id has the highest time so far, ``ms`` before the batch."""
    topic, partition = batch.topic, batch.partition
    places = []
    ms = max(1, ms)
    for ordinal, record in enumerate(batch.records, first):
        time = now if record.timestamp_ms is None else record.timestamp_ms
        if time > ms:
            ms = time
        places.append(_tuple(Stored, (topic, partition, _tuple(Position, (ms, ordinal)), time)))
    return places


class _Behind(EventBusError):
    """The server does not know the writer's previous batch; nothing was written."""


_BEHIND = _Behind("the server is behind the writer")
_MISSING = BrokerError("no outcome", backend=NAME)


def _failed(cause: EventBusError, topic: str) -> SendFailed:
    failed = SendFailed(f"not stored: {cause}", topic=topic, backend=NAME)
    failed.__cause__ = cause
    return failed

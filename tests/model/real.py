"""A real server whose scripts run on the test's clock.

The test's time lies decades ahead, so expiries can be set for real, at the test's
time: the server keeps its own account of them and carries none out. The harness
does that as it moves the clock.
"""

from __future__ import annotations

from functools import cache
from typing import Any, NamedTuple

from tests.servers import Client, Server
from torrelque.core.protocol import Call, Reply, Script
from torrelque.core.scripts import ScriptSet, load
from torrelque.errors import TorrelqueReplyError
from torrelque.transports.memory.keyspace import Plain

__all__ = (
    'CLOCK_KEY', 'DUMP', 'EPOCH', 'EXPIRE', 'LEFT',
    'Observed', 'RealServer', 'clocked_scripts', 'comparable', 'keys_of',
)  # fmt: skip

EPOCH = 4_000_000_000.0
"""When the tests take place: in 2096."""

CLOCK_KEY = b'test:clock'
MARK = b'test:mark'

SERVER_LUA = """
local function clock()
  return tonumber(redis.call('GET', 'test:clock'))
end

local function later(milliseconds)
  return string.format('%.0f', math.floor(clock() * 1000) + milliseconds)
end

local function expire(key, milliseconds)
  redis.call('PEXPIREAT', key, later(milliseconds))
end

local function put(key, value, milliseconds)
  redis.call('SET', key, value, 'PXAT', later(milliseconds))
end
"""

EXPIRY_LUA = """
local function milliseconds()
  local time = redis.call('TIME')
  return tonumber(time[1]) * 1000 + math.floor(tonumber(time[2]) / 1000)
end

-- PEXPIRETIME, which 6.2 has not got.
local function expiry(key)
  local before, left, after
  repeat
    before, left, after = milliseconds(), redis.call('PTTL', key), milliseconds()
  until before == after
  return left < 0 and '' or string.format('%.0f', before + left)
end
"""

DUMP = Script(
    'dump',
    EXPIRY_LUA
    + """
local readers = {
  string = function(key) return redis.call('GET', key) end,
  list = function(key) return redis.call('LRANGE', key, 0, -1) end,
  hash = function(key) return redis.call('HGETALL', key) end,
  set = function(key) return redis.call('SMEMBERS', key) end,
  zset = function(key) return redis.call('ZRANGE', key, 0, -1, 'WITHSCORES') end,
}

local dump = {}
for _, key in ipairs(redis.call('KEYS', '*')) do
  if key ~= 'test:clock' then
    local kind = redis.call('TYPE', key).ok
    dump[#dump + 1] = { key, kind, readers[kind](key), expiry(key) }
  end
end
return dump
""",
    (),
)
"""Each key with its type, content and expiry."""

EXPIRE = Script(
    'expire',
    EXPIRY_LUA
    + SERVER_LUA
    + """
local expired = 0
for _, key in ipairs(ARGV) do
  local at = tonumber(expiry(key))
  if at and at < math.floor(clock() * 1000) then
    expired = expired + redis.call('DEL', key)
  end
end
return expired
""",
    (),
)
"""Removes those of the given keys whose time is over, by the server's own account; answers how many that were."""

LEFT = Script(
    'left',
    EXPIRY_LUA
    + SERVER_LUA
    + """
if redis.call('EXISTS', KEYS[1]) == 0 then
  return -2
end
local at = tonumber(expiry(KEYS[1]))
return at and at - math.floor(clock() * 1000) or -1
""",
    ('key',),
)
"""PTTL on the test's clock."""


@cache
def clocked_scripts(*, sharded: bool = False) -> ScriptSet:
    """The scripts, on the test's clock."""
    return load(server=SERVER_LUA, sharded=sharded)


class Observed(NamedTuple):
    """What a call answered, all keys after it, and what it published."""

    reply: Reply
    keys: dict[bytes, Any]
    published: list[tuple[bytes, bytes]]


class RealServer:
    """A connection that executes the core's calls and looks at everything after each."""

    def __init__(self, server: Server, scripts: ScriptSet) -> None:
        self.name = server.name
        self.scripts = scripts
        self._client = Client(server.socket)
        self._listener = Client(server.socket)
        try:
            self._listener.command('PSUBSCRIBE', '*')
            for script in (*scripts.values(), DUMP):
                self._client.command('SCRIPT', 'LOAD', script.source)
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        self._client.close()
        self._listener.close()

    def reset(self) -> None:
        """Empty it, at the beginning of the test's time."""
        self._client.command('FLUSHALL')
        self.move_to(EPOCH, {})

    def move_to(self, now: float, snapshot: dict[bytes, Any]) -> None:
        """Set the clock, and carry out the expiries that are due by the last snapshot."""
        self._client.command('SET', CLOCK_KEY, repr(now))
        due = [key for key, (_, _, expiry) in snapshot.items() if expiry is not None and expiry < int(now * 1000)]
        if due:
            self._client.command('DEL', *due)

    def call(self, call: Call[Reply]) -> Observed:
        dump, mark = Call[Reply](DUMP), Call[Reply]('PUBLISH', (MARK,), (b'',))
        reply, keys, _ = self._client.execute([call, dump, mark])
        published = []
        if isinstance(keys, TorrelqueReplyError):
            raise keys
        while (message := self._listener.receive())[2] != MARK:
            published.append((message[2], message[3]))
        return Observed(reply, keys_of(keys), published)


def keys_of(dump: Reply) -> dict[bytes, Plain]:
    """What DUMP answered, as the server in memory tells it."""
    return {key: _plain(*rest) for key, *rest in dump}


def comparable(call: Call[Any], reply: Reply) -> object:
    """A reply without what may differ from server to server."""
    if isinstance(reply, TorrelqueReplyError):
        return 'WRONGTYPE' if 'WRONGTYPE' in str(reply) else reply.code
    if isinstance(call.command, Script) and call.command.name == 'groups' and isinstance(reply, list):
        return reply[0], sorted(zip(*[iter(reply[1:])] * 4, strict=True))
    if call.command in ('SCAN', 'SSCAN', 'ZSCAN') or (isinstance(call.command, Script) and call.command.name == 'page'):
        cursor, *found = reply
        ids = found if isinstance(call.command, Script) else found[0]
        scores = zip(ids[::2], map(float, ids[1::2]), strict=True) if call.command == 'ZSCAN' else ()
        return cursor, sorted(scores) or sorted(ids)
    if call.command == 'ZMSCORE':
        return [score and float(score) for score in reply]
    if call.command == 'ZPOPMIN':
        return [float(word) if place % 2 else word for place, word in enumerate(reply)]
    return reply


def _plain(kind: bytes, value: Any, expiry: bytes) -> Plain:  # noqa: ANN401 - by its kind
    at = int(expiry) if expiry else None
    if kind == b'hash':
        return 'hash', dict(zip(value[::2], value[1::2], strict=True)), at
    if kind == b'set':
        return 'set', set(value), at
    if kind == b'zset':
        return 'zset', {member: float(score) for member, score in zip(value[::2], value[1::2], strict=True)}, at
    return kind.decode(), value, at

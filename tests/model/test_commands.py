"""The plain commands of the server in memory answer, and leave behind, what real servers do."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from tests import servers
from torrelque.core.protocol import Arg, Call, Reply
from torrelque.errors import TorrelqueReplyError
from torrelque.transports.memory import MemoryServer
from torrelque.transports.memory.commands import COMMANDS

Command = tuple[Arg, ...]

STRINGS: list[Command] = [
    ('GET', 's'),
    ('SET', 's', b'\x00\xff'),
    ('GET', 's'),
    ('TYPE', 's'),
    ('TYPE', 'none'),
    ('EXISTS', 's', 's', 'none'),
    ('SET', 's', 'other', 'NX'),
    ('SET', 'new', '', 'PX', 100000, 'NX'),
    ('GET', 'new'),
    ('SET', 's', 1, 'EX', 100),
    ('INCR', 's'),
    ('INCR', 'count'),
    ('PTTL', 'count'),
    ('PTTL', 'none'),
    ('PEXPIRE', 'count', 100000),
    ('PEXPIRE', 'none', 100000),
    ('SET', 'count', 2),
    ('PTTL', 'count'),
    ('PEXPIRE', 'count', -1),
    ('GET', 'count'),
    ('SET', 's', 'x', 'NONSENSE'),
    ('GET',),
    ('INCR', 'new'),
    ('DEL', 's', 'none'),
    ('UNLINK', 'new', 'new'),
    ('DEL',),
    ('PING',),
    ('PING', 'back'),
    ('UNHEARD_OF', 'k'),
]  # fmt: skip

HASHES: list[Command] = [
    ('HSET', 'h', 'a', '1', 'b', b'\x00'),
    ('HSET', 'h', 'a', '2', 'c', ''),
    ('HSET', 'h', 'a'),
    ('HSETNX', 'h', 'a', '9'),
    ('HSETNX', 'h', 'new', '9'),
    ('HSETNX', 'h', 'a'),
    ('HGET', 'h', 'a'),
    ('HGET', 'h', 'none'),
    ('HGET', 'none', 'a'),
    ('HMGET', 'h', 'c', 'none', 'b'),
    ('HMGET', 'none', 'a'),
    ('HMGET', 'h'),
    ('HLEN', 'h'),
    ('HLEN', 'none'),
    ('HEXISTS', 'h', 'a'),
    ('HEXISTS', 'h', 'none'),
    ('HGETALL', 'none'),
    ('HVALS', 'h'),
    ('HVALS', 'none'),
    ('HINCRBY', 'h', 'a', 5),
    ('HINCRBY', 'h', 'new', -1),
    ('HINCRBY', 'h', 'b', 1),
    ('HSCAN', 'h', 0, 'MATCH', 'a', 'COUNT', 10),
    ('HSCAN', 'none', 0),
    ('HDEL', 'h', 'a', 'none'),
    ('HDEL', 'none', 'a'),
    ('PEXPIRE', 'h', 100000),
    ('HDEL', 'h', 'b', 'c', 'new'),
    ('HSET', 'h', 'a', '1'),
    ('PTTL', 'h'),
]  # fmt: skip

LISTS: list[Command] = [
    ('LPUSH', 'l', 'a', 'b', 'a'),
    ('RPUSH', 'l', 'c', 'a'),
    ('LPUSH', 'l'),
    ('LLEN', 'l'),
    ('LLEN', 'none'),
    *[('LRANGE', 'l', first, last) for first in (-9, -2, 0, 1, 7) for last in (-9, -1, 0, 2, 7)],
    *[('LINDEX', 'l', place) for place in (-6, -5, -1, 0, 4, 5)],
    ('LREM', 'l', 1, 'a'),
    ('LRANGE', 'l', 0, -1),
    ('LREM', 'l', -1, 'a'),
    ('LRANGE', 'l', 0, -1),
    ('RPUSH', 'l', 'a', 'a'),
    ('LREM', 'l', 0, 'a'),
    ('LREM', 'l', 0, 'none'),
    ('LREM', 'none', 0, 'a'),
    ('RPOPLPUSH', 'l', 'm'),
    ('RPOPLPUSH', 'none', 'm'),
    ('BRPOPLPUSH', 'l', 'l', 1),
    ('LMOVE', 'm', 'l', 'LEFT', 'RIGHT'),
    ('LMOVE', 'm', 'l', 'LEFT', 'RIGHT'),
    ('LMOVE', 'm', 'l', 'UP', 'RIGHT'),
    ('LRANGE', 'l', 0, -1),
    ('LPOP', 'l'),
    ('RPOP', 'l', 9),
    ('RPOP', 'l'),
    ('LPOP', 'none', 2),
    ('EXISTS', 'l'),
]  # fmt: skip

SETS: list[Command] = [
    ('SADD', 's', 'a', 'b', 'a'),
    ('SADD', 's', 'a'),
    ('SADD', 's'),
    ('SCARD', 's'),
    ('SCARD', 'none'),
    ('SISMEMBER', 's', 'a'),
    ('SISMEMBER', 'none', 'a'),
    ('SMISMEMBER', 's', 'c', 'a'),
    ('SREM', 's', 'a', 'none'),
    ('SMEMBERS', 's'),
    ('SSCAN', 's', 0, 'COUNT', 5),
    ('SREM', 's', 'b'),
    ('SREM', 's', 'b'),
    ('EXISTS', 's'),
]  # fmt: skip

SORTED_SETS: list[Command] = [
    ('ZADD', 'z', '1', 'b', '1', 'a', '-0.5', 'c', 'inf', 'last', '-inf', 'first'),
    ('ZADD', 'z', '2', 'b', '3', 'd'),
    ('ZADD', 'z', 'x', 'b'),
    ('ZADD', 'z', '1'),
    ('ZCARD', 'z'),
    ('ZCARD', 'none'),
    ('ZSCORE', 'z', 'none'),
    ('ZSCORE', 'none', 'a'),
    *[('ZRANGE', 'z', first, last) for first in (-9, -2, 0, 7) for last in (-9, -1, 0, 2, 7)],
    ('ZRANGEBYSCORE', 'z', '-inf', '+inf'),
    ('ZRANGEBYSCORE', 'z', '(1', '2'),
    ('ZRANGEBYSCORE', 'z', '1', '(2'),
    ('ZRANGEBYSCORE', 'z', '-inf', '2', 'LIMIT', 1, 2),
    ('ZRANGEBYSCORE', 'z', '-inf', '2', 'LIMIT', 1, -1),
    ('ZRANGEBYSCORE', 'z', '5', '4'),
    ('ZRANGEBYSCORE', 'z', 'x', '4'),
    ('ZREM', 'z', 'a', 'none', 'first'),
    ('ZREM', 'none', 'a'),
    ('ZPOPMIN', 'none'),
    ('ZREM', 'z', 'b', 'c', 'd', 'last'),
    ('EXISTS', 'z'),
]  # fmt: skip

SCORES: list[Command] = [
    ('ZADD', 'z', '1.5', 'b', '0.1', 'a', '1700000000.123456', 'c', '-3', 'd'),
    ('ZSCORE', 'z', 'a'),
    ('ZMSCORE', 'z', 'none', 'a'),
    ('ZMSCORE', 'none', 'a'),
    ('ZRANGE', 'z', 0, -1, 'WITHSCORES'),
    ('ZRANGEBYSCORE', 'z', 0, 2, 'WITHSCORES'),
    ('ZSCAN', 'z', 0),
    ('ZPOPMIN', 'z', 2),
    ('BZPOPMIN', 'z', 1),
]  # fmt: skip

SCANS: list[Command] = [
    *[('SET', key, 1) for key in ('a', 'ab', 'abc', 'a*c', 'a?c', 'a[c', 'q:task:1', '^', 'x\ny', 'b-c', ']', '\\')],
    *[
        ('SCAN', 0, 'MATCH', pattern, 'COUNT', 1000)
        for pattern in (
            '*', 'a', 'a*', 'a?', 'a??', 'a\\*c', 'a[*?]c', 'a[^b]c', 'a[a-c]*', '*c', '*:task:*', 'x*y', '[]', '\\^',
            'a[\\[]c', 'b[-]c', '\\]', '\\\\', '',
        )
    ],
    ('SCAN', 'x'),
]  # fmt: skip


def clash() -> list[Command]:
    """Each command on keys of each other type."""
    commands: list[Command] = [
        ('SET', 'string', 'text'), ('RPUSH', 'list', 'a'), ('HSET', 'hash', 'a', '1'), ('SADD', 'set', 'a'),
        ('ZADD', 'zset', 1, 'a'),
    ]  # fmt: skip
    for key in ('string', 'list', 'hash', 'set', 'zset'):
        commands += [
            ('GET', key), ('INCR', key), ('HGET', key, 'a'), ('HSET', key, 'b', '1'), ('HDEL', key, 'none'),
            ('HGETALL', key), ('LLEN', key), ('LPUSH', key, 'b'), ('LREM', key, 0, 'none'), ('RPOPLPUSH', key, key),
            ('SADD', key, 'b'), ('SMEMBERS', key), ('ZADD', key, 1, 'b'), ('ZREM', key, 'none'), ('ZCARD', key),
            ('BZPOPMIN', key, 1), ('SSCAN', key, 0), ('HSCAN', key, 0), ('ZSCAN', key, 0), ('TYPE', key),
        ]  # fmt: skip
    return commands


@pytest.mark.parametrize(
    'commands',
    [
        pytest.param(commands, id=name)
        for name, commands in {
            'strings': STRINGS, 'hashes': HASHES, 'lists': LISTS, 'sets': SETS, 'sorted sets': SORTED_SETS,
            'scores': SCORES, 'scans': SCANS, 'types': clash(),
        }.items()
    ],
)  # fmt: skip
def test_answers_like_a_real_server(server: servers.Server, commands: Sequence[Command]) -> None:
    memory = MemoryServer()
    with server.client() as client:
        for command in commands:
            name, *words = command
            call = Call[Reply](str(name), args=tuple(words))
            (expected,) = client.execute([call])
            assert comparable(call, memory.call(call)) == comparable(call, expected), command


def comparable(call: Call[Reply], reply: Reply) -> object:
    """A reply without wording, order where there is none, and each server's way to write a score."""
    if isinstance(reply, TorrelqueReplyError):
        return reply.code
    if call.command in {'SMEMBERS', 'HGETALL'}:
        return sorted(reply)
    if call.command in {'SCAN', 'SSCAN', 'HSCAN'}:
        return reply[0], sorted(reply[1])
    if isinstance(reply, list):
        return [comparable(call, item) for item in reply]
    if (
        call.command in {'ZSCORE', 'ZMSCORE', 'ZRANGE', 'ZRANGEBYSCORE', 'ZPOPMIN', 'BZPOPMIN', 'ZSCAN'}
        and reply is not None
    ):
        return as_number(reply)
    return reply


def as_number(word: Reply) -> object:
    try:
        return float(word)
    except ValueError:
        return word


def test_each_command_is_compared() -> None:
    compared = {
        command[0] for commands in (STRINGS, HASHES, LISTS, SETS, SORTED_SETS, SCORES, SCANS) for command in commands
    }
    assert compared >= set(COMMANDS) - {'TIME', 'FLUSHALL'}

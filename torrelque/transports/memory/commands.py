"""The plain commands that the core, 0.9's clients and tests use. ``COMMANDS`` has a function for each.

Each is given the key space and the command's arguments. What a server refuses is
a TorrelqueReplyError; a ValueError stands for arguments that make no sense.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import chain
from types import MappingProxyType
from typing import TypeAlias

from torrelque.core.protocol import Reply
from torrelque.transports.memory.keyspace import Keyspace
from torrelque.transports.memory.scanning import matcher

__all__ = ('COMMANDS', 'score_text')

Args: TypeAlias = Sequence[bytes]
Command: TypeAlias = Callable[[Keyspace, Args], Reply]


def score_text(score: float) -> bytes:
    return b'%.17g' % score


def pairs(values: Args) -> list[tuple[bytes, bytes]]:
    if not values or len(values) % 2:
        raise ValueError('expected pairs')
    return list(zip(values[::2], values[1::2], strict=True))


def _some(values: Args) -> Args:
    if not values:
        raise ValueError('expected at least one')
    return values


def _part(values: Sequence[bytes], first: int, last: int) -> list[bytes]:
    """From ``first`` to ``last``, both included; negative ones count from the end."""
    size = len(values)
    start = max(0, first + size if first < 0 else first)
    end = min(size - 1, last + size if last < 0 else last)
    return [values[place] for place in range(start, end + 1)]


# Keys ----------------------------------------------------------------------------------------------------------------


def ping(_: Keyspace, args: Args) -> Reply:
    return args[0] if args else b'PONG'


def time(db: Keyspace, _: Args) -> Reply:
    seconds, microseconds = divmod(round(db.now * 1_000_000), 1_000_000)
    return [b'%d' % seconds, b'%d' % microseconds]


def delete(db: Keyspace, args: Args) -> Reply:
    return db.delete(_some(args))


def exists(db: Keyspace, args: Args) -> Reply:
    return sum(db.type_at(key) != 'none' for key in _some(args))


def type_(db: Keyspace, args: Args) -> Reply:
    (key,) = args
    return db.type_at(key).encode()


def pttl(db: Keyspace, args: Args) -> Reply:
    (key,) = args
    return db.pttl(key)


def pexpire(db: Keyspace, args: Args) -> Reply:
    key, milliseconds = args
    return int(db.pexpire(key, int(milliseconds)))


def flushall(db: Keyspace, _: Args) -> Reply:
    db.clear()
    return b'OK'


# Strings -------------------------------------------------------------------------------------------------------------


def get(db: Keyspace, args: Args) -> Reply:
    (key,) = args
    return db.string_at(key)


def set_(db: Keyspace, args: Args) -> Reply:
    key, value, *options = args
    words = [word.upper() for word in options]
    absent = b'NX' in words
    if absent:
        words.remove(b'NX')
        if db.type_at(key) != 'none':
            return None
    if not words:
        db.put(key, value)
    else:
        unit, amount = words
        db.put(key, value, int(amount) * {b'PX': 1, b'EX': 1000}.get(unit, 0) or _refuse(unit))
    return b'OK'


def _refuse(word: bytes) -> int:
    raise ValueError(f'unknown option {word!r}')


def incr(db: Keyspace, args: Args) -> Reply:
    (key,) = args
    old = db.string_at(key)
    value = 1 if old is None else int(old) + 1
    ttl = db.pttl(key)
    db.put(key, b'%d' % value, ttl if ttl > 0 else None)
    return value


# Hashes --------------------------------------------------------------------------------------------------------------


def hget(db: Keyspace, args: Args) -> Reply:
    key, field = args
    return db.hash_at(key).get(field)


def hmget(db: Keyspace, args: Args) -> Reply:
    key, *fields = args
    return [db.hash_at(key).get(field) for field in _some(fields)]


def hset(db: Keyspace, args: Args) -> Reply:
    key, *values = args
    return db.hset(key, dict(pairs(values)))


def hsetnx(db: Keyspace, args: Args) -> Reply:
    key, field, value = args
    return 0 if field in db.hash_at(key) else db.hset(key, {field: value})


def hincrby(db: Keyspace, args: Args) -> Reply:
    key, field, amount = args
    value = int(db.hash_at(key).get(field, b'0')) + int(amount)
    db.hset(key, {field: b'%d' % value})
    return value


def hdel(db: Keyspace, args: Args) -> Reply:
    key, *fields = args
    return db.hdel(key, _some(fields))


def hlen(db: Keyspace, args: Args) -> Reply:
    (key,) = args
    return len(db.hash_at(key))


def hvals(db: Keyspace, args: Args) -> Reply:
    (key,) = args
    return list(db.hash_at(key).values())


def hgetall(db: Keyspace, args: Args) -> Reply:
    (key,) = args
    return list(chain.from_iterable(db.hash_at(key).items()))


def hexists(db: Keyspace, args: Args) -> Reply:
    key, field = args
    return int(field in db.hash_at(key))


# Lists ---------------------------------------------------------------------------------------------------------------


def llen(db: Keyspace, args: Args) -> Reply:
    (key,) = args
    return len(db.list_at(key))


def lrange(db: Keyspace, args: Args) -> Reply:
    key, first, last = args
    return _part(db.list_at(key), int(first), int(last))


def lindex(db: Keyspace, args: Args) -> Reply:
    key, place = args
    values, index = db.list_at(key), int(place)
    return values[index] if -len(values) <= index < len(values) else None


def lpush(db: Keyspace, args: Args) -> Reply:
    key, *values = args
    db.lpush(key, _some(values))
    return len(db.list_at(key))


def rpush(db: Keyspace, args: Args) -> Reply:
    key, *values = args
    db.rpush(key, _some(values))
    return len(db.list_at(key))


def lrem(db: Keyspace, args: Args) -> Reply:
    key, count, value = args
    return db.lrem(key, int(count), value)


def lpop(db: Keyspace, args: Args) -> Reply:
    return _pop(db.lpop, args)


def rpop(db: Keyspace, args: Args) -> Reply:
    return _pop(db.rpop, args)


def _pop(pop: Callable[[bytes, int], list[bytes]], args: Args) -> Reply:
    key, *count = args
    if not count:
        return next(iter(pop(key, 1)), None)
    return pop(key, int(count[0])) or None


def lmove(db: Keyspace, args: Args) -> Reply:
    source, target, side, other_side = args
    take = {b'LEFT': db.lpop, b'RIGHT': db.rpop}[side.upper()]
    put = {b'LEFT': db.lpush, b'RIGHT': db.rpush}[other_side.upper()]
    if not db.list_at(source):
        return None
    db.list_at(target)
    (value,) = take(source, 1)
    put(target, (value,))
    return value


def rpoplpush(db: Keyspace, args: Args) -> Reply:
    """Also BRPOPLPUSH, which then has a time-out: it waits no longer than one in a transaction does, not at all."""
    source, target, *_ = args
    return lmove(db, (source, target, b'RIGHT', b'LEFT'))


# Sets ----------------------------------------------------------------------------------------------------------------


def sadd(db: Keyspace, args: Args) -> Reply:
    key, *members = args
    return db.sadd(key, _some(members))


def srem(db: Keyspace, args: Args) -> Reply:
    key, *members = args
    return db.srem(key, _some(members))


def scard(db: Keyspace, args: Args) -> Reply:
    (key,) = args
    return len(db.set_at(key))


def smembers(db: Keyspace, args: Args) -> Reply:
    (key,) = args
    return list(db.set_at(key))


def sismember(db: Keyspace, args: Args) -> Reply:
    key, member = args
    return int(member in db.set_at(key))


def smismember(db: Keyspace, args: Args) -> Reply:
    key, *members = args
    return [int(member in db.set_at(key)) for member in _some(members)]


# Sorted sets ---------------------------------------------------------------------------------------------------------


def zadd(db: Keyspace, args: Args) -> Reply:
    key, *values = args
    return db.zadd(key, {member: float(score) for score, member in pairs(values)})


def zrem(db: Keyspace, args: Args) -> Reply:
    key, *members = args
    return db.zrem(key, _some(members))


def zscore(db: Keyspace, args: Args) -> Reply:
    key, member = args
    score = db.zset_at(key).scores.get(member)
    return None if score is None else score_text(score)


def zmscore(db: Keyspace, args: Args) -> Reply:
    key, *members = args
    scores = db.zset_at(key).scores
    return [None if (score := scores.get(member)) is None else score_text(score) for member in _some(members)]


def zcard(db: Keyspace, args: Args) -> Reply:
    (key,) = args
    return len(db.zset_at(key))


def zrange(db: Keyspace, args: Args) -> Reply:
    key, first, last, *options = args
    ordered = db.zset_at(key).ordered()
    scores = {member: score for score, member in ordered}
    return _members(((scores[each], each) for each in _part(list(scores), int(first), int(last))), options)


def zrangebyscore(db: Keyspace, args: Args) -> Reply:
    key, low, high, *options = args
    limit = None
    if [word.upper() for word in options[-3:-2]] == [b'LIMIT']:
        limit = int(options[-2]), int(options[-1])
        options = options[:-3]
    found = db.zset_at(key).between(_bound(low), _bound(high))
    found = [
        (score, member)
        for score, member in found
        if not (low.startswith(b'(') and score == _bound(low)) and not (high.startswith(b'(') and score == _bound(high))
    ]
    if limit is not None:
        offset, count = limit
        found = found[offset:] if count < 0 else found[offset : offset + count]
    return _members(found, options)


def zpopmin(db: Keyspace, args: Args) -> Reply:
    key, *count = args
    popped = db.zset_at(key).ordered()[: int(count[0]) if count else 1]
    db.zrem(key, [member for _, member in popped])
    return _members(popped, (b'WITHSCORES',))


def _bound(text: bytes) -> float:
    return float(text.removeprefix(b'('))


def _members(found: Iterable[tuple[float, bytes]], options: Args) -> list[Reply]:
    words = [word.upper() for word in options]
    if words not in ([], [b'WITHSCORES']):
        raise ValueError(f'unknown options {words}')
    if words:
        return [word for score, member in found for word in (member, score_text(score))]
    return [member for _, member in found]


# Steps through what there is: here one step shows it all -------------------------------------------------------------


def scan(db: Keyspace, args: Args) -> Reply:
    cursor, *options = args
    matches = matcher(cursor, options)
    return [b'0', [key for key in db.keys if matches(key)]]


def sscan(db: Keyspace, args: Args) -> Reply:
    key, cursor, *options = args
    matches = matcher(cursor, options)
    return [b'0', [member for member in db.set_at(key) if matches(member)]]


def hscan(db: Keyspace, args: Args) -> Reply:
    key, cursor, *options = args
    matches = matcher(cursor, options)
    return [b'0', [word for field, value in db.hash_at(key).items() if matches(field) for word in (field, value)]]


def zscan(db: Keyspace, args: Args) -> Reply:
    key, cursor, *options = args
    matches = matcher(cursor, options)
    return [b'0', _members(((s, m) for s, m in db.zset_at(key).ordered() if matches(m)), (b'WITHSCORES',))]


COMMANDS: Mapping[str, Command] = MappingProxyType(
    {
        'PING': ping, 'TIME': time, 'DEL': delete, 'UNLINK': delete, 'EXISTS': exists, 'TYPE': type_, 'PTTL': pttl,
        'PEXPIRE': pexpire, 'FLUSHALL': flushall, 'GET': get, 'SET': set_, 'INCR': incr, 'HGET': hget, 'HMGET': hmget,
        'HSET': hset, 'HSETNX': hsetnx, 'HINCRBY': hincrby, 'HDEL': hdel, 'HLEN': hlen, 'HGETALL': hgetall,
        'HEXISTS': hexists, 'HVALS': hvals,
        'LLEN': llen, 'LRANGE': lrange, 'LINDEX': lindex, 'LPUSH': lpush, 'RPUSH': rpush, 'LREM': lrem, 'LPOP': lpop,
        'RPOP': rpop, 'LMOVE': lmove, 'RPOPLPUSH': rpoplpush, 'BRPOPLPUSH': rpoplpush, 'SADD': sadd, 'SREM': srem,
        'SCARD': scard, 'SMEMBERS': smembers, 'SISMEMBER': sismember, 'SMISMEMBER': smismember, 'ZADD': zadd,
        'ZREM': zrem, 'ZSCORE': zscore, 'ZMSCORE': zmscore, 'ZCARD': zcard, 'ZRANGE': zrange,
        'ZRANGEBYSCORE': zrangebyscore,
        'ZPOPMIN': zpopmin, 'SCAN': scan, 'SSCAN': sscan, 'HSCAN': hscan, 'ZSCAN': zscan,
    }
)  # fmt: skip

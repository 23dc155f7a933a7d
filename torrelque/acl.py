"""The permissions that each role needs on the server, and no more, as arguments of ``ACL SETUSER``.

A server checks each command in a script against the permissions of the user who
calls the script. So a role needs each command on each key that its scripts use,
and anyone who logs in as its user can run these commands directly.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from types import MappingProxyType

from torrelque.core.checks import check_text
from torrelque.core.durability import Durability
from torrelque.core.keys import LOGICAL_NAMES, SHARD_NAMES, tagged
from torrelque.errors import TorrelqueValueError

__all__ = ('ROLES', 'rules')

_LANES = {'epoch': 'get set', 'lane': 'del', 'lane:*': 'get pexpire set'}

_RIGHTS: Mapping[str, Mapping[str, str]] = {
    'producer': {
        **_LANES,
        'pending': 'llen lpush',
        'pending:*': 'llen lpush',
        'groups': 'zadd zcard zrange',
        'groups:*': 'exists hmget lpush scard zadd zmscore zrange zrem',
        'working': 'zcard zrange',
        'delayed': 'zadd zcard zrange',
        'rejected': '',
        'tasks': 'hexists hset',
        'task': '',
        'task:*': 'del exists hset',
        'wake': 'zadd',
        'timer': 'get',
        'counters': 'hmget hset',
        'schedules': 'zrange',
    },
    'consumer': {
        **_LANES,
        'pending': 'lindex llen lpush lrange ltrim rpush',
        'pending:*': 'llen lpush lrange ltrim rpush',
        'groups': 'zadd zcard zmscore zrange zrem zscore',
        'groups:*': (
            'del exists hdel hlen hmget hrandfield hset lindex llen lpush lrange ltrim rpush sadd scard srem '
            'zadd zcard zcount zmscore zrange zrangebyscore zrem zremrangebyrank zscan'
        ),
        'working': 'zadd zcard zmscore zrange zrangebyscore zrem zscore',
        'delayed': 'zadd zcard zmscore zrange zrangebyscore zrem',
        'rejected': 'zadd zcard zmscore',
        'missing': 'pexpire zadd zcard zrangebyscore zrem',
        'tasks': 'hdel hexists hget hlen hmget hsetnx',
        'task': '',
        'task:*': 'del hdel hget hmget hset pexpire',
        'wake': 'bzpopmin zadd zrem',
        'timer': 'del get set',
        'counters': 'hget hmget hset',
        'workers': 'hdel hrandfield hset pexpire',
        'schedules': 'zadd zcard zrange zrangebyscore zrem zscore',
        'schedule': '',
        'schedule:*': 'hmget hset',
    },
    'observer': {
        'pending': 'lindex llen',
        'pending:*': 'lindex llen',
        'groups': 'zcard zrange zscan',
        'groups:*': 'hmget lindex llen scard zcard zrange zscan',
        'working': 'zcard zscan zscore',
        'delayed': 'zcard zscan zscore',
        'rejected': 'zcard zscan',
        'tasks': 'hget hlen hscan',
        'task': '',
        'task:*': 'hget hmget',
        'counters': 'hget hmget',
        'workers': 'hscan',
        'schedules': 'zcard zscan',
        'schedule': '',
        'schedule:*': 'hmget',
    },
    'operator': {
        'epoch': 'del get persist pttl set type',
        'lane': 'del',
        'lane:*': 'del get pexpire pttl set',
        'pending': 'llen lpos lpush lrange lrem ltrim persist pttl type',
        'pending:*': 'llen lpos lpush lrange lrem ltrim persist pttl type',
        'groups': 'del persist pttl type zadd zcard zmscore zrange zrem zscan zscore',
        'groups:*': (
            'del exists hdel hlen hmget hset llen lpos lpush lrange lrem ltrim persist pttl rpush sadd scard '
            'sismember srem sscan type zadd zcard zmscore zrange zrangebyscore zrem zscan zscore'
        ),
        'dequeueing': 'llen lpos lrange lrem ltrim persist pttl type',
        'undequeued': 'del persist pttl sadd scard spop srem sscan type',
        'working': 'persist pttl type zadd zcard zrange zrangebyscore zrem zscan zscore',
        'delayed': 'persist pttl type zcard zmscore zrange zrangebyscore zrem zscan zscore',
        'rejected': 'persist pttl type zadd zcard zmscore zrange zrangebyscore zrem zscan zscore',
        'missing': 'del pexpire pttl type zadd zcard zmscore zrangebyscore zrem zscan',
        'tasks': 'hdel hexists hlen hmget hrandfield hscan persist pttl type',
        'task': '',
        'task:*': 'del exists hdel hexists hget hmget hset persist pexpire pttl type',
        'wake': 'del exists persist pttl type zadd',
        'timer': 'del get pexpire pttl type',
        'counters': 'del hget hmget hset persist pttl type',
        'workers': 'del hscan pexpire pttl type',
        'schedules': 'persist pttl type zadd zcard zlexcount zrange zrem zscan zscore',
        'schedule': '',
        'schedule:*': 'del hexists hmget persist pttl type',
        'cancel': '',
    },
}
"""Role -> logical name of a key (with ``:*``, of all keys that begin with the name) -> commands on it."""

_CAPPED: Mapping[str, str] = {'rejected': 'zadd zcard zmscore zrangebyscore zrem'}
"""Replaces the consumer's entry if it deletes dead letters beyond a cap."""

_REPLACING: Mapping[str, str] = {
    'pending': 'lpos lrem',
    'pending:*': 'lpos lrem',
    'groups': 'zmscore zrem',
    'groups:*': 'llen lpos lrem',
    'working': 'zscore',
    'delayed': 'zrem zscore',
    'rejected': 'zscore',
    'task:*': 'hincrby hmget',
}
"""Further permissions of a producer that replaces tasks."""

_SCHEDULING: Mapping[str, str] = {
    'counters': 'hget',
    'tasks': 'hsetnx',
    'rejected': 'zcard',
    'schedules': 'zadd zcard zlexcount zrange zrem zscan zscore',
    'schedule': '',
    'schedule:*': 'del hmget hset',
}
"""Further permissions of a producer that keeps schedules."""

_SCHEDULING_ON_SHARDS: Mapping[str, str] = {'schedule:*': 'persist pexpire'}
"""What it needs besides on a queue with shards, where schedules move."""

_UNDECLARED: Mapping[str, frozenset[str]] = {
    'producer': frozenset(('schedules',)),
    'observer': frozenset(('schedules', 'schedule')),
}
"""Keys that no script of a role declares, unless it keeps schedules."""

_OF_SHARDS: Mapping[str, Mapping[str, str]] = {
    'producer': {'bell': 'get', 'ring': 'zadd zrem', 'groups:*': 'hlen hscan hset zcard'},
    'consumer': {
        'bell': 'get set',
        'ring': 'bzpopmin zadd zrem',
        'tasks': 'exists',
        'schedules': 'exists zcard',
        'schedule:*': 'del persist pexpire',
        'groups:*': 'hscan',
    },
    'observer': {'task:*': 'exists'},
    'operator': {'bell': 'del get', 'ring': 'del zadd zrem', 'schedule:*': 'hset pexpire', 'groups:*': 'hscan'},
}
"""Further permissions on a queue with shards."""

_RECORD = 'hdel hget hmget hset hvals'
"""Commands on the record of the number of shards. Any role may be the first to write it, or may complete a change."""

_WITHOUT_KEYS: Mapping[str, tuple[str, ...]] = {
    'producer': ('publish',),
    'consumer': ('publish', 'subscribe', 'unsubscribe'),
    'observer': ('subscribe', 'unsubscribe'),
    'operator': ('publish', 'scan'),
}

_CANCELLING = ('consumer', 'operator')
"""Roles that listen for cancellations of running tasks, and those that announce them."""

_ON_CLUSTER: Mapping[str, str] = {'publish': 'spublish', 'subscribe': 'ssubscribe', 'unsubscribe': 'sunsubscribe'}
"""Command -> its sharded form, used on a cluster whose servers have it."""

ROLES = tuple(_RIGHTS)
"""Names of the roles.

``producer`` enqueues. ``consumer`` claims tasks and ends claims, as a Worker does.
``observer`` reads and watches tasks. ``operator`` cancels, redrives, purges, sweeps,
unschedules, audits and deletes.
"""


def rules(
    role: str,
    queue: str = 'trq',
    *,
    keys: Mapping[str, str] = MappingProxyType({}),
    selectors: bool = True,
    pipelines: bool = False,
    capped: bool = False,
    replacing: bool = False,
    scheduling: bool = False,
    durability: Durability | None = None,
    cluster: bool = False,
    shards: bool = False,
    sharded_channels: bool = True,
) -> list[str]:
    """Return the permissions of a role on one queue, as arguments of ``ACL SETUSER``.

    ::

        words = ['reset', 'resetchannels', 'on', '>secret', *rules('producer', 'email')]
        await client.execute_command('ACL', 'SETUSER', 'web', *words)

    The words only add permissions, so you can concatenate those of several roles
    or queues. The function sends nothing.

    >>> rules('observer', 'email')[:3]
    ['~email:pending', '~email:groups', '~email:working']

    Args:
        role: One of `ROLES`.
        queue: Name of the queue.
        keys: Renamed keys, as in the attribute ``keys`` of a subclass of Torrelque.
        selectors: Allow each command only on the keys that need it. Redis 6.2 and
            KeyDB have no selectors: pass False to allow each command on all keys
            of the role.
        pipelines: Add the commands that ``pipeline=`` needs.
        capped: Let a consumer with ``max_rejected`` delete dead letters.
        replacing: Let a producer replace waiting tasks (``if_exists='replace'``).
        scheduling: Let a producer add, change, remove and fire schedules.
        durability: The queue object's ``durability``; adds the command that waits
            for a confirmation.
        cluster: Return the permissions for a cluster. Set them on every node.
        shards: Return the permissions for a queue with shards, whatever their
            number. An observer can read the queue once others have used it.
        sharded_channels: Pass False for a cluster of Redis 6.2 or KeyDB, which have
            no SPUBLISH.

    Returns:
        Words to append to ``ACL SETUSER name``.

    Raises:
        TorrelqueTypeError: ``queue`` is not a string.
        TorrelqueValueError: The role or a key is unknown, or a name contains white
            space, which no ACL can express, or braces with ``shards``.
    """
    if role not in _RIGHTS:
        raise TorrelqueValueError(f'role must be one of {", ".join(ROLES)}, got {role!r}')
    unknown = sorted(set(keys) - set(LOGICAL_NAMES))
    if unknown:
        raise TorrelqueValueError(f'keys: unknown names: {", ".join(map(repr, unknown))}')
    check_text('queue', queue)
    names = {**LOGICAL_NAMES, **keys}
    prefix = _literally(tagged(queue) if cluster else queue)
    rights = {**_RIGHTS[role], **(_CAPPED if capped and role == 'consumer' else {})}
    of_pattern: dict[str, str] = {}
    _grant(rights, _REPLACING if replacing and role == 'producer' else {})
    _grant(rights, _SCHEDULING if scheduling and role == 'producer' else {})
    if shards:
        if '{' in queue or '}' in queue:
            raise TorrelqueValueError(f'queue: with shards a name must have no braces, got {queue!r}')
        names |= SHARD_NAMES
        of_pattern[f'~{{{_literally(queue)}}}:{_literally(names["counters"])}'] = (
            'hmget hvals' if role == 'observer' else f'del {_RECORD}' if role == 'operator' else _RECORD
        )
        mark = 'hget' if role == 'observer' else 'hdel hget hmget hset'
        of_pattern[f'~{_literally(queue)}:{_literally(names["counters"])}'] = mark
        prefix = f'{{{_literally(queue)}:*}}'
        _grant(rights, _OF_SHARDS[role])
        _grant(rights, _SCHEDULING_ON_SHARDS if scheduling and role == 'producer' else {})
    full = {logical: f'{prefix}:{_literally(key)}' for logical, key in names.items()}
    for name, commands in rights.items():
        logical, colon, star = name.partition(':')
        of_pattern[f'~{full[logical]}{colon}{star}'] = commands
    undeclared = () if scheduling else _UNDECLARED.get(role, ())
    hidden = {f'~{full[name]}' for name in undeclared if selectors or not rights[name]}
    declared = [pattern for pattern in of_pattern if not pattern.endswith(':*') and pattern not in hidden]
    root = ['evalsha', 'script|load', 'time', *_WITHOUT_KEYS[role], *(('eval', 'exec', 'multi') if pipelines else ())]
    if cluster:
        renamed = _ON_CLUSTER if sharded_channels else {}
        root = [*(renamed.get(command, command) for command in root), 'asking', 'cluster|slots']
    channels = [f'&{full["task"]}:*', *([f'&{full["cancel"]}'] if role in _CANCELLING else [])]
    words = [*declared, *channels, *(f'+{command}' for command in root)]
    if durability is not None:
        words.append('+waitaof' if durability.fsynced else '+wait')
    return words + (_selectors(of_pattern) if selectors else _flat(of_pattern))


def _grant(rights: dict[str, str], more: Mapping[str, str]) -> None:
    for name, commands in more.items():
        rights[name] = ' '.join(sorted({*rights.get(name, '').split(), *commands.split()}))


def _selectors(of_pattern: Mapping[str, str]) -> list[str]:
    alike: dict[str, list[str]] = {}
    for pattern, commands in of_pattern.items():
        if commands:
            alike.setdefault(commands, []).append(pattern)
    return [
        f'({" ".join([*patterns, *(f"+{command}" for command in commands.split())])})'
        for commands, patterns in alike.items()
    ]


def _flat(of_pattern: Mapping[str, str]) -> list[str]:
    commands = {f'+{command}' for commands in of_pattern.values() for command in commands.split()}
    return [*(pattern for pattern in of_pattern if pattern.endswith(':*')), *sorted(commands)]


def _literally(text: str) -> str:
    """Return a pattern that matches exactly this text."""
    if re.search(r'[\s\0]', text):
        raise TorrelqueValueError(f'an ACL cannot name a key with white space, got {text!r}')
    return re.sub(r'([*?\[\]^\\])', r'\\\1', text)

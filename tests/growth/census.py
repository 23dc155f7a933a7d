"""What this process and a server hold at a moment."""

from __future__ import annotations

import gc
import re
import sys
import threading
from collections import Counter, deque
from collections.abc import Iterable, Iterator
from pathlib import Path

import anyio

from tests.servers import Client
from torrelque.testing import MemoryServer

__all__ = ('Census', 'count', 'instances')

Census = Counter[str]

CONTAINERS: tuple[type, ...] = (list, dict, set, deque)
"""What can gain entries without gaining an object that the garbage collector knows of."""

NUMBERS = re.compile(rb'[0-9a-f]{12,}|\d+')


def count(servers: Iterable[Client] = (), memory: MemoryServer | None = None) -> Census:
    """Count everything; ``servers`` are connections to them, which are left out."""
    found: Census = Counter()
    found.update(_objects())
    found['event-loop tasks'] = len(anyio.get_running_tasks())
    found['threads'] = threading.active_count()
    found.update(_descriptors())
    for server in servers:
        found.update(_connections(server))
        found.update(_keys(server))
    if memory is not None:
        for key in memory.snapshot():
            found[f'key {_pattern(key)}'] += 1
    return found


def instances(kind: str) -> list[object]:
    """All living objects of a type that a census names."""
    return [each for each in gc.get_objects() if f'object {_name(type(each))}' == kind]


def _objects() -> Census:
    """Objects by type. Those that the caller froze (see `gc.freeze`) are left out."""
    kinds: Counter[type] = Counter()
    entries: Census = Counter()
    for each in gc.get_objects():
        kind = type(each)
        kinds[kind] += 1
        if kind in CONTAINERS:
            entries[f'entries of {kind.__name__}'] += len(each)
    # Some types have the same name.
    found: Census = Counter()
    for kind, number in kinds.items():
        found[f'object {_name(kind)}'] += number
    return found + entries + Counter(dict(_of_modules()))


DRAWN_AHEAD = ('torrelque.engine.dispatch', '_drawn')
"""Ids for tasks to come, at most 63: how many are left says nothing."""


def _of_modules() -> Iterator[tuple[str, int]]:
    """What the library's modules hold, which are older than what was frozen."""
    for module in [name for name in sys.modules if name.startswith('torrelque.')]:
        for name, value in vars(sys.modules[module]).items():
            if isinstance(value, CONTAINERS) and (module, name) != DRAWN_AHEAD:
                yield f'entries of {module}.{name}', len(value)  # type: ignore[arg-type]  # containers have a length


def _name(kind: type) -> str:
    return f'{kind.__module__}.{kind.__qualname__}'


def _descriptors() -> Census:
    found: Census = Counter()
    for descriptor in Path('/proc/self/fd').iterdir() if sys.platform == 'linux' else ():
        try:
            target = str(descriptor.readlink())
        except OSError:  # the one that listed the folder
            continue
        found[f'descriptors: {target.partition(":")[0] if ":[" in target else "files"}'] += 1
    return found


def _connections(server: Client) -> Census:
    own = server.command('CLIENT', 'ID')
    found: Census = Counter()
    for line in server.command('CLIENT', 'LIST').splitlines():
        told = dict(word.split(b'=', 1) for word in line.split() if b'=' in word)
        # Those of other nodes of a cluster come and go as these like.
        if int(told[b'id']) != own and not set(told[b'flags']) & set(b'MS'):
            found['server connections'] += 1
            found['server subscriptions'] += sum(int(told.get(name, 0)) for name in (b'sub', b'psub', b'ssub'))
    return found


def _keys(server: Client) -> Census:
    found: Census = Counter()
    sizes = {b'list': 'LLEN', b'zset': 'ZCARD', b'hash': 'HLEN', b'set': 'SCARD'}
    for key in server.command('KEYS', '*'):
        found[f'key {_pattern(key)}'] += 1
        command = sizes.get(server.command('TYPE', key))
        if command:
            found[f'entries of key {_pattern(key)}'] += server.command(command, key)
    return found


def _pattern(key: bytes) -> str:
    """A key's name without what makes it one of many."""
    head, _, tail = key.rpartition(b'}')
    return head.decode() + '}' * bool(head) + NUMBERS.sub(b'*', tail).decode()

"""Which systems do which rows, on which clients and event loops."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

TABLE_ROWS = (
    'floor',
    'enqueue-single',
    'enqueue-100',
    'work-off',
    'lifecycle-single',
    'lifecycle-lone',
    'lifecycle-100',
    'hand-off',
    'delayed',
    'memory',
)
DEPTH_ROWS = ('depth-pending', 'depth-delayed')
PEER_ROWS = ('enqueue-single', 'work-off', 'hand-off')
LIFECYCLE_ROWS = ('lifecycle-single', 'lifecycle-lone', 'lifecycle-100')
BULK_AND_SINGLE_ROWS = ('enqueue-single', 'enqueue-100', 'work-off', 'lifecycle-single', 'lifecycle-100')
RAW_ROWS = ('enqueue-single', 'enqueue-100', 'work-off', *LIFECYCLE_ROWS, 'hand-off')

PIP, DISTRIBUTION = 'valkey-9.1', 'redis-7.0'
"""The server that pip installs, built with libc's allocator, and a distribution's, built with jemalloc."""


@dataclass(frozen=True)
class Variant:
    """A system on a client, an event loop and a server."""

    system: str
    client: str
    loop: str
    rows: tuple[str, ...]
    quick: bool = False
    server: str = PIP

    def __str__(self) -> str:
        return '/'.join((self.system, self.client, self.loop, *((self.server,) if self.server != PIP else ())))


VARIANTS = (
    Variant('current', 'native', 'uvloop', TABLE_ROWS + DEPTH_ROWS, quick=True),
    Variant('raw', 'streams', 'uvloop', RAW_ROWS + DEPTH_ROWS, quick=True),
    Variant('published', 'redis_py', 'uvloop', TABLE_ROWS, quick=True),
    Variant('current', 'redis_py', 'uvloop', TABLE_ROWS, quick=True),
    Variant('current', 'coredis', 'uvloop', TABLE_ROWS, quick=True),
    Variant('current', 'native', 'asyncio', TABLE_ROWS),
    Variant('current', 'native', 'trio', TABLE_ROWS),
    Variant('current', 'redis_py', 'asyncio', TABLE_ROWS),
    Variant('current', 'coredis', 'asyncio', TABLE_ROWS),
    Variant('current', 'coredis', 'trio', TABLE_ROWS),
    Variant('sync', 'redis_py', 'threads', ('enqueue-single',), quick=True),
    Variant('keeping', 'native', 'uvloop', LIFECYCLE_ROWS),
    Variant('before', 'native', 'uvloop', BULK_AND_SINGLE_ROWS),
    Variant('before', 'coredis', 'uvloop', (*BULK_AND_SINGLE_ROWS, 'hand-off')),
    Variant('raw', 'streams', 'asyncio', ('hand-off',)),
    Variant('raw', 'streams', 'trio', ('hand-off',)),
    Variant('published', 'redis_py', 'asyncio', TABLE_ROWS),
    Variant('current', 'native', 'uvloop', RAW_ROWS, server=DISTRIBUTION),
    Variant('raw', 'streams', 'uvloop', RAW_ROWS, server=DISTRIBUTION),
    Variant('published', 'redis_py', 'uvloop', RAW_ROWS, server=DISTRIBUTION),
    Variant('streaq', 'coredis', 'uvloop', PEER_ROWS),
    Variant('saq', 'redis_py', 'uvloop', PEER_ROWS),
    Variant('taskiq', 'redis_py', 'uvloop', PEER_ROWS),
    Variant('arq', 'redis_py', 'uvloop', PEER_ROWS),
    Variant('dramatiq', 'redis_py', 'asyncio', PEER_ROWS),  # its work is done in threads
    Variant('bullmq', 'ioredis', 'node', PEER_ROWS),
)

ONCE = frozenset({'memory'})
"""Rows that come out the same each time: on one event loop, in the first round."""

FULL = {
    'seconds': 2.0,
    'warm_up': 0.3,
    'idle': 1.0,
    'rest': 0.3,
    'backlog': 20_000,
    'handoffs': 500,
    'delayed': 300,
    'delay_span': 4.0,
    'stored': 100_000,
    'deepest': 1_000_000,
}
"""How much each row does. ``warm_up``: seconds before the meter starts, in which connections open and scripts load;
``idle``: seconds in which a worker comes to rest; ``rest``: seconds in which it acknowledges the last tasks."""
QUICK = {**FULL, 'seconds': 1.0, 'backlog': 8_000, 'handoffs': 250, 'delayed': 100, 'delay_span': 2.0}
QUICK |= {'stored': 20_000, 'deepest': 100_000}

ROUNDS, QUICK_ROUNDS = 5, 2


@dataclass(frozen=True)
class Step:
    """One measurement to make."""

    round: int
    row: str
    variant: Variant


def steps(rounds: int, *, quick: bool, rows: list[str], systems: list[str]) -> Iterator[Step]:
    """All measurements, in turns: a round does each row on all variants, beginning with another one each time.

    ``rows`` and ``systems`` select, empty ones everything; a system is named as
    a variant is, or by the beginning of that.
    """
    for number in range(rounds):
        for row in TABLE_ROWS + DEPTH_ROWS:
            if rows and row not in rows:
                continue
            chosen = [variant for variant in VARIANTS if row in variant.rows]
            if systems:
                chosen = [variant for variant in chosen if is_chosen(variant, systems)]
            elif quick:
                chosen = [variant for variant in chosen if variant.quick]
            if row in ONCE:
                chosen = [variant for variant in chosen if variant.loop == 'uvloop'] if number == 0 else []
            if row == 'delayed':  # 0.9 takes the half of its sweep interval for it
                chosen = [variant for variant in chosen if variant.system != 'published' or number == 0]
            turn = number % len(chosen) if chosen else 0
            for variant in chosen[turn:] + chosen[:turn]:
                yield Step(number, row, variant)


def is_chosen(variant: Variant, systems: list[str]) -> bool:
    """Whether a variant is one of those that are named in full or by their beginning."""
    return any(str(variant).startswith(system) for system in systems)

"""What scripts do with the shards of a queue: record how many there are, look at several at once."""

from __future__ import annotations

from contextlib import suppress

from torrelque.core.protocol import Reply
from torrelque.errors import TorrelqueReplyError
from torrelque.transports.memory.prelude import HORIZON, Run, number, stamp

__all__ = ('layout', 'survey')


def layout(run: Run) -> Reply:
    """Record how many shards a queue has, unless a later generation did."""
    generation, shards = run.args
    counters = run.keys['counters']
    fields = run.db.hash_at(counters)
    recorded, intended = number(fields.get(b'generation'), 0.0), fields.get(b'intended')
    if int(generation) > recorded:
        recorded = int(generation)
        run.db.hset(counters, {b'generation': generation, b'shards': shards})
    if intended is not None and number(intended.partition(b' ')[0], 0.0) <= recorded:
        run.db.hdel(counters, (b'intended',))
    return [int(recorded), run.db.hash_at(counters).get(b'shards')]


def survey(run: Run) -> Reply:
    """Look at all shards of a server, and have them ring where the caller waits."""
    lifetime, *names = run.args
    run.db.zset_at(run.keys['ring'])
    generation = run.db.hash_at(run.keys['counters']).get(b'generation', b'')
    each = [names[at : at + 6] for at in range(0, len(names), 6)]
    return [generation, b' '.join(_survey(run, int(lifetime), *shard) for shard in each)]


def _survey(
    run: Run, lifetime: int, pending: bytes, delayed: bytes, working: bytes, timer: bytes, bell: bytes, wake: bytes
) -> bytes:
    db = run.db
    keys = {'pending': pending, 'delayed': delayed, 'working': working, 'timer': timer}
    shard = Run(db, keys, (), _tell_nobody)
    try:
        event = shard.earliest()
        left = len(db.list_at(pending))
        finding = b'%d' % left
        if event is not None and event <= run.now:
            finding = b'%d' % max(left, 1)
        elif not left and event is not None and event <= run.now + HORIZON:
            shard.look()
            finding = b'0' if shard.covered(event) else b'e'
        if lifetime:
            db.put(bell, run.keys['ring'], lifetime)
        elif finding != b'0':
            ring = db.string_at(bell)
            if ring is not None:
                _ring(run, ring, wake)
    except TorrelqueReplyError:
        return b'x'
    return finding


def _ring(run: Run, ring: bytes, wake: bytes) -> None:
    with suppress(TorrelqueReplyError):
        if wake not in run.db.zset_at(ring).scores:
            run.db.zadd(ring, {wake: float(stamp(run.now))})


def _tell_nobody(_channel: bytes, _data: bytes) -> None:
    """Nothing is published by whoever only looks."""

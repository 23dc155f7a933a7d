"""What scripts do with the shards of a queue: record how many there are, look at several at once."""

from __future__ import annotations

import math
import re
from contextlib import suppress

from torrelque.core.protocol import Reply
from torrelque.errors import TorrelqueReplyError
from torrelque.transports.memory.prelude import HORIZON, Run, number, stamp, whole

__all__ = ('clear', 'layout', 'survey')

_FIRST_DIGITS = re.compile(rb'\d*')


def layout(run: Run) -> Reply:
    """Record how many shards a queue has, or that somebody intends to change it."""
    run.check_features()
    wanted, numbers, mode, *bell = run.args
    counters = run.keys['counters']
    fields = run.db.hash_at(counters)
    recorded, intended = fields.get(b'generation'), fields.get(b'intended')
    if recorded is None and intended is None and number(fields.get(b'enqueued'), 0.0) > 0:
        return [b'FOREIGN']
    generation = number(recorded, 0.0)
    if mode == b'set' and (recorded is None or int(wanted) > generation):
        generation = float(wanted)
        run.db.hset(counters, {b'generation': wanted, b'shards': numbers})
        if bell:
            _ring_for(run, *bell)
    if intended is not None and _begun(intended) <= generation:
        run.db.hdel(counters, (b'intended',))
        intended = None
    if mode != b'set' and intended is None:
        begun = whole(math.floor(run.now * 1000)) if mode == b'open' else wanted
        run.db.hset(counters, {b'intended': b'%b %b' % (begun, numbers)})
    return [whole(generation), run.db.hash_at(counters).get(b'shards', b'')]


def _begun(intended: bytes) -> float:
    digits = _FIRST_DIGITS.match(intended)
    return number(digits[0] if digits else None, 0.0)


def _ring_for(run: Run, bell: bytes, name: bytes) -> None:
    """Notify a waiting consumer."""
    with suppress(TorrelqueReplyError):
        ring = run.db.string_at(bell)
        if ring is not None:
            _ring(run, ring, name)


def clear(run: Run) -> Reply:
    """Remove the results of finished tasks where their ids belonged before."""
    run.check_features()
    known, *ids = run.args
    if number(run.db.hash_at(run.keys['counters']).get(b'generation'), 0.0) != int(known):
        return [b'RESHARDED']
    tasks = run.db.hash_at(run.keys['tasks'])
    run.db.delete([run.state_key(task_id) for task_id in ids if task_id not in tasks])
    return [b'OK']


def survey(run: Run) -> Reply:
    """Look at all shards of a server, and have them ring where the caller waits."""
    run.check_features()
    lifetime, *names = run.args
    run.db.zset_at(run.keys['ring'])
    generation = run.db.hash_at(run.keys['counters']).get(b'generation', b'')
    each = [names[at : at + 7] for at in range(0, len(names), 7)]
    return [generation, b' '.join(_survey(run, int(lifetime), *shard) for shard in each)]


def _survey(
    run: Run, lifetime: int, pending: bytes, delayed: bytes, working: bytes, timer: bytes, bell: bytes, wake: bytes,
    counters: bytes,
) -> bytes:  # fmt: skip
    db = run.db
    keys = {'pending': pending, 'delayed': delayed, 'working': working, 'timer': timer, 'counters': counters}
    shard = Run(db, keys, (), _tell_nobody)
    try:
        for each in (delayed, working):
            db.zset_at(each)
        left = len(db.list_at(pending))
        if left:
            left = shard.permitted(left)
        event = shard.earliest()
        finding = b'%d' % left
        if event is not None and event <= run.now:
            finding = b'%d' % max(left, 1)
        elif not left and event is not None and event <= run.now + HORIZON:
            db.string_at(timer)
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
    """Looking publishes nothing."""

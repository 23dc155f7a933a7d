"""What scripts do with the shards of a queue: record how many there are, look at several at once."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
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


_TAILS = ('tasks', 'pending', 'delayed', 'working', 'timer', 'wake', 'counters', 'bell', 'schedules', 'groups')


def survey(run: Run) -> Reply:
    """Look at all shards of a server, and have them ring where the caller waits."""
    run.check_features()
    lifetime, together = int(run.args[0]), int(run.args[1])
    shared, tails, shards = run.args[2], run.args[3 : 3 + len(_TAILS)], run.args[3 + len(_TAILS) :]
    run.db.zset_at(run.keys['ring'])
    generation = run.db.hash_at(run.keys['counters']).get(b'generation', b'')
    if shared and lifetime:
        run.db.put(shared, run.keys['ring'], lifetime)
    findings = []
    for first in range(0, len(shards), together):
        part = [
            {name: shard + tail for name, tail in zip(_TAILS, tails, strict=True)}
            for shard in shards[first : first + together]
        ]
        empty = _are_empty(run, part)
        for place, keys in enumerate([] if empty and shared else part, first):
            finding = _survey(run, lifetime, shared, keys, empty=empty)
            if finding != b'0':
                findings.append(b'%d=%b' % (place, finding))
    return [generation, b' '.join(findings)]


def _are_empty(run: Run, shards: Sequence[Mapping[str, bytes]]) -> bool:
    """Whether none of these shards has a task or a schedule."""
    try:
        return not any(run.db.exists(keys[name]) for keys in shards for name in ('tasks', 'schedules'))
    except TorrelqueReplyError:
        return False


def _survey(run: Run, lifetime: int, shared: bytes, keys: Mapping[str, bytes], *, empty: bool) -> bytes:
    try:
        finding = b'0' if empty else _finding(Run(run.db, keys, (), _tell_nobody))
        bell = shared or keys['bell']
        if lifetime and not shared:
            run.db.put(bell, run.keys['ring'], lifetime)
        elif not lifetime and finding != b'0':
            ring = run.db.string_at(bell)
            if ring is not None:
                _ring(run, ring, keys['wake'])
    except TorrelqueReplyError:
        return b'x'
    return finding


def _finding(shard: Run) -> bytes:
    db, keys = shard.db, shard.keys
    for each in ('delayed', 'working'):
        db.zset_at(keys[each])
    db.list_at(keys['pending'])
    left = shard.left()
    if left:
        left = shard.permitted(left)
    event = shard.earliest(keys['schedules'])
    if event is not None and event <= shard.now:
        return b'%d' % max(left, 1)
    if not left and event is not None and event <= shard.now + HORIZON:
        db.string_at(keys['timer'])
        return b'0' if shard.covered(event) else b'e'
    return b'%d' % left


def _ring(run: Run, ring: bytes, wake: bytes) -> None:
    with suppress(TorrelqueReplyError):
        if wake not in run.db.zset_at(ring).scores:
            run.db.zadd(ring, {wake: float(stamp(run.now))})


def _tell_nobody(_channel: bytes, _data: bytes) -> None:
    """Looking publishes nothing."""

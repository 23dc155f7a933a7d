"""The verb that pauses, resumes and limits a queue. The script's header says what it is given and answers."""

from __future__ import annotations

import math
import re

from torrelque.core.protocol import Reply
from torrelque.transports.memory import groups
from torrelque.transports.memory.laned import laned
from torrelque.transports.memory.prelude import Run, microseconds, number, stamp, whole

__all__ = ('PAUSE', 'flow', 'regulate')

PAUSE = (b'paused', b'paused_since', b'paused_reason')
"""What is recorded of a pause: when it ends, when it began, and why."""


@laned()
def flow(run: Run) -> bytes:
    """Pause or resume the queue, set its limits, or take over what is recorded of that on another shard."""
    counters = run.keys['counters']
    fields = run.db.hash_at(counters)
    revision = number(fields.get(b'flow'), 0.0)
    mode, *words = run.args[3:]
    new = {name: fields.get(name, b'') for name in (b'flow', *PAUSE, b'limits')}
    if mode == b'copy':
        new = dict(zip(new, words, strict=True))
    else:
        new[b'flow'] = whole(max(revision + 1, math.floor(run.now * 1000)))
        if mode == b'limit':
            (new[b'limits'],) = words
        elif mode == b'resume':
            new |= dict.fromkeys(PAUSE, b'')
        else:
            end, reason = words
            if float(end) <= run.now:
                return b'u'
            paused = run.paused_until() is not None
            since = new[b'paused_since'] if paused else stamp(run.now)
            new |= zip(PAUSE, (end, since, reason or (new[b'paused_reason'] if paused else b'')), strict=True)
    if number(new[b'flow'], 0.0) > revision:
        uses = run.uses.translate(None, b'pl') + (b'p' if new[b'paused'] else b'') + (b'l' if new[b'limits'] else b'')
        if new[b'limits'] != fields.get(b'limits', b''):
            new[b'limited_since'] = whole(microseconds(run.now))
        run.db.hset(counters, {b'uses': uses, **new})
        run.count_deliveries(0)
    return b'o'


def regulate(run: Run) -> Reply:
    """Set the limits of a group, or of each group; or judge some groups again of which that changed something."""
    if run.args[3] != b'recheck':
        return _regulate(run)
    run.check_features()
    run.look()
    run.look_at_lines(always=True)
    _, kind, _ = run.args[3:]
    for name in run.db.zset_at(groups.key_of(run, kind)).scores:
        groups.touch(run, name)
    if set(run.uses) & set(b'plgh'):
        groups.place_touched(run)
    run.hint()
    return b'0'


@laned()
def _regulate(run: Run) -> bytes:
    mode, name, text = run.args[3:]
    run.look_at_lines(always=True)
    limits, counters = groups.key_of(run, b'limits'), run.db.hash_at(run.keys['counters'])
    known = _revision(run.db.hash_at(limits).get(name, b''))
    if mode == b'limit':
        text = b'%b %b' % (whole(max(known + 1, math.floor(run.now * 1000))), text)
    if _revision(text) > known:
        if re.fullmatch(rb'[0-9]+[ -]+', text) and not counters.get(b'shards'):
            run.db.hdel(limits, (name,))
        else:
            run.db.hset(limits, {name: text})
        groups.use(run, b'g')
        if name == groups.DEFAULT:
            run.rechecks = True
            run.db.hset(run.keys['counters'], {b'recheck': b'blocked 0'})
        else:
            groups.touch(run, name)
    return b'o'


def _revision(record: bytes) -> float:
    match = re.match(rb'[0-9]+', record)
    return number(match and match[0], 0.0)

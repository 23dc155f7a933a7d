"""The verb that pauses, resumes and limits a queue. The script's header says what it is given and answers."""

from __future__ import annotations

import math

from torrelque.transports.memory.prelude import Run, laned, microseconds, number, stamp, whole

__all__ = ('PAUSE', 'flow')

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

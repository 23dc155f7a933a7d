"""The verb that pauses and resumes a queue. The script's header says what it is given and answers."""

from __future__ import annotations

import math

from torrelque.transports.memory.prelude import Run, laned, number, stamp, whole

__all__ = ('PAUSE', 'flow')

PAUSE = (b'paused', b'paused_since', b'paused_reason')
"""What is recorded of a pause: when it ends, when it began, and why."""


@laned()
def flow(run: Run) -> bytes:
    """Pause or resume the queue, or take over what is recorded of that on another shard."""
    counters = run.keys['counters']
    fields = run.db.hash_at(counters)
    revision = number(fields.get(b'flow'), 0.0)
    mode, *words = run.args[3:]
    new = {b'flow': whole(max(revision + 1, math.floor(run.now * 1000))), **dict.fromkeys(PAUSE, b'')}
    if mode == b'copy':
        new = dict(zip(new, words, strict=True))
    elif mode == b'pause':
        end, reason = words
        if float(end) <= run.now:
            return b'u'
        paused = run.paused_until() is not None
        since = fields.get(b'paused_since', b'') if paused else stamp(run.now)
        new |= zip(PAUSE, (end, since, reason or (fields.get(b'paused_reason', b'') if paused else b'')), strict=True)
    if number(new[b'flow'], 0.0) > revision:
        uses = run.uses.replace(b'p', b'') + (b'p' if new[b'paused'] else b'')
        run.db.hset(counters, {b'uses': uses, **new})
    return b'o'

"""The script that looks at several shards of a queue at once."""

from __future__ import annotations

from contextlib import suppress

from torrelque.core.protocol import Reply
from torrelque.errors import TorrelqueReplyError
from torrelque.transports.memory.prelude import HORIZON, Run, stamp

__all__ = ('survey',)


def survey(run: Run) -> Reply:
    """Look at all shards of a server, and have them ring where the caller waits."""
    lifetime, *names = run.args
    shards = [names[at : at + 6] for at in range(0, len(names), 6)]
    return b''.join(_survey(run, int(lifetime), *shard) for shard in shards)


def _survey(
    run: Run, lifetime: int, pending: bytes, delayed: bytes, working: bytes, timer: bytes, bell: bytes, wake: bytes
) -> bytes:
    db = run.db
    keys = {'pending': pending, 'delayed': delayed, 'working': working, 'timer': timer}
    shard = Run(db, keys, (), _tell_nobody)
    try:
        event = shard.earliest()
        letter = b'n'
        if db.list_at(pending) or (event is not None and event <= run.now):
            letter = b'y'
        elif event is not None and event <= run.now + HORIZON:
            shard.look()
            letter = b'n' if shard.covered(event) else b'e'
        if lifetime:
            db.put(bell, run.keys['ring'], lifetime)
        elif letter != b'n':
            ring = db.string_at(bell)
            if ring is not None:
                _ring(run, ring, wake)
    except TorrelqueReplyError:
        return b'x'
    return letter


def _ring(run: Run, ring: bytes, wake: bytes) -> None:
    with suppress(TorrelqueReplyError):
        if wake not in run.db.zset_at(ring).scores:
            run.db.zadd(ring, {wake: float(stamp(run.now))})


def _tell_nobody(_channel: bytes, _data: bytes) -> None:
    """Nothing is published by whoever only looks."""

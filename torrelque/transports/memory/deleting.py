"""The verbs that delete a queue. The scripts' headers say what they are given and answer."""

from __future__ import annotations

from itertools import islice

from torrelque.core.protocol import Reply
from torrelque.transports.memory.auditing import is_drained
from torrelque.transports.memory.prelude import Run, laned

__all__ = ('erase', 'wipe')

MOST = 250


@laned()
def erase(run: Run) -> bytes:
    """Remove some tasks, wherever they are, and tell whether there are any left."""
    db, keys = run.db, run.keys
    is_drained(run)  # every key is of the right type
    schedules = [member for _, member in db.zset_at(keys['schedules']).between(float('-inf'), float('inf'), MOST)]
    if run.args[3] == b'1' and schedules:
        db.zrem(keys['schedules'], schedules)
        db.delete([b'%b:%b' % (keys['schedule'], schedule_id) for schedule_id in schedules])
    elif run.args[3] == b'1':
        ids = _take(run)
        db.hdel(keys['tasks'], ids)
        states = [run.read_state(task_id) for task_id in ids]
        db.delete([run.state_key(task_id) for task_id in ids])
        for task_id, state in zip(ids, states, strict=True):
            if state is not None:
                run.announce(task_id, state.revision + 1, b'cancelled')
    return b'o' if is_drained(run) and not db.zset_at(keys['schedules']).scores else b'e'


def _take(run: Run) -> list[bytes]:
    """Ids of one collection, removed from it; of the payloads once all others are empty."""
    db, keys = run.db, run.keys
    for name in ('pending', 'dequeueing'):
        ids = list(db.list_at(keys[name]))[-MOST:]
        if ids:
            db.rpop(keys[name], len(ids))
            return ids
    for name in ('working', 'delayed', 'rejected'):
        ids = [member for _, member in db.zset_at(keys[name]).between(float('-inf'), float('inf'), MOST)]
        if ids:
            db.zrem(keys[name], ids)
            return ids
    return list(islice(db.hash_at(keys['tasks']), MOST))


def wipe(run: Run) -> Reply:
    """Remove what is left of a queue that has no tasks."""
    run.check_features()
    what, *words = run.args
    db, keys = run.db, run.keys
    if what == b'states':
        db.delete([run.state_key(task_id) for task_id in words if _is_left_over(run, task_id)])
    elif what == b'lanes':
        db.delete([b'%b:%b' % (keys['lane'], number) for number in words])
    elif not is_drained(run) or db.zset_at(keys['schedules']).scores:
        return 2
    else:
        marks = list(db.set_at(keys['undequeued']))
        if len(marks) > MOST:
            db.srem(keys['undequeued'], marks[:MOST])
            return 1
        db.delete([keys[name] for name in ('undequeued', 'missing', 'workers', 'wake', 'timer', 'epoch', 'counters')])
    return 0


def _is_left_over(run: Run, task_id: bytes) -> bool:
    key = run.state_key(task_id)
    is_state = run.db.type_at(key) == 'hash' and b'status' in run.db.hash_at(key)
    return is_state and task_id not in run.db.hash_at(run.keys['tasks']) and not _is_anothers(run, task_id)


def _is_anothers(run: Run, task_id: bytes) -> bool:
    """Whether another queue's name begins as this one's states do, and the key is of that one."""
    parts = task_id.split(b':')
    names = (b':'.join(parts[:count]) for count in range(1, len(parts)))
    return any(run.db.type_at(run.state_key(name) + b':counters') != 'none' for name in names)

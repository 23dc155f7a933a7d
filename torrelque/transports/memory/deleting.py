"""The verbs that delete a queue. The scripts' headers say what they are given and answer."""

from __future__ import annotations

from itertools import islice

from torrelque.core.protocol import Reply
from torrelque.errors import TorrelqueReplyError
from torrelque.transports.memory import groups
from torrelque.transports.memory.auditing import is_drained
from torrelque.transports.memory.laned import laned
from torrelque.transports.memory.prelude import Run

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
        groups.leave_groups(run, ids)
        groups.unbury(run, ids)
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
    for key in (keys['pending'], keys['dequeueing'], keys['pending'] + b':high', keys['pending'] + b':low'):
        ids = list(db.list_at(key))[-MOST:]
        if ids:
            db.rpop(key, len(ids))
            return ids
    for key in (keys['groups'], *(groups.key_of(run, kind) for kind in (b'blocked', b'held'))):
        first = db.zset_at(key).first()
        if first is not None:
            return _take_group(run, first[1])
    for name in ('working', 'delayed', 'rejected'):
        ids = [member for _, member in db.zset_at(keys[name]).between(float('-inf'), float('inf'), MOST)]
        if ids:
            db.zrem(keys[name], ids)
            return ids
    return list(islice(db.hash_at(keys['tasks']), MOST))


def _take_group(run: Run, name: bytes) -> list[bytes]:
    """The same of a group."""
    groups.touch(run, name)
    key = groups.list_of(run, name)
    try:
        ids = list(run.db.list_at(key))[-MOST:]
    except TorrelqueReplyError:
        run.db.delete((key,))
        return []
    run.db.rpop(key, len(ids))
    return ids


def wipe(run: Run) -> Reply:
    """Remove what is left of a queue that has no tasks."""
    run.check_features()
    what, *words = run.args
    db, keys = run.db, run.keys
    if what == b'states':
        db.delete([run.state_key(task_id) for task_id in words if _is_left_over(run, task_id)])
    elif what == b'schedules':
        of_schedules = [b'%b:%b' % (keys['schedule'], word) for word in words]
        hashes = [key for key in of_schedules if db.type_at(key) == 'hash']
        db.delete([key for key in hashes if b'revision' in db.hash_at(key) and b'payload' not in db.hash_at(key)])
    elif what == b'lanes':
        db.delete([b'%b:%b' % (keys['lane'], number) for number in words])
    elif what == b'groups':
        if db.type_at(keys['groups'] + b':counters') == 'none':  # another queue's
            db.delete([b'%b:%b' % (keys['groups'], word) for word in words])
    elif not is_drained(run) or db.zset_at(keys['schedules']).scores:
        return 2
    else:
        marks = list(db.set_at(keys['undequeued']))
        if len(marks) > MOST:
            db.srem(keys['undequeued'], marks[:MOST])
            return 1
        db.delete([keys[name] for name in ('undequeued', 'missing', 'workers', 'wake', 'timer', 'epoch', 'counters')])
        kinds = (b'blocked', b'held', b'idle', b'limits', b'arrivals')
        db.delete([keys['groups'], *(groups.key_of(run, kind) for kind in kinds)])
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

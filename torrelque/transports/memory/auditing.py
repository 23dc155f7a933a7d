"""The verbs of an audit: looking at what there is, and repairing it. The scripts' headers say what they are given."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from contextlib import suppress

from torrelque.core.protocol import Reply
from torrelque.errors import TorrelqueReplyError
from torrelque.transports.memory import groups
from torrelque.transports.memory.claims import set_aside
from torrelque.transports.memory.prelude import GRACE, HORIZON, LANE_TTL, PENDING, Run, State, number, stamp
from torrelque.transports.memory.schedules import read_schedule, slots_in

__all__ = ('inspect', 'is_drained', 'repair')

_WELL_FORMED = re.compile(rb'[0-9-]+ [0-9-]+ [0-9-]+ [0-9-]+(?: strict)?')
"""Limits."""

PLACES = (
    'pending', 'dequeueing', 'undequeued', 'working', 'delayed', 'tasks', 'wake', 'counters', 'epoch', 'rejected',
    'schedules', 'groups', *(f'groups:{name}' for name in ('blocked', 'held', 'idle', 'limits', 'arrivals')),
    'pending:high', 'pending:low',
)  # fmt: skip
"""Keys that never expire."""


def inspect(run: Run) -> Reply:
    """What there is of a queue and of some of its tasks."""
    run.check_features()
    db, keys = run.db, run.keys
    mode, *ids = run.args
    if mode == b'schedules':
        return [int(_knows_schedules(run)), *(_facts_of_schedule(run, schedule_id) for schedule_id in ids)]
    if mode == b'groups':
        return [groups.misplaced(run, name) for name in ids]
    if mode == b'members':
        return _strays(run, *ids)
    drained = is_drained(run)
    there = [int(db.type_at(keys['wake']) != 'none'), len(db.set_at(keys['undequeued']))]
    return [int(drained), *there, *(_facts(run, task_id, deep=mode == b'deep') for task_id in ids)]


def is_drained(run: Run) -> bool:
    """Whether no task is left, nor an id without one."""
    db, keys = run.db, run.keys
    lists = [run.left(), len(db.list_at(keys['pending'])), len(db.list_at(keys['dequeueing'])), groups.count(run)]
    sets = [len(db.zset_at(keys[name])) for name in ('working', 'delayed', 'rejected')]
    return not any((len(db.hash_at(keys['tasks'])), *lists, *sets))


def _facts(run: Run, task_id: bytes, *, deep: bool) -> Reply:
    db, keys = run.db, run.keys
    state = run.state_key(task_id)
    kind = db.type_at(state)
    fields = db.hash_at(state) if kind == 'hash' else {}
    deadline = db.zset_at(keys['working']).scores.get(task_id)
    return [
        int(task_id in db.hash_at(keys['tasks'])),
        _occurrences(run, task_id) if deep else 0,
        db.list_at(keys['dequeueing']).count(task_id) if deep else 0,
        0 if deadline is None else 2 if math.isinf(deadline) else 1,
        *(int(task_id in db.zset_at(keys[name]).scores) for name in ('delayed', 'rejected')),
        kind.encode(),
        fields.get(b'status', b''),
        int(b'result' in fields),
        int(db.pttl(state) >= 0),
        int(task_id in db.zset_at(keys['missing']).scores),
        _unnoted(run, fields),
        int(deadline is not None and groups.is_uncounted(run, task_id)),
    ]


def _strays(run: Run, kind: bytes, name: bytes, _: bytes) -> Reply:
    try:
        members = sorted(run.db.set_at(groups.key_of(run, kind, name)))
    except TorrelqueReplyError:
        return [b'']
    return [b'0', *(task_id for task_id in members if groups.is_stray(run, kind, name, task_id))]


def _occurrences(run: Run, task_id: bytes) -> int:
    return sum(_count(run, key, task_id) for key in {run.keys['pending'], _line(run, task_id)})


def _group_of(run: Run, task_id: bytes) -> bytes:
    state = run.state_key(task_id)
    return run.db.hash_at(state).get(b'group', b'') if run.db.type_at(state) == 'hash' else b''


def _line(run: Run, task_id: bytes) -> bytes:
    """The list in which a task waits, if it does, even if the queue does not know of its groups and levels."""
    state = run.state_key(task_id)
    level = run.db.hash_at(state).get(b'level', b'') if run.db.type_at(state) == 'hash' else b''
    return groups.list_of(run, _group_of(run, task_id), level if level in groups.LEVELS else b'')


def _count(run: Run, key: bytes, task_id: bytes) -> int:
    with suppress(TorrelqueReplyError):
        return run.db.list_at(key).count(task_id)
    return 0


def _unnoted(run: Run, fields: Mapping[bytes, bytes]) -> bytes:
    """The letters of features that a task's state uses and the queue does not."""
    names = {b'e': b'expires', b'c': b'cancel_time', b'g': b'group', b'h': b'level'}
    return b''.join(letter for letter, name in names.items() if fields.get(name) and not run.has_used(letter))


def repair(run: Run) -> Reply:
    """Repair one thing that an audit found, if it is still so."""
    run.check_features()
    run.look()
    run.db.list_at(run.keys['dequeueing'])
    run.db.set_at(run.keys['undequeued'])
    run.db.hash_at(run.keys['tasks'])
    run.db.zset_at(run.keys['missing'])
    run.db.zset_at(run.keys['schedules'])
    fault, subject = run.args[:2]
    changed = _REPAIRS[fault](run, subject)
    groups.place_touched(run)
    if fault != b'leftover':
        run.hint()
    return int(changed)


def _has_payload(run: Run, task_id: bytes) -> bool:
    return task_id in run.db.hash_at(run.keys['tasks'])


def _in_sorted_set(run: Run, task_id: bytes) -> bool:
    return any(task_id in run.db.zset_at(run.keys[name]).scores for name in ('working', 'delayed', 'rejected'))


def _ghost(run: Run, task_id: bytes) -> bool:
    """In a collection without a payload: nobody could be given it. It is set aside, as a claim does it."""
    if _has_payload(run, task_id):
        return False
    db, state = run.db, run.state_key(task_id)
    if db.type_at(state) == 'hash' and db.pttl(state) == -1:
        db.pexpire(state, int(run.args[2]))
    groups.leave_groups(run, [task_id])
    groups.unbury(run, [task_id])
    removed = [db.lrem(run.keys[name], 0, task_id) for name in ('pending', 'dequeueing')]
    own = _line(run, task_id)
    removed += [db.lrem(own, 0, task_id)] if _count(run, own, task_id) else []
    removed += [db.zrem(run.keys[name], (task_id,)) for name in ('working', 'delayed', 'rejected')]
    set_aside(run, [task_id] if any(removed) else [])
    return any(removed)


def _twice(run: Run, task_id: bytes) -> bool:
    """In pending more than once, or elsewhere, too."""
    pending, own = run.keys['pending'], _line(run, task_id)
    kept = 0 if _in_sorted_set(run, task_id) else 1
    apart = _count(run, own, task_id) if own != pending else 0
    surplus = {pending: run.db.list_at(pending).count(task_id) - (0 if apart else kept)}
    if own != pending:
        surplus[own] = apart - kept
    removed = [
        run.db.lrem(key, count, task_id) for key, count in surplus.items() if count > 0 and _has_payload(run, task_id)
    ]
    _touch(run, task_id)
    return any(removed)


def _touch(run: Run, task_id: bytes) -> None:
    """The group of a task has to be placed again."""
    name = _group_of(run, task_id)
    if name and run.has_used(b'g'):
        groups.touch(run, name)


def _lost(run: Run, task_id: bytes) -> bool:
    """In no collection: nobody would be given it."""
    state = _readable_state(run, task_id)
    listed = task_id in run.db.list_at(run.keys['dequeueing']) or _occurrences(run, task_id) > 0
    if state is None or listed or _in_sorted_set(run, task_id):
        return False
    groups.leave_groups(run, [task_id])
    run.transition(task_id, state, PENDING, {})
    groups.push(run, [(task_id, state)])
    run.db.zrem(run.keys['missing'], (task_id,))
    return True


def _readable_state(run: Run, task_id: bytes) -> State | None:
    return run.read_state(task_id) if _has_payload(run, task_id) else None


def _deadline(run: Run, task_id: bytes) -> bool:
    """A deadline that never comes."""
    deadline = run.db.zset_at(run.keys['working']).scores.get(task_id)
    state = _readable_state(run, task_id)
    if state is None or deadline is None or not math.isinf(deadline):
        return False
    text = stamp(run.now + state.timeout)
    run.db.zadd(run.keys['working'], {task_id: float(text)})
    if state.claim and state.claim.dequeue_count == state.dequeue_count:  # otherwise 0.9 has claimed it since
        run.move_claim(task_id, state, state.claim.deadline, text)
    return True


def _expiring(run: Run, task_id: bytes) -> bool:
    """A state that would expire under its task."""
    return _has_payload(run, task_id) and run.db.persist(run.state_key(task_id))


def _result(run: Run, task_id: bytes) -> bool:
    key = run.state_key(task_id)
    kept = run.db.type_at(key) == 'hash' and b'result' in run.db.hash_at(key)
    return kept and not _has_payload(run, task_id) and _let_expire(run, key, int(run.args[2]))


def _lane(run: Run, lane: bytes) -> bool:
    return _let_expire(run, b'%b:%b' % (run.keys['lane'], lane), LANE_TTL)


def _timer(run: Run, _: bytes) -> bool:
    return _let_expire(run, run.keys['timer'], int(HORIZON * 1000) + GRACE)


def _workers(run: Run, _: bytes) -> bool:
    return _let_expire(run, run.keys['workers'], int(HORIZON * 1000))


def _let_expire(run: Run, key: bytes, milliseconds: int) -> bool:
    return run.db.pttl(key) == -1 and run.db.pexpire(key, milliseconds)


def _key(run: Run, name: bytes) -> bool:
    """A key that would expire with all that is in it."""
    place, colon, part = name.decode().partition(':')
    known = name.decode() in PLACES
    return known and run.db.persist(run.keys[place] + (colon + part).encode())


def _flow(run: Run, _: bytes) -> bool:
    """A pause or limits that are ignored as their letter is missing; a letter without a record; or a malformed one."""
    fields = run.db.hash_at(run.keys['counters'])
    uses, records = fields.get(b'uses', b''), {name: fields.get(name, b'') for name in (b'paused', b'limits')}
    till, limits = records.values()
    kept = {
        b'paused': till == b'inf' or number(till, None) is not None,
        b'limits': _WELL_FORMED.fullmatch(limits) is not None,
    }
    letters = {b'paused': b'p', b'limits': b'l'}
    if all((letters[name] in uses) == is_kept and (is_kept or not records[name]) for name, is_kept in kept.items()):
        return False
    uses = uses.translate(None, b'pl') + b''.join(letters[name] for name, is_kept in kept.items() if is_kept)
    left = {name: records[name] if is_kept else b'' for name, is_kept in kept.items()}
    run.db.hset(run.keys['counters'], {b'uses': uses, **left})
    return True


def _schedule(run: Run, schedule_id: bytes) -> bool:
    """A schedule that is listed without a payload, or the reverse, or expires; without an id, a wrong letter."""
    db, listed = run.db, run.keys['schedules']
    if not schedule_id:
        uses = run.uses.replace(b's', b'') + (b's' if db.zset_at(listed).scores else b'')
        names = {name.encode(): run.keys[name] for name in ('schedules', 'schedule')}
        db.hset(run.keys['counters'], {b'uses': uses, **names})
        return True
    key = b'%b:%b' % (run.keys['schedule'], schedule_id)
    fields = read_schedule(run, key)
    if fields is None:
        return db.zrem(listed, (schedule_id,)) == 1
    kept, is_listed = db.persist(key), schedule_id in db.zset_at(listed).scores
    if not is_listed:
        slots = slots_in(fields.get(b'next', b''))
        db.zadd(listed, {schedule_id: float(stamp(slots[0] / 1_000_000 if slots else run.now))})
    return kept or not is_listed


def _knows_schedules(run: Run) -> bool:
    """Whether the letter of schedules, and the names of their keys, are there if and only if there are any."""
    if not run.db.zset_at(run.keys['schedules']).scores:
        return not run.has_used(b's')
    names = run.schedule_keys()
    return run.has_used(b's') and names == (run.keys['schedules'], run.keys['schedule'] + b':')


def _facts_of_schedule(run: Run, schedule_id: bytes) -> Reply:
    db, key = run.db, b'%b:%b' % (run.keys['schedule'], schedule_id)
    kind = db.type_at(key)
    has_payload = kind == 'hash' and b'payload' in db.hash_at(key)
    is_listed = schedule_id in db.zset_at(run.keys['schedules']).scores
    return [int(is_listed), kind.encode(), int(has_payload), int(db.pttl(key) >= 0)]


def _ignored(run: Run, task_id: bytes) -> bool:
    """A task whose expiry, whose request to end, whose group or whose priority no verb looks at."""
    state = run.state_key(task_id)
    known = _has_payload(run, task_id) and run.db.type_at(state) == 'hash'
    letters = _unnoted(run, run.db.hash_at(state)) if known else b''
    if letters:
        run.db.hset(run.keys['counters'], {b'uses': run.uses + letters})
        _touch(run, task_id)
    return bool(letters)


def _group(run: Run, subject: bytes) -> bool:
    """A group that is not where it belongs, or what it counts that is not so, or does not count."""
    kind, *name = run.args[3:] or (b'',)
    if not run.has_used(b'g'):
        return False
    if not kind:
        count, wanted, stuck = groups.misplaced(run, subject)
        if count == wanted and not stuck:
            return False
        groups.touch(run, subject)
        return True
    if kind == b'claimed':
        is_claimed = subject in run.db.zset_at(run.keys['working']).scores
        return is_claimed and groups.is_uncounted(run, subject) and groups.recount(run, subject)
    return groups.is_stray(run, kind, name[0], subject) and groups.uncount(run, kind, name[0], subject)


def _leftover(run: Run, name: bytes) -> bool:
    """What is left over when no task is."""
    if not is_drained(run) or name not in (b'wake', b'undequeued'):
        return False
    return run.db.delete((run.keys[name.decode()],)) == 1


_REPAIRS: Mapping[bytes, Callable[[Run, bytes], bool]] = {
    b'ghost': _ghost,
    b'twice': _twice,
    b'lost': _lost,
    b'deadline': _deadline,
    b'expiring': _expiring,
    b'result': _result,
    b'lane': _lane,
    b'timer': _timer,
    b'workers': _workers,
    b'key': _key,
    b'flow': _flow,
    b'schedule': _schedule,
    b'ignored': _ignored,
    b'group': _group,
    b'leftover': _leftover,
}

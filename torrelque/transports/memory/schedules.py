"""Schedules: the verb that keeps them, and how a claim has those that are due add their tasks."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple, TypeAlias

from torrelque.core.protocol import Reply
from torrelque.errors import TorrelqueReplyError
from torrelque.transports.memory import groups
from torrelque.transports.memory.laned import laned
from torrelque.transports.memory.prelude import (
    DELAYED,
    LANE_TTL,
    PENDING,
    Run,
    State,
    microseconds,
    number,
    stamp,
    whole,
)

__all__ = ('fire_due', 'read_schedule', 'schedule', 'slots_in')

SLOTS = 20
"""Most tasks that schedules add in one call."""

LOW = 8
"""With fewer times left, the client is asked for more."""

MOST = 32
"""Times that are known ahead."""

DRY = 5
"""Seconds until a schedule that ran out of times is looked at again."""

FIELDS = (
    b'owner', b'cron', b'tz', b'every', b'missed', b'overlap', b'payload', b'timeout', b'delay', b'max_dequeues',
    b'headers', b'expires_in', b'on_expiry', b'group', b'level',
)  # fmt: skip
"""What a caller says of a schedule, in the order of the arguments."""

KEPT = (*FIELDS, b'mark', b'anchor', b'next', b'upto', b'last', b'revision')
"""What moves with a schedule to another shard."""

Fields: TypeAlias = dict[bytes, bytes]


class _Due(NamedTuple):
    """A task to add."""

    id: bytes
    slot: float
    schedule: Fields


class _Plan:
    """What schedules are to add. Writes nothing."""

    def __init__(self, run: Run) -> None:
        self._run = run
        self._new: set[bytes] = set()
        self.tasks: list[_Due] = []

    def add(self, schedule_id: bytes, fields: Fields, slot: float) -> None:
        """A task for one slot, unless it is queued already or may not overlap with the last one."""
        tasks, last = self._run.db.hash_at(self._run.keys['tasks']), fields.get(b'last', b'')
        if fields.get(b'overlap') == b'0' and last and self._is_known(last):
            return
        fields[b'last'] = new = slot_id(schedule_id, fields, slot)
        if new not in self._new and new not in tasks:
            self._new.add(new)
            self.tasks.append(_Due(new, slot, fields))

    def _is_known(self, task_id: bytes) -> bool:
        db, keys = self._run.db, self._run.keys
        if task_id in self._new:
            return True
        return task_id in db.hash_at(keys['tasks']) and task_id not in db.zset_at(keys['rejected']).scores


def slot_text(slot: float) -> bytes:
    """A slot as Unix time, with decimals only if it has any."""
    return re.sub(rb'\.?0+$', b'', stamp(slot / 1_000_000))


def slot_id(schedule_id: bytes, fields: Mapping[bytes, bytes], slot: float) -> bytes:
    """The id of the task for a slot."""
    return b'%b%b@%b' % (schedule_id, fields.get(b'mark', b''), slot_text(slot))


def slots_in(text: bytes) -> list[float]:
    times = [number(word, None) for word in text.split()]
    return [microseconds(time) for time in times if time is not None]


def read_schedule(run: Run, key: bytes) -> Fields | None:
    """None without a payload, and where the key is of a wrong type."""
    try:
        fields = dict(run.db.hash_at(key))
    except TorrelqueReplyError:
        return None
    return fields if b'payload' in fields else None


def _split(run: Run, fields: Mapping[bytes, bytes], most: int) -> tuple[list[float], list[float]]:
    """The slots that are due, at most ``most``, and the times that are left."""
    left, now = slots_in(fields.get(b'next', b'')), microseconds(run.now)
    makes_up = fields.get(b'missed') == b'all' and fields.get(b'overlap') != b'0'
    every = microseconds(number(fields.get(b'every'), 0.0))
    due: list[float] = []
    if every > 0:
        anchor = microseconds(number(fields.get(b'anchor'), 0.0))
        first = left[0] if left else now + every
        last = anchor + math.floor((now - anchor) / every) * every
        while first <= last and len(due) < most:
            due.append(first if makes_up else last)
            first = due[-1] + every
        return due, [first]
    count = next((at for at, slot in enumerate(left) if slot > now), len(left))
    if makes_up:
        count = min(count, most)
    due, left = left[:count], left[count:]
    return (due if makes_up else due[-1:]), left


def _push(run: Run, tasks_due: Sequence[_Due]) -> None:
    """Add the planned tasks. Times in their options count from the slot."""
    db, keys = run.db, run.keys
    for task_id, slot, fields in tasks_due:
        time = slot / 1_000_000
        due = time + number(fields.get(b'delay', b''), 0.0)
        state = {
            b'status': DELAYED if due > run.now else PENDING,
            b'timeout': fields.get(b'timeout', b''),
            b'enqueue_time': stamp(run.now),
        }
        if special := {name: fields[name] for name in (b'max_dequeues', b'headers') if fields.get(name)}:
            state |= {**special, b'revision': b'1'}
        if fields.get(b'expires_in'):
            state[b'expires'] = stamp(time + number(fields[b'expires_in'], 0.0))
            state |= {name: fields[name] for name in (b'on_expiry',) if fields.get(name)}
            groups.use(run, b'e')
        line = next((name for name in (b'group', b'level') if fields.get(name)), None)
        if line:
            state[line] = fields[line]
            groups.use(run, b'g' if line == b'group' else b'h')
        key = run.state_key(task_id)
        db.hset(keys['tasks'], {task_id: fields[b'payload']})
        db.delete((key,))
        db.hset(key, state)
        run.announce(task_id, 1, state[b'status'])
        if due > run.now:
            db.zadd(keys['delayed'], {task_id: float(stamp(due))})
        else:
            groups.join(run, task_id, State(state, run.uses))
    run.count(enqueued=len(tasks_due))


def _look_before(run: Run) -> None:
    run.db.list_at(run.keys['pending'])
    run.db.hash_at(run.keys['tasks'])
    for name in ('delayed', 'rejected', 'missing'):
        run.db.zset_at(run.keys[name])


def _look_at_groups(run: Run, fields: Fields) -> None:
    if fields.get(b'group'):
        run.db.zset_at(run.keys['groups'])


def fire_due(run: Run) -> tuple[int, list[bytes]]:
    """Have the schedules that are due add their tasks.

    Returns how many there are, and the schedules that need more times, or to be moved.
    """
    names = run.schedule_keys()
    if names is None or run.paused_until() is not None:
        return 0, []
    db, (key, prefix), plan = run.db, names, _Plan(run)
    fired: dict[bytes, tuple[Fields, list[float]]] = {}
    gone: list[bytes] = []
    wanted: list[bytes] = []
    held: list[bytes] = []
    due = db.zset_at(key).between(-math.inf, float(stamp(run.now)), SLOTS)
    if due:
        _look_before(run)
    for _, schedule_id in due:
        fields = read_schedule(run, prefix + schedule_id)
        if fields is None:
            gone.append(schedule_id)
        elif fields.get(b'held') == b'1':
            held.append(schedule_id)
            wanted.append(schedule_id)
        elif len(plan.tasks) < SLOTS:
            _look_at_groups(run, fields)
            slots, left = _split(run, fields, SLOTS - len(plan.tasks))
            for slot in slots:
                plan.add(schedule_id, fields, slot)
            fired[schedule_id] = fields, left
            if not fields.get(b'every') and len(left) < LOW:
                wanted.append(schedule_id)
    db.zrem(key, gone)
    db.zadd(key, dict.fromkeys(held, float(stamp(run.now + DRY))))
    for schedule_id, (fields, left) in fired.items():
        db.zadd(key, {schedule_id: float(stamp(left[0] / 1_000_000 if left else run.now + DRY))})
        text = b' '.join(map(slot_text, left))
        db.hset(prefix + schedule_id, {b'next': text, b'last': fields.get(b'last', b'')})
    _push(run, plan.tasks)
    groups.place_touched(run)
    return len(plan.tasks), wanted


def schedule(run: Run) -> Reply:
    """Add or change a schedule, give it more times, remove it, move it, or have it add a task now."""
    mode, words = run.args[4], run.args[5:]
    if run.enter() is None and mode == b'set' and len(words) > len(FIELDS) + 1:
        run.check_features()
        _look(run)
        generation = words[len(FIELDS) + 1]
        if number(run.db.hash_at(run.keys['counters']).get(b'generation'), 0.0) != int(generation):
            return run.refuse(b'RESHARDED')
    return _schedule(run)


def _look(run: Run) -> None:
    run.db.list_at(run.keys['pending'])
    for name in ('delayed', 'working', 'rejected', 'schedules'):
        run.db.zset_at(run.keys[name])


@laned(looks=False)
def _schedule(run: Run) -> bytes:
    _look(run)
    task_id, mode, *words = run.args[3:]
    key = b'%b:%b' % (run.keys['schedule'], task_id)
    is_listed = task_id in run.db.zset_at(run.keys['schedules']).scores
    old = read_schedule(run, key) if is_listed else None
    if mode == b'set':
        return _set(run, task_id, key, old, words)
    if mode == b'put':
        return _put(run, task_id, key, words)
    if mode in (b'remove', b'retire'):
        return _remove(run, task_id, key, old, words, is_listed=is_listed)
    return b'u' if old is None else _MODES[mode](run, task_id, key, old, words)


def _set(run: Run, schedule_id: bytes, key: bytes, old: Fields | None, words: Sequence[bytes]) -> bytes:
    new = dict(zip(FIELDS, words, strict=False))
    if old is not None and old.get(b'owner', b'') not in (b'', new[b'owner']):
        return b'w'
    _, *placing = words[len(FIELDS) + 1 :] or (b'',)
    if placing and _last_rank(run, key) != float(placing[1]):
        return b'a'
    is_same = old is not None and all(old.get(name, b'') == value for name, value in new.items())
    more: Fields = {}
    slots, upto = list[float](), microseconds(run.now)
    if old is not None and all(old.get(name, b'') == new[name] for name in (b'cron', b'tz', b'every')):
        slots = slots_in(old.get(b'next', b''))
        upto = max(upto, microseconds(number(old.get(b'upto'), 0.0)))
    elif new[b'every']:
        anchor, every = math.floor(run.now), microseconds(float(new[b'every']))
        more[b'anchor'] = whole(anchor)
        slots = [microseconds(anchor) + every]
        while slots[0] <= upto:
            slots[0] += every
    slots, upto = _extended(slots, upto, words[len(FIELDS)])
    more[b'upto'] = slot_text(upto)
    if not is_same:
        earlier = 0.0 if old is None else number(old.get(b'revision'), 0.0) + 1
        more[b'revision'] = whole(max(earlier, math.floor(run.now * 1000)))
    if placing:
        more |= {b'revision': placing[0], b'mark': placing[2], b'held': b''}
    _set_times(run, schedule_id, key, {**new, **more}, slots)
    if placing:
        run.db.persist(key)
    _mark_used(run)
    return b'n' if old is None else b'e' if is_same else b'r'


def _mark_used(run: Run) -> None:
    """Note for the other verbs that there are schedules."""
    fields = run.db.hash_at(run.keys['counters'])
    names = {name.encode(): run.keys[name] for name in ('schedules', 'schedule')}
    if not run.has_used(b's') or any(fields.get(name) != value for name, value in names.items()):
        uses = run.uses if run.has_used(b's') else run.uses + b's'
        run.db.hset(run.keys['counters'], {b'uses': uses, **names})


def _extended(slots: list[float], upto: float, text: bytes) -> tuple[list[float], float]:
    """The times, and those of the new ones that come after ``upto``; and the last of them."""
    slots = slots.copy()
    for slot in slots_in(text):
        if slot > upto and len(slots) < MOST:
            slots.append(slot)
            upto = slot
    return slots, upto


def _last_rank(run: Run, key: bytes) -> float:
    return number(run.db.hash_at(key).get(b'revision'), 0.0)


def _is_outranked(run: Run, key: bytes, rank: bytes) -> bool:
    """Whether this shard has seen a higher rank."""
    return _last_rank(run, key) > float(rank)


def _set_times(
    run: Run, schedule_id: bytes, key: bytes, fields: Fields, slots: Sequence[float], *, held: bool = False
) -> None:
    run.db.hset(key, {**fields, b'next': b' '.join(map(slot_text, slots))})
    time = slots[0] / 1_000_000 if slots and not held else run.now + DRY
    run.db.zadd(run.keys['schedules'], {schedule_id: float(stamp(time))})


def _put(run: Run, schedule_id: bytes, key: bytes, words: Sequence[bytes]) -> bytes:
    fields: Fields = dict(zip(KEPT, words, strict=True))
    if _is_outranked(run, key, fields[b'revision']):
        return b'a'
    _set_times(run, schedule_id, key, {**fields, b'held': b'1'}, slots_in(fields[b'next']), held=True)
    run.db.persist(key)
    _mark_used(run)
    return b'o'


def _hold(run: Run, schedule_id: bytes, key: bytes, old: Fields, words: Sequence[bytes]) -> bytes:
    revision, rank = words
    if old.get(b'revision', b'') != revision or _is_outranked(run, key, rank):
        return b'u'
    run.db.hset(key, {b'revision': rank, b'held': b'1'})
    run.db.zadd(run.keys['schedules'], {schedule_id: float(stamp(run.now + DRY))})
    return b'o'


def _activate(run: Run, schedule_id: bytes, key: bytes, old: Fields, words: Sequence[bytes]) -> bytes:
    if old.get(b'revision', b'') != words[0]:
        return b'u'
    _set_times(run, schedule_id, key, {b'held': b''}, slots_in(old.get(b'next', b'')))
    return b'o'


def _refill(run: Run, schedule_id: bytes, key: bytes, old: Fields, words: Sequence[bytes]) -> bytes:
    revision, text = words
    if old.get(b'revision', b'') != revision or old.get(b'held') == b'1':
        return b'u'
    upto = microseconds(number(old.get(b'upto'), 0.0))
    slots, upto = _extended(slots_in(old.get(b'next', b'')), upto, text)
    _set_times(run, schedule_id, key, {b'upto': slot_text(upto)}, slots)
    return b'o'


def _remove(
    run: Run, schedule_id: bytes, key: bytes, old: Fields | None, words: Sequence[bytes], *, is_listed: bool
) -> bytes:
    owner, *ranks = words
    if ranks and _is_outranked(run, key, ranks[0]):
        return b'a'
    if not is_listed and not ranks:
        return b'u'
    if owner and (old or {}).get(b'owner', b'') != owner:
        return b'u'
    run.db.zrem(run.keys['schedules'], (schedule_id,))
    run.db.delete((key,))
    for rank in ranks:
        run.db.hset(key, {b'revision': rank})
        run.db.pexpire(key, LANE_TTL)
    if not run.db.zset_at(run.keys['schedules']).scores:
        run.db.hset(run.keys['counters'], {b'uses': run.uses.replace(b's', b'')})
    return b'o' if is_listed else b'u'


def _fire(run: Run, schedule_id: bytes, key: bytes, old: Fields, words: Sequence[bytes]) -> bytes:
    slot = microseconds(float(words[0]))
    if old.get(b'held') == b'1':
        return b'a'
    new = slot_id(schedule_id, old, slot)
    if new in run.db.hash_at(run.keys['tasks']):
        return b'd'
    _look_at_groups(run, old)
    run.db.hset(key, {b'last': new})
    _push(run, [_Due(new, slot, old)])
    return b'o'


_MODES: Mapping[bytes, Callable[..., bytes]] = {
    b'hold': _hold,
    b'activate': _activate,
    b'refill': _refill,
    b'fire': _fire,
}

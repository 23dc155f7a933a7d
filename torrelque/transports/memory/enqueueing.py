"""Adding tasks, and replacing those that wait."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import NamedTuple

from torrelque.core.protocol import Reply
from torrelque.errors import TorrelqueReplyError
from torrelque.transports.memory import groups
from torrelque.transports.memory.keyspace import Keyspace
from torrelque.transports.memory.laned import laned
from torrelque.transports.memory.prelude import DELAYED, PENDING, Run, number, stamp, whole

__all__ = ('enqueue',)


def enqueue(run: Run) -> Reply:
    """Add tasks, unless the caller is wrong about how many shards the queue has."""
    own = int(run.args[3])
    if (len(run.args) - (4 if own >= 6 else 8)) % own:  # noqa: PLR2004 - words of an item with options of its own
        *run.args, known = run.args
        if run.enter() is None:
            run.check_features()
            if number(run.db.hash_at(run.keys['counters']).get(b'generation'), 0.0) != int(known):
                return run.refuse(b'RESHARDED')
    if run.enter() is None:
        run.check_features()
        spread = run.shards_of(b'enqueued')
        if spread is not None:
            return run.refuse(b'SHARDED', spread)
    return _enqueue(run)


def _enqueue(run: Run) -> Reply:
    """Add tasks, or replace some that wait. One in a pipeline of the user's own that cannot be replaced fails."""
    if not run.args[0] and int(run.args[3]) > 6 and run.enter() is None:  # noqa: PLR2004 - the words of a plain one
        run.check_features()
        if _Enqueue(run).answers[:1] in ([b'w'], [b'd']):
            return TorrelqueReplyError('EXISTS the task is worked on or a dead letter, nothing was changed')
    return _add(run)


@laned(looks=False)
def _add(run: Run) -> bytes:
    """Add tasks to the back of pending, or to delayed, or replace waiting ones. Other queued ids change nothing."""
    db, keys = run.db, run.keys
    plan = _Enqueue(run)
    db.list_at(keys['pending'])
    joined = {groups.list_of(run, item.group, item.level) for item in plan.fresh.values() if not item.delay}
    for key in joined if int(run.args[3]) > 6 else ():  # noqa: PLR2004 - the words of a plain one
        db.list_at(key)
    if any(item.group or item.level for item in plan.fresh.values()) or (
        run.has_used(b'g') and int(run.args[3]) not in (2, 6)
    ):
        db.zset_at(keys['groups'])
    if plan.delays:
        db.zset_at(keys['delayed'])
    db.hset(keys['tasks'], {task_id: item.payload for task_id, item in plan.fresh.items()})
    for task_id, item in plan.fresh.items():
        key, place = run.state_key(task_id), plan.places.get(task_id)
        revision = 1 if place is None else max(2, _revision(db, key) + 1)
        if not plan.are_new:
            db.delete((key,))  # a finished result of the same id must not expire under the new task
        fields = _fields(run, item)
        if place is not None or item.max_dequeues or item.headers:  # claims look for these where there is a revision
            fields[b'revision'] = whole(revision)
        db.hset(key, fields)
        run.announce(task_id, revision, fields[b'status'])
        _put(run, plan, task_id, item)
    for letter in _letters(plan.fresh.values()):
        groups.use(run, letter)
    run.count(enqueued=len(plan.fresh.keys() - plan.places.keys()))
    return b''.join(plan.answers)


def _put(run: Run, plan: _Enqueue, task_id: bytes, item: _New) -> None:
    """Add the id to its line or to delayed, and take it from where it waits."""
    db, delayed, place = run.db, run.keys['delayed'], plan.places.get(task_id)
    line, new_line = plan.lines.get(task_id), groups.list_of(run, item.group, item.level)
    stays = place == 'pending' and not item.delay and line == new_line
    if place == 'pending' and line is not None and not stays:
        db.lrem(line, 0, task_id)
        if plan.groups[task_id]:
            groups.touch(run, plan.groups[task_id])
    if item.delay:
        db.zadd(delayed, {task_id: run.due_time(_expiry(run, item), item.delay)})
    elif not stays:
        if place:
            db.zrem(delayed, [task_id])
        groups.add(run, task_id, item.group, item.level)


def _letters(items: Iterable[_New]) -> list[bytes]:
    """The letters of the features that tasks use."""
    letters = b'e' * any(item.expires for item in items)
    letters += b''.join(b'g' * bool(item.group) + b'h' * bool(item.level) for item in items)
    return [bytes([letter]) for letter in dict.fromkeys(letters)]


class _New(NamedTuple):
    """What one item says of its task."""

    id: bytes
    payload: bytes
    timeout: bytes
    delay: bytes
    max_dequeues: bytes
    headers: bytes
    mode: bytes = b''
    expires: bytes = b''
    on_expiry: bytes = b''
    group: bytes = b''
    level: bytes = b''


def _expiry(run: Run, item: _New) -> float | None:
    return float(item.expires) + (run.now if item.expires.startswith(b'+') else 0) if item.expires else None


def _fields(run: Run, item: _New) -> dict[bytes, bytes]:
    """A new task's state."""
    expires = _expiry(run, item)
    fields = {
        b'status': DELAYED if item.delay else PENDING,
        b'timeout': item.timeout,
        b'enqueue_time': stamp(run.now),
        b'max_dequeues': item.max_dequeues,
        b'headers': item.headers,
        b'expires': b'' if expires is None else stamp(expires),
        b'on_expiry': b'' if expires is None else item.on_expiry,
        b'group': item.group,
        b'level': b'' if item.group else item.level,
    }
    return {name: value for name, value in fields.items() if value}


class _Enqueue:
    """What a call is going to do: the last item of each id that is done, and where that task waits if there is one.

    An item is answered as if it was alone. One task a call is taken out of pending, as that takes as long as that is.
    """

    def __init__(self, run: Run) -> None:
        self._run = run
        items = [_New(*words) for words in run.items(6, 4)]
        self.are_new: bool = run.args[3] == b'+2'
        states = {item.id: not self.are_new and run.db.type_at(run.state_key(item.id)) != 'none' for item in items}
        tasks = run.db.hash_at(run.keys['tasks']) if any(states.values()) else {}
        self._queued = {task_id for task_id, is_known in states.items() if is_known and task_id in tasks}
        self._again: set[bytes] = set()
        self._searched: bytes | None = None
        self._held = False
        self._there: dict[bytes, str] = {}
        self.lines: dict[bytes, bytes] = {}
        self.groups: dict[bytes, bytes] = {}
        self.fresh: dict[bytes, _New] = {}
        self.answers = [self._answer(item) for item in items]
        self.places = {task_id: self._there[task_id] for task_id in self.fresh if task_id in self._queued}
        self.delays = any(item.delay for item in self.fresh.values())

    def _answer(self, item: _New) -> bytes:
        if item.id not in self._queued and item.id not in self.fresh:
            answer = b'u' if item.mode == b'only' else b'n'
        elif item.mode:
            answer = self._replace(item)
        else:
            answer = b'e'
        if answer in (b'n', b'r'):
            self.fresh[item.id] = item
        return answer

    def _replace(self, item: _New) -> bytes:
        place = self._there.setdefault(item.id, self._place(item.id))
        if place in ('w', 'd'):
            return place.encode()
        self._find_line(item.id)
        line = groups.list_of(self._run, item.group, item.level)
        moves = place == 'pending' and (bool(item.delay) or self.lines[item.id] != line)
        if item.id in self._again or (moves and self._searched not in (None, item.id)):
            self._again.add(item.id)
            return b'a'
        if moves and self._searched is None:  # it may be in the hands of a 0.9 consumer, which is about to claim it
            self._searched = item.id
            self._held = item.id not in self._run.db.list_at(self.lines[item.id])
        return b'w' if moves and self._held else b'r'

    def _find_line(self, task_id: bytes) -> None:
        state = self._run.read_state(task_id) if task_id in self._queued else None
        self.groups[task_id], level = (state.group, state.level) if state else (b'', b'')
        self.lines[task_id] = groups.list_of(self._run, self.groups[task_id], level)

    def _place(self, task_id: bytes) -> str:
        if task_id not in self._queued:
            return 'none'
        for name, place in (('delayed', 'delayed'), ('working', 'w'), ('rejected', 'd')):
            if task_id in self._run.db.zset_at(self._run.keys[name]).scores:
                return place
        return 'pending'


def _revision(db: Keyspace, key: bytes) -> int:
    """As HINCRBY reads it; 0 for anything else."""
    try:
        text = db.hash_at(key).get(b'revision', b'0')
    except TorrelqueReplyError:
        return 0
    return int(text) if re.fullmatch(rb'0|-?[1-9]\d*', text) and abs(int(text)) < 1 << 63 else 0

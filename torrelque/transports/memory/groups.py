"""Lines of waiting tasks: a list for each group, one for each level of the others. The model of lines.lua."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from typing import Any

from torrelque.errors import TorrelqueReplyError
from torrelque.transports.memory.prelude import PENDING, Rate, Run, State, microseconds, number, stamp, whole

__all__ = (
    'DEFAULT', 'LEVELS', 'Group', 'add', 'bury', 'count', 'forget_arrivals', 'forgotten', 'held', 'hold', 'is_ordered',
    'is_stray', 'is_uncounted', 'join', 'keep_tag', 'key_of', 'leave', 'leave_groups', 'list_of', 'misplaced',
    'place_touched', 'push', 'push_back', 'read_turn', 'recheck', 'recount', 'release', 'size', 'touch', 'unbury',
    'uncount', 'uncount_deliveries', 'use',
)  # fmt: skip

LEVELS = (b'high', b'low')

DEFAULT = b'*'
"""Stands for each group where it has no limits of its own."""

_RECORD = re.compile(rb'\S+ (\S+) (\S+) (\S+) (\S+) (\S+) (\S+) (\S+)')
"""Limits of a group: revision, then concurrency, deliveries, period, burst, weight, ordered, dead."""

_ARRIVAL = re.compile(rb'([0-9]+) ([0-9]+) (.*)', re.DOTALL)
"""When the rate permits the next delivery of a group, until when that is held, and while which task is its first."""

_RECHECK = re.compile(rb'(blocked|held) [0-9]{1,18}')
"""Which index is next to be placed again, and from which cursor on."""

_DIGITS = re.compile(rb'[0-9]+')


def key_of(run: Run, kind: bytes, group: bytes = b'') -> bytes:
    """One of the keys of all groups, or of one."""
    return b':'.join((run.keys['groups'], kind, *([group] if group else [])))


def list_of(run: Run, group: bytes, level: bytes = b'') -> bytes:
    """The list in which a task waits."""
    if group:
        return key_of(run, b'pending', group)
    return b'%b:%b' % (run.keys['pending'], level) if level else run.keys['pending']


def size(run: Run, key: bytes) -> int:
    """How much is in a collection; 0 if it is none."""
    with suppress(TorrelqueReplyError):
        value: Any = {'list': run.db.list_at, 'set': run.db.set_at, 'zset': run.db.zset_at}.get(run.db.type_at(key))
        return len(value(key)) if value else 0
    return 0


class Group(Rate):
    """The limits of a group. In what it does not say, it is as all groups are.

    ``until``: it is held until then, if the task ``first`` is its first, where there is one.
    """

    def __init__(self, run: Run, name: bytes) -> None:
        self.name: bytes = name
        limits = _hash(run, key_of(run, b'limits'))
        records = [limits.get(each, b'') for each in (name, DEFAULT)]
        own, default = map(_words, records)
        slots, weight, ordered, dead = (
            default[place] if own[place] == b'-' else own[place] for place in (0, 4, 5, 6)
        )  # fmt: skip
        rate = (default if own[1] == b'-' else own)[1:4]
        count, period, burst = number(rate[0], 0.0), number(rate[1], 0.0), number(rate[2], None)
        super().__init__(microseconds(run.now), 0.0)
        self.cost: float = 1 / max(1.0, number(weight, 1.0))
        self.is_ordered: bool = ordered == b'1'
        self.holds_dead: bool = dead == b'hold'
        revisions = [match and match[0] for match in map(_DIGITS.match, records)]
        self.since: float = 1000 * (max(number(revision, 0.0) for revision in revisions) + 1)
        most = number(slots, None)
        if self.is_ordered:
            most = 1.0 if most is None else min(most, 1.0)
        self.slots: float | None = most
        if burst is not None and count >= 1 and period >= 1:
            self.burst: float | None = burst
            self.interval: float = float(math.ceil(period / count))
        self.until: float = 0.0
        self.first: bytes = b''
        self.is_recorded: bool = False
        match = _ARRIVAL.fullmatch(_hash(run, key_of(run, b'arrivals')).get(name, b''))
        if match:
            self.is_recorded = True
            self.arrival: float = number(match[1], 0.0)
            self.until, self.first = number(match[2], 0.0), match[3]

    def held_until(self, run: Run) -> float:
        """Until when it is held now."""
        return 0.0 if self.first and self.front(run) != self.first else self.until

    def front(self, run: Run) -> bytes | None:
        """Its first task."""
        with suppress(TorrelqueReplyError):
            waiting = run.db.list_at(list_of(run, self.name))
            return waiting[-1] if waiting else None
        return None

    def save(self, run: Run) -> None:
        """Write its times down."""
        text = b'%b %b %b' % (whole(self.arrival), whole(self.until), self.first)
        _quietly(run.db.hset, key_of(run, b'arrivals'), {self.name: text})

    def index(self, run: Run, waiting: int, claimed: int) -> tuple[bytes | None, float]:
        """Where it belongs, with its score there: ready (''), blocked or held; None if none of its tasks waits."""
        if not waiting:
            return None, 0.0
        if self.holds_dead and size(run, key_of(run, b'rejected', self.name)):
            return b'held', math.inf
        count, time = self.allowed(claimed)
        until = max(0.0 if time is None else microseconds(time), self.held_until(run))
        if until > self.now:
            return b'held', float(stamp(until / 1_000_000))
        return b'' if count > 0 else b'blocked', float(stamp(run.now))


def forget_arrivals(run: Run) -> None:
    """Forget all times that are over. The script looks at some of them."""
    now = microseconds(run.now)
    times = [(name, _ARRIVAL.fullmatch(text)) for name, text in _hash(run, key_of(run, b'arrivals')).items()]
    over = [name for name, match in times if match and max(number(match[1], 0.0), number(match[2], 0.0)) <= now]
    if over:
        _quietly(run.db.hdel, key_of(run, b'arrivals'), over)


def _hash(run: Run, key: bytes) -> Mapping[bytes, bytes]:
    with suppress(TorrelqueReplyError):
        return run.db.hash_at(key)
    return {}


def _words(record: bytes) -> Sequence[bytes]:
    match = _RECORD.fullmatch(record)
    return match.groups() if match else [b'-'] * 7


def use(run: Run, letter: bytes) -> None:
    """Note that the queue uses a feature."""
    if letter not in run.uses:
        run.db.hset(run.keys['counters'], {b'uses': run.uses + letter})


def touch(run: Run, name: bytes, was: str = 'anywhere') -> None:
    """Have a group placed again before the call ends. ``was``: where it is; nowhere if none of its tasks waited."""
    run.touched[name] = was if run.touched.get(name, was) == was else 'anywhere'


# Where a group is -----------------------------------------------------------------------------------------------------
# Nothing here fails, whatever the types of keys are: it follows a script's first write.


def read_turn(run: Run) -> float:
    """The time of the lines."""
    match = re.match(rb'\S+', run.db.hash_at(run.keys['counters']).get(b'turn', b''))
    if match:
        return number(match[0], 0.0)
    return min(_scores(run, run.keys['groups']).values(), default=0.0)


def place(run: Run, name: bytes, was: str) -> None:
    """Put a group where it belongs: among those that can be served, or are blocked, or are held, or nowhere."""
    groups, idle = run.keys['groups'], key_of(run, b'idle')
    group, turn = Group(run, name), read_turn(run)
    claimed = size(run, key_of(run, b'working', name)) if group.slots is not None else 0
    index, score = group.index(run, 1 if was == 'nowhere' else size(run, list_of(run, name)), claimed)
    tag = _scores(run, groups).get(name) if was == 'anywhere' else None
    for kind in {'nowhere': (), 'blocked': (b'blocked',), 'anywhere': (b'blocked', b'held')}[was]:
        if index != kind:
            _quietly(run.db.zrem, key_of(run, kind), (name,))
    if index == b'':
        if tag is None:
            kept = _scores(run, idle).get(name)
            _quietly(run.db.zadd, groups, {name: max(kept or 0.0, turn)})
            if kept is not None:
                _quietly(run.db.zrem, idle, (name,))
    elif tag is not None:
        _quietly(run.db.zrem, groups, (name,))
        keep_tag(run, name, tag, turn)
    if index == b'held' or (index == b'blocked' and name not in _scores(run, key_of(run, index))):
        _quietly(run.db.zadd, key_of(run, index), {name: score})
    if group.is_recorded and max(group.arrival, group.until) <= group.now:
        _quietly(run.db.hdel, key_of(run, b'arrivals'), (name,))


def keep_tag(run: Run, name: bytes, tag: float, turn: float) -> None:
    """Remember when the next turn would be of a group that leaves those that can be served."""
    if tag > turn:
        _quietly(run.db.zadd, key_of(run, b'idle'), {name: tag})


def place_touched(run: Run) -> None:
    """Put each group where it belongs of which the call changed something."""
    for name, was in run.touched.items():
        place(run, name, was)
    run.touched.clear()


def forgotten(run: Run) -> bytes:
    """The letters of lines that have tasks and that the queue does not know of, because its counters were lost."""
    indexes = (run.keys['groups'], key_of(run, b'blocked'), key_of(run, b'held'))
    lines = {b'g': indexes, b'h': tuple(list_of(run, b'', level) for level in LEVELS)}
    return b''.join(
        letter for letter, keys in lines.items() if not run.has_used(letter) and any(size(run, key) for key in keys)
    )


def held(run: Run, limit: int) -> list[bytes]:
    """Groups whose time has come, up to this number."""
    if not run.has_used(b'g'):
        return []
    return [name for _, name in run.db.zset_at(key_of(run, b'held')).between(-math.inf, float(stamp(run.now)), limit)]


def recheck(run: Run) -> None:
    """Go on with placing groups again after the default limits changed."""
    text = run.db.hash_at(run.keys['counters']).get(b'recheck', b'')
    if not text:
        return
    match = _RECHECK.fullmatch(text)
    kind = match[1] if match else b''
    for _, name in run.db.zset_at(key_of(run, kind)).ordered() if match else ():
        touch(run, name)
    run.rechecks = kind == b'blocked'
    run.db.hset(run.keys['counters'], {b'recheck': b'held 0' if run.rechecks else b''})


def hold(run: Run, name: bytes, until: float, first: bytes) -> None:
    """Let nobody have a task of a group until then, as long as a task is its first, if one is named."""
    group = Group(run, name)
    is_shared = bool(first) and (group.front(run) != first or (group.until > group.now and _holds(run, group, first)))
    if is_shared or microseconds(until) > group.until:
        group.until, group.first = max(microseconds(until), group.until), b'' if is_shared else first
        group.save(run)
        forget_arrivals(run)
    touch(run, name)


def _holds(run: Run, group: Group, first: bytes) -> bool:
    """Whether another hold of a group is in force: of all its tasks, or while another one is its first."""
    if not group.first:
        return True
    state = run.read_state(group.first)
    return group.first != first and state is not None and (state.status, state.group) == (PENDING, group.name)


def _scores(run: Run, key: bytes) -> Mapping[bytes, float]:
    with suppress(TorrelqueReplyError):
        return run.db.zset_at(key).scores
    return {}


def _quietly(command: Callable[..., object], *args: object) -> object:
    with suppress(TorrelqueReplyError):
        return command(*args)
    return None


# Tasks in lines -------------------------------------------------------------------------------------------------------


def is_ordered(run: Run, state: State) -> bool:
    """Whether a task is one of an ordered group."""
    return bool(state.group) and Group(run, state.group).is_ordered


def push(run: Run, tasks: Iterable[tuple[bytes, State]], *, front: bool = False) -> None:
    """Put tasks into their lines, one after the other, to the back or to the front."""
    for task_id, state in tasks:
        place = run.db.rpush if front else run.db.lpush
        _push_to(run, place, list_of(run, state.group, state.level), task_id)
        if state.group:
            touch(run, state.group)


def join(run: Run, task_id: bytes, state: State) -> None:
    """Put a task of a schedule at the back of its line."""
    add(run, task_id, state.group, state.level)


def add(run: Run, task_id: bytes, group: bytes, level: bytes) -> None:
    """Put a new task at the back of its line."""
    key = list_of(run, group, level)
    if group and run.db.type_at(key) == 'none':
        touch(run, group, 'nowhere')
    _push_to(run, run.db.lpush, key, task_id)


def _push_to(run: Run, place: Callable[[bytes, Sequence[bytes]], object], key: bytes, task_id: bytes) -> None:
    try:
        place(key, (task_id,))
    except TorrelqueReplyError:  # of a wrong type: a claim finds it
        place(run.keys['pending'], (task_id,))


def push_back(run: Run, tasks: Sequence[tuple[bytes, State]]) -> None:
    """Return tasks to their lines: to the front of ordered groups, to the back of others."""
    first = [each for each in tasks if is_ordered(run, each[1])]
    push(run, [each for each in tasks if each not in first])
    push(run, reversed(first), front=True)


def leave(run: Run, ids: Iterable[bytes]) -> None:
    """Claims have ended."""
    ids = list(ids)
    run.db.zrem(run.keys['working'], ids)
    leave_groups(run, ids)


def leave_groups(run: Run, ids: Iterable[bytes]) -> None:
    """The claims of tasks do not count for their groups any more."""
    for task_id in ids if run.has_used(b'g') else ():
        state = run.read_state(task_id)
        if state is not None and state.group:
            _quietly(run.db.srem, key_of(run, b'working', state.group), (task_id,))
            touch(run, state.group)


def release(run: Run, task_id: bytes, state: State) -> None:
    """A task is finished, which matters if its group was at its limit."""
    if run.has_used(b'g') and state.group:
        _quietly(run.db.srem, key_of(run, b'working', state.group), (task_id,))
        if state.group in _scores(run, key_of(run, b'blocked')):
            touch(run, state.group, 'blocked')


def bury(run: Run, task_id: bytes) -> None:
    """A task is a dead letter, which may hold its group."""
    state = run.read_state(task_id) if run.has_used(b'g') else None
    if state is not None and state.group and Group(run, state.group).holds_dead:
        _quietly(run.db.sadd, key_of(run, b'rejected', state.group), [task_id])
        touch(run, state.group)


def unbury(run: Run, ids: Iterable[bytes]) -> set[bytes]:
    """Dead letters are about to be dead letters no more. Returns those that held their groups."""
    holding = set()
    for task_id in ids if run.has_used(b'g') else ():
        state = run.read_state(task_id)
        if state is not None and state.group:
            key = key_of(run, b'rejected', state.group)
            if _quietly(run.db.srem, key, (task_id,)):
                holding.add(task_id)
                touch(run, state.group)
    return holding


def uncount_deliveries(run: Run, deliveries: Iterable[tuple[bytes, bytes]]) -> None:
    """Take deliveries back that were none: each with its group and when it was."""
    times: dict[bytes, Counter[float]] = {}
    for name, text in deliveries if run.has_used(b'g') else ():
        times.setdefault(name, Counter())[microseconds(number(text, 0.0))] += 1
    for name, counts in times.items():
        group = Group(run, name)
        spared = sum(
            max(0.0, count * group.interval - max(0.0, group.now - time))
            for time, count in counts.items()
            if time > group.since
        )
        if group.interval and spared > 0:
            group.arrival = group.now + max(0.0, group.ahead - spared)
            group.save(run)


# For an audit ---------------------------------------------------------------------------------------------------------


def misplaced(run: Run, name: bytes) -> list[int]:
    """In how many indexes a group is, in how many it should be, and whether it waits for nothing."""
    scores = [
        run.db.zset_at(key).scores.get(name)
        for key in (run.keys['groups'], *(key_of(run, kind) for kind in (b'blocked', b'held')))
    ]
    count = sum(score is not None for score in scores)
    if name in LEVELS and run.db.exists(key_of(run, b'counters')):  # of another queue
        return [count, count, 0]
    waiting = size(run, list_of(run, name))
    index, _ = Group(run, name).index(run, waiting, size(run, key_of(run, b'working', name)))
    waits = scores[1] is not None or (scores[2] is not None and scores[2] > run.now)
    rechecked = run.db.hash_at(run.keys['counters']).get(b'recheck')
    return [count, int(waiting > 0), int(waits and index == b'' and not rechecked)]


def is_stray(run: Run, kind: bytes, name: bytes, task_id: bytes) -> bool:
    """Whether a group counts a claim or a dead letter that is none of its own."""
    listed = task_id in run.db.zset_at(run.keys[kind.decode()]).scores
    state = run.read_state(task_id)
    is_own = listed and state is not None and state.group == name
    return not is_own and _is_member(run, key_of(run, kind, name), task_id) is True


def is_uncounted(run: Run, task_id: bytes) -> bool:
    """Whether the group of a claimed task does not count it."""
    state = run.read_state(task_id) if run.has_used(b'g') else None
    if state is None or not state.group:
        return False
    return _is_member(run, key_of(run, b'working', state.group), task_id) is False


def _is_member(run: Run, key: bytes, task_id: bytes) -> bool | None:
    with suppress(TorrelqueReplyError):
        return task_id in run.db.set_at(key)
    return None


def recount(run: Run, task_id: bytes) -> bool:
    """The group of a claimed task counts it."""
    state = run.read_state(task_id)
    if state is not None:
        run.db.sadd(key_of(run, b'working', state.group), [task_id])
        touch(run, state.group)
    return True


def uncount(run: Run, kind: bytes, name: bytes, task_id: bytes) -> bool:
    """A group counts a claim or a dead letter no more."""
    run.db.srem(key_of(run, kind, name), (task_id,))
    touch(run, name)
    return True


def count(run: Run) -> int:
    """How many groups have waiting tasks, but cannot be served."""
    return sum(size(run, key_of(run, kind)) for kind in (b'blocked', b'held')) if run.has_lines else 0

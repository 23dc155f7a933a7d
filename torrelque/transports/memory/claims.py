"""Claims: which are live, how they end, and what becomes of those that nobody ended in time."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import groupby

from torrelque.core.models import ClaimMark
from torrelque.transports.memory import groups
from torrelque.transports.memory.prelude import (
    EXPIRED,
    PENDING,
    REJECTED,
    WORKING,
    Run,
    State,
    number,
    stamp,
    whole,
)

__all__ = (
    'BROKEN', 'Claimed', 'Dead', 'Late', 'Plan', 'begin_claim', 'bury', 'claimed_items', 'end_late', 'give_back',
    'look_aside', 'plan_return', 'receipts_in', 'recorded', 'remove_called_off', 'set_aside', 'trim', 'written',
)  # fmt: skip

SET_ASIDE = 604_800_000
"""Milliseconds for which an id without a payload can be found."""

EXPIRED_TTL = 60_000
"""Milliseconds for which the state of an expired task is kept."""

BROKEN = b'its state is not a hash'


@dataclass(slots=True)
class Claimed:
    """A task with a live claim. ``more`` are its item's arguments after the receipt, ``place`` is which item it was."""

    id: bytes
    state: State
    score: float = 0.0
    more: Sequence[bytes] = ()
    place: int = 0


@dataclass(slots=True)
class Dead:
    """A task for the dead letters; no ``state`` where that is not a hash."""

    id: bytes
    state: State | None
    reason: bytes


@dataclass(slots=True)
class Late:
    """A task that has expired."""

    id: bytes
    state: State


# Live claims --------------------------------------------------------------------------------------------------------


def is_live(state: State, score: float, token: bytes, count: bytes) -> bool:
    """Whether the receipt is the live claim of a task with this score in working.

    0.9 gives the task another score when it claims it, and leaves the claim. An empty token matches any live claim.
    """
    claim = state.claim
    return not token or (
        claim is not None and (claim.deadline, claim.token, claim.dequeue_count) == (score, token, number(count, None))
    )


def begin_claim(run: Run, task_id: bytes, state: State, deadline: bytes) -> None:
    """Write a claim into the state, and tell the watchers."""
    mark = ClaimMark(float(deadline), run.token, int(whole(state.dequeue_count + 1)), int(whole(state.revision + 1)))
    fields = {
        b'status': WORKING,
        b'claim': bytes(mark),
        b'last_dequeue_time': stamp(run.now),
        b'dequeue_count': whole(state.dequeue_count + 1),
    }
    if state.group:
        fields[b'fence'] = state.fence
    if mark[2:] != (1, 2):
        fields[b'revision'] = whole(state.revision)
    run.db.hset(run.state_key(task_id), fields)
    run.announce(task_id, mark.revision, WORKING)


def claimed_items(run: Run, width: int, *, shared: int = 0, keeps: bool = False) -> tuple[list[Claimed], list[bytes]]:
    """The items of a verb that acts for claims: ``width`` arguments each, the first three id, token and dequeue_count.

    The last of them may be ``shared`` by all. Returns the live ones and an answer for each: o ok, l lost, u unknown, x
    state of a wrong type. An id that occurs again finds its claim gone, unless the verb ``keeps`` claims.
    """
    working = run.db.zset_at(run.keys['working']).scores
    live: list[Claimed] = []
    ended: set[bytes] = set()
    answers = []
    for place, (task_id, token, count, *more) in enumerate(run.items(width, shared)):
        score = working.get(task_id)
        if score is None or task_id in ended:
            answers.append(b'l' if token else b'u')
        elif (state := run.read_state(task_id)) is None:
            answers.append(b'x')
        elif is_live(state, score, token, count):
            live.append(Claimed(task_id, state, score, more, place))
            answers.append(b'o')
            if not keeps:
                ended.add(task_id)
        else:
            answers.append(b'l')
    return live, answers


def written(receipts: Iterable[tuple[bytes, bytes]]) -> bytes:
    """What a claim records: runs of ids that have their dequeue_count and their length in common."""
    text = b''
    for (count, length), run in groupby(receipts, lambda each: (each[0], len(each[1]))):
        ids = [task_id for _, task_id in run]
        text += b'%b:%d:%d:%b' % (count, length, len(ids), b''.join(ids))
    return text


def receipts_in(answer: bytes) -> Iterator[tuple[bytes, bytes]]:
    """The dequeue_count and the id of each task that a recorded claim took."""
    at = 1
    while at < len(answer):
        count, length, times, _ = answer[at:].split(b':', 3)
        at += len(count) + len(length) + len(times) + 3
        for _ in range(int(times)):
            yield count, answer[at : at + int(length)]
            at += int(length)


def recorded(run: Run, answer: bytes) -> Iterator[tuple[Claimed, bytes]]:
    """Those that a recorded claim took and that are still its own, each with its dequeue_count."""
    for count, task_id in receipts_in(answer):
        score = run.db.zset_at(run.keys['working']).scores.get(task_id)
        state = run.read_state(task_id) if score is not None else None
        if score is not None and state is not None and is_live(state, score, run.token, count):
            yield Claimed(task_id, state, score), count


def give_back(run: Run, items: Sequence[Claimed]) -> None:
    """End claims as if the tasks had not been delivered: to the front of their lines, in order."""
    groups.leave(run, [item.id for item in items])
    items = remove_called_off(run, items)  # their deliveries still count for the rate
    times = [run.db.hash_at(run.state_key(item.id)).get(b'last_dequeue_time', b'') for item in items]
    run.uncount_deliveries(times)
    groups.uncount_deliveries(
        run, [(item.state.group, time) for item, time in zip(items, times, strict=True) if item.state.group]
    )
    for item in items:
        run.transition(item.id, item.state, PENDING, {b'dequeue_count': whole(item.state.dequeue_count - 1)})
    groups.push(run, tasks_of(reversed(items)), front=True)


def tasks_of(items: Iterable[Claimed]) -> list[tuple[bytes, State]]:
    """Their ids and states."""
    return [(item.id, item.state) for item in items]


def remove_called_off(run: Run, items: Sequence[Claimed], *, every: bool = False) -> list[Claimed]:
    """Remove those whose cancellation was asked for while they were worked on, or ``every`` one. Returns the others."""
    called_off = [item for item in items if every or item.state.called_off]
    if called_off:
        run.db.hash_at(run.keys['tasks'])
    for item in called_off:
        run.db.hdel(run.keys['tasks'], (item.id,))
        run.db.delete((run.state_key(item.id),))
        run.announce(item.id, item.state.revision + 1, b'cancelled')
    return [item for item in items if item not in called_off]


# Stale claims and due tasks -----------------------------------------------------------------------------------------


@dataclass(slots=True)
class Plan:
    """What is to become of tasks whose time has come.

    ``pushed`` go back to pending, in order; ``dead`` to the dead letters; ``late`` have expired; ``missing`` are ids
    without a payload.
    """

    stale: Mapping[bytes, None]
    due: Mapping[bytes, None]
    pushed: list[bytes] = field(default_factory=list)
    states: dict[bytes, State] = field(default_factory=dict)
    dead: list[Dead] = field(default_factory=list)
    late: list[Late] = field(default_factory=list)
    called_off: list[Claimed] = field(default_factory=list)
    missing: list[bytes] = field(default_factory=list)
    stale_count: int = 0
    held: list[bytes] = field(default_factory=list)

    def ends(self, run: Run, task_id: bytes, state: State | None) -> bool:
        """Whether a task whose turn has come ends: at its limit as a dead letter, which keeps its payload, or late."""
        reason = BROKEN if state is None else state.exhausted()
        if state is None or reason is not None:
            self.dead.append(Dead(task_id, state, reason or b''))
        elif run.is_late(state):
            self.late.append(Late(task_id, state))
        else:
            return False
        return True

    def carry_out(self, run: Run) -> int:
        """Do it, and return how many dead letters there are more."""
        groups.leave(run, self.stale)
        run.db.zrem(run.keys['delayed'], self.due)
        set_aside(run, self.missing)
        remove_called_off(run, self.called_off)
        for task_id in self.pushed:
            state = self.states[task_id]
            state.requeue_count += 1
            run.transition(
                task_id,
                state,
                PENDING,
                {b'last_requeue_time': stamp(run.now), b'requeue_count': whole(state.requeue_count)},
            )
        tasks = [(task_id, self.states[task_id]) for task_id in self.pushed]
        groups.push_back(run, tasks[: self.stale_count])
        groups.push(run, tasks[self.stale_count :])
        for name in self.held:
            groups.touch(run, name)
        bury(run, self.dead)
        return len(self.dead) + end_late(run, self.late)


def plan_return(run: Run, *, stale: int = 0, due: int = 0) -> Plan:
    """Look at up to this number of stale claims and due tasks. Writes nothing."""
    plan = Plan(_expired(run, 'working', stale), _expired(run, 'delayed', due))
    tasks = run.db.hash_at(run.keys['tasks']) if plan.stale or plan.due else {}
    for task_id in dict.fromkeys((*plan.stale, *plan.due)):
        if task_id not in tasks:
            plan.missing.append(task_id)
            continue
        state = run.read_state(task_id)
        if state is not None and state.called_off:
            plan.called_off.append(Claimed(task_id, state))
        elif not plan.ends(run, task_id, state) and state is not None:
            plan.pushed.append(task_id)
            plan.states[task_id] = state
    plan.held = groups.held(run, 20)
    plan.stale_count = sum(task_id in plan.stale for task_id in plan.pushed)
    return plan


def set_aside(run: Run, ids: Sequence[bytes]) -> None:
    """Ids without a payload: nobody can be given them, but an audit finds them until they are old."""
    missing = run.keys['missing']
    if ids:
        run.db.zadd(missing, dict.fromkeys(ids, float(stamp(run.now))))
        old = run.db.zset_at(missing).between(-math.inf, float(stamp(run.now - SET_ASIDE / 1000)), 20)
        run.db.zrem(missing, [member for _, member in old])
        run.db.pexpire(missing, SET_ASIDE)


def look_aside(run: Run, ids: Sequence[bytes]) -> None:
    """Fail before any write where the key is of a wrong type."""
    if ids:
        run.db.zset_at(run.keys['missing'])


def _expired(run: Run, name: str, limit: int) -> Mapping[bytes, None]:
    if not limit:
        return {}
    now = float(stamp(run.now))
    return dict.fromkeys(member for _, member in run.db.zset_at(run.keys[name]).between(float('-inf'), now, limit))


def bury(run: Run, dead: Sequence[Dead]) -> None:
    """To the dead letters, payload kept."""
    for item in dead:
        run.db.zadd(run.keys['rejected'], {item.id: float(stamp(run.now))})
        groups.bury(run, item.id)
        if item.state is not None:
            run.db.hdel(run.state_key(item.id), (b'cancel_time',))
            run.transition(item.id, item.state, REJECTED, {b'reason': item.reason, b'release_time': stamp(run.now)})


def end_late(run: Run, late: Sequence[Late]) -> int:
    """End tasks that nobody started in time, and return how many of them are dead letters."""
    rejected = 0
    for item in late:
        if item.state.rejects:
            rejected += 1
            bury(run, [Dead(item.id, item.state, b'expired')])
        else:
            run.transition(item.id, item.state, EXPIRED, {b'release_time': stamp(run.now)})
            run.db.pexpire(run.state_key(item.id), EXPIRED_TTL)
            run.db.hdel(run.keys['tasks'], (item.id,))
    run.count(expired=len(late) - rejected)
    return rejected


def trim(run: Run, cap: Sequence[bytes], added: int) -> None:
    """Remove dead letters beyond the cap, if there is one, the oldest first: as many as were added, and 20 more."""
    if not (added and cap and cap[0]):
        return
    db, keys = run.db, run.keys
    rejected = db.zset_at(keys['rejected'])
    surplus = min(len(rejected) - int(cap[0]), added + 20)
    if surplus > 0:
        ids = [member for _, member in rejected.between(-math.inf, math.inf, surplus)]
        groups.unbury(run, ids)
        db.zrem(keys['rejected'], ids)
        db.hdel(keys['tasks'], ids)
        db.delete([run.state_key(task_id) for task_id in ids])

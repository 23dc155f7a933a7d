"""The verbs: what each script does, a function each. The scripts' headers say what they are given and answer."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from contextlib import suppress
from itertools import chain, islice
from types import MappingProxyType

from torrelque.core.protocol import Reply
from torrelque.errors import TorrelqueReplyError
from torrelque.transports.memory import auditing, deleting, flow, schedules, shards
from torrelque.transports.memory.claims import (
    BROKEN,
    Claimed,
    Dead,
    Late,
    Plan,
    bury,
    claimed_items,
    end_late,
    give_back,
    look_aside,
    plan_return,
    recorded,
    remove_called_off,
    trim,
)
from torrelque.transports.memory.enqueueing import enqueue
from torrelque.transports.memory.prelude import (
    DELAYED,
    LANE_TTL,
    PENDING,
    REJECTED,
    WORKING,
    Command,
    Record,
    Run,
    State,
    laned,
    number,
    stamp,
    whole,
)

__all__ = ('VERBS',)

K = 20
"""Stale claims, due tasks and ids to be dropped that one claim looks at."""

MOST = 210
"""Ids that a claim looks at where tasks expire."""

SWEEP = 250


def mint(run: Run) -> Reply:
    """Make a lane."""
    run.check_features()
    (nonce,) = run.args
    last = number(run.db.string_at(run.keys['epoch']), 0.0)
    new = whole(max(last + 1, math.floor(run.now * 1_000_000)))
    run.db.put(run.keys['epoch'], new)
    run.db.put(b'%b:%b' % (run.keys['lane'], new), b'0 %b closed ' % nonce, LANE_TTL)
    return new


def drop(run: Run) -> Reply:
    """Let lanes expire whose client has no more calls to make."""
    run.check_features()
    dropped = 0
    for lane, nonce in zip(run.args[::2], run.args[1::2], strict=True):
        key = b'%b:%b' % (run.keys['lane'], lane)
        with suppress(TorrelqueReplyError):
            record = Record.parse(run.db.string_at(key))
            if record is not None and record.nonce == nonce:
                run.db.pexpire(key, 1)
                dropped += 1
    return dropped


def announce(run: Run) -> Reply:
    """List a worker, or no longer, and remove some that were not seen in time."""
    run.check_features()
    lifetime, worker_id, *said = run.args
    db, workers = run.db, run.keys['workers']
    some = [*islice(db.hash_at(workers).items(), K)]
    gone = [each for each, text in some if abs(run.now - number(_first_word(text), 0.0)) * 1000 > int(lifetime)]
    db.hdel(workers, [*gone, b'' if said else worker_id])  # as the script, which always removes one; '' is never an id
    if said:
        age, text = said
        db.hset(workers, {worker_id: b' '.join((stamp(run.now), stamp(run.now - float(age)), text))})
        db.pexpire(workers, int(lifetime))
    return b'OK'


def workers(run: Run) -> Reply:
    """A step through the workers; here one step shows them all."""
    found = run.db.hash_at(run.keys['workers'])
    return [b'0', stamp(run.now), [word for pair in found.items() for word in pair]]


def _first_word(text: bytes) -> bytes | None:
    match = re.match(rb'\S+', text)
    return match and match[0]


def claim(run: Run) -> Reply:
    """Claim up to n tasks, after schedules have added theirs and stale and due ones have returned to pending."""
    n, willing, *cap = run.args[3:]
    seen = run.enter()
    if seen is not None:
        outcome, answer = seen
        return _claimed_before(run, answer) if outcome == b'OK' else [outcome]
    run.check_features()
    spread = run.shards_of(b'claimed')
    if spread is not None:
        return [b'SHARDED', spread]
    db, keys = run.db, run.keys
    for name in ('working', 'delayed'):
        db.zset_at(keys[name])
    fired, wanted = schedules.fire_due(run) if run.has_used(b's') else (0, [])
    event = run.earliest()
    returns = event is not None and event <= float(stamp(run.now))
    plan = plan_return(run, stale=K, due=K - fired) if returns else Plan({}, {})
    choice = _Choice(run, plan, run.permitted(int(n), len(plan.stale)), K - fired)
    look_aside(run, plan.missing)
    if plan.dead or choice.dead or plan.late or choice.late or cap:
        db.zset_at(keys['rejected'])
    buried = plan.carry_out(run) + len(choice.dead)
    db.rpop(keys['pending'], choice.looked_at)
    bury(run, choice.dead)
    buried += end_late(run, choice.late)
    run.drop_timer()
    short = int(choice.short)
    reply: list[Reply] = [b'OK', b'', [short, *wanted] if wanted else short, stamp(run.now)]
    receipts = []
    for task in choice.taken:
        state, deadline, count = task.state, stamp(run.now + task.state.timeout), whole(task.state.dequeue_count + 1)
        db.zadd(keys['working'], {task.id: float(deadline)})
        event = min(event or math.inf, run.now + state.timeout)
        run.transition(
            task.id,
            state,
            WORKING,
            {b'claim': run.token, b'last_dequeue_time': stamp(run.now), b'dequeue_count': count},
            claimed=True,
        )
        receipts.append(b'%b:%d:%b' % (count, len(task.id), task.id))
        reply += [task.id, choice.payloads[task.id], deadline, _more(task, count)]
    run.count_deliveries(len(choice.taken))
    run.count(claimed=len(choice.taken), requeued=plan.stale_count, rejected=buried)
    trim(run, cap, buried)
    alarm = None if choice.taken else run.take_timer(float(willing))
    run.hint(empty=not choice.taken, event=None if returns or run.uses else event)
    if alarm is not None:
        reply[1] = stamp(alarm)
    run.record(b'open', b'c' + b''.join(receipts))
    return reply


class _Choice:
    """Which tasks a claim takes: from the front of pending as it will be once the planned ones are back.

    An id is passed over that came before, or is elsewhere, too, and set aside if it has no payload; at most n + K are
    looked at, or `MOST` where tasks expire. A state that says pending is believed.
    """

    def __init__(self, run: Run, plan: Plan, n: int, most_due: int) -> None:
        db, keys = run.db, run.keys
        self.taken: list[Claimed] = []
        self.payloads: dict[bytes, bytes] = {}
        self.dead: list[Dead] = []
        self.late: list[Late] = []
        self.looked_at = 0
        called_off = {item.id for item in plan.called_off}
        front = chain(reversed(db.list_at(keys['pending'])), plan.pushed)
        most = max(n + K, MOST) if run.has_used(b'e') else n + K
        for task_id in islice(front, most if n else 0):
            if len(self.taken) == n:
                break
            self.looked_at += 1
            payload = db.hash_at(keys['tasks']).get(task_id)
            if payload is None:
                plan.missing.append(task_id)
                continue
            if task_id in self.payloads or task_id in called_off:
                continue
            known = plan.states.get(task_id)
            state = known or run.read_state(task_id)
            if known:
                known.is_special = True
            if (known or state is None or state.status != PENDING) and _is_elsewhere(run, plan, task_id):
                continue
            self.payloads[task_id] = payload
            reason = BROKEN if state is None else state.exhausted()
            if state is None or reason is not None:
                self.dead.append(Dead(task_id, state, reason or b''))
            elif run.is_late(state):
                self.late.append(Late(task_id, state))
            else:
                self.taken.append(Claimed(task_id, state))
        self.short = len(self.taken) < n and (
            len(plan.stale) == K or len(plan.due) == most_due or self.looked_at == most
        )


def _is_elsewhere(run: Run, plan: Plan, task_id: bytes) -> bool:
    """Whether an id is in another collection as well, and will be there once the planned ones are back."""
    scores = {name: run.db.zset_at(run.keys[name]).scores for name in ('working', 'delayed')}
    return (
        (task_id in scores['working'] and task_id not in plan.stale)
        or (task_id in scores['delayed'] and task_id not in plan.due)
        or task_id in run.db.zset_at(run.keys['rejected']).scores
    )


def _more(task: Claimed, count: bytes, *, always: bool = False) -> bytes:
    """What is special about a delivery; nothing if it is the first of a task without anything."""
    state = task.state
    if not (always or state.is_special):
        return b''
    return b'%b %.0f %b' % (count, float(count) - state.dequeue_base, state.headers)


def _claimed_before(run: Run, answer: bytes) -> Reply:
    """A repeat answers what the caller still holds of the first answer. If that is nothing, the caller claims again."""
    tasks = run.db.hash_at(run.keys['tasks']) if len(answer) > 1 else {}
    reply: list[Reply] = []
    for task, count in recorded(run, answer):
        if task.id in tasks:
            reply += [task.id, tasks[task.id], stamp(task.score), _more(task, count, always=True)]
    run.refresh_lane()
    return [b'OK', b'', 0 if reply else 1, stamp(run.now), *reply]


@laned(looks=False, hints=False)
def release(run: Run) -> bytes:
    """Remove tasks that were worked off; with a result, or if asked to, keep the state for a while."""
    db, keys = run.db, run.keys
    is_limited = run.has_used(b'l') and bool(db.list_at(keys['pending']))
    items, answers = claimed_items(run, 6, shared=3)
    if items:
        db.hdel(keys['tasks'], [item.id for item in items])
    db.zrem(keys['working'], [item.id for item in items])
    refused = 0
    for item in items:
        key, (status, ttl, result) = run.state_key(item.id), item.more
        refused += status == REJECTED
        if ttl:
            told = {} if ttl.startswith(b'-') else {b'result': result}
            run.transition(item.id, item.state, status, {**told, b'release_time': stamp(run.now)})
            db.pexpire(key, abs(int(ttl)))
        else:
            run.announce(item.id, item.state.revision + 1, status)
            db.delete((key,))
    run.count(completed=len(items) - refused, rejected=refused)
    if is_limited:
        run.summon()
    return b''.join(answers)


@laned()
def requeue(run: Run) -> bytes:
    """Return claimed tasks to the back of pending, or to delayed."""
    db, keys = run.db, run.keys
    items, answers = claimed_items(run, 6)
    db.zrem(keys['working'], [item.id for item in items])
    items = remove_called_off(run, items)
    for item in items:
        delay, timeout, uncounted = item.more
        fields = {b'timeout': timeout} if timeout else {}
        if uncounted:
            fields[b'dequeue_base'] = whole(min(item.state.dequeue_base + 1, item.state.dequeue_count))
        if delay:
            run.transition(item.id, item.state, DELAYED, fields)
            db.zadd(keys['delayed'], {item.id: run.due_time(item.state.expires, delay)})
        else:
            fields[b'last_requeue_time'] = stamp(run.now)
            fields[b'requeue_count'] = whole(item.state.requeue_count + 1)
            run.transition(item.id, item.state, PENDING, fields)
            db.lpush(keys['pending'], (item.id,))
    run.count(requeued=len(items))
    return b''.join(answers)


@laned()
def reject(run: Run) -> bytes:
    """Move claimed tasks to the dead letters, payload kept."""
    run.db.hash_at(run.keys['tasks'])
    items, answers = claimed_items(run, 5)
    run.db.zrem(run.keys['working'], [item.id for item in items])
    bury(run, [Dead(item.id, item.state, item.more[0]) for item in items])
    run.count(rejected=len(items))
    trim(run, run.args[7:8], len(items))
    return b''.join(answers)


@laned()
def giveback(run: Run) -> bytes:
    """Return claims as if the tasks had not been delivered."""
    items, answers = claimed_items(run, 3)
    give_back(run, items)
    return b''.join(answers)


def extend(run: Run) -> Reply:
    """Renew claims. It never shortens one, and so is safe to repeat without a lane."""
    run.check_features()
    items, answers = claimed_items(run, 4, keeps=True)
    latest: dict[bytes, float] = {}
    for item in items:
        timeout = number(item.more[0], item.state.timeout)
        deadline = stamp(max(latest.get(item.id, item.score), run.now + timeout))
        answers[item.place] = b'a' * item.state.called_off + deadline
        latest[item.id] = float(deadline)
        run.db.zadd(run.keys['working'], {item.id: float(deadline)})
    return answers


@laned(looks=False, hints=False)
def progress(run: Run) -> bytes:
    """Note how far claimed tasks have come, and tell their watchers."""
    items, answers = claimed_items(run, 4, keeps=True)
    for item in items:
        state = item.state
        noted = b'%b %.0f %b %b' % (state.claim or b'', state.dequeue_count, stamp(run.now), item.more[0])
        run.db.hset(run.state_key(item.id), {b'progress': noted})
        run.announce(item.id, state.revision, b'progress')
    return b''.join(answers)


def settle(run: Run) -> Reply:
    """Make an end of a call whose reply will not come."""
    record = run.lane_record()
    ahead = int(run.args[2]) - record.sequence if record is not None and record.nonce == run.args[1] else -1
    if record is None or ahead < 0:
        return [b'none']
    run.check_features()
    run.look()
    done = ahead == 0 and record.phase == b'open'
    if done and not record.answer.startswith(b'c'):
        run.drop_timer()
        run.hint()
        run.refresh_lane()
        return [b'finished', record.answer[1:]]
    give_back(run, [item for item, _ in recorded(run, record.answer)] if done else [])
    run.drop_timer()
    run.hint()
    run.record(b'closed', b'')  # a call that has yet to arrive finds this, and does nothing
    return [b'aborted']


def tick(run: Run) -> Reply:
    """Return stale and due tasks to pending, and take over the next event, or leave it."""
    run.check_features()
    run.look()
    plan = plan_return(run, stale=K, due=K)
    look_aside(run, plan.missing)
    buried = plan.carry_out(run)
    run.count(requeued=plan.stale_count, rejected=buried)
    trim(run, run.args[2:], buried)
    run.drop_timer()
    alarm = run.take_timer(float(run.args[1]))
    run.hint()
    return b'' if alarm is None else stamp(alarm)


def sweep(run: Run) -> Reply:
    """Return stale claims or due tasks to pending, or end those at the front of pending that have expired."""
    run.check_features()
    run.look()
    (kind, *cap), pending = run.args, run.keys['pending']
    plan = plan_return(run, stale=SWEEP if kind == b'stale' else 0, due=SWEEP if kind == b'due' else 0)
    look_aside(run, plan.missing)
    sought = kind == b'expired' and run.has_used(b'e')
    front = list(islice(reversed(run.db.list_at(pending)), SWEEP)) if sought else []
    gone = []
    for task_id in dict.fromkeys(front):
        state = run.read_state(task_id) if task_id in run.db.hash_at(run.keys['tasks']) else None
        if state is not None and state.status == PENDING and run.is_late(state) and plan.ends(run, task_id, state):
            gone.append(task_id)
    for task_id in gone:
        run.db.lrem(pending, -1, task_id)
    buried = plan.carry_out(run)
    run.count(requeued=plan.stale_count, rejected=buried)
    trim(run, cap, buried)
    run.hint()
    more = SWEEP in (len(plan.stale), len(plan.due)) or (len(front) == SWEEP and bool(gone))
    return [len(plan.pushed) + len(plan.late), int(more)]


def undequeue(run: Run) -> Reply:
    """Return to pending what two sweeps have seen in dequeueing, and note what this one saw."""
    db, keys = run.db, run.keys
    run.check_features()
    run.look()
    db.list_at(keys['dequeueing'])
    db.set_at(keys['undequeued'])
    to_return, to_mark, ids = int(run.args[0]), int(run.args[1]), list(run.args[2:])
    returned, marked, forgotten = ids[:to_return], ids[to_return:][:to_mark], ids[to_return + to_mark :]
    pushed = [task_id for task_id in returned if db.lrem(keys['dequeueing'], 0, task_id)]
    db.srem(keys['undequeued'], [*forgotten, *returned])
    db.sadd(keys['undequeued'], marked)
    db.lpush(keys['pending'], pushed)
    run.hint()
    return len(pushed)


@laned()
def cancel(run: Run) -> bytes:
    """Remove one pending or delayed task, or, if the caller says so, one that is worked on."""
    db, keys, task_id, running = run.db, run.keys, *run.args[3:5]
    known, claimed = task_id in db.hash_at(keys['tasks']), task_id in db.zset_at(keys['working']).scores
    state = run.read_state(task_id)
    if state is None:
        return b'x'
    if claimed and known and running:
        if running == b'ask':
            if not run.has_used(b'c'):
                db.hset(keys['counters'], {b'uses': run.uses + b'c'})
            db.hset(run.state_key(task_id), {b'cancel_time': stamp(run.now)})
        else:
            db.zrem(keys['working'], (task_id,))
            remove_called_off(run, [Claimed(task_id, state)], every=True)
        run.announce_cancel(running, task_id)
        return b'c'
    if claimed or not (known and (db.zrem(keys['delayed'], (task_id,)) or db.lrem(keys['pending'], 0, task_id))):
        return b'u'
    remove_called_off(run, [Claimed(task_id, state)], every=True)
    return b'o'


@laned()
def redrive(run: Run) -> bytes:
    """Return dead letters to the back of pending, their deliveries counted from 0. They do not expire."""
    db, keys = run.db, run.keys
    rejected, tasks = db.zset_at(keys['rejected']).scores, db.hash_at(keys['tasks'])
    dead: dict[bytes, State] = {}
    answers = []
    for task_id in run.args[3:]:
        if task_id not in rejected or task_id not in tasks or task_id in dead:
            answers.append(b'u')
        elif (state := run.read_state(task_id)) is None:
            answers.append(b'x')
        else:
            dead[task_id] = state
            answers.append(b'o')
    db.zrem(keys['rejected'], dead)
    for task_id, state in dead.items():
        db.hdel(run.state_key(task_id), (b'reason', b'release_time', b'expires', b'on_expiry'))
        run.transition(task_id, state, PENDING, {b'dequeue_base': whole(state.dequeue_count)})
    db.lpush(keys['pending'], list(dead))
    return b''.join(answers)


@laned()
def purge(run: Run) -> bytes:
    """Remove dead letters for good."""
    db, keys = run.db, run.keys
    rejected = db.zset_at(keys['rejected']).scores
    db.hash_at(keys['tasks'])
    gone: dict[bytes, None] = {}
    answers = []
    for task_id, before in run.items(2):
        score = rejected.get(task_id)
        fits = score is not None and task_id not in gone and (not before or score <= float(before))
        answers.append(b'o' if fits else b'u')
        if fits:
            gone[task_id] = None
    db.zrem(keys['rejected'], gone)
    db.hdel(keys['tasks'], gone)
    db.delete([run.state_key(task_id) for task_id in gone])
    return b''.join(answers)


def stats(run: Run) -> Reply:
    """Count, at one moment."""
    db, keys = run.db, run.keys
    refused, pending = len(db.zset_at(keys['rejected'])), db.list_at(keys['pending'])
    counters = db.hash_at(keys['counters'])
    return [
        len(db.hash_at(keys['tasks'])) - refused,
        len(pending),
        len(db.zset_at(keys['working'])),
        len(db.zset_at(keys['delayed'])),
        refused,
        _age(run, pending[-1]) if pending else b'',
        *(whole(number(counters.get(name), 0.0)) for name in COUNTERS),
        *(b'' if run.paused_until() is None else counters.get(name, b'') for name in flow.PAUSE),
        counters.get(b'limits', b'') if run.has_used(b'l') else b'',
    ]


COUNTERS = (b'enqueued', b'claimed', b'completed', b'requeued', b'rejected', b'expired')


def _age(run: Run, task_id: bytes) -> bytes:
    try:
        enqueued = number(run.db.hash_at(run.state_key(task_id)).get(b'enqueue_time'), None)
    except TorrelqueReplyError:
        return b''
    return b'' if enqueued is None else stamp(max(0.0, run.now - enqueued))


def page(run: Run) -> Reply:
    """A step through the ids of a queue; here one step shows them all."""
    place = run.args[0].decode()
    if place == 'tasks':
        return [b'0', *run.db.hash_at(run.keys['tasks'])]
    return [b'0', *run.db.zset_at(run.keys[place]).scores]


VERBS: Mapping[str, Command] = MappingProxyType(
    {
        'mint': mint,
        'drop': drop,
        'announce': announce,
        'workers': workers,
        'enqueue': enqueue,
        'claim': claim,
        'release': release,
        'requeue': requeue,
        'reject': reject,
        'giveback': giveback,
        'extend': extend,
        'progress': progress,
        'settle': settle,
        'tick': tick,
        'sweep': sweep,
        'undequeue': undequeue,
        'cancel': cancel,
        'redrive': redrive,
        'purge': purge,
        'stats': stats,
        'page': page,
        'inspect': auditing.inspect,
        'repair': auditing.repair,
        'erase': deleting.erase,
        'wipe': deleting.wipe,
        'flow': flow.flow,
        'schedule': schedules.schedule,
        'survey': shards.survey,
        'layout': shards.layout,
        'clear': shards.clear,
    }
)

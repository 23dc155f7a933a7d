"""The verbs: what each script does, a function each. The scripts' headers say what they are given and answer."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from contextlib import suppress
from itertools import chain, islice
from types import MappingProxyType

from torrelque.core.protocol import Reply
from torrelque.errors import TorrelqueReplyError
from torrelque.transports.memory import auditing, deleting, flow, groups, schedules, shards
from torrelque.transports.memory.claims import (
    BROKEN,
    Claimed,
    Dead,
    Late,
    Plan,
    begin_claim,
    bury,
    claimed_items,
    end_late,
    give_back,
    look_aside,
    plan_return,
    recorded,
    remove_called_off,
    set_aside,
    tasks_of,
    trim,
    written,
)
from torrelque.transports.memory.commands import score_text
from torrelque.transports.memory.enqueueing import enqueue
from torrelque.transports.memory.laned import laned
from torrelque.transports.memory.prelude import (
    DELAYED,
    LANE_TTL,
    PENDING,
    REJECTED,
    Command,
    Record,
    Run,
    State,
    number,
    stamp,
    whole,
)
from torrelque.transports.memory.serving import Serving

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
    if _recalls_lines(run, cap):
        return [b'OK', b'', 1, stamp(run.now)]
    db, keys = run.db, run.keys
    for name in ('working', 'delayed'):
        db.zset_at(keys[name])
    fired, wanted = schedules.fire_due(run) if run.has_used(b's') else (0, [])
    event = run.earliest()
    returns = event is not None and event <= float(stamp(run.now))
    plan = plan_return(run, stale=K, due=K - fired) if returns else Plan({}, {})
    if run.has_lines:
        choice, buried, fields = _take_from_lines(run, plan, int(n), cap, K - fired)
        requeued = 0
    else:
        choice = _Choice(run, plan, run.permitted(int(n), len(plan.stale)), K - fired)
        look_aside(run, plan.missing)
        if plan.dead or choice.dead or plan.late or choice.late or cap:
            db.zset_at(keys['rejected'])
        buried = plan.carry_out(run) + len(choice.dead)
        db.rpop(keys['pending'], choice.looked_at)
        bury(run, choice.dead)
        buried += end_late(run, choice.late)
        fields, requeued = {}, plan.stale_count
    run.drop_timer()
    reply: list[Reply] = [b'OK', b'', [int(choice.short), *wanted] if wanted else int(choice.short), stamp(run.now)]
    receipts = []
    for task in choice.taken:
        state, deadline, count = task.state, stamp(run.now + task.state.timeout), whole(task.state.dequeue_count + 1)
        db.zadd(keys['working'], {task.id: float(deadline)})
        event = min(event or math.inf, run.now + state.timeout)
        begin_claim(run, task.id, state, deadline)
        receipts.append((count, task.id))
        reply += [task.id, choice.payloads[task.id], _lease(deadline, state), _more(task, count)]
    run.count_deliveries(len(choice.taken))
    run.count(claimed=len(choice.taken), requeued=requeued, rejected=buried)
    if choice.taken:
        db.hset(keys['counters'], fields)
    trim(run, cap, buried)
    alarm = None if choice.taken else run.take_timer(float(willing))
    groups.place_touched(run)
    run.hint(empty=not choice.taken, event=None if returns or run.uses else event)
    if alarm is not None:
        reply[1] = stamp(alarm)
    run.record(b'open', b'c' + written(receipts))
    return reply


def _recalls_lines(run: Run, cap: Sequence[bytes]) -> bool:
    """Whether the counters were lost, and that tasks wait in groups or levels is noted again."""
    counters = run.db.hash_at(run.keys['counters'])
    letters = groups.forgotten(run) if number(counters.get(b'claimed'), 0.0) == 0 else b''
    if letters:
        if any(cap):
            run.db.zset_at(run.keys['rejected'])
        run.db.hset(run.keys['counters'], {b'uses': run.uses + letters})
    return bool(letters)


def _take_from_lines(
    run: Run, plan: Plan, n: int, cap: Sequence[bytes], most_due: int
) -> tuple[_Choice, int, dict[bytes, bytes]]:
    """Return what is to be returned, then take tasks from the lines in their turns.

    Also returns how many dead letters there are more, and what is to be noted in the counters.
    """
    db, keys = run.db, run.keys
    if plan.stale or plan.due or plan.held or db.hash_at(keys['counters']).get(b'recheck'):
        run.look()
        look_aside(run, plan.missing)
        buried = plan.carry_out(run)
        run.count(requeued=plan.stale_count, rejected=buried)
        trim(run, cap, buried)
        groups.recheck(run)
        groups.place_touched(run)
    choice, rest = _Choice(run, Plan({}, {}), 0, K), Plan({}, {})
    n = run.permitted(n)
    most = max(n + K, MOST) if run.has_used(b'e') else n + K
    serving = Serving(run, n, is_strict=run.limits().is_strict) if n > 0 else None
    while serving and len(choice.taken) < n and choice.looked_at < most:
        ids = serving.pick(min(n - len(choice.taken), most - choice.looked_at))
        if not ids:
            break
        choice.looked_at += len(ids)
        for place, task_id in enumerate(ids):
            is_taken = choice.take(task_id, rest, serving.name_of(place))
            serving.settle(place, task_id, is_taken=is_taken)
    if choice.dead or choice.late or cap:
        db.zset_at(keys['rejected'])
    if serving:
        serving.look_back()
    look_aside(run, rest.missing)
    set_aside(run, rest.missing)
    bury(run, choice.dead)
    buried = len(choice.dead) + end_late(run, choice.late)
    fields = serving.write() if serving else {}
    groups.leave_groups(run, [task_id for task_id, _ in choice.misplaced])
    groups.push(run, choice.misplaced)
    for task in choice.taken:
        if serving and task.state.group:
            task.state.fence = serving.next_fence(task.state.group)
            fields[b'fence'] = serving.last_fence()
    choice.short = len(choice.taken) < n and (
        K in (len(plan.stale), len(plan.held))
        or len(plan.due) == most_due
        or run.rechecks
        or choice.looked_at == most
        or (serving is not None and serving.is_short)
    )
    return choice, buried, fields


class _Choice:
    """Which tasks a claim takes: from the front of pending as it will be once the planned ones are back.

    An id is passed over that came before, or is elsewhere, too, and set aside if it has no payload; at most n + K are
    looked at, or `MOST` where tasks expire. A state that says pending is believed.
    """

    def __init__(self, run: Run, plan: Plan, n: int, most_due: int) -> None:
        self._run = run
        self.taken: list[Claimed] = []
        self.payloads: dict[bytes, bytes] = {}
        self.dead: list[Dead] = []
        self.late: list[Late] = []
        self.misplaced: list[tuple[bytes, State]] = []
        self.looked_at = 0
        self._called_off = {item.id for item in plan.called_off}
        front = chain(reversed(run.db.list_at(run.keys['pending'])), plan.pushed)
        most = max(n + K, MOST) if run.has_used(b'e') else n + K
        for task_id in islice(front, most if n else 0):
            if len(self.taken) == n:
                break
            self.looked_at += 1
            self.take(task_id, plan)
        self.short = len(self.taken) < n and (
            len(plan.stale) == K or len(plan.due) == most_due or self.looked_at == most
        )

    def take(self, task_id: bytes, plan: Plan, group: bytes | None = None) -> bool:
        """Look at one task of a line, and whether it is taken."""
        run = self._run
        payload = run.db.hash_at(run.keys['tasks']).get(task_id)
        if payload is None:
            plan.missing.append(task_id)
            return False
        if task_id in self.payloads or task_id in self._called_off:
            return False
        known = plan.states.get(task_id)
        state = known or run.read_state(task_id)
        if known:
            known.is_special = True
        elif state is not None and not state.is_special and group in (None, state.group):
            state.max_dequeues, state.headers, state.dequeue_base = None, b'', 0.0
        if (known or state is None or state.status != PENDING) and _is_elsewhere(run, plan, task_id):
            return False
        self.payloads[task_id] = payload
        reason = BROKEN if state is None else state.exhausted()
        if state is None or reason is not None:
            self.dead.append(Dead(task_id, state, reason or b''))
        elif run.is_late(state):
            self.late.append(Late(task_id, state))
        elif group is not None and state.group != group:  # another program moved it: a sweep of 0.9 knows no groups
            if run.db.type_at(groups.list_of(run, state.group, state.level)) in ('list', 'none'):
                self.misplaced.append((task_id, state))
            else:
                self.dead.append(Dead(task_id, state, b'the list of its group has a wrong type'))
        else:
            self.taken.append(Claimed(task_id, state))
            return True
        return False


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


def _lease(deadline: bytes, state: State) -> bytes:
    """Until when a task is leased; of one in a group also its fence and the group."""
    return b'%b %b %b' % (deadline, state.fence, state.group) if state.group else deadline


def _claimed_before(run: Run, answer: bytes) -> Reply:
    """A repeat answers what the caller still holds of the first answer. If that is nothing, the caller claims again."""
    tasks = run.db.hash_at(run.keys['tasks']) if len(answer) > 1 else {}
    reply: list[Reply] = []
    for task, count in recorded(run, answer):
        if task.id in tasks:
            reply += [task.id, tasks[task.id], _lease(stamp(task.score), task.state), _more(task, count, always=True)]
    run.refresh_lane()
    return [b'OK', b'', 0 if reply else 1, stamp(run.now), *reply]


@laned(looks=False, hints=False, places=False)
def release(run: Run) -> bytes:
    """Remove tasks that were worked off; with a result, or if asked to, keep the state for a while."""
    db, keys = run.db, run.keys
    is_limited = run.has_used(b'l')
    if is_limited:
        db.list_at(keys['pending'])
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
    for item in items:
        groups.release(run, item.id, item.state)
    if run.touched or is_limited:
        groups.place_touched(run)
        run.summon()
    return b''.join(answers)


@laned()
def requeue(run: Run) -> bytes:
    """Return claimed tasks to their lines, or to delayed; in an ordered group they are first, and others wait."""
    db, keys = run.db, run.keys
    items, answers = claimed_items(run, len(REQUEUED))
    groups.leave(run, [item.id for item in items])
    items = remove_called_off(run, items)
    pushed, passed, waiting, later = list[Claimed](), list[Claimed](), list[Claimed](), dict[bytes, float]()
    for item in items:
        delay, timeout, uncounted, hold = item.more
        state, fields = item.state, {b'timeout': timeout} if timeout else {}
        if uncounted:
            fields[b'dequeue_base'] = whole(min(state.dequeue_base + 1, state.dequeue_count))
        waits = False
        if run.has_used(b'g') and state.group and delay and hold != b'pass':
            waits = hold == b'group' or groups.is_ordered(run, state)
        if delay and not waits:
            run.transition(item.id, state, DELAYED, fields)
            later[item.id] = run.due_time(state.expires, delay)
        else:
            (waiting if waits else passed if hold == b'pass' else pushed).append(item)
            fields[b'last_requeue_time'] = stamp(run.now)
            fields[b'requeue_count'] = whole(state.requeue_count + 1)
            run.transition(item.id, state, PENDING, fields)
    groups.push_back(run, tasks_of(pushed))
    groups.push(run, tasks_of(passed))
    groups.push(run, tasks_of(reversed(waiting)), front=True)
    for item in waiting:
        delay, _, _, hold = item.more
        is_own = hold != b'group'
        until = run.due_time(item.state.expires, delay) if is_own else run.now + float(delay)
        groups.hold(run, item.state.group, until, item.id if is_own else b'')
    db.zadd(keys['delayed'], later)
    run.count(requeued=len(items))
    return b''.join(answers)


REQUEUED = ('id', 'token', 'dequeue_count', 'delay', 'timeout', 'uncounted', 'hold')


@laned()
def reject(run: Run) -> bytes:
    """Move claimed tasks to the dead letters, payload kept."""
    run.db.hash_at(run.keys['tasks'])
    items, answers = claimed_items(run, 5)
    groups.leave(run, [item.id for item in items])
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
        run.move_claim(item.id, item.state, item.score, deadline)
    return answers


@laned(looks=False, hints=False)
def progress(run: Run) -> bytes:
    """Note how far claimed tasks have come, and tell their watchers."""
    items, answers = claimed_items(run, 4, keeps=True)
    for item in items:
        state = item.state
        noted = b'%b %.0f %b %b' % (state.token, state.dequeue_count, stamp(run.now), item.more[0])
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
    groups.place_touched(run)
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
    if run.has_lines:
        groups.recheck(run)
    run.drop_timer()
    alarm = run.take_timer(float(run.args[1]))
    groups.place_touched(run)
    run.hint()
    return b'' if alarm is None else stamp(alarm)


def sweep(run: Run) -> Reply:
    """Return stale or due tasks to pending, or end expired ones at the front of pending or of groups."""
    run.check_features()
    run.look()
    kind, *more = run.args
    cap, names = more[:1], more[1:]
    plan = plan_return(run, stale=SWEEP if kind == b'stale' else 0, due=SWEEP if kind == b'due' else 0)
    look_aside(run, plan.missing)
    lines: dict[bytes, bytes] = {}
    if kind == b'expired' and run.has_used(b'e'):
        levels = () if names else (b'', *groups.LEVELS) if run.has_used(b'h') else (b'',)
        lines = {groups.list_of(run, b'', level): b'' for level in levels}
        lines.update((groups.list_of(run, name), name) for name in names if run.has_used(b'g'))
    most = SWEEP // max(1, len(names) or len(lines))
    gone, full = dict[bytes, bytes](), list[bytes]()
    for key, name in lines.items():
        front = [] if name and run.db.type_at(key) != 'list' else [*islice(reversed(run.db.list_at(key)), most)]
        count = len(gone)
        for task_id in front:
            state = run.read_state(task_id) if task_id in run.db.hash_at(run.keys['tasks']) else None
            if state is None or state.status != PENDING or not run.is_late(state) or task_id in gone:
                continue
            if groups.list_of(run, state.group, state.level) == key:
                gone[task_id] = key
                plan.ends(run, task_id, state)
        if len(front) == most and len(gone) > count:
            full.append(name)
    for task_id, key in gone.items():
        run.db.lrem(key, -1, task_id)
        if lines[key]:
            groups.touch(run, lines[key])
    buried = plan.carry_out(run)
    run.count(requeued=plan.stale_count, rejected=buried)
    trim(run, cap, buried)
    groups.place_touched(run)
    run.hint()
    is_full = SWEEP in (len(plan.stale), len(plan.due)) or bool(full)
    in_groups = bool(lines) and not names and run.has_used(b'g')
    return [len(plan.pushed) + len(plan.late), 1 if is_full else 2 if in_groups else 0, *(full if names else ())]


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
    line = groups.list_of(run, state.group, state.level)
    if claimed and known and running:
        if running == b'ask':
            if not run.has_used(b'c'):
                db.hset(keys['counters'], {b'uses': run.uses + b'c'})
            db.hset(run.state_key(task_id), {b'cancel_time': stamp(run.now)})
        else:
            groups.leave(run, [task_id])
            remove_called_off(run, [Claimed(task_id, state)], every=True)
        run.announce_cancel(running, task_id)
        return b'c'
    if known and db.list_at(line) and state.group:
        groups.touch(run, state.group)
    if claimed or not (known and (db.zrem(keys['delayed'], (task_id,)) or db.lrem(line, 0, task_id))):
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
    held = groups.unbury(run, dead)
    db.zrem(keys['rejected'], dead)
    for task_id, state in dead.items():
        db.hdel(run.state_key(task_id), (b'reason', b'release_time', b'expires', b'on_expiry'))
        run.transition(task_id, state, PENDING, {b'dequeue_base': whole(state.dequeue_count)})
    groups.push(run, [each for each in dead.items() if each[0] not in held])
    groups.push(run, [each for each in reversed(dead.items()) if each[0] in held], front=True)
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
    groups.unbury(run, gone)
    db.zrem(keys['rejected'], gone)
    db.hdel(keys['tasks'], gone)
    db.delete([run.state_key(task_id) for task_id in gone])
    return b''.join(answers)


def stats(run: Run) -> Reply:
    """Count, at one moment."""
    db, keys = run.db, run.keys
    refused, lines, front = (
        len(db.zset_at(keys['rejected'])),
        [len(db.list_at(keys['pending'])), 0, 0],
        [keys['pending']],
    )
    working, delayed, queued = (len(db.zset_at(keys['working'])), len(db.zset_at(keys['delayed'])), 0)
    queued = len(db.hash_at(keys['tasks'])) - refused
    counters = db.hash_at(keys['counters'])
    if run.has_used(b'h'):
        front += [groups.list_of(run, b'', level) for level in (b'high', b'low')]
        lines = [len(db.list_at(key)) for key in front]
    pending, indexes = sum(lines), [0, 0, 0]
    if run.has_used(b'g'):
        places = [keys['groups'], *(groups.key_of(run, kind) for kind in (b'blocked', b'held'))]
        indexes = [len(db.zset_at(key)) for key in places]
        pending = max(0, queued - working - delayed)
        for key in places[:2]:
            front += [groups.list_of(run, name) for _, name in db.zset_at(key).ordered()[:20]]
    return [
        queued,
        pending,
        working,
        delayed,
        refused,
        _age(run, front),
        *(whole(number(counters.get(name), 0.0)) for name in COUNTERS),
        *(b'' if run.paused_until() is None else counters.get(name, b'') for name in flow.PAUSE),
        counters.get(b'limits', b'') if run.has_used(b'l') else b'',
        *lines[1:],
        *indexes,
        len(db.zset_at(counters[b'schedules'])) if run.has_used(b's') and b'schedules' in counters else 0,
    ]


COUNTERS = (b'enqueued', b'claimed', b'completed', b'requeued', b'rejected', b'expired')


def _age(run: Run, lists: Sequence[bytes]) -> bytes:
    """Of the oldest among the tasks at the front of these lists."""
    times = []
    for key in lists:
        waiting = run.db.list_at(key)
        with suppress(TorrelqueReplyError):
            state = run.db.hash_at(run.state_key(waiting[-1])) if waiting else {}
            times.append(number(state.get(b'enqueue_time'), None))
    known = [time for time in times if time is not None]
    return stamp(max(0.0, run.now - min(known))) if known else b''


def list_groups(run: Run) -> Reply:
    """A step through the groups in an index, or those with claimed tasks only; here one step shows them all."""
    run.check_features()
    kind, _, _ = run.args
    key = run.keys[kind.decode()] if kind in (b'working', b'groups') else groups.key_of(run, kind)
    reply: list[Reply] = [b'0']
    seen = set[bytes]()
    for score, member in run.db.zset_at(key).ordered():
        state = run.read_state(member) if kind == b'working' else None
        name = member if kind != b'working' else state.group if state else b''
        waiting = groups.size(run, groups.list_of(run, name)) if name else 0
        if name and name not in seen and not (kind == b'working' and waiting):
            claimed = groups.size(run, groups.key_of(run, b'working', name))
            reply += [name, waiting, claimed, b'' if kind == b'working' else score_text(score)]
        seen.add(name)
    return reply


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
        'regulate': flow.regulate,
        'groups': list_groups,
        'schedule': schedules.schedule,
        'survey': shards.survey,
        'layout': shards.layout,
        'clear': shards.clear,
    }
)

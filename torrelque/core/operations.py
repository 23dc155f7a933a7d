"""Operations that are not merged: reads, sweeps and deletion."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import NamedTuple

from torrelque.core.codec import load_headers
from torrelque.core.commands import cap
from torrelque.core.keys import Keys
from torrelque.core.models import (
    STATE_FIELDS,
    ClaimMark,
    GroupCounts,
    TorrelqueQueueStats,
    TorrelqueTask,
    TorrelqueTaskState,
    TorrelqueTaskStatus,
    make_limits,
    make_pause,
    make_state,
    number_of,
)
from torrelque.core.protocol import Arg, Call, Operation, Reply
from torrelque.core.scripts import ScriptSet
from torrelque.errors import TorrelqueReplyError

__all__ = (
    'PAGE',
    'FoundQueue',
    'are_known',
    'are_queued',
    'are_rejected',
    'count_listed',
    'examine',
    'literally',
    'queue_stats',
    'queued_task',
    'raise_error',
    'raised',
    'rejected_before',
    'scan_keys',
    'scan_queues',
    'scan_results',
    'scan_tasks',
    'server_time',
    'sweep',
    'task_state',
    'task_states',
    'wipe',
)  # fmt: skip

PAGE = 250
"""Number of ids in one step of a sweep or a listing."""

GROUPS = 25
"""Number of groups that one step of a sweep looks into at first; the next step looks deeper into those with more."""

HERE, IN_GROUPS = 1, 2
"""Where a step of a sweep says that there may be more expired tasks."""


def _call(scripts: ScriptSet, keys: Keys, name: str, *args: str | int | bytes) -> Call[Reply]:
    return Call(scripts[name], keys.of(scripts[name]), args)


def queue_stats(scripts: ScriptSet, keys: Keys) -> Operation[TorrelqueQueueStats]:
    """Read a queue's counts and totals at one moment."""
    reply = yield from _call(scripts, keys, 'stats')
    counts, age, totals, pause = reply[:5], reply[5], reply[6:12], make_pause(*reply[12:15])
    limits, levels, groups = make_limits(reply[15]), map(int, reply[16:18]), GroupCounts(*map(int, reply[18:21]))
    known = float(age) if age else None, *map(int, totals), pause, limits, *levels, groups if any(groups) else None
    return TorrelqueQueueStats._make([*counts, *known, int(reply[21])])


def _state_call(keys: Keys, task_id: str, *more: str) -> Call[Reply]:
    return Call('HMGET', (keys.state(task_id),), (*STATE_FIELDS, *more))


def task_state(keys: Keys, task_id: str) -> Operation[TorrelqueTaskState | None]:
    """Read the state of a task, with the result still serialised; None if there is no such task."""
    (reply,) = yield [_state_call(keys, task_id)]
    return make_state(raise_error(reply))


def task_states(keys: Keys, task_ids: Sequence[str]) -> Operation[list[TorrelqueTaskState | None]]:
    """Read the states of tasks, with results still serialised; None for a task that does not exist."""
    replies = yield [_state_call(keys, task_id) for task_id in task_ids]
    states = []
    for reply in replies:
        if isinstance(reply, Exception):
            raise reply
        states.append(make_state(reply))
    return states


def queued_task(keys: Keys, task_id: str) -> Operation[TorrelqueTask | None]:
    """Read a queued task, with payload and result still serialised; None if it is not queued.

    State and scores are not read at the same moment, so only the score that belongs to the status counts.
    """
    plain = task_id.encode()
    replies = yield [
        Call[Reply]('HGET', (keys['tasks'],), (plain,)),
        _state_call(keys, task_id, 'headers', 'claim'),
        Call[Reply]('ZSCORE', (keys['working'],), (plain,)),
        Call[Reply]('ZSCORE', (keys['delayed'],), (plain,)),
    ]
    for reply in replies:
        if isinstance(reply, Exception):
            raise reply
    payload, values, deadline, due = replies
    *fields, headers, claim = values
    state = make_state(fields)
    if payload is None or state is None:
        return None
    is_held = state.status is TorrelqueTaskStatus.WORKING
    return TorrelqueTask(
        task_id,
        payload,
        load_headers(headers or b''),
        state,
        deadline=number_of(deadline) if is_held else None,
        due=number_of(due) if state.status is TorrelqueTaskStatus.DELAYED else None,
        consumer=_consumer_of(claim) if is_held and claim else None,
    )


def _consumer_of(claim: bytes) -> str | None:
    """Return the beginning of the nonce in a claim's token. It is the same for all lanes of a queue object."""
    mark = ClaimMark.parse(claim)
    if mark is None:
        return None
    _, _, nonce = mark.token.decode(errors='replace').partition(':')
    return re.split('[.~:]', nonce)[0] or None


def sweep(scripts: ScriptSet, keys: Keys, max_rejected: int | None = None) -> Operation[tuple[int, int, int]]:
    """Return stale, due and abandoned tasks to pending, and end those at the front that have expired, in bounded steps.

    Args:
        scripts: The scripts.
        keys: The keys.
        max_rejected: Maximum number of dead letters to keep; None keeps all.

    Returns:
        How many tasks of each kind were returned.
    """
    counts = []
    for kind in ('stale', 'due', 'expired'):
        count, more = 0, HERE
        while more == HERE:
            returned, more = yield from _call(scripts, keys, 'sweep', kind, *cap(max_rejected))
            count += returned
        counts.append(count)
    if more == IN_GROUPS:
        yield from _sweep_groups(scripts, keys, max_rejected)
    stale, due, _ = counts
    return stale, due, (yield from _sweep_dequeueing(scripts, keys))


def _sweep_groups(scripts: ScriptSet, keys: Keys, max_rejected: int | None) -> Operation[None]:
    """End the expired tasks at the front of each group."""
    for index in (keys['groups'], keys.of_groups('blocked'), keys.of_groups('held')):
        cursor = None
        while cursor != b'0':
            cursor, found = yield from Call[Reply]('ZSCAN', (index,), (cursor or b'0', 'COUNT', PAGE))
            for first in range(0, len(found), 2 * GROUPS):
                names = found[first : first + 2 * GROUPS : 2]
                while names:
                    _, _, *names = yield from _call(scripts, keys, 'sweep', 'expired', *cap(max_rejected, ''), *names)


def _sweep_dequeueing(scripts: ScriptSet, keys: Keys) -> Operation[int]:
    """Return the tasks that this sweep and the one before saw in dequeueing to pending.

    Pages count from the old end of the list, so new ids do not shift them. Ids that
    leave do, and a later sweep sees the ids that are missed because of that.
    """
    here: dict[bytes, None] = {}
    last = 0
    while True:
        page = yield from Call[Reply]('LRANGE', (keys['dequeueing'],), (-last - PAGE, -last - 1))
        here.update(dict.fromkeys(reversed(page)))
        last += PAGE
        if len(page) < PAGE:
            break
    seen: set[bytes] = set()
    cursor = b'0'
    while True:
        cursor, ids = yield from Call[Reply]('SSCAN', (keys['undequeued'],), (cursor, 'COUNT', PAGE))
        seen.update(ids)
        if cursor == b'0':
            break
    steps = {
        'return': [task_id for task_id in here if task_id in seen],
        'mark': [task_id for task_id in here if task_id not in seen],
        'forget': [task_id for task_id in seen if task_id not in here],
    }
    count = 0
    for step, ids in steps.items():
        for first in range(0, len(ids), PAGE):
            part = ids[first : first + PAGE]
            numbers = len(part) if step == 'return' else 0, len(part) if step == 'mark' else 0
            count += yield from _call(scripts, keys, 'undequeue', *numbers, *part)
    return count


_PLACES = {
    None: 'tasks',
    TorrelqueTaskStatus.PENDING: 'tasks',
    TorrelqueTaskStatus.WORKING: 'working',
    TorrelqueTaskStatus.DELAYED: 'delayed',
    TorrelqueTaskStatus.REJECTED: 'rejected',
}


def scan_tasks(
    scripts: ScriptSet, keys: Keys, status: TorrelqueTaskStatus | None, cursor: bytes
) -> Operation[tuple[bytes, list[str]]]:
    """Take a step through the ids of queued tasks.

    Args:
        scripts: The scripts.
        keys: The keys.
        status: The status of the tasks; None for all. If no collection has just these tasks, ids with another
            status come along.
        cursor: b'0', or the cursor that the step before returned.

    Returns:
        The next cursor, b'0' at the end, and some ids. An id that is there all the time comes at least once.
    """
    reply = yield from _call(scripts, keys, 'page', _PLACES[status], cursor, 100)
    next_cursor, *ids = reply
    return next_cursor, [task_id.decode() for task_id in ids]


def scan_keys(near: Arg | None, pattern: bytes, cursor: bytes) -> Operation[tuple[bytes, Sequence[bytes]]]:
    """Take a step through the keys of a server. Returns the next cursor, b'0' at the end, and keys that match."""
    next_cursor, found = yield from Call[Reply]('SCAN', args=(cursor, 'MATCH', pattern, 'COUNT', PAGE), near=near)
    return next_cursor, found


def literally(text: bytes) -> bytes:
    """Return a pattern that matches exactly this text."""
    return b''.join(b'\\%c' % byte if byte in b'*?[]^\\' else b'%c' % byte for byte in text)


def scan_results(keys: Keys, cursor: bytes) -> Operation[tuple[bytes, list[str]]]:
    """Take a step through all ids that have a state, including those of kept results."""
    prefix = keys.state('')
    next_cursor, found = yield from scan_keys(prefix, literally(prefix) + b'*', cursor)
    return next_cursor, keys.ids_in(found)


_COUNTERS = b':counters'
_TOTALS = ('enqueued', 'claimed', 'completed', 'requeued', 'rejected')


def scan_queues(cursor: bytes, near: Arg | None = None) -> Operation[tuple[bytes, list[bytes]]]:
    """Take a step through the keys that are named like a queue's counters; on a cluster, on the node of ``near``."""
    next_cursor, found = yield from scan_keys(near, b'*' + _COUNTERS, cursor)
    return next_cursor, list(found)


class FoundQueue(NamedTuple):
    """A queue or a shard, and the number of shards that is recorded with it; None if none is."""

    name: str
    shards: int | None


def examine(key: bytes) -> Operation[FoundQueue | None]:
    """Return the queue whose counters this key holds; None if it holds something else.

    A key that the user may not read is taken for a queue's.
    """
    fields = ('shards', 'intended', 'paused', 'limits', 'uses', *_TOTALS)
    replies = yield [Call[bytes | None]('HGET', (key,), (field,)) for field in fields]
    name = ''
    try:
        name = key.removesuffix(_COUNTERS).decode()
        shards, intended, paused, limits, uses, *totals = [raise_error(reply) for reply in replies]
    except UnicodeDecodeError:
        return None
    except TorrelqueReplyError as error:
        if error.code == 'WRONGTYPE':
            return None
        if error.code == 'NOPERM':
            return FoundQueue(name, None)
        raise
    recorded = _first_number(shards) or _first_number((intended or b'').partition(b' ')[2])
    is_used = recorded or paused or limits or b's' in (uses or b'') or any(number_of(total) for total in totals)
    if not name or not is_used:
        return None
    return FoundQueue(name, recorded)


def _first_number(text: bytes | None) -> int | None:
    word = (text or b'').partition(b' ')[0]
    return int(word) if word.isdigit() and word != b'0' else None


def wipe(scripts: ScriptSet, keys: Keys) -> Operation[bool]:
    """Remove all keys of a queue without tasks, in bounded steps. Returns False if tasks were added, and stops."""
    for logical, what in (('task', 'states'), ('schedule', 'schedules'), ('lane', 'lanes'), ('groups', 'groups')):
        prefix, cursor = keys[logical] + b':', b'0'
        while True:
            cursor, found = yield from scan_keys(prefix, literally(prefix) + b'*', cursor)
            names = [key.removeprefix(prefix) for key in found]
            if what == 'lanes':
                names = [name for name in names if name.isdigit()]  # others belong to a queue with a similar name
            elif what == 'groups':
                names = [name for name in names if name.startswith((b'pending:', b'working:', b'rejected:'))]
            for first in range(0, len(names), PAGE):
                yield from _call(scripts, keys, 'wipe', what, *names[first : first + PAGE])
            if cursor == b'0':
                break
    while (left := (yield from _call(scripts, keys, 'wipe', 'rest'))) == 1:
        pass
    return bool(left == 0)


def count_listed(keys: Keys) -> Operation[list[int]]:
    """Count pending, claimed and delayed tasks, dead letters and schedules.

    An operator's role does not permit `queue_stats`.
    """
    sets = [Call[Reply]('ZCARD', (keys[name],)) for name in ('working', 'delayed', 'rejected', 'schedules')]
    replies = yield [Call[Reply]('LLEN', (keys['pending'],)), Call[Reply]('HLEN', (keys['tasks'],)), *sets]
    pending, tasks, *others = map(int, raised(replies))
    return [max(pending, tasks - sum(others[:3])), *others]  # those of groups and levels are in other lists


def server_time(keys: Keys) -> Operation[float]:
    """Read the clock of the queue's server, in Unix time."""
    seconds, microseconds = yield from Call[Reply]('TIME', near=keys['pending'])
    return int(seconds) + int(microseconds) / 1e6


def rejected_before(keys: Keys, before: float, most: int) -> Operation[list[str]]:
    """Read ids of the oldest dead letters, at most ``most``, that were rejected no later than ``before``."""
    ids = yield from Call[Reply]('ZRANGEBYSCORE', (keys['rejected'],), ('-inf', f'{before:.6f}', 'LIMIT', 0, most))
    return [task_id.decode() for task_id in ids]


def are_rejected(keys: Keys, task_ids: Sequence[str]) -> Operation[list[bool]]:
    """Return for each id whether it is a dead letter."""
    found: list[bool] = []
    for first in range(0, len(task_ids), PAGE):
        part = tuple(task_id.encode() for task_id in task_ids[first : first + PAGE])
        scores = yield from Call[Reply]('ZMSCORE', (keys['rejected'],), part)
        found += [score is not None for score in scores]
    return found


def are_queued(keys: Keys, task_ids: Sequence[Arg]) -> Operation[list[bool]]:
    """Return for each id whether it is queued or a dead letter."""
    replies = yield [Call[Reply]('HEXISTS', (keys['tasks'],), (task_id,)) for task_id in task_ids]
    return [bool(raise_error(reply)) for reply in replies]


def are_known(keys: Keys, task_ids: Sequence[str]) -> Operation[list[bool]]:
    """Return for each id whether it has a state."""
    replies = yield [Call[Reply]('EXISTS', (keys.state(task_id),)) for task_id in task_ids]
    return [bool(raise_error(reply)) for reply in replies]


def raise_error(reply: Reply) -> Reply:
    """Return a reply; raise it if it is an error."""
    if isinstance(reply, Exception):
        raise reply
    return reply


def raised(replies: Sequence[Reply]) -> Sequence[Reply]:
    """Return replies; raise the first that is an error."""
    for reply in replies:
        raise_error(reply)
    return replies

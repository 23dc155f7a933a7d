"""The checks of an audit that concern all shards of a queue; `torrelque.core.auditing` checks each shard."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from torrelque.core.auditing import Violation
from torrelque.core.codec import dump_headers
from torrelque.core.commands import enqueue_in, enqueue_item, seconds
from torrelque.core.keys import Keys
from torrelque.core.lanes import Lanes
from torrelque.core.models import TorrelqueTask, TorrelqueTaskStatus
from torrelque.core.operations import are_known, are_queued, queued_task, scan_tasks, sweep
from torrelque.core.protocol import Call, Operation, Reply
from torrelque.core.scripts import ScriptSet
from torrelque.core.sharding.layout import Layout, RecordKeys, home_of
from torrelque.errors import TorrelqueReplyError, TorrelqueShardsError

__all__ = ('check_record', 'check_results', 'check_stranded')


def check_record(keys: Keys, layout: Layout) -> Operation[Violation | None]:
    """Check that the record of the number of shards is there.

    Args:
        keys: The queue's own keys, the keys that it would have without shards, or those of a shard.
        layout: The layout.

    Returns:
        The violation; None if the record is right.
    """
    counters = keys['counters']
    generation = yield from Call[bytes | None]('HGET', (counters,), ('generation',))
    if generation is not None and int(generation) >= layout.generation:
        return None
    detail = 'does not say how many shards there are' if generation is None else 'has a former number of shards'
    return Violation('record', counters.decode(), None, detail)


def check_results(
    scripts: ScriptSet, records: RecordKeys, layout: Layout, shard: int, ids: Iterable[str], *, repair: bool
) -> Operation[list[Violation]]:
    """Find results on a shard whose ids now belong to later tasks with another home.

    Args:
        scripts: The scripts.
        records: The keys that record the layout.
        layout: The layout.
        shard: The shard.
        ids: The ids that have a state there.
        repair: Remove the results.
    """
    keys, found = records.shard(shard), list[Violation]()
    for task_id in ids:
        home = home_of(task_id, layout.shards)
        if home != shard and (yield from _is_outdated(keys, records.shard(home), task_id)):
            repaired = False
            if repair:
                script = scripts['clear']
                (outcome,) = yield from Call[Sequence[bytes]](script, keys.of(script), (layout.generation, task_id))
                repaired = outcome == b'OK'
            detail = 'is the result of an earlier task of this id, which has another home now'
            key = keys.state(task_id).decode(errors='replace')
            found.append(Violation('outdated', key, task_id, detail, repaired=repaired))
    return found


def _is_outdated(former: Keys, home: Keys, task_id: str) -> Operation[bool]:
    (is_known,) = yield from are_known(home, [task_id])
    if not is_known:
        return False
    (is_queued,) = yield from are_queued(former, [task_id])
    (is_left,) = yield from are_known(former, [task_id])
    return is_left and not is_queued


def check_stranded(
    scripts: ScriptSet, records: RecordKeys, layout: Layout, nonce: str, *, repair: bool
) -> Operation[list[Violation]]:
    """Find tasks that were added by objects without shards, such as those of 0.9.

    Args:
        scripts: The scripts.
        records: The keys that record the layout.
        layout: The layout.
        nonce: Text without blanks that no other client has, for the calls that move tasks.
        repair: Move the tasks to their shards.
    """
    stranded = _Stranded(scripts, records, layout, nonce, repair=repair)
    try:
        yield from stranded.check()
    except TorrelqueReplyError as error:
        if error.code != 'NOPERM':  # a user without access there adds nothing there either
            raise
    return stranded.found


class _Stranded:
    def __init__(self, scripts: ScriptSet, records: RecordKeys, layout: Layout, nonce: str, *, repair: bool) -> None:
        self._scripts = scripts
        self._records = records
        self._layout = layout
        self._nonce = nonce
        self._repair = repair
        self._lanes: dict[int, Lanes] = {}
        self.found: list[Violation] = []

    def check(self) -> Operation[None]:
        keys = self._records.plain or self._records.main
        if self._repair:
            yield from sweep(self._scripts, keys)
        cursor, first, left = b'0', True, 0
        while first or cursor != b'0':
            first = False
            cursor, ids = yield from scan_tasks(self._scripts, keys, None, cursor)
            for task_id in ids:
                moved = self._repair and (yield from self._move(keys, task_id))
                left += not moved
                key, detail = keys['tasks'].decode(), 'was added without shards, so that no consumer takes it'
                self.found.append(Violation('stranded', key, task_id, detail, repaired=bool(moved)))
        if self._repair and not left:  # from now on such objects are refused
            yield from Call[Reply]('HDEL', (keys['counters'],), ('enqueued', 'claimed'))

    def _move(self, keys: Keys, task_id: str) -> Operation[bool]:
        """Move an unclaimed task to its home. If interrupted, the task is in both records, and is moved again."""
        task = yield from queued_task(keys, task_id)
        if task is None or task.state.status not in (TorrelqueTaskStatus.PENDING, TorrelqueTaskStatus.DELAYED):
            return False
        limit = yield from Call[bytes | None]('HGET', (keys.state(task_id),), ('max_dequeues',))
        now = yield from Call[Sequence[bytes]]('TIME', near=keys['pending'])
        item = _as_new(task, int(now[0]) + int(now[1]) / 1e6, limit)
        shard = home_of(task_id, self._layout.shards)
        lanes = self._lanes.setdefault(shard, Lanes(self._scripts, self._records.shard(shard), self._nonce))
        command = enqueue_in(self._layout.generation)
        try:
            yield from lanes.call('enqueue', command.arguments([item]), command.parse)
        except TorrelqueShardsError:
            return False
        script = self._scripts['cancel']
        removed = yield from Call[Reply](script, keys.of(script), ('', '', '', task_id, ''))
        return bool(removed)


def _as_new(task: TorrelqueTask, now: float, limit: bytes | None) -> tuple[bytes | str | int, ...]:
    delay = None if task.due is None else max(0.001, task.due - now)
    most = int(limit) if limit is not None and limit.isdigit() else None
    item = enqueue_item(task.id, task.data, task.state.timeout, delay, most, dump_headers(task.headers))
    if task.state.expires is None:
        return item
    return *item, '', seconds(task.state.expires), task.state.on_expiry or ''

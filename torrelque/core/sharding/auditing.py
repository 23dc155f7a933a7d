"""What an audit looks for between the shards of a queue, where each of them may be whole by itself."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from torrelque.core.auditing import Violation
from torrelque.core.codec import dump_headers
from torrelque.core.commands import enqueue_in, enqueue_item
from torrelque.core.keys import Keys
from torrelque.core.lanes import Lanes
from torrelque.core.models import TorrelqueTask, TorrelqueTaskStatus
from torrelque.core.operations import (
    are_known,
    are_queued,
    queued_task,
    scan_results,
    scan_tasks,
    sweep,
)
from torrelque.core.protocol import Call, Operation, Reply
from torrelque.core.scripts import ScriptSet
from torrelque.core.sharding import layout as sharding
from torrelque.core.sharding.layout import Layout, Places, home_of
from torrelque.errors import TorrelqueReplyError, TorrelqueShardsError

__all__ = ('audit_shards',)


def audit_shards(
    scripts: ScriptSet, places: Places, layout: Layout, nonce: str, *, repair: bool
) -> Operation[list[Violation]]:
    """Look at what is recorded, at tasks that were added without shards, and at results where they do not belong.

    ``nonce``: text without blanks that no other client has, for the calls that move tasks.
    """
    return (yield from _Audit(scripts, places, layout, nonce, repair=repair).run())


class _Audit:
    def __init__(self, scripts: ScriptSet, places: Places, layout: Layout, nonce: str, *, repair: bool) -> None:
        self._scripts = scripts
        self._places = places
        self._layout = layout
        self._nonce = nonce
        self._repair = repair
        self._lanes: dict[int, Lanes] = {}
        self._found: list[Violation] = []

    def run(self) -> Operation[list[Violation]]:
        try:
            yield from self._check_stranded()
        except TorrelqueReplyError as error:
            if error.code != 'NOPERM':  # who may not use the queue without shards adds nothing there either
                raise
        yield from self._check_records()
        if self._layout.former:
            for shard in range(self._layout.total):
                yield from self._check_results(shard)
        return self._found

    # Records -----------------------------------------------------------------

    def _check_records(self) -> Operation[None]:
        found = yield from self._unrecorded()
        if found and self._repair:
            yield from sharding.refresh_layout(self._scripts, self._places, self._layout, again=True)
            left = yield from self._unrecorded()
            found = [replace(each, repaired=each not in left) for each in found]
        self._found += found

    def _unrecorded(self) -> Operation[list[Violation]]:
        """Where another number of shards is recorded than with the queue, or none."""
        found: list[Violation] = []
        for keys in (self._places.main, *self._places.parts(self._layout.total)):
            counters = keys['counters']
            generation = yield from Call[bytes | None]('HGET', (counters,), ('generation',))
            if generation is None or int(generation) < self._layout.generation:
                detail = 'does not say how many shards there are' if generation is None else 'tells of a former number'
                found.append(Violation('record', counters.decode(), None, detail))
        return found

    # Tasks without shards ----------------------------------------------------

    def _check_stranded(self) -> Operation[None]:
        """Tasks that were added by objects that did not know of shards, as those of 0.9."""
        keys = self._places.plain or self._places.main
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
                self._found.append(Violation('stranded', key, task_id, detail, repaired=bool(moved)))
        if self._repair and not left:  # from now on those objects are refused
            yield from Call[Reply]('HDEL', (keys['counters'],), ('enqueued', 'claimed'))

    def _move(self, keys: Keys, task_id: str) -> Operation[bool]:
        """Take a task that nobody works on to its home. Cut off half-way it is in both places, and is moved again."""
        task = yield from queued_task(keys, task_id)
        if task is None or task.state.status not in (TorrelqueTaskStatus.PENDING, TorrelqueTaskStatus.DELAYED):
            return False
        limit = yield from Call[bytes | None]('HGET', (keys.state(task_id),), ('max_dequeues',))
        now = yield from Call[Sequence[bytes]]('TIME', near=keys['pending'])
        item = _as_new(task, int(now[0]) + int(now[1]) / 1e6, limit)
        shard = home_of(task_id, self._layout.shards)
        lanes = self._lanes.setdefault(shard, Lanes(self._scripts, self._places.shard(shard), self._nonce))
        verb = enqueue_in(self._layout.generation)
        try:
            yield from lanes.call('enqueue', (*item, *verb.trailer), verb.parse)
        except TorrelqueShardsError:
            return False
        script = self._scripts['cancel']
        removed = yield from Call[Reply](script, keys.of(script), ('', '', '', task_id))
        return bool(removed)

    # Results -----------------------------------------------------------------

    def _check_results(self, shard: int) -> Operation[None]:
        """Results of tasks whose ids were used again since, at another home."""
        keys, cursor, first = self._places.shard(shard), b'0', True
        while first or cursor != b'0':
            first = False
            cursor, ids = yield from scan_results(keys, cursor)
            for task_id in ids:
                home = home_of(task_id, self._layout.shards)
                if home != shard and (yield from self._is_outdated(keys, self._places.shard(home), task_id)):
                    repaired = False
                    if self._repair:
                        script = self._scripts['clear']
                        args = (self._layout.generation, task_id)
                        (outcome,) = yield from Call[Sequence[bytes]](script, keys.of(script), args)
                        repaired = outcome == b'OK'
                    detail = 'is the result of an earlier task of this id, which has another home now'
                    key = keys.state(task_id).decode(errors='replace')
                    self._found.append(Violation('outdated', key, task_id, detail, repaired=repaired))

    @staticmethod
    def _is_outdated(former: Keys, home: Keys, task_id: str) -> Operation[bool]:
        (is_known,) = yield from are_known(home, [task_id])
        if not is_known:
            return False
        (is_queued,) = yield from are_queued(former, [task_id])
        (is_left,) = yield from are_known(former, [task_id])
        return is_left and not is_queued


def _as_new(task: TorrelqueTask, now: float, limit: bytes | None) -> tuple[bytes | str | int, ...]:
    delay = None if task.due is None else max(0.001, task.due - now)
    most = int(limit) if limit is not None and limit.isdigit() else None
    return enqueue_item(task.id, task.data, task.state.timeout, delay, most, dump_headers(task.headers))

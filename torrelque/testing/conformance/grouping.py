"""Tests of groups and priorities: turns, limits, order, holds and fences."""

from __future__ import annotations

from torrelque.core.models import Limits
from torrelque.queue import Torrelque
from torrelque.testing.conformance.support import OnQueue

__all__ = ('GroupingConformance',)


class GroupingConformance(OnQueue):
    async def test_groups_take_turns(self, queue: Torrelque) -> None:
        for group in ('many', 'few'):
            await queue.enqueue_many([group] * (6 if group == 'many' else 1), group=group)
        await queue.enqueue('plain')
        tasks = await queue.dequeue_nowait(max_tasks=3)
        assert sorted((task.data, task.group) for task in tasks if task.group) == [('few', 'few'), ('many', 'many')]
        await queue.limit(group='many', weight=2, concurrency=3)
        assert await queue.limits('many') == Limits(3, weight=2)
        assert [task.data for task in await queue.dequeue_nowait(max_tasks=9)] == ['many', 'many']
        (many,) = [info async for info in queue.groups() if info.waiting]
        assert (many.name, many.waiting, many.working, many.state) == ('many', 3, 3, 'blocked')
        await queue.limit(group='many')
        assert len(await queue.dequeue_nowait(max_tasks=9)) == 3

    async def test_an_ordered_group(self, queue: Torrelque) -> None:
        await queue.limit(group='*', ordered=True)
        first, second = await queue.enqueue_many([1, 2], group='n\u00e9 w')
        task = await queue.dequeue(20)
        assert (task.id, task.group) == (first, 'n\u00e9 w')
        assert await queue.dequeue_nowait() == []
        await queue.requeue(task)
        again = await queue.dequeue(20)
        assert (again.id, again.dequeue_count) == (first, 2)
        assert (task.fence or 0) < (again.fence or 0)
        await queue.release(again)
        assert (await queue.dequeue(20)).id == second
        assert (await queue.get_task_state(str(second))).group == 'n\u00e9 w'
        await queue.enqueue_many([1, 2], group='waits')
        await queue.requeue((await queue.dequeue_nowait())[0], 0.05, group=True)
        assert [info.waiting async for info in queue.groups() if info.name == 'waits'] == [2]
        assert (await queue.dequeue(20)).data == 1

    async def test_priorities(self, queue: Torrelque) -> None:
        for priority in ('low', 'high', 'normal', 'high'):
            await queue.enqueue(priority, priority=priority)
        stats = await queue.get_queue_stats()
        assert (stats.pending, stats.pending_high, stats.pending_low) == (4, 2, 1)
        await queue.limit(strict=True)
        found = [task.data for task in await queue.dequeue_nowait(max_tasks=9)]
        assert found == ['high', 'high', 'normal', 'low']

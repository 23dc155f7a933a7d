"""Groups in a queue with shards: each lives in one, and its limits are those of all."""

from __future__ import annotations

from collections import Counter

import pytest

from tests.queue.sharding.support import Place, in_memory
from torrelque import EnqueueItem, GroupCounts, Limits, TorrelqueValueError
from torrelque.core.sharding.layout import home_of

pytestmark = pytest.mark.anyio

GROUPS = [f'g{number}' for number in range(20)]


async def test_a_group_lives_in_one_shard(place: Place) -> None:
    async with place.queue(4) as queue:
        ids = {group: [await queue.enqueue(group, group=group) for _ in range(2)] for group in GROUPS}
        items = [EnqueueItem(group, group=group) for group in GROUPS]
        for group, task_id in zip(GROUPS, await queue.enqueue_many(items), strict=True):
            ids[group].append(str(task_id))
        for group, of_group in ids.items():
            assert {home_of(task_id, 4) for task_id in of_group} == {home_of(group, 4)}
        await queue.limit(group='*', concurrency=2)
        await queue.limit(group='g3', concurrency=1)
        assert (await queue.limits('g3'), await queue.limits('g4')) == (Limits(1), Limits(2))
        tasks = await queue.dequeue_nowait(max_tasks=100)
        assert Counter(task.group for task in tasks) == {group: 1 if group == 'g3' else 2 for group in GROUPS}
        assert {info.name: (info.waiting, info.state) async for info in queue.groups()} == {
            group: (2 if group == 'g3' else 1, 'blocked') for group in GROUPS
        }
        assert (await queue.get_queue_stats()).groups == GroupCounts(0, 20, 0)
        await queue.release_many(tasks)
        assert await queue.audit() == []


@in_memory
async def test_a_task_in_a_group_has_no_id_of_its_own(place: Place) -> None:
    async with place.queue(4) as queue:
        with pytest.raises(TorrelqueValueError, match="a task in a group cannot have your own id, got 'mine'"):
            await queue.enqueue('a', group='g', task_id='mine')
        with pytest.raises(TorrelqueValueError, match='cannot have your own id'):
            await queue.enqueue_many([EnqueueItem('a', group='g', task_id='mine')])
        assert (await queue.get_queue_stats()).total_enqueued == 0


async def test_limits_follow_when_shards_are_added(place: Place) -> None:
    async with place.queue(2) as queue:
        await queue.limit(group='*', concurrency=1)
        await queue.limit(group='g5', concurrency=2)
        await queue.limit(group='g6', concurrency=2)
        await queue.limit(group='g6')
        await queue.reshard(5)
        await queue.enqueue_many([EnqueueItem(group, group=group) for group in GROUPS * 3])
        tasks = await queue.dequeue_nowait(max_tasks=100)
        assert Counter(task.group for task in tasks) == {group: 2 if group == 'g5' else 1 for group in GROUPS}


@in_memory
async def test_a_producer_that_knows_an_old_number_draws_another_id(place: Place) -> None:
    async with place.queue(2) as queue, place.queue(2) as other:
        await other.enqueue('before', group='g1')
        await queue.reshard(7)
        alone = [await other.enqueue(group, group=group) for group in GROUPS[:1]]
        await queue.reshard(3)
        many = await other.enqueue_many([EnqueueItem(group, group=group) for group in GROUPS])
        assert [home_of(task_id, 7) for task_id in alone] == [home_of(GROUPS[0], 7)]
        assert [home_of(str(task_id), 3) for task_id in many] == [home_of(group, 3) for group in GROUPS]
        assert (await queue.get_queue_stats()).total_enqueued == 22

"""The number of shards of a queue in use is changed: no task is lost, none is there twice."""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import AsyncExitStack
from typing import Any

import anyio
import pytest
from anyio.lowlevel import checkpoint

from tests.queue.sharding.support import SOON, Place, in_memory
from tests.queue.transports import runs
from torrelque import (
    EnqueueItem,
    Torrelque,
    TorrelqueConnectionError,
    TorrelqueLookupError,
    TorrelqueTaskStatus,
    TorrelqueTimeoutError,
    TorrelqueUsageError,
)
from torrelque.core.protocol import Batch, Reply
from torrelque.core.sharding.layout import home_of
from torrelque.testing import MemoryTransport

pytestmark = pytest.mark.anyio

MOVING = next(name for name in map(str, range(10000)) if all(home_of(name, shards) for shards in range(2, 11)))
"""An id that is of the first shard only while there is one."""


def id_of(shard: int, number: int, shards: int) -> str:
    """The id of a task of one shard."""
    return next(name for at in range(1000) if home_of(name := f'{number}-{at}', shards) == shard)


class Cut(MemoryTransport):
    """Its connection breaks for good at the next but ``left`` recording of how many shards there are."""

    left: int | None = None

    async def execute(self, batch: Batch) -> Sequence[Reply]:
        if self.left is not None and runs(batch, 'layout'):
            if self.left <= 0:
                raise TorrelqueConnectionError('cut')
            self.left -= 1
        return await super().execute(batch)


async def drain(queue: Torrelque) -> list[Any]:
    """Release all that is there; the data."""
    got: list[Any] = []
    while tasks := await queue.dequeue_nowait(max_tasks=50):
        got += [task.data for task in tasks]
        await queue.release_many(tasks)
    return got


async def test_a_queue_in_use_is_changed_up_and_down(place: Place) -> None:
    """Some consumers are idle all the while, in a process that is not told."""
    total, got, enough = 360, list[int](), anyio.Event()

    async def produce(queue: Torrelque, first: int) -> None:
        for number in range(first, total, 2):
            await queue.enqueue(number)

    async def consume(queue: Torrelque) -> None:
        while True:
            task = await queue.dequeue()
            await queue.release(task)
            got.append(task.data)
            if len(got) >= total:
                enough.set()

    async def reshard(queue: Torrelque) -> None:
        for shards in (7, 2):
            await queue.reshard(shards)

    async with (
        place.queue(3, block_limit=0.2) as one,
        place.queue(3, block_limit=0.2) as other,
        place.queue(3) as producer,
        place.queue(3) as operator,
    ):
        with anyio.fail_after(SOON):
            async with anyio.create_task_group() as consumers:
                for queue in (one, one, other):
                    consumers.start_soon(consume, queue)
                async with anyio.create_task_group() as group:
                    group.start_soon(produce, producer, 0)
                    group.start_soon(produce, operator, 1)
                    group.start_soon(reshard, operator)
                await enough.wait()
                consumers.cancel_scope.cancel()
        assert sorted(got) == list(range(total))
        assert (await operator.get_queue_stats())[:5] == (0, 0, 0, 0, 0)
        assert await operator.reshard(2) is True
        assert await operator.audit() == []
    async with place.queue(2) as queue:
        await queue.enqueue('data')


async def test_idle_consumers_follow(place: Place) -> None:
    got: list[int] = []
    homes: set[int] = set()

    async def consume(queue: Torrelque) -> None:
        while len(got) < 8:
            task = await queue.dequeue()
            got.append(task.data)
        group.cancel_scope.cancel()

    async with place.queue(1, block_limit=0.2) as idle, place.queue(1) as operator:
        await operator.enqueue('stays', task_id=MOVING)
        await idle.dequeue()
        with anyio.fail_after(SOON):
            async with anyio.create_task_group() as group:
                group.start_soon(consume, idle)
                assert await operator.reshard(8) is False  # a task that is worked on is where it was
                homes |= {home_of(await operator.enqueue(number), 8) for number in range(8)}
        assert len(homes) > 1
    assert sorted(got) == list(range(8))


async def test_idle_consumers_follow_at_once(place: Place) -> None:
    """Within a few round trips, though their waits last for seconds."""
    got: list[int] = []

    async def consume(queue: Torrelque) -> None:
        while len(got) < 4:
            got.append((await queue.dequeue()).data)
        group.cancel_scope.cancel()

    async with place.queue(1) as idle, place.queue(1) as operator:
        await operator.enqueue('first')
        await idle.dequeue()
        begun = time.monotonic()
        async with anyio.create_task_group() as group:
            group.start_soon(consume, idle)
            await anyio.sleep(0.05)
            await operator.reshard(4)
            for shard in range(4):
                await operator.enqueue(shard, task_id=id_of(shard, shard, 4))
        assert time.monotonic() - begun < 6  # a slice lasts for 6.8 s at least
    assert sorted(got) == list(range(4))


async def test_busy_consumers_follow_within_a_second(place: Place) -> None:
    """Each gets one task after the other, which another client adds as the last one is done."""
    found: list[int] = []

    async def consume(queue: Torrelque) -> None:
        while True:
            task = await queue.dequeue()
            await queue.release(task.id)  # by its plain id
            found.append(task.data)
            await feeder.enqueue(len(found), task_id=id_of(0, len(found), 6))

    async with place.queue(2) as busy, place.queue(2) as feeder, place.queue(2) as operator:
        await feeder.enqueue(0)
        with anyio.fail_after(SOON):
            async with anyio.create_task_group() as group:
                group.start_soon(consume, busy)
                await anyio.sleep(0.2)
                await operator.reshard(6)
                begun = time.monotonic()
                await operator.enqueue(-1, task_id=id_of(5, 0, 6))
                while -1 not in found:  # noqa: ASYNC110 - it is the time that is looked at
                    await anyio.sleep(0.01)
                group.cancel_scope.cancel()
        assert time.monotonic() - begun < 3
        assert len(found) > 2


async def test_callers_that_look_at_the_same_time_all_follow(place: Place) -> None:
    """One of them learns of the new number first; the others looked where tasks were before."""
    ids = [f'chosen {number}' for number in range(12)]
    async with place.queue(2) as operator, place.queue(2) as looker:
        assert (await looker.get_queue_stats()).tasks == 0
        await operator.reshard(7)
        await operator.enqueue_many([EnqueueItem('data', task_id=task_id) for task_id in ids])
        found: list[str] = []

        async def look(task_id: str) -> None:
            for _ in range(5):
                await checkpoint()  # so that they do not travel together
            found.append((await looker.get_task(task_id)).id)

        async with anyio.create_task_group() as group:
            for task_id in ids:
                group.start_soon(look, task_id)
        assert sorted(found) == sorted(ids)


async def test_those_that_only_look_find_what_was_added_since(place: Place) -> None:
    ids = [f'chosen {number}' for number in range(20)]
    dead = [f'dead {number}' for number in range(5)]
    async with AsyncExitStack() as stack:
        operator, states, tasks, waits, lists, cancels, redrives, consumer = lookers = [
            await stack.enter_async_context(place.queue(2)) for _ in range(8)
        ]
        for looker in lookers:
            assert (await looker.get_queue_stats()).tasks == 0
        await operator.reshard(7)
        for task_id in dead:
            await operator.enqueue('data', task_id=task_id)
        for task in await operator.dequeue_nowait(max_tasks=5):
            await operator.reject(task, 'why')
        for task_id in ids:
            await operator.enqueue('data', task_id=task_id)
        assert await redrives.redrive(dead) == 5
        for task_id in ids:
            assert (await states.get_task_state(task_id)).status is TorrelqueTaskStatus.PENDING
            assert (await tasks.get_task(task_id)).data == 'data'
        assert {task_id async for task_id, _ in lists.tasks()} == {*ids, *dead}
        with pytest.raises(TorrelqueTimeoutError):
            await waits.wait(ids[3], 0.01)
        assert len(await operator.dequeue_nowait(max_tasks=50)) == 25
        assert await consumer.release_many(dead + ids[:10]) == [None] * 15
        for task_id in ids[10:]:
            await operator.requeue(task_id)
            await cancels.cancel(task_id)
        assert (await operator.get_queue_stats()).tasks == 0


@pytest.mark.parametrize('how', ['one', 'many'])
async def test_an_old_result_is_not_taken_for_the_new_tasks(place: Place, how: str) -> None:
    ids = [f'chosen {number}' for number in range(12)]
    async with place.queue(2) as queue, place.queue(2) as looker:
        await looker.get_queue_stats()
        await queue.enqueue_many(EnqueueItem('first', task_id=task_id) for task_id in ids)
        for task in await queue.dequeue_nowait(max_tasks=50):
            await queue.release(task, result='old')
        await queue.reshard(5)
        assert (await looker.get_task_state(ids[0])).result == 'old'
        if how == 'many':
            await queue.enqueue_many(EnqueueItem('second', task_id=task_id) for task_id in ids)
        else:
            for task_id in ids:
                await queue.enqueue('second', task_id=task_id)
        for client in (queue, looker):
            for task_id in ids:
                state = await client.get_task_state(task_id)
                assert (state.status, state.result) == (TorrelqueTaskStatus.PENDING, None)
            with pytest.raises(TorrelqueTimeoutError):
                await client.wait(ids[1], 0.01)
        assert await queue.audit() == []
        await queue.release_many(await queue.dequeue_nowait(max_tasks=50))
        for task_id in ids:
            with pytest.raises(TorrelqueLookupError):
                await queue.get_task_state(task_id)
        assert await queue.reshard(5) is True


async def test_totals_never_go_down(place: Place) -> None:
    done = 0

    async def work_off(queue: Torrelque) -> None:
        nonlocal done
        await queue.enqueue_many(range(1000))
        done += 1000
        while tasks := await queue.dequeue_nowait(max_tasks=100):
            await queue.release_many(tasks)

    async with place.queue(4) as queue, place.queue(4) as witness:
        await witness.get_queue_stats()
        for shards in (2, 3, 6, 1):
            await work_off(queue)
            for _ in range(2):  # it is drained by then
                await queue.reshard(shards)
                for client in (queue, witness):
                    stats = await client.get_queue_stats()
                    assert (stats.total_enqueued, stats.total_claimed, stats.total_completed) == (done,) * 3
            assert await queue.reshard(shards) is True
        async with place.queue(1) as new:
            assert (await new.get_queue_stats()).total_enqueued == done


async def test_a_queue_that_had_more_shards_is_deleted_with_all_its_keys(place: Place) -> None:
    async with place.queue(5) as queue, place.client() as client:
        await queue.enqueue_many(range(1000))
        assert len(await drain(queue)) == 1000
        assert await queue.reshard(2) is True
        await queue.delete()
        left = place.keys()
        assert all(':lane:' in key for key in left)
        async with Torrelque(client, queue='email') as plain:  # it may have none, or another number
            await plain.enqueue('data')
            await plain.delete(force=True)
        async with place.queue(3) as another:
            await another.enqueue('data')


async def test_tasks_and_results_are_found_after(place: Place) -> None:
    ids = [f'chosen {number}' for number in range(20)]
    async with place.queue(2) as queue, place.queue(2) as other:
        for task_id in ids:
            await queue.enqueue(task_id, task_id=task_id)
        done = [await queue.dequeue() for _ in range(5)]
        for task in done:
            await queue.release(task, result=task.data)
        held = [await other.dequeue() for _ in range(5)]
        assert await queue.reshard(5) is False

        for client in (queue, other):
            for task in done:
                assert (await client.get_task_state(task.id)).result == task.data
                assert (await client.wait(task.id)).result == task.data
            queued = [task_id for task_id in ids if task_id not in {task.id for task in done}]
            for task_id in queued:
                await client.enqueue('another', task_id=task_id)
            added = await client.enqueue_many([])
            assert added == []
            assert (await client.get_queue_stats())[:3] == (15, 10, 5)
        for task in held[:2]:
            await other.extend(task)
            await other.release(task)
        await queue.release_many([task.id for task in held[2:]])
        assert sorted(await drain(other)) == sorted(set(queued) - {task.id for task in held})
        assert await queue.reshard(5) is False  # results are still where they were


async def test_tasks_are_replaced_where_they_are(place: Place) -> None:
    ids = [f'chosen {number}' for number in range(20)]
    async with place.queue(2) as queue:
        await queue.enqueue_many([EnqueueItem(task_id, task_id=task_id) for task_id in ids])
        done, held = await queue.dequeue(), await queue.dequeue()
        await queue.release(done, result='done')
        await queue.reshard(5)
        items = [EnqueueItem(f'new {task_id}', task_id=task_id) for task_id in ids]
        answers = await queue.enqueue_many(items, replace=True)
        assert [getattr(answer, 'task_id', None) for answer in answers].count(held.id) == 1
        assert [answer for answer in answers if isinstance(answer, str)] == [each for each in ids if each != held.id]
        assert sorted(await drain(queue)) == sorted(f'new {task_id}' for task_id in ids if task_id != held.id)
        assert (await queue.get_queue_stats()).total_enqueued == 21
        assert await queue.audit() == []


async def test_it_tells_when_all_is_at_home(place: Place) -> None:
    async with place.queue(2) as queue:
        await queue.enqueue_many(range(10))
        assert await queue.reshard(3) is False
        await drain(queue)
        assert await queue.reshard(3) is True
        assert await queue.reshard(3) is True
        for number in range(6):
            await queue.enqueue(number)
        assert await queue.reshard(2) is False
        assert len(await drain(queue)) == 6
        assert await queue.reshard(2) is True


async def test_two_who_change_it_at_once(place: Place) -> None:
    async with place.queue(2) as one, place.queue(2) as other:
        await one.enqueue_many(range(30))
        await other.get_queue_stats()
        async with anyio.create_task_group() as group:
            group.start_soon(one.reshard, 4)
            group.start_soon(other.reshard, 3)
        for queue in (one, other):
            await queue.enqueue(30)
        assert sorted(await drain(one)) == [*range(30), 30, 30]
        numbers = {number for number in (3, 4) if await _fits(place, number)}
        assert len(numbers) == 1
        assert await one.audit() == []


async def _fits(place: Place, number: int) -> bool:
    async with place.queue(number) as queue:
        try:
            await queue.get_queue_stats()
        except TorrelqueUsageError:
            return False
        return True


@in_memory
@pytest.mark.parametrize('left', range(8))
async def test_a_change_that_was_cut_off_is_finished_by_the_next(left: int) -> None:
    transport = Cut()
    async with Torrelque(transport, queue='email', shards=2) as queue:
        await queue.enqueue_many(range(10))
        other = MemoryTransport(server=transport.server)
        async with Torrelque(other, queue='email', shards=2) as witness:
            await witness.get_queue_stats()
            transport.left = left
            if left < 7:  # the intention, the keys without shards, four shards, the queue
                with pytest.raises(TorrelqueConnectionError):
                    await queue.reshard(4)
            else:
                assert await queue.reshard(4) is False
            transport.left = None
            await witness.enqueue(10)
            assert await witness.reshard(4) is False
            assert sorted(await drain(witness)) == list(range(11))
            assert await queue.reshard(4) is True
            await queue.enqueue('last')
            assert await drain(witness) == ['last']


@in_memory
async def test_too_many_former_numbers_are_refused(place: Place) -> None:
    async with place.queue(1) as queue:
        await queue.enqueue('stays', task_id=MOVING)
        for shards in range(2, 10):
            assert await queue.reshard(shards) is False
        with pytest.raises(TorrelqueUsageError, match='too many numbers of shards'):
            await queue.reshard(10)
        assert await drain(queue) == ['stays']
        assert await queue.reshard(9) is True
        assert await queue.reshard(10) is True


async def test_workers_are_found_whatever_the_number_of_shards(place: Place) -> None:
    async with place.queue(3) as queue, place.queue(3) as other:
        await queue.announce('w', name='worker', concurrency=1)
        assert len([each async for each in other.workers()]) == 1
        for shards in (7, 1):
            await queue.reshard(shards)
            (worker,) = [each async for each in other.workers()]
            await other.enqueue('a')
            task = await queue.dequeue(SOON)
            assert (await other.get_task(task)).consumer == worker.consumer
            await queue.release(task)
        await queue.delete()
        assert [each async for each in other.workers()] == []

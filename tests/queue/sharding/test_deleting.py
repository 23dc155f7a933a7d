"""Deleting a queue: all of its keys go, nobody else's, and no task by mistake."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from itertools import pairwise
from typing import Any

import anyio
import pytest

from tests.queue.sharding.support import SOON, Place
from tests.queue.transports import runs
from torrelque import (
    EnqueueItem,
    Torrelque,
    TorrelqueConnectionError,
    TorrelqueLeaseLostError,
    TorrelqueLookupError,
    TorrelqueTypeError,
    TorrelqueUsageError,
    queues,
)
from torrelque.core.protocol import Batch, Call, Reply
from torrelque.testing import MemoryServer, MemoryTransport

pytestmark = pytest.mark.anyio

either = pytest.mark.parametrize('shards', [None, 3], ids=['plain', 'sharded'])


@asynccontextmanager
async def opened(place: Place, shards: int | None, name: str = 'email') -> AsyncIterator[Torrelque]:
    async with place.client() as client, Torrelque(client, queue=name, shards=shards) as queue:
        yield queue


async def use(queue: Torrelque, count: int = 300) -> None:
    """Leave tasks, results and dead letters of all kinds."""
    await queue.enqueue_many([*range(count), *(EnqueueItem(number, delay=1000) for number in range(count))])
    tasks = await queue.dequeue(SOON, max_tasks=9)
    while len(tasks) < 9:
        tasks += await queue.dequeue(SOON, max_tasks=9 - len(tasks))
    for task in tasks[:3]:
        await queue.release(task, result='kept')
    for task in tasks[3:6]:
        await queue.reject(task, 'why')


@either
async def test_all_keys_of_a_queue_go_and_no_others(place: Place, shards: int | None) -> None:
    names = ('email:task:x', 'email2', 'email:lane')
    async with opened(place, shards) as queue:
        for name in names:
            async with opened(place, None, name) as other:
                await other.enqueue('theirs', task_id='status')
                await other.enqueue('theirs', task_id='7')
        before = place.keys()
        await use(queue)
        with pytest.raises(TorrelqueUsageError, match='291 pending, 3 claimed and 300 delayed tasks and 3 dead'):
            await queue.delete()
        assert (await queue.get_queue_stats()).delayed == 300
        await queue.delete(force=True)
        assert place.keys() == before
        async with place.client() as client:
            assert {name async for name in queues(client)} == set(names)
        # The object goes on, with a queue like new.
        task_id = await queue.enqueue('again')
        assert (await queue.dequeue(SOON)).id == task_id


@either
async def test_a_queue_without_tasks_goes_with_its_results(place: Place, shards: int | None) -> None:
    async with opened(place, shards) as queue:
        await queue.enqueue_many(range(10))
        done = 0
        while done < 10:
            for task in await queue.dequeue(SOON, max_tasks=10):
                await queue.release(task, result='kept')
                done += 1
        await queue.delete()
    assert place.keys() == set()
    async with opened(place, shards) as queue:
        await queue.delete()  # nor is there any now
    assert place.keys() == set()


@either
async def test_callers_hear_that_their_tasks_are_gone(place: Place, shards: int | None) -> None:
    async with opened(place, shards) as queue, opened(place, shards) as other:
        await queue.enqueue('claimed')
        task = await queue.dequeue(SOON)
        task_id = await queue.enqueue('watched')
        async with anyio.create_task_group() as tasks:

            async def wait() -> None:
                with anyio.fail_after(SOON), pytest.raises(TorrelqueLookupError):
                    await queue.wait(task_id)

            tasks.start_soon(wait)
            await anyio.sleep(0.2)
            await other.delete(force=True)
        with pytest.raises(TorrelqueLeaseLostError):
            await queue.release(task)


@either
async def test_a_deletion_that_was_cut_off_is_repeated(shards: int | None) -> None:
    class Cut(MemoryTransport):
        left = -1

        async def execute(self, batch: Batch) -> Sequence[Reply]:
            self.left -= 1
            if self.left == 0:
                raise TorrelqueConnectionError('cut off')
            return await super().execute(batch)

    transport = Cut(server=MemoryServer())
    async with Torrelque(transport, queue='email', shards=shards) as queue:
        steps = 0
        while True:
            await use(queue, 10)
            transport.left = steps = steps + 1
            try:
                await queue.delete(force=True)
            except TorrelqueConnectionError:
                # What is left is as it should be, but for the record of the number of shards.
                assert {found.kind for found in await queue.audit()} <= {'record'}
                transport.left = -1
                await queue.delete(force=True)
            assert transport.server.snapshot() == {}
            if transport.left > 0:  # nothing was cut off any more
                break
        assert steps > 5


@either
async def test_a_step_that_arrives_late_removes_no_new_task(shards: int | None) -> None:
    sent: list[Call[Reply]] = []

    class Recorded(MemoryTransport):
        async def execute(self, batch: Batch) -> Sequence[Reply]:
            sent.extend(call for call in batch if runs([call], 'erase') or runs([call], 'wipe'))
            return await super().execute(batch)

    transport = Recorded(server=MemoryServer())
    async with Torrelque(transport, queue='email', shards=shards) as queue:
        ids = await queue.enqueue_many(range(600))
        await queue.delete(force=True)
        assert len(sent) > 4
        await queue.enqueue_many([EnqueueItem(0, task_id=str(task_id)) for task_id in ids])
        for call in sent:
            transport.server.call(call)
        assert (await queue.get_queue_stats()).pending == 600
        tasks = await queue.dequeue(max_tasks=190)
        assert len(tasks) > 20


async def test_no_step_removes_more_than_250_tasks() -> None:
    transport = MemoryTransport(server=MemoryServer())
    async with Torrelque(transport, queue='email') as queue:
        for kind in range(3):
            await queue.enqueue_many([EnqueueItem(number, delay=1000 if kind else None) for number in range(300)])
        counts = [900]

        class Counting(MemoryTransport):
            async def execute(self, batch: Batch) -> Sequence[Reply]:
                replies = await super().execute(batch)
                counts.append((await queue.get_queue_stats()).tasks)
                return replies

        async with Torrelque(Counting(server=transport.server), queue='email') as other:
            await other.delete(force=True)
        assert max(before - after for before, after in pairwise(counts)) == 250
        assert counts[-1] == 0


async def test_a_queue_in_use_is_not_deleted() -> None:
    class Busy(MemoryTransport):
        async def execute(self, batch: Batch) -> Sequence[Reply]:
            replies = await super().execute(batch)
            if runs(batch, 'erase'):
                await producer.enqueue('more', task_id='more')
            return replies

    server = MemoryServer()
    async with Torrelque(MemoryTransport(server=server), queue='email') as producer:
        async with Torrelque(Busy(server=server), queue='email') as queue:
            with pytest.raises(TorrelqueUsageError, match='stop its producers'):
                await queue.delete()
        assert (await producer.dequeue(SOON)).data == 'more'


@pytest.mark.parametrize('force', ['email', 1, None])
async def test_a_flag_is_a_flag(force: Any) -> None:  # noqa: ANN401 - what is tested
    with pytest.raises(TorrelqueTypeError, match='force must be True or False'):
        await Torrelque(MemoryTransport()).delete(force=force)

"""A queue that was worked off audits clean, however it was used: operators alert on what an audit reports."""

from __future__ import annotations

import random
from collections.abc import Awaitable, Callable

import anyio
import pytest

from torrelque import EnqueueItem, Torrelque, TorrelqueLookupError, TorrelqueTimeoutError, Worker
from torrelque.core.protocol import Call, Reply
from torrelque.testing import MemoryServer, MemoryTransport
from torrelque.transports.base import Transport

pytestmark = pytest.mark.anyio

Use = Callable[[Torrelque], Awaitable[None]]


async def one_by_one(queue: Torrelque) -> None:
    for number in range(3):
        await queue.enqueue(number)
        await queue.release(await queue.dequeue(5))


async def without_waiting(queue: Torrelque) -> None:
    await queue.enqueue_many(range(3))
    for task in await queue.dequeue_nowait(max_tasks=3):
        await queue.release(task)


async def with_results(queue: Torrelque) -> None:
    task_id = await queue.enqueue('a')
    await queue.release(await queue.dequeue(5), result='b')
    assert (await queue.wait(task_id, 5)).result == 'b'
    await queue.enqueue('again', task_id=task_id)
    await queue.release(await queue.dequeue(5))


async def delayed(queue: Torrelque) -> None:
    await queue.enqueue_many([EnqueueItem('a', delay=0.05), EnqueueItem('b', delay=1000, task_id='b')])
    await queue.release(await queue.dequeue(5))
    await queue.cancel('b')


async def retried(queue: Torrelque) -> None:
    await queue.enqueue('a')
    await queue.requeue(await queue.dequeue(5), 0.02)
    await queue.giveback(await queue.dequeue(5))
    await queue.requeue(await queue.dequeue(5))
    await queue.release(await queue.dequeue(5))


async def rejected(queue: Torrelque) -> None:
    await queue.enqueue_many(range(2))
    for task in await queue.dequeue(5, max_tasks=2):
        await queue.reject(task, 'no')
    while await queue.dequeue_nowait():
        pass
    for task_id in [task_id async for task_id, _ in queue.rejected()][:1]:
        await queue.redrive(task_id)
        await queue.release(await queue.dequeue(5))
    await queue.purge(older_than=0)


async def leases_that_end(queue: Torrelque) -> None:
    await queue.enqueue('a', task_timeout=0.05, max_dequeues=2)
    await queue.dequeue(5)
    await queue.dequeue(5)
    await anyio.sleep(0.06)
    await queue.sweep()
    await queue.purge(older_than=0)


async def cancelled_consumers(queue: Torrelque) -> None:
    async with anyio.create_task_group() as group:
        for _ in range(3):
            group.start_soon(queue.dequeue)
        await anyio.sleep(0.05)
        await queue.enqueue('later', delay=0.1)
        await anyio.sleep(0.05)
        group.cancel_scope.cancel()
    await queue.release(await queue.dequeue(5))


async def consumers_in_vain(queue: Torrelque) -> None:
    with pytest.raises(TorrelqueTimeoutError):
        await queue.dequeue(0.05)
    with pytest.raises(TorrelqueLookupError):
        await queue.cancel('nobody')


async def watched(queue: Torrelque) -> None:
    task_id = await queue.enqueue('a')
    async with anyio.create_task_group() as group:
        group.start_soon(queue.wait, task_id, 5)
        await anyio.sleep(0.05)
        await queue.release(await queue.dequeue(5))


async def by_a_worker(queue: Torrelque) -> None:
    async def handler(_: object) -> None:
        pass

    worker = Worker(queue, handler, concurrency=3)
    async with anyio.create_task_group() as group:
        await group.start(worker.run)
        ids = await queue.enqueue_many(range(5))
        with anyio.fail_after(10):
            while (await queue.get_queue_stats()).tasks:  # noqa: ASYNC110 - there is nothing to wait on
                await anyio.sleep(0.01)
        assert len(ids) == 5
        worker.stop()


async def as_in_0_9(queue: Torrelque) -> None:
    """A 0.9 consumer dies between its two steps, and comes back after a sweep has marked its task."""
    task_id = await queue.enqueue('a')
    (keys,) = await queue._dispatcher.keys()
    move = Call[Reply]('RPOPLPUSH', (keys['pending'], keys['dequeueing']))
    while await queue._transport.execute([move]) == [None]:  # noqa: ASYNC110 - for a moment it may be claimed for nobody
        await anyio.sleep(0.01)
    await queue.sweep()
    await queue._transport.execute(
        [
            Call[Reply]('LREM', (keys['dequeueing'],), (0, task_id)),
            Call[Reply]('ZADD', (keys['working'],), ('1', task_id)),
            Call[Reply]('HSET', (keys.state(task_id),), ('status', 1)),
        ]
    )
    while not (tasks := await queue.dequeue_nowait()):  # noqa: ASYNC110 - as above
        await anyio.sleep(0.01)
    await queue.release(tasks[0])


USES: tuple[Use, ...] = (
    one_by_one, without_waiting, with_results, delayed, retried, rejected, leases_that_end, cancelled_consumers,
    consumers_in_vain, watched, by_a_worker, as_in_0_9,
)  # fmt: skip


@pytest.fixture
def transport() -> Transport:
    return MemoryTransport(server=MemoryServer())


async def assert_clean(queue: Torrelque) -> None:
    stats = await queue.get_queue_stats()
    assert (stats.tasks, stats.rejected) == (0, 0)
    assert await queue.audit() == []


@pytest.mark.parametrize('use', USES, ids=lambda use: use.__name__)
async def test_each_use(transport: Transport, use: Use) -> None:
    async with Torrelque(transport, queue='q') as queue:
        await use(queue)
        await assert_clean(queue)


# Version 0.9 has no shards.
@pytest.mark.parametrize('use', [use for use in USES if use is not as_in_0_9], ids=lambda use: use.__name__)
async def test_each_use_on_shards(transport: Transport, use: Use) -> None:
    async with Torrelque(transport, queue='q', shards=3) as queue:
        await use(queue)
        await assert_clean(queue)


@pytest.mark.parametrize('seed', range(5))
async def test_uses_in_any_order(transport: Transport, seed: int) -> None:
    order = random.Random(seed).sample(USES, len(USES))
    async with Torrelque(transport, queue='q') as queue:
        for use in order:
            await use(queue)
            await assert_clean(queue)
    async with Torrelque(transport, queue='q') as queue:
        await assert_clean(queue)


async def test_each_use_on_a_server(queue: Torrelque) -> None:
    for use in USES:
        await use(queue)
        await assert_clean(queue)

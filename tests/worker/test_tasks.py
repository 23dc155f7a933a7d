"""Each delivery is an event-loop task of its own, of which nothing is kept."""

from __future__ import annotations

import asyncio
import gc
import sys
import time
import weakref
from typing import Any

import anyio
import pytest
from anyio.lowlevel import checkpoint

from tests.worker.support import SOON, Bench, LiveBench
from torrelque import Task, Torrelque, events, retry
from torrelque.testing import MemoryTransport

pytestmark = pytest.mark.anyio


def current_task(backend: str) -> Any:  # noqa: ANN401 - of asyncio or Trio
    if backend != 'trio':
        return asyncio.current_task()
    import trio.lowlevel  # noqa: PLC0415 - it is there, as it runs

    return trio.lowlevel.current_task()


def name_of(task: Any) -> str:  # noqa: ANN401
    return str(task.get_name() if isinstance(task, asyncio.Task) else task.name)


async def test_each_delivery_has_its_own_current_task(bench: Bench, anyio_backend_name: str) -> None:
    seen: list[Any] = []

    async def handler(task: Task) -> None:
        seen.append(current_task(anyio_backend_name))
        await checkpoint()
        assert current_task(anyio_backend_name) is seen[-1]

    await bench.queue.enqueue_many(range(5))
    async with bench.working(handler, retry=retry.never()):
        await bench.until(events.Finished, 5)
    assert len(set(map(id, seen))) == 5  # they are kept, so that no id comes twice


async def test_a_task_is_named_after_what_it_handles(bench: Bench, anyio_backend_name: str) -> None:
    names: dict[str, str] = {}

    async def handler(task: Task) -> None:
        current = current_task(anyio_backend_name)
        names[task.id] = name_of(current)
        if isinstance(current, asyncio.Task):
            current.set_name('renamed')
        else:
            current.name = 'renamed'

    ids = await bench.queue.enqueue_many(range(3))
    async with bench.working(handler, retry=retry.never()):
        await bench.until(events.Finished, 3)
    assert names == {str(each): f'task:{each}' for each in ids}


@pytest.mark.parametrize('how', ['returns', 'raises', 'exits'])
async def test_a_done_callback_is_called_when_the_delivery_ends(
    bench: Bench, how: str, anyio_backend_name: str
) -> None:
    if anyio_backend_name == 'trio':
        return

    done: list[tuple[int, BaseException | None]] = []

    async def handler(task: Task) -> None:
        current = asyncio.current_task()
        assert current is not None
        assert len(done) == task.data, 'that of the delivery before was called'
        current.add_done_callback(lambda ended: done.append((task.data, ended.exception())))
        await checkpoint()
        if how == 'raises':
            raise ValueError
        if how == 'exits' and task.data == 2:
            raise SystemExit(3)

    await bench.queue.enqueue_many(range(3))
    worker = bench.worker(handler, retry=retry.never())
    with anyio.fail_after(SOON):
        if how == 'exits':
            with pytest.raises(SystemExit):
                await worker.run()
        else:
            async with anyio.create_task_group() as group:
                group.start_soon(worker.run)
                await bench.until(events.Rejected if how == 'raises' else events.Finished, 3)
                worker.stop()
    assert done == [(0, None), (1, None), (2, None)], 'the worker has handled the exception'


async def test_an_eager_task_factory(bench: Bench, anyio_backend_name: str) -> None:
    if anyio_backend_name != 'asyncio' or sys.version_info < (3, 12):
        return
    seen: list[Any] = []

    async def handler(task: Task) -> None:
        seen.append(asyncio.current_task())
        async with anyio.create_task_group() as group:
            group.start_soon(checkpoint)

    loop = asyncio.get_running_loop()
    former = loop.get_task_factory()
    loop.set_task_factory(asyncio.eager_task_factory)
    try:
        await bench.queue.enqueue_many(range(3))
        async with bench.working(handler, concurrency=2, retry=retry.never()):
            await bench.until(events.Finished, 3)
    finally:
        loop.set_task_factory(former)
    assert len(set(seen)) == 3


@pytest.mark.parametrize('turns', range(16))
async def test_an_event_loop_that_ends_loses_nothing(bench: Bench, anyio_backend_name: str, turns: int) -> None:
    """It cancels all tasks, also those of deliveries that had no turn yet."""
    if anyio_backend_name == 'trio':
        return
    done: list[int] = []

    async def handler(task: Task) -> None:
        for _ in range(3):
            await asyncio.sleep(0)
        done.append(task.data)

    await bench.queue.enqueue_many(range(8))
    running = asyncio.create_task(bench.worker(handler, concurrency=4).run())
    for _ in range(turns):
        await asyncio.sleep(0)
    for task in asyncio.all_tasks():
        if 'Worker.' in str(task.get_coro()):
            task.cancel()
    ended, _ = await asyncio.wait([running], timeout=SOON)
    assert ended
    await bench.settle()
    assert await bench.peek() == (8 - len(done), 0, 0, 0)
    left = await bench.queue.dequeue_nowait(max_tasks=8)
    assert sorted([*done, *(task.data for task in left)]) == list(range(8))
    assert {task.dequeue_count for task in left} <= {1}


async def test_handlers_that_never_wait_let_others_have_a_turn() -> None:
    turns = 0

    async def handler(task: Task) -> None:
        time.sleep(0.003)  # noqa: ASYNC251 - on purpose

    async def take_turns() -> None:
        nonlocal turns
        while True:
            await checkpoint()
            turns += bool(bench.told(events.Started))

    async with Torrelque(MemoryTransport(), queue='q') as queue:
        bench = LiveBench(queue)
        await queue.enqueue_many(range(64))
        async with bench.working(handler, concurrency=64), anyio.create_task_group() as group:
            group.start_soon(take_turns)
            await bench.until(events.Finished, 64)
            group.cancel_scope.cancel()
    assert turns >= 6, 'without turns in between there would be two or three; on Trio their order is random'


@pytest.mark.parametrize('concurrency', [1, 50])
async def test_nothing_is_kept_of_deliveries(concurrency: int, anyio_backend_name: str) -> None:
    alive: weakref.WeakSet[Any] = weakref.WeakSet()
    number = 0

    async def handler(task: Task) -> None:
        nonlocal number
        alive.add(current_task(anyio_backend_name))
        number += 1
        if number % 7 == 0:
            await checkpoint()

    async def deliver(count: int) -> int:
        ended = number + count
        await queue.enqueue_many(range(count))
        with anyio.fail_after(60):
            while number < ended or any((await queue.get_queue_stats())[:3]):  # noqa: ASYNC110 - nothing tells
                await anyio.sleep(0.01)
        gc.collect()
        return len(gc.get_objects())

    async with (
        Torrelque(MemoryTransport(), queue='q') as queue,
        LiveBench(queue).working(handler, concurrency=concurrency, on_event=None),
    ):
        before = await deliver(200)
        after = await deliver(1500)
        assert len(alive) == 0
        assert after - before < 500

"""Patterns of watches and waits."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import suppress

import anyio

from tests.growth.measuring import Round, pattern
from tests.growth.patterns.support import Handled, end_all, look_once
from tests.growth.stage import Stage
from torrelque import TorrelqueLookupError, TorrelqueTimeoutError

__all__ = ()

LONG_ENOUGH = 0.1
"""Seconds for which a result is kept that is going to be read. Fewer rounds than fit into it are no growth."""


@pattern()
async def watchers_that_leave(stage: Stage) -> AsyncIterator[Round]:
    async with stage.queue() as queue:

        async def play() -> None:
            task_id = await queue.enqueue('task')
            await look_once(queue, task_id)
            with anyio.move_on_after(0.005):
                await queue.wait(task_id)
            with suppress(TorrelqueTimeoutError):
                await queue.wait(task_id, 0.005)
            await end_all(queue)

        yield play


@pattern()
async def watches_to_the_end(stage: Stage) -> AsyncIterator[Round]:
    handled = Handled()
    async with stage.queue() as queue, stage.working(queue, handled):

        async def play() -> None:
            with suppress(TorrelqueLookupError):  # it may be done before the watcher has begun
                async for _ in queue.watch(await queue.enqueue('task', delay=0.01)):
                    pass

        yield play


@pattern(rounds=2, warm_up=4)
async def waits_beside_an_open_watch(stage: Stage) -> AsyncIterator[Round]:
    async with stage.queue() as queue, anyio.create_task_group() as group:
        watched = await queue.enqueue('watched', delay=1000)

        async def watch() -> None:
            async for _ in queue.watch(watched):
                pass

        group.start_soon(watch)

        async def play() -> None:
            task_id = await queue.enqueue('task')
            async with anyio.create_task_group() as waiting:
                waiting.start_soon(queue.wait, task_id)
                await anyio.sleep(0.005)
                await queue.release(await queue.dequeue(), result='result', result_ttl=LONG_ENOUGH)
            with suppress(TorrelqueLookupError):
                await queue.wait(task_id)
            await anyio.sleep(0.02)

        yield play
        group.cancel_scope.cancel()


@pattern()
async def waits_for_finished_tasks(stage: Stage) -> AsyncIterator[Round]:
    async with stage.queue() as queue:
        task_id = await queue.enqueue('task')
        await queue.release(await queue.dequeue(), result='result')

        async def play() -> None:
            async with anyio.create_task_group() as group:
                for _ in range(10):
                    group.start_soon(queue.wait, task_id)

        yield play


@pattern(rounds=2, warm_up=4)
async def waits_of_many_for_many(stage: Stage) -> AsyncIterator[Round]:
    async with stage.queue() as queue:

        async def wait(task_id: str) -> None:
            with suppress(TorrelqueLookupError):  # its result may have expired by then
                await queue.wait(task_id, 10)

        async def play() -> None:
            async with anyio.create_task_group() as group:
                for _ in range(20):
                    group.start_soon(wait, await queue.enqueue('task'))
                await anyio.sleep(0.005)
                while tasks := await queue.dequeue_nowait(max_tasks=100):
                    for task in tasks:
                        await queue.release(task, result='result', result_ttl=0.03)
            await anyio.sleep(0.03)

        yield play

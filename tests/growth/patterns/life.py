"""Patterns of queue objects and clients that come and go."""

from __future__ import annotations

from collections.abc import AsyncIterator
from functools import partial

import anyio
import anyio.to_thread

from tests.growth.measuring import Round, pattern
from tests.growth.patterns.support import look_once
from tests.growth.stage import SOON, Stage
from tests.transports.settings import LOOPS
from torrelque import Torrelque

__all__ = ()


async def use(queue: Torrelque) -> None:
    """Some of everything."""
    await queue.enqueue('task')
    task = await queue.dequeue(timeout=SOON)
    await look_once(queue, task)
    await queue.release(task)


@pattern()
async def queues_entered_and_left(stage: Stage) -> AsyncIterator[Round]:
    async with stage.client() as client:

        async def play() -> None:
            async with stage.make(client) as queue:
                await use(queue)

        yield play


@pattern(asyncio_only=True)
async def queues_closed(stage: Stage) -> AsyncIterator[Round]:
    async with stage.client() as client:

        async def play() -> None:
            queue = stage.make(client)
            await use(queue)
            await queue.aclose()

        yield play


# Nobody is left to remove their lanes, which expire by themselves.
@pattern(asyncio_only=True, bounded={'key q:lane:*': 1000, 'key {q}:lane:*': 1000, 'entries of dict': 1000})
async def queues_dropped(stage: Stage) -> AsyncIterator[Round]:
    async with stage.client() as client:

        async def play() -> None:
            await use(stage.make(client))

        yield play


@pattern()
async def clients_opened_and_closed(stage: Stage) -> AsyncIterator[Round]:
    async def play() -> None:
        async with stage.client() as client, stage.make(client) as queue:
            await use(queue)

    yield play


@pattern(rounds=2, warm_up=3, asyncio_only=True)
async def event_loops_that_come_and_go(stage: Stage) -> AsyncIterator[Round]:
    backend, options = LOOPS[stage.setting.loop]

    async def main() -> None:
        async with stage.client() as client, stage.make(client) as queue:
            await use(queue)

    async def play() -> None:
        await anyio.to_thread.run_sync(partial(anyio.run, main, backend=backend, backend_options=options))

    yield play


@pattern(clients=('memory',), asyncio_only=True)
async def one_queue_in_many_event_loops(stage: Stage) -> AsyncIterator[Round]:
    async with stage.client() as client:
        queue = stage.make(client)

        async def play() -> None:
            await anyio.to_thread.run_sync(anyio.run, use, queue)

        yield play

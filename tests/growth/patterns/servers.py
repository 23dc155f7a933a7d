"""Patterns of what happens to servers and to the layout of a queue."""

from __future__ import annotations

from collections.abc import AsyncIterator

import anyio

from tests.growth.measuring import SERVER_CLIENTS, Round, pattern
from tests.growth.patterns.support import Handled, end_all
from tests.growth.stage import SOON, Stage
from torrelque import Torrelque, TorrelqueConnectionError, TorrelqueReplyError

__all__ = ()


async def persistently_enqueue(queue: Torrelque) -> None:
    """Until the server takes it; it may come twice."""
    with anyio.fail_after(SOON):
        while True:
            try:
                await queue.enqueue('task')
            except (TorrelqueConnectionError, TorrelqueReplyError):
                await anyio.sleep(0.01)
            else:
                return


async def watch(queue: Torrelque, task_id: str) -> None:
    """Watch a task until cancelled, whatever the server does to it."""
    while True:
        try:
            async for _ in queue.watch(task_id):
                pass
        except (TorrelqueConnectionError, TorrelqueReplyError, LookupError):
            await anyio.sleep(0.01)


@pattern(rounds=2, warm_up=4, clients=SERVER_CLIENTS)
async def cut_connections(stage: Stage) -> AsyncIterator[Round]:
    handled = Handled()
    async with stage.queue() as queue, stage.working(queue, handled):

        async def play() -> None:
            stage.cut()
            before = handled.number
            await persistently_enqueue(queue)
            await handled.reach(before + 1)

        yield play


@pattern(rounds=2, warm_up=4, clients=SERVER_CLIENTS)
async def connections_cut_under_a_watch(stage: Stage) -> AsyncIterator[Round]:
    async with stage.queue() as queue, anyio.create_task_group() as group:
        task_id = await queue.enqueue('watched', delay=1000)
        group.start_soon(watch, queue, task_id)

        async def play() -> None:
            await anyio.sleep(0.02)
            stage.cut()
            await anyio.sleep(0.02)

        yield play
        group.cancel_scope.cancel()


@pattern(rounds=1, warm_up=3, clients=SERVER_CLIENTS)
async def restarts(stage: Stage) -> AsyncIterator[Round]:
    handled = Handled()
    async with stage.queue() as queue, stage.working(queue, handled):

        async def play() -> None:
            await stage.restart()
            before = handled.number
            await persistently_enqueue(queue)
            await handled.reach(before + 1)

        yield play


@pattern(rounds=1, warm_up=3)
async def resharding_up_and_down(stage: Stage) -> AsyncIterator[Round]:
    handled = Handled()
    async with stage.queue(shards=2) as queue, stage.working(queue, handled):

        async def use() -> None:
            before = handled.number
            for _ in range(3):
                await queue.enqueue('task')
            await handled.reach(before + 3)

        async def play() -> None:
            await queue.reshard(6)
            await use()
            while not await queue.reshard(2):
                await end_all(queue)
            await use()

        yield play


# For each shard that there ever was, 1,000 at most, an object knows its keys, and the queue its totals.
SHARDS_EVER: dict[str, int] = dict.fromkeys(
    (
        'object torrelque.core.keys.Keys',
        'entries of dict',
        'entries of list',
        'entries of key {q:0}:ring',
        'entries of key {q}:counters',
    ),
    1000,
)


@pattern(rounds=1, warm_up=3, bounded=SHARDS_EVER)
async def resharding_to_ever_more_and_back(stage: Stage) -> AsyncIterator[Round]:
    async with stage.queue(shards=2) as queue:
        numbers = iter(range(3, 100))

        async def play() -> None:
            await queue.reshard(next(numbers))
            await queue.enqueue_many(['task'] * 50)
            await end_all(queue)
            while not await queue.reshard(2):
                await end_all(queue)

        yield play

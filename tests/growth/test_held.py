"""After a burst of large payloads, an idle process holds none of them."""

from __future__ import annotations

import gc
import tracemalloc
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from functools import partial
from itertools import cycle

import anyio
import pytest

from tests.growth.loops import drop_cancelled_timers
from tests.growth.measuring import CLIENTS
from tests.growth.patterns.support import end_all
from tests.growth.stage import KINDS, SOON, Handler, Setting, Stage, quiet
from tests.servers import MissingServerError
from tests.transports.settings import LOOPS
from torrelque import Reject, Task, Torrelque

NUMBER = 6
SIZE = 1_000_000
"""Bytes of each payload."""

MOST = SIZE // 2
"""Bytes that may be held more than before: less than one payload, and far more than all else."""

Burst = Callable[[int], Awaitable[None]]
"""Has payloads of a size go to and fro."""


@asynccontextmanager
async def calls_at_once(stage: Stage, queue: Torrelque) -> AsyncIterator[Burst]:
    async def burst(size: int) -> None:
        async with anyio.create_task_group() as group:
            for number in range(NUMBER):
                group.start_soon(queue.enqueue, str(number) * size)
        await end_all(queue)

    yield burst


@asynccontextmanager
async def bulk_calls(stage: Stage, queue: Torrelque) -> AsyncIterator[Burst]:
    async def burst(size: int) -> None:
        await queue.enqueue_many([str(number) * size for number in range(NUMBER)])
        await end_all(queue)

    yield burst


@asynccontextmanager
async def working(stage: Stage, queue: Torrelque, handler: Handler) -> AsyncIterator[Burst]:
    async with stage.working(queue, handler, NUMBER, result_ttl=0.01):

        async def burst(size: int) -> None:
            await queue.enqueue_many([str(number) * size for number in range(NUMBER)])
            while any((await queue.get_queue_stats())[:3]):  # noqa: ASYNC110 - there is no event for what is written
                await anyio.sleep(0.01)
            await queue.purge(older_than=0)

        yield burst


async def give_back(task: Task) -> object:
    return task.data


async def fail(task: Task) -> object:
    copy = task.data + '.'
    raise Reject(f'{len(copy)} are too many')


BURSTS: dict[str, Callable[[Stage, Torrelque], AbstractAsyncContextManager[Burst]]] = {
    'calls at once': calls_at_once,
    'bulk calls': bulk_calls,
    'results': partial(working, handler=give_back),
    'exceptions': partial(working, handler=fail),
}


def cases() -> list[tuple[str, Setting]]:
    turns = {client: cycle(KINDS[client]) for client in CLIENTS}
    return [(burst, Setting(client, next(turns[client]))) for burst in BURSTS for client in CLIENTS]


async def held(setting: Setting, burst: str) -> int:
    """Bytes that are held more after large payloads than after small ones."""
    stage = Stage(setting)
    try:
        async with stage.queue() as queue, BURSTS[burst](stage, queue) as play:
            with anyio.fail_after(SOON):
                for _ in range(2):
                    await play(10)
                before = await memory(stage)
                await play(SIZE)
            return await memory(stage) - before
    finally:
        stage.close()


async def memory(stage: Stage) -> int:
    """The least that is in use in a few looks."""
    least = None
    for _ in range(5):
        await anyio.sleep(0.05)
        if stage.memory is not None:
            stage.memory.snapshot()  # removes what has expired
        drop_cancelled_timers()
        gc.collect()
        now, _ = tracemalloc.get_traced_memory()
        least = now if least is None else min(least, now)
    assert least is not None
    return least


@pytest.mark.parametrize(('burst', 'setting'), [pytest.param(*case, id=f'{case[0]}-{case[1]}') for case in cases()])
def test_a_burst_leaves_nothing(burst: str, setting: Setting) -> None:
    backend, options = LOOPS[setting.loop]
    tracemalloc.start()
    try:
        with quiet():
            more = anyio.run(partial(held, setting, burst), backend=backend, backend_options=options)
    except MissingServerError as error:
        pytest.skip(str(error))
    finally:
        tracemalloc.stop()
    assert more <= MOST, f'{more:,} bytes of {NUMBER * SIZE:,}'

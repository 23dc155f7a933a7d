"""What one caller does leaves room for others: turns of the event loop, and connections."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable
from functools import partial

import anyio
import pytest

from tests.growth.measuring import SERVER_CLIENTS, leave_out_old_objects
from tests.growth.stage import SOON, Setting, Stage, quiet
from tests.servers import MissingServerError
from tests.transports.settings import LOOPS

MANY = 50_000
LARGEST_PART = 0.1
"""How much of the time of this thread may go by without a turn for others. The whole grows with the load, too."""

FEW = 6
"""Connections that an object may need, however many wait."""


def run(setting: Setting, test: Callable[[Stage], Awaitable[None]]) -> None:
    backend, options = LOOPS[setting.loop]
    try:
        stage = Stage(setting)
    except MissingServerError as error:
        pytest.skip(str(error))
    try:
        leave_out_old_objects()  # what collecting garbage takes is not ours
        with quiet():
            anyio.run(partial(test, stage), backend=backend, backend_options=options)
    finally:
        stage.close()


@pytest.mark.parametrize(
    'setting', [Setting('memory', 'trio'), Setting('native', 'asyncio'), Setting('native', 'asyncio', 4)], ids=str
)
def test_others_have_turns_while_very_many_are_enqueued(setting: Setting) -> None:
    gaps: list[float] = []

    async def beat() -> None:
        last = time.thread_time()
        while True:
            await anyio.sleep(0.001)
            gaps.append((now := time.thread_time()) - last)
            last = now

    async def test(stage: Stage) -> None:
        async with stage.queue() as queue, anyio.create_task_group() as group:
            group.start_soon(beat)
            await anyio.sleep(0.01)
            with anyio.fail_after(SOON):
                assert len(await queue.enqueue_many({'number': number} for number in range(MANY))) == MANY
            group.cancel_scope.cancel()

    run(setting, test)
    assert max(gaps) < LARGEST_PART * sum(gaps), (max(gaps), sum(gaps))


def connections(stage: Stage) -> int:
    """How many connections the server has accepted until now."""
    return int(stage.server.info('stats')['total_connections_received'])


@pytest.mark.parametrize('setting', [Setting(client, 'asyncio') for client in SERVER_CLIENTS], ids=str)
def test_waits_for_finished_tasks_open_no_connections(setting: Setting) -> None:
    async def test(stage: Stage) -> None:
        async with stage.queue() as queue:
            task_id = await queue.enqueue('task')
            await queue.release(await queue.dequeue(), result='result')
            before = connections(stage)
            for _ in range(20):
                await queue.wait(task_id, SOON)
            # Looking is a connection, too.
            assert connections(stage) - before <= FEW

    run(setting, test)


@pytest.mark.parametrize('setting', [Setting(client, 'asyncio') for client in SERVER_CLIENTS], ids=str)
def test_waits_share_connections(setting: Setting) -> None:
    async def test(stage: Stage) -> None:
        async with stage.queue() as queue:
            task_ids = [str(each) for each in await queue.enqueue_many(['task'] * 200)]
            before = connections(stage)
            done = 0

            async def wait(task_id: str) -> None:
                nonlocal done
                await queue.wait(task_id, SOON)
                done += 1

            async with anyio.create_task_group() as group:
                for task_id in task_ids:
                    group.start_soon(wait, task_id)
                await anyio.sleep(0.1)
                while tasks := await queue.dequeue_nowait(max_tasks=100):
                    for task in tasks:
                        await queue.release(task, result='result')
            assert done == len(task_ids)
            assert connections(stage) - before <= FEW

    run(setting, test)

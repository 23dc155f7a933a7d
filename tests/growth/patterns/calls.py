"""Patterns of calls."""

from __future__ import annotations

import math
from collections.abc import AsyncIterator
from contextlib import suppress
from typing import Any

import anyio

from tests.growth.measuring import Round, pattern
from tests.growth.patterns.support import Handled, end_all
from tests.growth.stage import Stage
from torrelque import Torrelque, TorrelqueError, TorrelqueTaskStatus, queues
from torrelque.core.protocol import Call
from torrelque.engine.discovery import shards_of
from torrelque.testing import MemoryTransport, VirtualClock

__all__ = ()


@pattern()
async def bulk_calls(stage: Stage) -> AsyncIterator[Round]:
    async with stage.queue() as queue:

        async def play() -> None:
            await queue.enqueue_many(['task'] * 50)
            await end_all(queue)

        yield play


@pattern()
async def calls_at_once(stage: Stage) -> AsyncIterator[Round]:
    async with stage.queue() as queue:

        async def one() -> None:
            await queue.enqueue('task')
            task = await queue.dequeue()
            await queue.extend(task)
            await queue.release(task)

        async def play() -> None:
            async with anyio.create_task_group() as group:
                for _ in range(20):
                    group.start_soon(one)

        yield play


@pattern()
async def looking(stage: Stage) -> AsyncIterator[Round]:
    async with stage.queue() as queue:
        task_id = await queue.enqueue('task')

        async def play() -> None:
            await queue.get_task_state(task_id)
            await queue.get_task(task_id)
            await queue.get_queue_stats()
            await queue.get_server_time()
            assert [each async for each, _ in queue.tasks()] == [task_id]
            async for _ in queue.tasks():
                break
            assert [each async for each, _ in queue.tasks(TorrelqueTaskStatus.COMPLETED)] == []
            await queue.audit()
            await queue.sweep()

        yield play


@pattern()
async def operating(stage: Stage) -> AsyncIterator[Round]:
    async with stage.queue() as queue:

        async def play() -> None:
            await queue.cancel(await queue.enqueue('task', delay=100))
            await queue.enqueue('task')
            await queue.giveback(await queue.dequeue())
            await queue.requeue(await queue.dequeue())
            task = await queue.dequeue()
            await queue.reject(task, 'no use')
            await queue.redrive(task.id)
            await queue.reject(await queue.dequeue(), 'no use')
            await queue.purge(older_than=0)

        yield play


@pattern()
async def calls_that_fail(stage: Stage) -> AsyncIterator[Round]:
    async with stage.queue() as queue:

        async def play() -> None:
            await queue.enqueue('task')
            task = await queue.dequeue()
            await queue.release(task)
            for call in (
                queue.release(task), queue.extend(task), queue.giveback(task), queue.reject(task, 'late'),
                queue.cancel('nobody'), queue.get_task_state('nobody'), queue.get_task('nobody'),
                queue.redrive('nobody'), queue.enqueue('task', delay=math.nan), queue.wait('nobody', 1),
            ):  # fmt: skip
                with suppress(TorrelqueError):
                    await call

        yield play


@pattern()
async def module_functions(stage: Stage) -> AsyncIterator[Round]:
    async with stage.client() as client:
        async with stage.make(client) as queue:
            await queue.enqueue('task')

        async def play() -> None:
            assert [name async for name in queues(client)] == ['q']
            assert await shards_of(client, 'q') == stage.setting.shards
            async for _ in queues(client):
                break

        yield play


@pattern()
async def scheduled_sweeps(stage: Stage) -> AsyncIterator[Round]:
    async with stage.queue() as queue:
        queue.schedule_sweep(0.005)

        async def play() -> None:
            await anyio.sleep(0.02)
            queue.schedule_sweep(0.005)

        yield play
        queue.unschedule_sweep()


@pattern()
async def exporter_scrapes(stage: Stage) -> AsyncIterator[Round]:
    from torrelque.cli.exporter.metrics import Source, families  # noqa: PLC0415 - what it needs is optional

    async with stage.client() as client, stage.make(client) as queue:
        await queue.enqueue('task')
        source = Source(stage.transport, None, 20.0, 0.01)
        async with anyio.create_task_group() as group:
            group.start_soon(source.search)

            async def play() -> None:
                found = await source.read()
                assert found is not None
                assert [*families(found, 0.0)]

            yield play
            group.cancel_scope.cancel()


@pattern(clients=('redis_py', 'coredis'))
async def calls_on_pipelines(stage: Stage) -> AsyncIterator[Round]:
    if stage.setting.client.startswith('coredis'):

        async def play_coredis(client: Any, queue: Torrelque) -> None:  # noqa: ANN401 - two clients
            async with client.pipeline() as pipeline:
                await queue.enqueue('task', pipeline=pipeline)

        append = play_coredis
    else:

        async def play_redis_py(client: Any, queue: Torrelque) -> None:  # noqa: ANN401
            async with client.pipeline() as pipeline:
                await queue.enqueue('task', pipeline=pipeline)
                await pipeline.execute()

        append = play_redis_py
    async with stage.client() as client, stage.make(client) as queue:

        async def play() -> None:
            await append(client, queue)
            await end_all(queue)

        yield play


@pattern(clients=('memory',))
async def timers_of_a_virtual_clock(stage: Stage) -> AsyncIterator[Round]:
    clock = VirtualClock()
    async with Torrelque(MemoryTransport(clock=clock)) as queue, anyio.create_task_group() as group:
        group.start_soon(clock.sleep, 500)  # those behind it would go with the first if that were cancelled

        async def play() -> None:
            await queue.enqueue('task', task_timeout=1000)
            await queue.release(await queue.dequeue(timeout=1000))
            event = anyio.Event()
            event.set()
            await clock.pause(event, clock.now() + 1000)
            clock.call_at(clock.now() + 1000, Handled)()
            await clock.advance(0.001)

        yield play
        group.cancel_scope.cancel()


@pattern()
async def scripts_that_were_flushed(stage: Stage) -> AsyncIterator[Round]:
    async with stage.queue() as queue:

        async def play() -> None:
            if not stage.memory:
                await queue._transport.execute([Call('SCRIPT FLUSH', near='q')])
            await queue.enqueue('task')
            await end_all(queue)

        yield play

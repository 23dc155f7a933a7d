"""The project itself, with its defaults, on each of its clients.

The producers use the queue object, the consumer is a `Worker`. Redis-py has hiredis' parser, as it is a dependency.
"""

from __future__ import annotations

from contextlib import AsyncExitStack
from typing import Any, Self

import anyio
import coredis
import redis.asyncio

import torrelque
from benchmarks.systems import Handler, Payload, System
from torrelque.core.protocol import Call, Script


class Subject(System):
    async def __aenter__(self) -> Self:
        self._stack = await AsyncExitStack().__aenter__()
        if self.client == 'native':
            self._raw: Any = await self._stack.enter_async_context(torrelque.connect(self.url))
        elif self.client == 'redis_py':
            self._raw = await self._stack.enter_async_context(redis.asyncio.Redis.from_url(self.url))
        else:
            self._raw = await self._stack.enter_async_context(coredis.Redis.from_url(self.url))
        self._queue = await self._stack.enter_async_context(torrelque.Torrelque(self._raw))
        self._script: Script | None = None
        return self

    async def __aexit__(self, *error: object) -> None:
        await self._stack.aclose()

    async def enqueue(self, task: Payload, delay: float | None = None) -> None:
        await self._queue.enqueue(task, delay=delay)

    async def enqueue_many(self, tasks: list[Payload], delay: float | None = None) -> None:
        await self._queue.enqueue_many(tasks, delay=delay)

    async def work(self, handler: Handler, concurrency: int, stop: anyio.Event) -> None:
        async def handle(task: torrelque.Task) -> None:
            await handler(task.data)

        worker = torrelque.Worker(self._queue, handle, concurrency=concurrency)
        async with anyio.create_task_group() as group:
            group.start_soon(worker.run)
            await stop.wait()
            worker.stop()

    async def lifecycle(self, task: Payload) -> None:
        await self._queue.enqueue(task)
        await self._queue.release(await self._queue.dequeue())

    async def lifecycle_many(self, tasks: list[Payload]) -> int:
        await self._queue.enqueue_many(tasks)
        claimed = await self._queue.dequeue(max_tasks=len(tasks))
        await self._queue.release_many(claimed)
        return len(claimed)

    async def evaluate(self, script: str) -> None:
        if self._script is None:
            self._script = Script('floor', script, ())
            if self.client == 'native':
                await self._raw.execute([Call('SCRIPT LOAD', args=(script,))])
            else:
                await self._raw.script_load(script)
        if self.client == 'native':
            await self._raw.execute([Call(self._script)])
        elif self.client == 'redis_py':
            await self._raw.evalsha(self._script.sha, 0)
        else:
            await self._raw.evalsha(self._script.sha)

"""SAQ, on redis-py with hiredis' parser: its defaults, but 50 operations at once instead of 20.

Results are not kept (`ttl=-1`).
"""
# pyright: reportMissingImports=false, reportMissingModuleSource=false
# What is measured here is installed in an environment of its own, not where types are checked.

from __future__ import annotations

from typing import Any, Self

import anyio
import redis.asyncio
from saq import Worker
from saq.queue.redis import RedisQueue

from benchmarks.systems import Handler, Payload, System


class Subject(System):
    async def __aenter__(self) -> Self:
        self._queue = RedisQueue(redis.asyncio.Redis.from_url(self.url), max_concurrent_ops=50)
        await self._queue.connect()
        return self

    async def __aexit__(self, *error: object) -> None:
        await self._queue.disconnect()

    async def enqueue(self, task: Payload, delay: float | None = None) -> None:
        await self._queue.enqueue('handle', task=task, ttl=-1)

    async def work(self, handler: Handler, concurrency: int, stop: anyio.Event) -> None:
        async def handle(context: Any, *, task: Payload) -> None:  # noqa: ANN401 - its own
            await handler(task)

        worker: Any = Worker(self._queue, functions=[('handle', handle)], concurrency=concurrency)
        async with anyio.create_task_group() as group:
            group.start_soon(worker.start)
            await stop.wait()
            group.cancel_scope.cancel()

"""Torrelque 0.9, as published, on redis-py with hiredis' parser.

The consumer is the loop of its documentation, 50 of them side by side. Bulk enqueueing and releasing go through one
pipeline, as it recommends. Its connections have no socket time-out: redis-py 8 brings one of 5 s, with which its idle
consumers fail. Delays need its sweep, scheduled with its default interval.
"""

from __future__ import annotations

from typing import Self

import anyio
import redis.asyncio

import torrelque
from benchmarks.systems import Handler, Payload, System


class Subject(System):
    async def __aenter__(self) -> Self:
        self._client = redis.asyncio.Redis.from_url(self.url, socket_timeout=None)
        self._queue = torrelque.Torrelque(self._client)
        self._sha: str | None = None
        return self

    async def __aexit__(self, *error: object) -> None:
        await self._client.connection_pool.disconnect()

    async def enqueue(self, task: Payload, delay: float | None = None) -> None:
        await self._queue.enqueue(task, delay=delay)

    async def enqueue_many(self, tasks: list[Payload], delay: float | None = None) -> None:
        async with self._client.pipeline() as pipeline:
            for task in tasks:
                await self._queue.enqueue(task, delay=delay, pipeline=pipeline)
            await pipeline.execute()

    async def work(self, handler: Handler, concurrency: int, stop: anyio.Event) -> None:
        async def consume() -> None:
            while True:
                task_id, data = await self._queue.dequeue()
                await handler(data)
                await self._queue.release(task_id)

        self._queue.schedule_sweep()
        async with anyio.create_task_group() as group:
            for _ in range(concurrency):
                group.start_soon(consume)
            await stop.wait()
            group.cancel_scope.cancel()
        self._queue.unschedule_sweep()

    async def lifecycle(self, task: Payload) -> None:
        await self._queue.enqueue(task)
        task_id, _ = await self._queue.dequeue()
        await self._queue.release(task_id)

    async def lifecycle_many(self, tasks: list[Payload]) -> int:
        await self.enqueue_many(tasks)
        claimed = await self._queue.dequeue(max_tasks=len(tasks))
        async with self._client.pipeline() as pipeline:
            for task_id, _ in claimed:
                await self._queue.release(task_id, pipeline=pipeline)
            await pipeline.execute()
        return len(claimed)

    async def evaluate(self, script: str) -> None:
        if self._sha is None:
            self._sha = await self._client.script_load(script)
        await self._client.evalsha(self._sha, 0)

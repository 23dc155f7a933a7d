"""arq, on redis-py with hiredis' parser: 50 jobs at once, polled for every 10 ms instead of every 500.

With its default, an idle worker takes a quarter of a second on average to see a task. Results are not kept.
"""
# pyright: reportMissingImports=false, reportMissingModuleSource=false
# What is measured here is installed in an environment of its own, not where types are checked.

from __future__ import annotations

from typing import Any, Self

import anyio
from arq.connections import RedisSettings, create_pool
from arq.worker import Worker, func

from benchmarks.systems import Handler, Payload, System

POLL = 0.01
"""Seconds."""


class Subject(System):
    async def __aenter__(self) -> Self:
        self._pool: Any = await create_pool(RedisSettings.from_dsn(self.url))
        return self

    async def __aexit__(self, *error: object) -> None:
        await self._pool.aclose(close_connection_pool=True)

    async def enqueue(self, task: Payload, delay: float | None = None) -> None:
        await self._pool.enqueue_job('handle', task)

    async def work(self, handler: Handler, concurrency: int, stop: anyio.Event) -> None:
        async def handle(context: Any, task: Payload) -> None:  # noqa: ANN401 - its own
            await handler(task)

        worker: Any = Worker(
            functions=[func(handle, name='handle')],
            redis_pool=self._pool,
            max_jobs=concurrency,
            poll_delay=POLL,
            keep_result=0,
            handle_signals=False,
        )
        async with anyio.create_task_group() as group:
            group.start_soon(worker.main)
            await stop.wait()
            group.cancel_scope.cancel()

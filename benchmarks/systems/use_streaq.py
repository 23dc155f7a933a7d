"""streaQ, on coredis: its defaults, with 50 tasks at once; results are not kept (`ttl=0`).

Bulks are its `enqueue_many`.
"""
# pyright: reportMissingImports=false, reportMissingModuleSource=false
# What is measured here is installed in an environment of its own, not where types are checked.

from __future__ import annotations

from typing import Self

import anyio
from streaq import Worker

from benchmarks.systems import Handler, Payload, System


class Subject(System):
    async def __aenter__(self) -> Self:
        self._worker = self._make_worker(1, _nothing)
        await self._worker.__aenter__()
        self._task = self._worker.registry['handle']
        return self

    async def __aexit__(self, *error: object) -> None:
        await self._worker.__aexit__(None, None, None)

    async def enqueue(self, task: Payload, delay: float | None = None) -> None:
        await self._task.enqueue(task)

    async def enqueue_many(self, tasks: list[Payload], delay: float | None = None) -> None:
        await self._worker.enqueue_many([self._task.enqueue(task) for task in tasks])

    async def work(self, handler: Handler, concurrency: int, stop: anyio.Event) -> None:
        worker = self._make_worker(concurrency, handler)
        async with anyio.create_task_group() as group:
            group.start_soon(worker.run_async)
            await stop.wait()
            group.cancel_scope.cancel()

    def _make_worker(self, concurrency: int, handler: Handler) -> Worker:
        worker = Worker(redis_url=self.url, concurrency=concurrency, handle_signals=False)
        worker.task(name='handle', ttl=0, silent=True)(handler)
        return worker


async def _nothing(task: Payload) -> None:
    """Stands for the handler where tasks are only added."""

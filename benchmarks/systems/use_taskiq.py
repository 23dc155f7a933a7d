"""taskiq with taskiq-redis, on redis-py with hiredis' parser: the broker that acknowledges, on a stream.

Its defaults, with 50 tasks at once; there is no result backend. Acknowledged messages stay in the stream.
"""
# pyright: reportMissingImports=false, reportMissingModuleSource=false
# What is measured here is installed in an environment of its own, not where types are checked.

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Self

import anyio
from taskiq.receiver import Receiver
from taskiq_redis import RedisStreamBroker

from benchmarks.systems import Handler, Payload, System


class Subject(System):
    async def __aenter__(self) -> Self:
        self._broker: Any = RedisStreamBroker(self.url)
        self._task = self._broker.register_task(_nothing, task_name='handle')
        await self._broker.startup()
        return self

    async def __aexit__(self, *error: object) -> None:
        await self._broker.shutdown()

    async def enqueue(self, task: Payload, delay: float | None = None) -> None:
        await self._task.kiq(task)

    async def work(self, handler: Handler, concurrency: int, stop: anyio.Event) -> None:
        broker: Any = RedisStreamBroker(self.url)
        broker.register_task(handler, task_name='handle')

        finish = asyncio.Event()
        with ThreadPoolExecutor() as executor:
            broker.is_worker_process = True
            receiver = Receiver(broker, executor, max_async_tasks=concurrency)
            async with anyio.create_task_group() as group:
                group.start_soon(receiver.listen, finish)
                await stop.wait()
                finish.set()
        await broker.shutdown()


async def _nothing(task: Payload) -> None:
    """Stands for the handler where tasks are only added."""

"""Dramatiq, on redis-py with hiredis' parser: its defaults, with 8 worker threads.

It blocks: tasks are added one after the other by one thread, and handlers are plain functions in its threads.
"""
# pyright: reportMissingImports=false, reportMissingModuleSource=false
# What is measured here is installed in an environment of its own, not where types are checked.

from __future__ import annotations

from contextlib import suppress
from typing import Any, Self

import anyio
import anyio.lowlevel
import anyio.to_thread
import dramatiq
from dramatiq.brokers.redis import RedisBroker

from benchmarks.systems import Handler, Payload, System

TICK = 0.01
"""Seconds until the event loop sees what a thread has set."""


class Subject(System):
    async def __aenter__(self) -> Self:
        self._broker: Any = RedisBroker(url=self.url)
        self._actor: Any = dramatiq.actor(self._handle, actor_name='handle', broker=self._broker)
        self._handler: Handler | None = None
        return self

    async def __aexit__(self, *error: object) -> None:
        self._broker.close()

    async def enqueue(self, task: Payload, delay: float | None = None) -> None:
        self._actor.send(task)
        await anyio.lowlevel.checkpoint()

    async def work(self, handler: Handler, concurrency: int, stop: anyio.Event) -> None:
        self._handler = handler
        worker = dramatiq.Worker(self._broker, worker_threads=8)
        worker.start()
        while not stop.is_set():  # noqa: ASYNC110 - the loop has to wake up by itself to see what threads set
            await anyio.sleep(TICK)
        await anyio.to_thread.run_sync(worker.stop)

    def _handle(self, task: Payload) -> None:
        """Run the handler, which awaits nothing, in the thread that dramatiq chose."""
        assert self._handler is not None
        with suppress(StopIteration):
            self._handler(task).__await__().__next__()

"""The connections of watchers, counted over a server in memory."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Hashable
from contextlib import AbstractAsyncContextManager, asynccontextmanager

import anyio
import pytest

from torrelque import (
    Torrelque,
    TorrelqueLookupError,
    TorrelqueTaskState,
    TorrelqueTaskStatus,
)
from torrelque.testing import MemoryTransport, VirtualClock
from torrelque.transports.base import Listener
from torrelque.transports.cluster.slots import slot_of

on_asyncio = pytest.mark.parametrize('anyio_backend', ['asyncio'])

ENOUGH = 20  # seconds, for a machine under load
PENDING, WORKING, DELAYED, COMPLETED, REJECTED, *_ = TorrelqueTaskStatus


class Counting(MemoryTransport):
    """Counts listeners; ``fail`` is raised as one is opened. ``places`` are those of a cluster's nodes."""

    def __init__(self, places: int = 1, clock: VirtualClock | None = None) -> None:
        super().__init__(clock=clock)
        self.opened = 0
        self.open = 0
        self.fail: list[BaseException] = []
        self.listeners: list[Listener] = []
        self._places = places

    def listen(self) -> AbstractAsyncContextManager[Listener]:
        return self._counted(super().listen())

    def node_of(self, key: bytes) -> Hashable:
        return slot_of(key) % self._places

    @asynccontextmanager
    async def _counted(self, listening: AbstractAsyncContextManager[Listener]) -> AsyncIterator[Listener]:
        self.opened += 1
        if self.fail:
            raise self.fail.pop()
        self.open += 1
        try:
            async with listening as listener:
                self.listeners.append(listener)
                yield listener
        finally:
            self.open -= 1


async def until(condition: Callable[[], object]) -> None:
    with anyio.fail_after(ENOUGH):
        while not condition():  # noqa: ASYNC110 - nobody sets an event
            await anyio.sleep(0.002)


async def subscribed(queue: Torrelque, *task_ids: str) -> None:
    """Until the subscriptions of all these stand."""

    def stand() -> bool:
        lines = queue._engine.hub._lines.values()
        standing: set[bytes] = set().union(*(line.standing for line in lines))
        return all(queue._runtime.keys.state(task_id) in standing for task_id in task_ids)

    await until(stand)


async def release(queue: Torrelque, result: object = None) -> None:
    await queue.release(await queue.dequeue(ENOUGH), result=result)


class Waits:
    """Waits in the background, and what came of them."""

    def __init__(self, queue: Torrelque, *task_ids: str) -> None:
        self._queue = queue
        self._task_ids = task_ids
        self.states: list[TorrelqueTaskState] = []
        self.errors: list[Exception] = []

    async def run(self) -> None:
        async with anyio.create_task_group() as tasks:
            for task_id in self._task_ids:
                tasks.start_soon(self._wait, task_id)

    async def _wait(self, task_id: str) -> None:
        try:
            self.states.append(await self._queue.wait(task_id))
        except TorrelqueLookupError as error:
            self.errors.append(error)

"""The parts of a queue object, over a server in memory."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import anyio

from torrelque import Torrelque
from torrelque.testing import MemoryTransport, VirtualClock

ENOUGH = 30


@asynccontextmanager
async def opened(**options: Any) -> AsyncIterator[tuple[Torrelque, VirtualClock]]:  # noqa: ANN401 - the queue's
    """A queue, and the clock of its server."""
    clock = VirtualClock()
    async with Torrelque(MemoryTransport(clock=clock), **{'queue': 'q', **options}) as queue:
        yield queue, clock


async def dead_letters(queue: Torrelque, count: int) -> list[str]:
    """Add dead letters, the oldest first; their ids."""
    ids = [str(answer) for answer in await queue.enqueue_many(range(count))]
    for task in await queue.dequeue(max_tasks=count):
        await queue.reject(task, 'no good')
    return ids


async def until(condition: Callable[[], object]) -> None:
    with anyio.fail_after(ENOUGH):
        while not condition():  # noqa: ASYNC110 - nobody sets an event
            await anyio.sleep(0.002)

"""Much at once: many calls, and large payloads beside small ones."""

from __future__ import annotations

from collections.abc import Sequence

import anyio
import pytest
from anyio.lowlevel import checkpoint

from tests.queue.transports import runs
from torrelque import Torrelque
from torrelque.core.commands import MAX_ITEMS
from torrelque.core.protocol import Batch, Reply
from torrelque.core.session import MAX_IN_FLIGHT
from torrelque.testing import MemoryTransport
from torrelque.testing.conformance.support import PATIENCE

pytestmark = pytest.mark.anyio

LARGE = 16 << 20


class SlowTransport(MemoryTransport):
    """Answers when it is let; knows how much it holds meanwhile."""

    def __init__(self) -> None:
        super().__init__()
        self.go = anyio.Event()
        self.held = self.most = 0

    async def execute(self, batch: Batch) -> Sequence[Reply]:
        self.held += len(batch)
        self.most = max(self.most, self.held)
        await self.go.wait()
        self.held -= len(batch)
        return await super().execute(batch)


async def test_a_burst_is_held_back_and_merged_while_the_server_is_slow() -> None:
    transport = SlowTransport()
    callers = 9_000
    async with Torrelque(transport, queue='q') as queue:
        async with anyio.create_task_group() as group:
            for number in range(callers):
                group.start_soon(queue.enqueue, number)
                if number % 100 == 0:
                    await checkpoint()
            for _ in range(10):
                await checkpoint()
            assert transport.held == transport.most == MAX_IN_FLIGHT
            transport.go.set()
        assert transport.most <= MAX_IN_FLIGHT + 1
        assert (await queue.get_queue_stats()).pending == callers
    assert callers / MAX_ITEMS > MAX_IN_FLIGHT  # else nothing would have had to wait


class MeetingTransport(MemoryTransport):
    """Answers no enqueue before two batches with one are under way."""

    def __init__(self) -> None:
        super().__init__()
        self.met = anyio.Event()
        self._waiting = 0

    async def execute(self, batch: Batch) -> Sequence[Reply]:
        if runs(batch, 'enqueue'):
            self._waiting += 1
            if self._waiting == 2:
                self.met.set()
            await self.met.wait()
        return await super().execute(batch)


async def test_large_merged_calls_do_not_wait_for_each_other() -> None:
    async with Torrelque(MeetingTransport(), queue='q') as queue:
        with anyio.fail_after(PATIENCE):
            async with anyio.create_task_group() as group:
                for _ in range(2):
                    group.start_soon(queue.enqueue_many, range(MAX_ITEMS))
        assert (await queue.get_queue_stats()).pending == 2 * MAX_ITEMS


async def test_large_payloads_go_through_and_small_ones_beside_them(queue: Torrelque) -> None:
    large = 'x' * LARGE

    async def enqueue_small() -> None:
        for number in range(20):
            await queue.enqueue(number)

    async with anyio.create_task_group() as group:
        group.start_soon(queue.enqueue, large)
        for _ in range(5):
            group.start_soon(enqueue_small)
    tasks = await queue.dequeue_nowait(max_tasks=200)
    assert sorted(task.data for task in tasks if task.data != large) == sorted([*range(20)] * 5)
    assert len(tasks) == 101
    assert await queue.release_many(tasks) == [None] * 101

"""A worker on a queue object that is patient with a server that fails over."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from tests.worker.support import Bench, WatchedTransport
from torrelque import Task, Torrelque, TorrelqueConnectionError, TorrelqueReplyError, TorrelqueTaskStatus, events
from torrelque.testing import VirtualClock

pytestmark = pytest.mark.anyio

FAULTS = [TorrelqueConnectionError('cut off'), TorrelqueReplyError('READONLY this is a replica')]


@pytest.fixture
async def bench() -> AsyncIterator[Bench]:
    clock = VirtualClock()
    transport = WatchedTransport(clock)
    async with Torrelque(transport, queue='q', failover_timeout=10) as queue:
        yield Bench(queue, transport, clock)


@pytest.mark.parametrize('fault', FAULTS, ids=str)
async def test_it_settles_and_renews_through_a_fail_over(bench: Bench, fault: Exception) -> None:
    """A handler ends in the middle of it; another's lease, shorter than the work, is kept."""

    async def handler(task: Task) -> str:
        await bench.clock.sleep(task.data)
        return 'done'

    async with bench.working(handler, concurrency=3):
        ids = [await bench.queue.enqueue(seconds, task_timeout=30) for seconds in (3, 40)]
        await bench.clock.advance(1)
        bench.transport.away = fault
        await bench.clock.advance(8)
        bench.transport.away = None
        await bench.clock.advance(50)
        for task_id in ids:
            state = await bench.queue.get_task_state(task_id)
            assert (state.status, state.dequeue_count) == (TorrelqueTaskStatus.COMPLETED, 1)
    assert not [event for event in bench.events if isinstance(event, events.Disconnected)]


@pytest.mark.parametrize('fault', FAULTS, ids=str)
async def test_it_goes_on_after_one_that_takes_longer(bench: Bench, fault: Exception) -> None:
    async def handler(task: Task) -> str:
        return 'done'

    async with bench.working(handler, concurrency=3):
        bench.transport.away = fault
        await bench.clock.advance(60)
        bench.transport.away = None
        task_id = await bench.queue.enqueue(1)
        await bench.clock.advance(5)
        assert (await bench.queue.get_task_state(task_id)).result == 'done'
    assert [type(event) for event in bench.events][:2] == [events.Disconnected, events.Reconnected]

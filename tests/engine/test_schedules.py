"""Schedules whose calls are lost or repeated."""

from __future__ import annotations

import pytest

from tests.queue.transports import LosingTransport, RepeatingTransport
from torrelque import Torrelque, TorrelqueConnectionError

pytestmark = pytest.mark.anyio


async def test_a_lost_reply() -> None:
    transport = LosingTransport()
    async with Torrelque(transport) as queue:
        await queue.schedule('x', 1, every=60)
        (before,) = [each async for each in queue.schedules()]
        transport.lose = 'schedule'
        await queue.schedule('x', 2, every=60)  # the server knows what it answered
        (after,) = [each async for each in queue.schedules()]
        assert (after.task, after.next) == (2, before.next)
        assert [task.id for task in await queue.dequeue_nowait(max_tasks=9)] == []
        first = await queue.fire('x')
        assert [task.id for task in await queue.dequeue_nowait(max_tasks=9)] == [first]


async def test_a_lost_request() -> None:
    transport = LosingTransport()
    async with Torrelque(transport) as queue:
        await queue.schedule('x', 1, every=60)
        transport.lose, transport.before = 'schedule', True
        with pytest.raises(TorrelqueConnectionError):
            await queue.schedule('x', 2, every=60)
        transport.lose = ''
        (after,) = [each async for each in queue.schedules()]
        assert after.task == 1


async def test_repeats() -> None:
    async with Torrelque(RepeatingTransport()) as queue:
        await queue.schedule('x', 1, every=60)
        await queue.schedule('y', 1, cron='* * * * *')
        first = await queue.fire('x')
        assert [task.id for task in await queue.dequeue_nowait(max_tasks=9)] == [first]
        await queue.unschedule('x')
        assert [each.id async for each in queue.schedules()] == ['y']

"""Schedules whose calls are lost or repeated."""

from __future__ import annotations

import pytest

from tests.queue.transports import LosingTransport, RepeatingTransport
from torrelque import Torrelque, TorrelqueConnectionError
from torrelque.core.keys import Keys
from torrelque.core.protocol import Call, Reply
from torrelque.core.scripts import load
from torrelque.testing import MemoryTransport

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


async def test_times_for_an_earlier_schedule_are_refused() -> None:
    """A refill that comes late, when the schedule has changed, or again."""
    transport, script = MemoryTransport(), load()['schedule']
    keys = Keys.of_queue('trq')

    async def revision() -> bytes:
        (found,) = await transport.execute([Call('HGET', (b'trq:schedule:x',), ('revision',))])
        assert isinstance(found, bytes)
        return found

    async def refill(revision: bytes) -> Reply:
        words = ('', '', '', 'x', 'refill', revision, '9000000000 9000000060')
        (done,) = await transport.execute([Call[Reply](script, keys.of(script), words)])
        return done

    async with Torrelque(transport) as queue:
        await queue.schedule('x', 1, cron='0 0 * * *')
        before = await revision()
        await queue.schedule('x', 1, cron='0 1 * * *')
        await transport.execute([Call('HSET', (b'trq:schedule:x',), ('next', '8000000000'))])
        assert (await refill(before), await refill(await revision()), await refill(await revision())) == (0, 1, 1)
        (times,) = await transport.execute([Call('HGET', (b'trq:schedule:x',), ('next',))])
        assert isinstance(times, bytes)
        assert times.split() == [b'8000000000', b'9000000000', b'9000000060']
        await queue.unschedule('x')
        assert await refill(before) == 0


async def test_repeats() -> None:
    async with Torrelque(RepeatingTransport()) as queue:
        await queue.schedule('x', 1, every=60)
        await queue.schedule('y', 1, cron='* * * * *')
        first = await queue.fire('x')
        assert [task.id for task in await queue.dequeue_nowait(max_tasks=9)] == [first]
        await queue.unschedule('x')
        assert [each.id async for each in queue.schedules()] == ['y']

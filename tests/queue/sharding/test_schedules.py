"""Schedules of a queue with shards: each lives on the shard that its id belongs to, with its tasks."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import pytest

from torrelque import Torrelque, TorrelqueShardsError, TorrelqueTaskStatus
from torrelque.core.schedules import SCHEDULE, hold_item
from torrelque.core.sharding.layout import home_of
from torrelque.testing import MemoryServer, MemoryTransport, VirtualClock

pytestmark = pytest.mark.anyio

START = 1_700_000_000
NAMES = tuple(f's{number}' for number in range(8))


def shards_of(server: MemoryServer) -> dict[str, int]:
    """Which shard has a schedule."""
    return {
        member.decode(): int(key.split(b':')[1].partition(b'}')[0])
        for key, (_, content, _) in server.snapshot().items()
        if key.endswith(b':schedules') and isinstance(content, dict)
        for member in content
    }


async def worked_off(queue: Torrelque, clock: VirtualClock, seconds: float) -> list[str]:
    got: list[str] = []
    end = clock.time() + seconds
    while clock.time() < end:
        await clock.advance(1)
        for task in await queue.dequeue_nowait(max_tasks=99):
            got.append(str(task.id))
            await queue.release(task)
    return sorted(got)


async def test_a_schedule_and_its_tasks_are_at_home() -> None:
    clock = VirtualClock(START)
    transport = MemoryTransport(clock=clock)
    async with Torrelque(transport, shards=3) as queue:
        for name in NAMES:
            await queue.schedule(name, 1, every=5)
        assert shards_of(transport.server) == {name: home_of(name, 3) for name in NAMES}
        assert {each.id async for each in queue.schedules()} == {*NAMES}
        assert home_of('s1@1700000005', 3) == home_of('s1@5.25', 3) == home_of('s1', 3)
        got = await worked_off(queue, clock, 10)
        assert got == sorted(f'{name}@{START + after}' for name in NAMES for after in (5, 10))
        fired = await queue.fire('s2')
        assert (await queue.get_task_state(fired)).status is TorrelqueTaskStatus.PENDING
        await queue.unschedule('s2')
        assert await queue.audit() == []
        await queue.delete(force=True)
        assert transport.server.snapshot() == {}


async def test_a_waiting_consumer_is_woken() -> None:
    clock = VirtualClock(START)
    async with Torrelque(MemoryTransport(clock=clock), shards=3) as queue:
        await queue.schedule('s1', 1, every=5)
        await clock.advance(5)
        task = await queue.dequeue(1)
        assert task.id == f's1@{START + 5}'


@pytest.mark.parametrize('how', ['a call', 'reshard'])
async def test_it_moves_home(how: str) -> None:
    clock = VirtualClock(START)
    transport = MemoryTransport(clock=clock)
    async with Torrelque(transport, shards=3) as queue:
        for name in NAMES:
            await queue.schedule(name, 1, every=5)
        await worked_off(queue, clock, 5)
        (pending,) = [await queue.fire('s1')]
        assert not await queue.reshard(5)  # a task is left
        if how == 'a call':
            for name in NAMES:
                await queue.schedule(name, 1, every=5)
        assert shards_of(transport.server) == {name: home_of(name, 5) for name in NAMES}
        got = await worked_off(queue, clock, 10)
        assert got == sorted([pending, *(f'{name}@{START + after}' for name in NAMES for after in (10, 15))])
        assert await queue.reshard(5)
        assert await queue.audit() == []


async def test_a_move_that_was_interrupted_goes_on() -> None:
    clock = VirtualClock(START)
    transport = MemoryTransport(clock=clock)
    async with Torrelque(transport, shards=3) as queue:
        name = next(each for each in NAMES if home_of(each, 3) != home_of(each, 5))
        await queue.schedule(name, 1, every=5)
        await queue._engine.submit(SCHEDULE, [hold_item(name)], home_of(name, 3))
        assert await worked_off(queue, clock, 10) == []
        assert await queue.reshard(5)
        assert shards_of(transport.server) == {name: home_of(name, 5)}
        assert await worked_off(queue, clock, 1) == [f'{name}@{START + 10}']


async def test_objects_without_shards_are_refused() -> None:
    server = MemoryServer()
    async with Torrelque(MemoryTransport(server=server), shards=3) as queue:
        await queue.schedule('s1', 1, every=5)
    calls: list[Callable[[Torrelque], Awaitable[object]]] = [
        lambda plain: plain.schedule('x', 1, every=5),
        lambda plain: plain.unschedule('s1'),
        lambda plain: plain.fire('s1'),
    ]
    for call in calls:
        async with Torrelque(MemoryTransport(server=server)) as plain:
            with pytest.raises(TorrelqueShardsError):
                await call(plain)

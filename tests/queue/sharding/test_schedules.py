"""Schedules of a queue with shards: each lives on the shard of its group, or of its id, with its tasks."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import pytest

from torrelque import (
    Torrelque,
    TorrelqueLookupError,
    TorrelqueShardsError,
    TorrelqueTaskStatus,
    TorrelqueUsageError,
)
from torrelque.core.schedules import hold_item, put_item, retire_item
from torrelque.core.sharding.layout import home_of, mark_of
from torrelque.engine.placing import ShardedSchedules
from torrelque.engine.sharded import ShardedDispatcher
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


@pytest.mark.parametrize('how', ['a claim', 'a call', 'reshard'])
@pytest.mark.parametrize('stage', ['held', 'put', 'retired'])
async def test_a_move_that_was_interrupted_goes_on(how: str, stage: str) -> None:
    clock = VirtualClock(START)
    transport = MemoryTransport(clock=clock)
    async with Torrelque(transport, shards=3) as queue:
        name = next(each for each in NAMES if home_of(each, 3) != home_of(each, 5))
        former, home = home_of(name, 3), home_of(name, 5)
        await queue.schedule(name, 1, every=5)
        await queue.enqueue(0, task_id=name)  # is left on a former home, so that this is not the end of the move
        dispatcher, schedules = queue._dispatcher, queue._schedules
        assert isinstance(dispatcher, ShardedDispatcher)
        assert isinstance(schedules, ShardedSchedules)
        dispatcher.settle_schedule = _cut_short
        assert not await queue.reshard(5)
        dispatcher.settle_schedule = schedules._settle
        places = await schedules._look(name, 0)
        rank = await schedules._rank(places)
        await schedules._submit(hold_item(name, places[former].rank, rank), former)
        if stage != 'held':
            place = (await schedules._look(name, 0))[former]
            await schedules._submit(put_item(name, place.kept, rank), home)
        if stage == 'retired':
            await schedules._submit(retire_item(name, rank), former)
        if how == 'a call':
            await queue.schedule(name, 1, every=5)
        elif how == 'reshard':
            await queue.reshard(5)
        got = await worked_off(queue, clock, 12)
        assert shards_of(transport.server) == {name: home}
        assert got[0] == name
        assert set(got[1:]) >= {f'{name}@{START + 10}'}
        assert len({*got}) == len(got)
        assert await queue.reshard(5)
        assert await queue.audit() == []


async def _cut_short(_name: str) -> None:
    """The caller was killed."""


# Groups ---------------------------------------------------------------------------------------------------------------

GROUPS = ('acme', 'umbrella', 'globex')  # on shards 2, 0 and 1 of three


async def test_a_schedule_with_a_group_is_on_the_shard_of_the_group() -> None:
    clock = VirtualClock(START)
    transport = MemoryTransport(clock=clock)
    async with Torrelque(transport, shards=3) as queue:
        assert {home_of(group, 3) for group in GROUPS} == {0, 1, 2}
        await queue.limit(group='*', ordered=True)
        for group in GROUPS:
            await queue.schedule(f's-{group}', group, every=5, group=group, owner='app')
            await queue.enqueue('by hand', group=group)
        assert shards_of(transport.server) == {f's-{group}': home_of(group, 3) for group in GROUPS}
        assert sorted([each.id async for each in queue.schedules()]) == sorted(f's-{group}' for group in GROUPS)
        await clock.advance(6)
        for _ in range(2):
            tasks = await queue.dequeue_nowait(max_tasks=9)
            assert sorted(str(task.group) for task in tasks) == sorted(GROUPS)  # one at a time of each
            for task in tasks:
                await queue.release(task)
        ids = [str(task.id) for task in tasks]
        assert sorted(ids) == sorted(f's-{group}{mark_of(group.encode())}@{START + 5}' for group in GROUPS)
        fired = await queue.fire('s-acme')
        state = await queue.get_task_state(fired)
        assert (state.status, state.group) == (TorrelqueTaskStatus.PENDING, 'acme')
        assert await queue.audit() == []
        with pytest.raises(TorrelqueUsageError, match="belongs to owner 'app'"):
            await queue.schedule('s-acme', 1, every=5, group=GROUPS[2], owner='other')
        await queue.set_schedules({'s-acme': {'task': 1, 'every': 5, 'group': GROUPS[2]}}, owner='app')
        assert shards_of(transport.server) == {'s-acme': home_of(GROUPS[2], 3)}
        await queue.unschedule('s-acme')
        with pytest.raises(TorrelqueLookupError):
            await queue.unschedule('s-acme')
        with pytest.raises(TorrelqueLookupError):
            await queue.fire('s-acme')
        assert await queue.audit() == []
        await queue.delete(force=True)
        assert transport.server.snapshot() == {}


async def test_another_group_and_another_number_of_shards() -> None:
    """The times go on, none comes twice, and tasks do not overlap within a group."""
    clock = VirtualClock(START)
    transport = MemoryTransport(clock=clock)
    async with Torrelque(transport, shards=3) as queue:
        got: list[str] = []
        for group in ('acme', 'acme', None, GROUPS[2], 'umbrella', None):
            await queue.schedule('x', 1, every=5, group=group, missed='all')
            assert shards_of(transport.server) == {'x': home_of(group or 'x', 3)}
            got += await worked_off(queue, clock, 7)
        assert await queue.reshard(5) or await queue.reshard(5)
        await queue.schedule('x', 1, every=5, group='acme', missed='all')
        assert await queue.reshard(2) or await queue.reshard(2)
        assert shards_of(transport.server) == {'x': home_of('acme', 2)}
        got += await worked_off(queue, clock, 8)
        assert [task_id.rpartition('@')[2] for task_id in got] == [str(START + 5 * at) for at in range(1, 11)]
        await queue.schedule('x', 1, every=5, group='acme', overlap=False)
        await clock.advance(5)
        (held,) = await queue.dequeue_nowait()
        await clock.advance(20)
        assert await queue.dequeue_nowait() == []
        await queue.release(held)
        await queue.unschedule('x')
        assert await queue.reshard(2)
        assert await queue.audit() == []


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

"""Schedules: each time adds exactly one task, and no process is the one that has to do it."""

from __future__ import annotations

import math
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from typing import Any
from zoneinfo import ZoneInfo

import anyio
import pytest

from torrelque import (
    Schedule,
    Torrelque,
    TorrelqueLookupError,
    TorrelqueTaskStatus,
    TorrelqueTypeError,
    TorrelqueUsageError,
    TorrelqueValueError,
)
from torrelque.core.protocol import Call
from torrelque.testing import MemoryServer, MemoryTransport, VirtualClock
from torrelque.transports.native import NativeTransport

pytestmark = pytest.mark.anyio

ENOUGH = 20  # seconds, on a machine under load

START = 1_700_000_000  # 2023-11-14 22:13:20 UTC


class Shop:
    """A queue in virtual time, whose consumers note what they got, and when."""

    def __init__(self, transport: MemoryTransport, queue: Torrelque, clock: VirtualClock) -> None:
        self.server = transport.server
        self.queue = queue
        self.clock = clock
        self.got: list[tuple[str, float]] = []

    @asynccontextmanager
    async def consuming(self, *others: Torrelque) -> AsyncIterator[None]:
        async with anyio.create_task_group() as group:
            for queue in (self.queue, *others):
                group.start_soon(self._consume, queue)
            yield
            group.cancel_scope.cancel()

    async def _consume(self, queue: Torrelque) -> None:
        while True:
            task = await queue.dequeue()
            self.got.append((str(task.id), self.clock.time()))
            await queue.release(task)

    async def jump(self, until: float) -> None:
        """Let a long time pass without consumers that wait, and take each task when it is due."""
        while (time := min([each.next or until async for each in self.queue.schedules()])) <= until:
            await self.clock.advance(time - self.clock.time())
            for task in await self.queue.dequeue_nowait(max_tasks=9):
                self.got.append((str(task.id), self.clock.time()))
                await self.queue.release(task)
            await self.clock.advance(0)  # more times are being computed

    @property
    def ids(self) -> list[str]:
        return [task_id for task_id, _ in self.got]

    async def schedule(self, schedule_id: str) -> Schedule:
        (found,) = [each async for each in self.queue.schedules() if each.id == schedule_id]
        return found


@pytest.fixture
async def shop() -> AsyncIterator[Shop]:
    clock = VirtualClock(START)
    transport = MemoryTransport(clock=clock)
    async with Torrelque(transport) as queue:
        yield Shop(transport, queue, clock)


async def test_every(shop: Shop) -> None:
    await shop.queue.schedule('ping', {'a': 1}, every=30)
    async with shop.consuming():
        await shop.clock.advance(100)
    assert shop.got == [(f'ping@{START + after}', START + after) for after in (30, 60, 90)]


async def test_cron_in_a_time_zone(shop: Shop) -> None:
    vienna = ZoneInfo('Europe/Vienna')
    await shop.queue.schedule('report', task={'kind': 'daily'}, cron='0 7 * * mon-fri', tz='Europe/Vienna')
    await shop.jump(START + 86400 * 60)  # more times than the server knows ahead
    days = [datetime.fromtimestamp(time, vienna) for _, time in shop.got]
    assert days[0] == datetime(2023, 11, 15, 7, tzinfo=vienna)
    assert len(days) == 43
    assert all((day.hour, day.minute, day.second, day.weekday() < 5) == (7, 0, 0, True) for day in days)
    assert shop.ids == [f'report@{day.timestamp():.0f}' for day in days]


@pytest.mark.parametrize(
    ('cron', 'begin', 'expected'),
    [
        ('30 2 * * *', (3, 28), ['03-28T02:30+01', '03-29T03:00+02', '03-30T02:30+02']),  # the time that is skipped
        ('30 2 * * *', (10, 24), ['10-24T02:30+02', '10-25T02:30+02', '10-26T02:30+01']),  # the one that comes twice
        (
            '0 */12 * * *',
            (10, 24),
            ['10-24T12:00+02', '10-25T00:00+02', '10-25T12:00+01', '10-26T00:00+01', '10-26T12:00+01'],
        ),
    ],
)
async def test_daylight_saving(cron: str, begin: tuple[int, int], expected: list[str]) -> None:
    zone = ZoneInfo('Europe/Vienna')
    clock = VirtualClock(datetime(2026, *begin, tzinfo=zone).timestamp())
    transport = MemoryTransport(clock=clock)
    async with Torrelque(transport) as queue:
        shop = Shop(transport, queue, clock)
        await queue.schedule('x', 1, cron=cron, tz='Europe/Vienna')
        await shop.jump(clock.time() + 86400 * 3 - 7200)
    assert [f'{datetime.fromtimestamp(time, zone):%m-%dT%H:%M%z}'[:-2] for _, time in shop.got] == expected


async def test_two_consumers_share_the_times(shop: Shop) -> None:
    transport = MemoryTransport(server=shop.server, clock=shop.clock)
    async with Torrelque(transport) as other:
        await shop.queue.schedule('ping', 1, every=0.5)
        async with shop.consuming(other):
            await shop.clock.advance(30)
    assert len(shop.got) == 60
    assert len({*shop.ids}) == 60
    assert shop.ids[0] == f'ping@{START}.5'


async def test_missed_times(shop: Shop) -> None:
    await shop.queue.schedule('last', 1, every=60)
    await shop.queue.schedule('each', 1, every=60, missed='all')
    await shop.queue.schedule('cron', 1, cron='* * * * *')
    await shop.queue.schedule('crons', 1, cron='* * * * *', missed='all')
    await shop.clock.advance(3610)
    async with shop.consuming():
        await shop.clock.advance(20)
    assert [each for each in shop.ids if each.startswith('last')] == [f'last@{START + 3600}']
    assert [each for each in shop.ids if each.startswith('each')] == [
        f'each@{START + 60 * number}' for number in range(1, 61)
    ]
    # It knew 32 times ahead. Only the last of these is made up for, with one task.
    assert [each for each in shop.ids if each.startswith('cron@')] == [f'cron@{START - 20 + 60 * 32}']
    assert [each for each in shop.ids if each.startswith('crons')] == [
        f'crons@{START - 20 + 60 * number}' for number in range(1, 61)
    ]
    assert len({*shop.ids}) == len(shop.ids)


async def test_a_pause_misses_times(shop: Shop) -> None:
    await shop.queue.schedule('ping', 1, every=10)
    async with shop.consuming():
        await shop.queue.pause(until=START + 35)
        await shop.clock.advance(34)
        assert (await shop.queue.get_queue_stats()).tasks == 0
        await shop.clock.advance(7)
        assert shop.got == [(f'ping@{START + 30}', START + 35), (f'ping@{START + 40}', START + 40)]
        await shop.queue.pause()
        await shop.clock.advance(100)
        await shop.queue.resume()
        await shop.clock.advance(0)
        assert shop.got[2:] == [(f'ping@{START + 140}', START + 141)]


async def test_no_overlap(shop: Shop) -> None:
    await shop.queue.schedule('slow', 1, every=10, overlap=False, max_dequeues=1, task_timeout=1000)
    await shop.clock.advance(10)
    (task,) = await shop.queue.dequeue_nowait()
    await shop.clock.advance(30)
    assert await shop.queue.dequeue_nowait() == []
    await shop.queue.release(task)
    await shop.clock.advance(10)
    (task,) = await shop.queue.dequeue_nowait()
    assert task.id == f'slow@{START + 50}'
    await shop.queue.reject(task, 'broken')  # a dead letter does not stop it
    await shop.clock.advance(10)
    (task,) = await shop.queue.dequeue_nowait()
    assert task.id == f'slow@{START + 60}'


async def test_options_of_the_tasks(shop: Shop) -> None:
    await shop.queue.schedule(
        'x', 1, every=60, delay=5, task_timeout=7, max_dequeues=3, headers={'a': 'b'}, expires_in=20,
        on_expiry='reject', time_limit=2,
    )  # fmt: skip
    await shop.clock.advance(61)
    assert await shop.queue.dequeue_nowait() == []
    task = await shop.queue.get_task(f'x@{START + 60}')
    assert task.due == START + 65
    assert task.headers == {'a': 'b', 'torrelque.time_limit': '2'}
    state = task.state
    assert (state.timeout, state.max_dequeues, state.expires, state.on_expiry) == (7, 3, START + 80, 'reject')
    await shop.clock.advance(30)
    assert await shop.queue.dequeue_nowait() == []
    assert [each async for each, _ in shop.queue.rejected()] == [f'x@{START + 60}']


async def test_groups_and_priorities(shop: Shop) -> None:
    await shop.queue.limit(group='*', ordered=True)
    for number in (1, 2, 3):
        await shop.queue.schedule(f'g{number}', number, every=60, group='acme')
    await shop.queue.schedule('low', 4, every=60, priority='low')
    await shop.queue.schedule('high', 5, every=60, priority='high')
    await shop.queue.schedule('later', 6, every=60, group='late', delay=5)
    assert ((await shop.schedule('g1')).group, (await shop.schedule('low')).priority) == ('acme', 'low')
    assert ((await shop.schedule('low')).group, (await shop.schedule('g1')).priority) == (None, 'normal')
    assert await shop.queue.dequeue_nowait() == []
    await shop.clock.advance(61)
    tasks = await shop.queue.dequeue_nowait(max_tasks=9)
    assert sorted((task.data, task.group) for task in tasks) == [(1, 'acme'), (4, None), (5, None)]
    stats = await shop.queue.get_queue_stats()
    assert stats.groups is not None
    assert (stats.groups.blocked, stats.delayed) == (1, 1)
    await shop.clock.advance(5)
    (late,) = await shop.queue.dequeue_nowait(max_tasks=9)
    assert (late.data, late.group) == (6, 'late')
    for expected in (2, 3):
        await shop.queue.release(next(task for task in tasks if task.group))
        tasks = await shop.queue.dequeue_nowait(max_tasks=9)
        assert [task.data for task in tasks] == [expected]
    assert [await shop.queue.fire(name) for name in ('g1', 'g2')]
    assert await shop.queue.dequeue_nowait() == []  # the group is at its limit
    assert await shop.queue.audit() == []


async def test_the_group_of_a_schedule_changes(shop: Shop) -> None:
    for line in ({'group': 'a'}, {'priority': 'high'}, {'group': 'b'}, {}):
        await shop.queue.set_schedules({'x': {'task': 1, 'every': 60, **line}}, owner='app')
        await shop.queue.fire('x')
        await shop.clock.advance(0.001)
    tasks = await shop.queue.dequeue_nowait(max_tasks=9)
    assert sorted(task.group or '' for task in tasks) == ['', '', 'a', 'b']
    assert sorted([(await shop.queue.get_task_state(task)).priority for task in tasks]) == ['high', *['normal'] * 3]


async def test_fire(shop: Shop) -> None:
    await shop.queue.schedule('x', {'a': 1}, every=3600)
    await shop.queue.pause()
    await shop.clock.advance(0.25)
    first = await shop.queue.fire('x')
    await shop.clock.advance(0.25)
    assert [first, await shop.queue.fire('x')] == [f'x@{START}.25', f'x@{START}.5']
    await shop.queue.resume()
    assert [task.data for task in await shop.queue.dequeue_nowait(max_tasks=9)] == [{'a': 1}] * 2
    with pytest.raises(TorrelqueLookupError, match="no schedule 'y' in queue 'trq'"):
        await shop.queue.fire('y')


async def test_a_call_that_changes_nothing_has_no_effect(shop: Shop) -> None:
    for _ in range(3):
        await shop.queue.schedule('x', 1, every=30)
        await shop.queue.schedule('y', 1, cron='*/5 * * * *')
        await shop.clock.advance(10.4)
    found = {each.id: each async for each in shop.queue.schedules()}
    assert found['x'].next == START + 30
    assert found['y'].next == START + 100
    await shop.queue.schedule('x', 2, every=30)  # goes on from there with another payload
    await shop.queue.schedule('y', 1, cron='*/10 * * * *')
    found = {each.id: each async for each in shop.queue.schedules()}
    assert (found['x'].task, found['x'].next) == (2, START + 30)
    assert found['y'].next == START + 400
    assert (await shop.queue.get_queue_stats()).schedules == 2
    (task,) = await shop.queue.dequeue_nowait(max_tasks=9)  # its time came before it changed
    assert (task.id, task.data) == (f'x@{START + 30}', 2)


async def test_what_is_listed(shop: Shop) -> None:
    await shop.queue.schedule('x', {'a': 1}, cron='0 7 * * *', tz='Europe/Vienna', owner='app', missed='all')
    await shop.queue.schedule(
        'y', 'b', every=0.5, overlap=False, delay=2, expires_in=5, headers={'h': 'v'}, max_dequeues=2
    )
    x, y = sorted([each async for each in shop.queue.schedules()])
    assert (x.id, x.task, x.cron, x.tz, x.every, x.owner) == ('x', {'a': 1}, '0 7 * * *', 'Europe/Vienna', None, 'app')
    assert (x.missed, x.overlap, x.last, x.task_timeout, x.headers) == ('all', True, None, 300, {})
    assert x.next == datetime(2023, 11, 15, 6, tzinfo=UTC).timestamp()
    assert (y.every, y.cron, y.tz, y.overlap, y.owner, y.next) == (0.5, None, None, False, None, START + 0.5)
    assert (y.delay, y.expires_in, y.headers, y.max_dequeues) == (2, 5, {'h': 'v'}, 2)
    await shop.clock.advance(1)
    await shop.queue.dequeue_nowait()
    assert (await shop.schedule('y')).last == f'y@{START + 1}'


async def test_set_schedules(shop: Shop) -> None:
    queue = shop.queue
    await queue.schedule('mine', 1, every=5)
    await queue.schedule('loose', 1, every=5)
    await queue.set_schedules({'a': {'task': 1, 'every': 5}, 'b': {'task': 2, 'cron': '0 0 * * *'}}, owner='app')
    await queue.set_schedules({'c': {'task': 3, 'every': 5}}, owner='other')
    await queue.set_schedules({'a': {'task': 9, 'every': 5}, 'loose': {'task': 1, 'every': 5}}, owner='app')
    found = {each.id: (each.task, each.owner) async for each in queue.schedules()}
    assert found == {'mine': (1, None), 'a': (9, 'app'), 'c': (3, 'other'), 'loose': (1, 'app')}
    with pytest.raises(
        TorrelqueUsageError, match="schedule 'c' belongs to owner 'other', not to 'app': nothing was changed"
    ):
        await queue.set_schedules({'n': {'task': 1, 'every': 5}, 'c': {'task': 1, 'every': 5}}, owner='app')
    with pytest.raises(TorrelqueUsageError, match="'a' belongs to owner 'app', not to this caller, who named no owner"):
        await queue.schedule('a', 1, every=5)
    with pytest.raises(TorrelqueValueError, match="owner of schedule 'a' must be 'app', as of all, got 'other'"):
        await queue.set_schedules({'a': {'task': 1, 'every': 5, 'owner': 'other'}}, owner='app')
    assert found == {each.id: (each.task, each.owner) async for each in queue.schedules()}
    await queue.unschedule('a')
    await queue.set_schedules({}, owner='app')
    assert {each.id async for each in queue.schedules()} == {'mine', 'c'}


@pytest.mark.parametrize(
    ('options', 'said'),
    [
        ({'cron': 'x'}, r"cron is not a cron expression \(wrong number of fields\), got 'x'"),
        ({'cron': '61 * * * *'}, r"cron is not a cron expression \(bad minute\), got '61 \* \* \* \*'"),
        ({'cron': '0 0 * * mom'}, r'bad day-of-week'),
        (
            {'cron': '0 0 * * *', 'tz': 'Mars/Base'},
            "tz must be the name of a time zone that this system knows, got 'Mars/Base'",
        ),
        ({'every': 0}, r'every must be at least 0\.001 seconds, got 0'),
        ({'every': -5}, 'every must not be negative, got -5'),
        ({'every': math.nan}, 'every must be a finite number of seconds'),
        ({'every': 5, 'cron': '* * * * *'}, r"give either cron or every, got cron='\* \* \* \* \*' and every=5"),
        ({}, 'give either cron or every, got cron=None and every=None'),
        ({'every': 5, 'tz': 'UTC'}, "tz needs cron, got tz='UTC' and every=5"),
        ({'every': 5, 'missed': 'all', 'overlap': False}, "missed='all' contradicts overlap=False"),
        ({'every': 5, 'missed': 'some'}, "missed must be 'skip' or 'all', got 'some'"),
        ({'every': 5, 'expires_in': 3, 'delay': 4}, r'expires_in must be more than delay \(4\.0 s\), got 3'),
        ({'every': 5, 'owner': ''}, 'owner must not be empty'),
        ({'every': 5, 'max_dequeues': 0}, 'max_dequeues must be at least 1, got 0'),
        (
            {'every': 5, 'group': 'a', 'priority': 'low'},
            "either a group or a priority, got group='a' and priority='low'",
        ),
        ({'every': 5, 'group': '*'}, "group must not be '\\*', which"),
        ({'every': 5, 'group': ''}, 'group must not be empty'),
        ({'every': 5, 'priority': 'urgent'}, "priority must be 'high', 'normal' or 'low', got 'urgent'"),
    ],
)
async def test_bad_values(shop: Shop, options: dict[str, Any], said: str) -> None:
    with pytest.raises(TorrelqueValueError, match=said):
        await shop.queue.schedule('x', 1, **options)
    if 'owner' not in options:
        with pytest.raises(TorrelqueValueError, match=said):
            await shop.queue.set_schedules({'a': {'task': 1, 'every': 5}, 'x': {'task': 1, **options}}, owner='app')
    assert [each async for each in shop.queue.schedules()] == []


@pytest.mark.parametrize(
    ('options', 'said'),
    [
        ({'every': '5'}, "every must be a number of seconds, got '5'"),
        ({'every': True}, 'every must be a number of seconds, got True'),
        ({'cron': 5}, 'cron must be a string, got 5'),
        ({'cron': '* * * * *', 'tz': UTC}, r'tz must be a string, got datetime\.timezone\.utc'),
        ({'every': 5, 'group': 5}, 'group must be a string, got 5'),
        ({'every': 5, 'overlap': 1}, 'overlap must be True or False, got 1'),
        ({'every': 5, 'headers': [1]}, r'headers must map strings to strings, got \[1\]'),
    ],
)
async def test_bad_types(shop: Shop, options: dict[str, Any], said: str) -> None:
    with pytest.raises(TorrelqueTypeError, match=said):
        await shop.queue.schedule('x', 1, **options)
    assert [each async for each in shop.queue.schedules()] == []


async def test_bad_ids_and_lists(shop: Shop) -> None:
    with pytest.raises(TorrelqueValueError, match=r"schedule id must not contain '@', .* got 'a@1'"):
        await shop.queue.schedule('a@1', 1, every=5)
    with pytest.raises(TorrelqueTypeError, match='schedule id must be a string, got 5'):
        await shop.queue.schedule(5, 1, every=5)  # type: ignore[arg-type]  # on purpose
    with pytest.raises(TorrelqueTypeError, match=r"schedule 'x' has unknown arguments: 'evry'"):
        await shop.queue.set_schedules({'x': {'task': 1, 'evry': 5}}, owner='app')
    with pytest.raises(TorrelqueTypeError, match=r"schedule 'x' has no task, got \{'every': 5"):
        await shop.queue.set_schedules({'x': {'every': 5}}, owner='app')
    with pytest.raises(TorrelqueTypeError, match=r"schedules must map ids to mappings of arguments, got \['x'\]"):
        await shop.queue.set_schedules(['x'], owner='app')  # type: ignore[arg-type]  # on purpose
    with pytest.raises(TorrelqueLookupError, match="no schedule 'x' in queue 'trq'"):
        await shop.queue.unschedule('x')


async def test_a_clock_that_goes_back() -> None:
    """No time comes twice, and none is added before its time."""
    now = [START + 0.0]
    async with Torrelque(MemoryTransport(server=MemoryServer(lambda: now[0]))) as queue:
        await queue.schedule('x', 1, every=10)
        await queue.schedule('y', 1, cron='* * * * *')
        got: list[str] = []
        for moment in (10, 45, 5, 30, 44, 50, 41, 50, 61, 20, 61):
            now[0] = START + moment
            for task in await queue.dequeue_nowait(max_tasks=9):
                got.append(str(task.id))
                await queue.release(task)
        assert len(got) == len({*got})
        assert sorted(got) == [f'x@{START + after}' for after in (10, 40, 50, 60)] + [f'y@{START + 40}']


async def test_a_deletion_includes_schedules(shop: Shop) -> None:
    await shop.queue.schedule('x', 1, every=5)
    with pytest.raises(TorrelqueUsageError, match='1 schedule:'):
        await shop.queue.delete()
    assert len([each async for each in shop.queue.schedules()]) == 1
    await shop.clock.advance(6)
    await shop.queue.delete(force=True)
    assert shop.server.snapshot() == {}


# On a real server -----------------------------------------------------------------------------------------------------


async def test_on_a_server(queue: Torrelque, client: NativeTransport) -> None:
    await queue.schedule('ping', {'a': 1}, every=0.1, expires_in=60)
    await queue.schedule('cron', {'b': 1}, cron='* * * * * *')
    got: list[tuple[str, float]] = []

    async def consume(other: Torrelque) -> None:
        async with other:
            while len(got) < 25:
                task = await other.dequeue(ENOUGH)
                state = await other.get_task_state(task)
                assert state.last_dequeue_time is not None
                got.append((str(task.id), state.last_dequeue_time - float(task.id.partition('@')[2])))
                await other.release(task)

    with anyio.fail_after(ENOUGH):
        async with anyio.create_task_group() as group:
            for _ in range(3):
                group.start_soon(consume, Torrelque(client, queue='q'))
    assert len({task_id for task_id, _ in got}) == len(got)
    assert {task_id.partition('@')[0] for task_id, _ in got} == {'ping', 'cron'}
    assert min(late for _, late in got) >= 0
    assert sorted(late for _, late in got)[len(got) // 2] < 0.05
    await queue.unschedule('ping')
    await queue.unschedule('cron')
    assert await client.execute([Call('HGET', ('q:counters',), ('uses',))]) == [b'e']
    assert await queue.audit() == []
    await queue.delete(force=True)
    assert await client.execute([Call('KEYS', args=('*',))]) == [[]]


async def test_a_group_of_a_schedule_on_a_server(queue: Torrelque) -> None:
    got: list[tuple[object, str | None]] = []

    async def consume() -> None:
        for _ in range(2):
            task = await queue.dequeue(ENOUGH)
            got.append((task.data, task.group))
            await queue.release(task)

    with anyio.fail_after(ENOUGH):
        async with anyio.create_task_group() as group:
            group.start_soon(consume)
            await anyio.sleep(0.05)
            await queue.schedule('x', 1, every=3600, group='g')
            await queue.schedule('y', 2, every=0.2, priority='low')
            await queue.fire('x')
    assert {*got} == {(1, 'g'), (2, None)}
    assert await queue.audit() == []


async def test_a_schedule_wakes_an_idle_consumer(queue: Torrelque) -> None:
    got: list[str] = []

    async def consume() -> None:
        got.append(str((await queue.dequeue(ENOUGH)).id))

    with anyio.fail_after(4):  # before the end of a slice
        async with anyio.create_task_group() as group:
            group.start_soon(consume)
            await anyio.sleep(0.05)
            await queue.schedule('x', 1, every=0.5)
    assert got[0].startswith('x@')
    assert (await queue.get_task_state(got[0])).status is TorrelqueTaskStatus.WORKING

"""Groups: fair turns, limits and order within each, holds, fences; and priorities among the other tasks."""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from itertools import pairwise
from typing import Any

import anyio
import pytest

from tests.queue.test_limits import check_that_the_next_starts
from torrelque import (
    EnqueueItem,
    GroupCounts,
    GroupInfo,
    Limits,
    Retry,
    Task,
    Torrelque,
    TorrelqueTaskStatus,
    TorrelqueTypeError,
    TorrelqueUsageError,
    TorrelqueValueError,
    Worker,
)
from torrelque.testing import MemoryTransport, VirtualClock
from torrelque.transports.native import NativeTransport

pytestmark = pytest.mark.anyio

ENOUGH = 20  # seconds, on a machine under load
SOON = 4  # seconds, half a slice: nobody found it by looking again


@pytest.fixture
def clock() -> VirtualClock:
    return VirtualClock()


@pytest.fixture
async def memory(clock: VirtualClock) -> AsyncIterator[Torrelque]:
    async with Torrelque(MemoryTransport(clock=clock), queue='q') as queue:
        yield queue
        assert await queue.audit() == []


async def take(queue: Torrelque, most: int = 100) -> list[Task]:
    return await queue.dequeue_nowait(max_tasks=most)


async def taken(queue: Torrelque, most: int = 100) -> list[Any]:
    return [task.data for task in await take(queue, most)]


# Turns ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize('most', [1, 3, 50])
async def test_groups_take_turns(memory: Torrelque, most: int) -> None:
    for group in 'abc':
        await memory.enqueue_many([f'{group}{number}' for number in range(4)], group=group)
    await memory.enqueue_many(['-0', '-1'])
    data = [item for _ in range(14) for item in await taken(memory, most)]
    assert sorted(data[:4]) == ['-0', 'a0', 'b0', 'c0'], 'those without a group together have a turn'
    assert sorted(data[4:8]) == ['-1', 'a1', 'b1', 'c1']
    assert [item for item in data if item[0] == 'a'] == ['a0', 'a1', 'a2', 'a3']


async def test_a_backlog_delays_others_by_a_round_at_most(memory: Torrelque) -> None:
    await memory.enqueue_many(range(500), group='many')
    await take(memory, 100)
    await memory.enqueue('first', group='few')
    assert 'first' in await taken(memory, 2)


async def test_a_group_that_returns_does_not_jump_the_queue(memory: Torrelque) -> None:
    await memory.enqueue_many(['many'] * 300, group='many')
    counts = Counter[str]()
    for name in 'az':
        await memory.enqueue(name, group=name)
    for _ in range(150):
        (data,) = await taken(memory, 1)
        counts[data] += 1
        if data != 'many':
            await memory.enqueue(data, group=data)
    assert counts == {'many': 50, 'a': 50, 'z': 50}


async def test_weights(memory: Torrelque) -> None:
    await memory.limit(group='heavy', weight=3)
    for name in ('heavy', 'light'):
        await memory.enqueue_many([name] * 100, group=name)
    counts = Counter([data for _ in range(80) for data in await taken(memory, 1)])
    assert counts == {'heavy': 60, 'light': 20}


# Limits ---------------------------------------------------------------------------------------------------------------


async def test_concurrency_by_default_and_of_one_group(memory: Torrelque) -> None:
    await memory.limit(group='*', concurrency=2)
    await memory.limit(group='acme', concurrency=3)
    for name in ('acme', 'other'):
        await memory.enqueue_many([name] * 5, group=name)
    held = await take(memory)
    assert Counter(task.group for task in held) == {'acme': 3, 'other': 2}
    assert await take(memory) == []
    stats = await memory.get_queue_stats()
    assert (stats.pending, stats.working, stats.groups) == (5, 5, GroupCounts(0, 2, 0))
    await memory.release(next(task for task in held if task.group == 'other'))
    assert await taken(memory) == ['other']
    await memory.limit(group='acme', concurrency=0)
    await memory.release_many([task for task in held if task.group == 'acme'])
    assert await take(memory) == []
    await memory.limit(group='acme')
    assert await memory.limits('acme') == Limits(2)
    assert await taken(memory) == ['acme', 'acme']


async def test_limits_of_the_queue_hold_as_well(memory: Torrelque) -> None:
    await memory.limit(concurrency=3)
    await memory.limit(group='*', concurrency=2)
    for name in 'abc':
        await memory.enqueue_many([name] * 5, group=name)
    assert len(await take(memory)) == 3
    assert await memory.limits() == Limits(3)
    assert await memory.limits('*') == await memory.limits('a') == Limits(2)


async def test_a_rate_of_a_group(memory: Torrelque, clock: VirtualClock) -> None:
    await memory.limit(group='a', rate=(2, 10))
    await memory.enqueue_many(['a'] * 5, group='a')
    await memory.enqueue_many(['b'] * 5, group='b')
    assert Counter(await taken(memory)) == {'a': 2, 'b': 5}
    infos = {info.name: info async for info in memory.groups()}
    assert (infos['a'].state, infos['a'].waiting, infos['a'].working) == ('held', 3, 2)
    assert infos['a'].until == pytest.approx(await memory.get_server_time() + 5, abs=0.001)
    await clock.advance(4.99)
    assert await take(memory) == []
    await clock.advance(0.02)
    assert await taken(memory) == ['a']


END: dict[str, Callable[[Torrelque, Task], Awaitable[object]]] = {
    'release': lambda queue, task: queue.release(task),
    'release with a result': lambda queue, task: queue.release(task, result=1),
    'requeue': lambda queue, task: queue.requeue(task),
    'reject': lambda queue, task: queue.reject(task, 'no'),
    'giveback': lambda queue, task: queue.giveback(task),
    'a raised limit': lambda queue, _: queue.limit(group='g', concurrency=2),
    'a raised default': lambda queue, _: queue.limit(group='*', concurrency=2),
    'no limit': lambda queue, _: queue.limit(group='*'),
}


@pytest.mark.parametrize('how', END)
async def test_the_next_task_of_a_group_starts_at_once(queue: Torrelque, client: NativeTransport, how: str) -> None:
    await queue.limit(group='*', concurrency=1)
    await queue.enqueue_many([1, 2], group='g')
    await check_that_the_next_starts(queue, client, END[how])


async def test_a_default_reaches_many_blocked_groups(memory: Torrelque) -> None:
    await memory.limit(group='*', concurrency=0)
    await memory.enqueue_many([EnqueueItem(number, group=f'g{number}') for number in range(600)])
    assert await take(memory) == []
    assert (await memory.get_queue_stats()).groups == GroupCounts(0, 600, 0)
    await memory.limit(group='*')
    assert (await memory.get_queue_stats()).groups == GroupCounts(600, 0, 0)


# Order ----------------------------------------------------------------------------------------------------------------


async def test_tasks_of_an_ordered_group_run_one_after_the_other(memory: Torrelque, clock: VirtualClock) -> None:
    await memory.limit(group='*', ordered=True)
    await memory.enqueue_many(range(4), group='g')
    await memory.enqueue('late', group='g', delay=1)
    (task,) = await take(memory)
    assert task.data == 0
    assert await take(memory) == []
    await memory.requeue(task, 5)
    assert (await memory.get_task_state(task.id)).status is TorrelqueTaskStatus.PENDING
    await clock.advance(4.9)
    assert await take(memory) == [], 'it waits for its retry'
    await clock.advance(0.2)
    done = []
    while tasks := await take(memory):
        done += tasks
        await memory.release_many(tasks)
    assert [task.data for task in done] == [0, 1, 2, 3, 'late']


@pytest.mark.parametrize('dead', ['pass', 'hold'])
async def test_a_dead_letter_of_an_ordered_group(memory: Torrelque, dead: Any) -> None:  # noqa: ANN401 - either
    await memory.limit(group='g', ordered=True, dead=dead)
    await memory.enqueue_many([1, 2], group='g')
    (task,) = await take(memory)
    await memory.reject(task, 'why')
    assert await taken(memory) == ([] if dead == 'hold' else [2])
    await memory.redrive(task.id)
    assert await taken(memory) == ([1] if dead == 'hold' else [])


async def test_purging_the_dead_letters_lets_the_group_go_on(memory: Torrelque) -> None:
    await memory.limit(group='*', dead='hold')
    await memory.enqueue_many([1, 2], group='g')
    (task,) = await take(memory, 1)
    await memory.reject(task, 'why')
    (info,) = [info async for info in memory.groups()]
    assert info == GroupInfo('g', 1, 0, 'held')
    await memory.purge(task.id)
    assert await taken(memory) == [2]


async def test_a_stale_task_of_an_ordered_group_runs_first(memory: Torrelque, clock: VirtualClock) -> None:
    await memory.limit(group='*', ordered=True)
    await memory.enqueue_many([1, 2], group='g', task_timeout=10)
    await take(memory)
    await clock.advance(11)
    (task,) = await take(memory)
    assert (task.data, task.dequeue_count) == (1, 2)


# Fences and holds -----------------------------------------------------------------------------------------------------


async def test_the_fence_grows_with_every_claim(memory: Torrelque) -> None:
    await memory.limit(group='*', ordered=True)
    await memory.enqueue_many([1, 2], group='g')
    await memory.enqueue('plain')
    fences = []
    for _ in range(4):
        for task in await take(memory):
            if task.group is None:
                assert task.fence is None
                await memory.release(task)
                continue
            assert task.fence is not None
            fences.append(task.fence)
            await (memory.requeue(task) if task.attempt == 1 else memory.release(task))
    assert len(fences) == 4
    assert all(earlier < later for earlier, later in pairwise(fences))


async def test_a_worker_holds_the_group_of_a_task(memory: Torrelque, clock: VirtualClock) -> None:
    times: list[tuple[str, float]] = []

    async def handle(task: Task) -> None:
        times.append((str(task.data), clock.now()))
        if task.data == 'a1' and task.attempt == 1:
            raise Retry(30, group=True)

    await memory.limit(group='*', concurrency=1)
    await memory.enqueue_many(['a1', 'a2'], group='a')
    await memory.enqueue('b1', group='b', delay=10)
    async with anyio.create_task_group() as group:
        worker = Worker(memory, handle, concurrency=1, clock=clock)
        await group.start(worker.run)
        await clock.advance(31)
        group.cancel_scope.cancel()
    assert [data for data, _ in times] == ['a1', 'b1', 'a1', 'a2']
    assert [time for _, time in times] == pytest.approx([0, 10, 30, 30], abs=0.1)


async def test_a_task_without_a_group_waits_alone(memory: Torrelque, clock: VirtualClock) -> None:
    await memory.enqueue_many([1, 2])
    (task,) = await take(memory, 1)
    await memory.requeue(task, 5, group=True)
    assert await taken(memory) == [2]
    await clock.advance(5)
    assert await taken(memory) == [1]


# Priorities -----------------------------------------------------------------------------------------------------------


async def test_priorities_are_served_16_4_1(memory: Torrelque) -> None:
    for priority in ('low', 'normal', 'high'):
        await memory.enqueue_many([priority] * 100, priority=priority)
    stats = await memory.get_queue_stats()
    assert (stats.pending, stats.pending_high, stats.pending_low) == (300, 100, 100)
    assert Counter([data for _ in range(42) for data in await taken(memory, 1)]) == {'high': 32, 'normal': 8, 'low': 2}


async def test_strict_priorities(memory: Torrelque) -> None:
    await memory.limit(strict=True)
    assert await memory.limits() == Limits(strict=True)
    for priority in ('low', 'normal', 'high'):
        await memory.enqueue_many([priority] * 30, priority=priority)
    assert await taken(memory) == ['high'] * 30 + ['normal'] * 30 + ['low'] * 30


async def test_a_priority_is_kept(memory: Torrelque, clock: VirtualClock) -> None:
    await memory.limit(strict=True)
    await memory.enqueue('later', priority='high', delay=10)
    await memory.enqueue('normal')
    await memory.enqueue('low', priority='low', task_id='low')
    assert (await memory.get_task_state('low')).priority == 'low'
    tasks = await take(memory)
    await clock.advance(10)
    for task in tasks:
        await memory.requeue(task)
    (first, *_) = tasks = await take(memory)
    assert [task.data for task in tasks] == ['later', 'normal', 'low']
    await memory.reject(first, 'why')
    await memory.redrive(first.id)
    await memory.enqueue('other')
    assert await taken(memory) == ['later', 'other']


# The rest -------------------------------------------------------------------------------------------------------------


async def test_the_list_of_groups(queue: Torrelque) -> None:
    assert [info async for info in queue.groups()] == []
    await queue.limit(group='blocked', concurrency=1)
    await queue.enqueue_many([1, 2], group='blocked')
    await queue.enqueue('running', group='idle')
    held = await take(queue, 2)
    await queue.enqueue('a', group='ready \N{GREEK SMALL LETTER ALPHA}')
    infos = {info.name: info async for info in queue.groups()}
    since = infos['blocked'].since
    assert since is not None
    assert abs(since - await queue.get_server_time()) < ENOUGH
    assert infos == {
        'blocked': GroupInfo('blocked', 1, 1, 'blocked', since),
        'idle': GroupInfo('idle', 0, 1, 'idle'),
        'ready \N{GREEK SMALL LETTER ALPHA}': GroupInfo('ready \N{GREEK SMALL LETTER ALPHA}', 1, 0, 'ready'),
    }
    assert (await queue.get_queue_stats()).groups == GroupCounts(1, 1, 0)
    assert (await queue.get_task_state(held[0].id)).group == held[0].group
    await queue.delete(force=True)
    assert [info async for info in queue.groups()] == []
    assert await queue.limits('blocked') == Limits()


async def test_the_rest_of_the_calls_know_groups(memory: Torrelque) -> None:
    await memory.enqueue('cancelled', group='g', task_id='1')
    await memory.enqueue('replaced', group='g', task_id='2')
    await memory.enqueue('kept', group='g')
    await memory.enqueue('moved', group='h', task_id='2', replace=True)
    await memory.cancel('1')
    assert sorted([state.group or '' async for _, state in memory.tasks()]) == ['g', 'h']
    tasks = {task.data: task for task in await take(memory)}
    assert {data: task.group for data, task in tasks.items()} == {'kept': 'g', 'moved': 'h'}
    assert tasks['kept'].with_data('x').group == 'g'


BAD: list[tuple[dict[str, Any], type[Exception], str]] = [
    ({'weight': 2}, TorrelqueValueError, 'weight needs a group, got weight=2 and group=None'),
    ({'ordered': False}, TorrelqueValueError, 'ordered needs a group, got ordered=False and group=None'),
    ({'dead': 'hold'}, TorrelqueValueError, "dead needs a group, got dead='hold' and group=None"),
    (
        {'group': 'g', 'strict': False},
        TorrelqueValueError,
        "strict is for the whole queue, got strict=False and group='g'",
    ),
    ({'strict': 1}, TorrelqueTypeError, 'strict must be True or False, got 1'),
    ({'group': 5}, TorrelqueTypeError, 'group must be a string, got 5'),
]


@pytest.mark.parametrize(('arguments', 'kind', 'message'), BAD)
async def test_bad_limits(memory: Torrelque, arguments: dict[str, Any], kind: type[Exception], message: str) -> None:
    with pytest.raises(kind, match=message):
        await memory.limit(**arguments)
    assert await memory.limits() == await memory.limits('*') == Limits()


async def test_a_queue_that_is_not_empty_counts_all_its_tasks(memory: Torrelque) -> None:
    await memory.enqueue_many(range(3), group='g')
    await memory.enqueue('x', priority='low')
    await take(memory, 1)
    with pytest.raises(TorrelqueUsageError, match='has 3 pending, 1 claimed and 0 delayed'):
        await memory.delete()


async def test_bad_calls_write_nothing(memory: Torrelque) -> None:
    for call in (
        memory.enqueue('a', group='*'),
        memory.enqueue('a', group='g', priority='low'),
        memory.enqueue_many(['a', EnqueueItem('b', group='')]),
        memory.enqueue_many(['a'], priority='urgent'),  # type: ignore[arg-type]  # on purpose
        memory.limits(''),
    ):
        with pytest.raises(TorrelqueValueError):
            await call
    assert (await memory.get_queue_stats()).total_enqueued == 0
    await memory.enqueue('a', group='g')
    (task,) = await take(memory)
    for delay in (None, 0, -1):
        with pytest.raises(TorrelqueValueError, match='group=True needs a delay above 0'):
            await memory.requeue(task, delay, group=True)
    with pytest.raises(TorrelqueValueError, match='group=True needs a delay above 0'):
        Retry(group=True)

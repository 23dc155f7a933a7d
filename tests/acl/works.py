"""What the users of each role do all day, down to the last thing that their scripts may come upon.

A work is carried out on a stage; it fails if the role is refused anything that matters to the result.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, aclosing
from dataclasses import dataclass
from typing import Any

import anyio
import pytest

from tests.queue.transports import runs
from torrelque import (
    EnqueueItem,
    Limits,
    Torrelque,
    TorrelqueConnectionError,
    TorrelqueExistsError,
    TorrelqueTaskStatus,
    TorrelqueTimeoutError,
    TorrelqueUsageError,
)
from torrelque.core.protocol import Batch, Call, Reply
from torrelque.transports.base import Listener, Transport

PENDING, WORKING, DELAYED, COMPLETED, REJECTED, *_ = TorrelqueTaskStatus


class Unsteady(Transport):
    """Sends everything twice while told to ``repeat``; loses the reply to the next batch with the script ``lose``."""

    def __init__(self, transport: Transport) -> None:
        self._transport = transport
        self.block_limit = transport.block_limit
        self.repeat = False
        self.lose = ''

    async def execute(self, batch: Batch) -> Sequence[Reply]:
        replies = await self._transport.execute(batch)
        if self.repeat:
            replies = await self._transport.execute(batch)
        if self.lose and runs(batch, self.lose) and not any(isinstance(reply, Exception) for reply in replies):
            self.lose = ''
            raise TorrelqueConnectionError('the reply was lost')
        return replies

    async def block(self, call: Call[Reply], timeout: float) -> Reply:
        return await self._transport.block(call, timeout)

    def listen(self) -> AbstractAsyncContextManager[Listener]:
        return self._transport.listen()


@dataclass
class Stage:
    """``queue`` is the role's, over ``network``; ``others`` the same queue as seen by those who may do everything."""

    queue: Torrelque
    network: Unsteady
    others: Torrelque
    command: Callable[..., Any]


Work = Callable[[Stage], Awaitable[None]]

# Producer -------------------------------------------------------------------------------------------------------------


async def enqueues(stage: Stage) -> None:
    one = await stage.queue.enqueue('a', task_id='1', headers={'a': 'b'})
    assert await stage.queue.enqueue('other', task_id=one) == one
    await stage.queue.enqueue_many(['b', EnqueueItem('c', delay=60, max_dequeues=3, expires_in=300)])
    assert (await stage.others.get_queue_stats())[:4] == (3, 2, 0, 1)
    # Beside what others do: with tasks due, and in place of a finished one.
    await stage.others.release(await stage.others.dequeue(20), result='done')
    await stage.queue.enqueue('again', task_id='1')
    assert (await stage.others.get_task('1')).data == 'again'


async def enqueues_in_a_group(stage: Stage) -> None:
    await stage.queue.enqueue('first', group='g')  # before any claim: no turn is recorded


async def enqueues_again(stage: Stage) -> None:
    await stage.queue.enqueue('first')
    stage.network.repeat = True
    await stage.queue.enqueue('second')
    stage.network.repeat = False
    stage.network.lose = 'enqueue'
    await stage.queue.enqueue('third')  # the server knows that it was done
    assert [task.data for task in await stage.others.dequeue_nowait(max_tasks=9)] == ['first', 'second', 'third']
    await stage.queue.enqueue('later', delay=60)  # none pending: the script looks at what comes next
    assert (await stage.others.get_queue_stats()).delayed == 1


async def enqueues_beside_schedules(stage: Stage) -> None:
    await stage.others.schedule('x', 1, every=5)
    await stage.queue.enqueue('later', delay=60)  # the script looks at what comes next


async def schedules(stage: Stage) -> None:
    """With the rights that are an extra."""
    await stage.queue.schedule('x', 1, every=60, owner='app')
    await stage.queue.set_schedules({'y': {'task': 1, 'cron': '* * * * *'}}, owner='app')
    assert [each.id async for each in stage.queue.schedules()] == ['y']
    await stage.queue.fire('y')
    await stage.queue.unschedule('y')
    assert [task.data for task in await stage.others.dequeue_nowait()] == [1]
    await stage.queue.schedule('z', 2, every=60, group='g')
    await stage.queue.fire('z')
    await stage.queue.schedule('z', 2, every=60)  # in a queue that has groups
    await stage.queue.fire('z')
    assert [task.group for task in await stage.others.dequeue_nowait(max_tasks=9)] == [None, 'g']


async def replaces(stage: Stage) -> None:
    await stage.queue.enqueue('a', task_id='1')
    for delay in (None, 60, 60, None):
        await stage.queue.enqueue('b', task_id='1', delay=delay, replace=True)
    assert (await stage.others.get_queue_stats())[:4] == (1, 1, 0, 0)
    lines: list[dict[str, Any]] = [{'priority': 'low'}, {'group': 'g'}, {'group': 'g', 'delay': 60}, {'group': 'h'}, {}]
    for line in lines:
        await stage.queue.enqueue('b', task_id='1', replace=True, **line)
    assert (await stage.others.get_queue_stats())[:4] == (1, 1, 0, 0)
    await stage.others.reject(await stage.others.dequeue(20), 'why')
    with pytest.raises(TorrelqueExistsError):
        await stage.queue.enqueue('c', task_id='1', replace=True)


async def enqueues_in_lines(stage: Stage) -> None:
    await stage.others.limit(group='blocked', concurrency=1)
    await stage.others.limit(group='held', rate=(1, 3600))
    await stage.others.limit(group='dead', dead='hold')
    for group in ('blocked', 'held', 'dead', 'ready'):
        await stage.others.enqueue('a', group=group)
    _, dead, held, ready = await stage.others.dequeue(20, max_tasks=4)
    await stage.others.release_many([held, ready])
    await stage.others.reject(dead, 'why')
    await stage.queue.enqueue_many(['a', 'b'], group='ready')
    for group in ('blocked', 'held', 'dead', 'new'):
        await stage.queue.enqueue('b', group=group)
    await stage.queue.enqueue('c', group='new', delay=60)
    await stage.queue.enqueue('d', priority='high')
    await stage.queue.enqueue('e', priority='low')
    assert (await stage.others.get_queue_stats()).groups == (2, 1, 2)
    for _ in range(9):
        await stage.others.dequeue_nowait()
    await stage.queue.enqueue('f', group='blocked')  # none can be taken: the script looks at what comes next


# Consumer -------------------------------------------------------------------------------------------------------------


async def claims(stage: Stage) -> None:
    await stage.others.enqueue('poison')
    await stage.others.reject(await stage.others.dequeue(20), 'with a dead letter there, a claim looks for it')
    await stage.others.enqueue_many(['a', 'b', EnqueueItem('c', delay=0.001)])
    await anyio.sleep(0.002)
    assert [task.data for task in await stage.queue.dequeue_nowait(max_tasks=9)] == ['a', 'b', 'c']
    assert await stage.queue.dequeue_nowait() == []
    await stage.others.enqueue('missing', task_id='missing')
    stage.command('HDEL', 'q:tasks', 'missing')
    stage.command('ZADD', 'q:missing', 1, 'old')
    assert await stage.queue.dequeue_nowait() == []
    assert stage.command('ZRANGE', 'q:missing', 0, -1) == [b'missing']
    await stage.others.enqueue('d')
    stage.network.repeat = True
    assert [task.data for task in await stage.queue.dequeue_nowait()] == ['d']
    stage.network.repeat = False


async def ends_claims(stage: Stage) -> None:
    await stage.others.enqueue_many(range(7))
    tasks = await stage.queue.dequeue(20, max_tasks=7)
    await stage.queue.extend(tasks[0])
    await tasks[0].progress(1, 2, 'half')
    await stage.queue.release(tasks[0])
    await stage.queue.release(tasks[1], result='done')
    await stage.queue.requeue(tasks[2])
    await stage.queue.requeue(tasks[3], delay=60)
    await stage.queue.reject(tasks[4], 'why')
    await stage.queue.giveback(tasks[5])
    assert (await stage.others.get_queue_stats())[:5] == (4, 2, 1, 1, 1)


async def ends_what_expired(stage: Stage) -> None:
    await stage.others.enqueue_many(['a', 'b'], expires_in=0.001)
    await stage.others.enqueue('c', expires_in=0.001, on_expiry='reject')
    await anyio.sleep(0.002)
    assert await stage.queue.dequeue_nowait(max_tasks=9) == []
    stats = await stage.others.get_queue_stats()
    assert (stats.total_expired, stats.rejected) == (2, 1)


async def takes_back(stage: Stage) -> None:
    await stage.others.enqueue_many([EnqueueItem(data, task_timeout=0.001) for data in 'ab'])
    await stage.others.enqueue('c', task_timeout=0.001, max_dequeues=1)
    await stage.queue.dequeue(20, max_tasks=3)
    await anyio.sleep(0.002)
    assert sorted(task.data for task in await stage.queue.dequeue_nowait(max_tasks=9)) == ['a', 'b']
    assert (await stage.others.get_queue_stats()).rejected == 1


async def loses_a_reply(stage: Stage) -> None:
    await stage.others.enqueue_many(['a', 'b'])
    stage.network.lose = 'claim'
    with pytest.raises(TorrelqueConnectionError):
        await stage.queue.dequeue_nowait()
    assert (await stage.others.get_queue_stats()).pending == 2
    task = await stage.queue.dequeue(20)
    stage.network.lose = 'release'
    await stage.queue.release(task)


async def waits(stage: Stage) -> None:
    await stage.others.enqueue('soon', delay=0.02)
    with anyio.fail_after(20):
        task = await stage.queue.dequeue()
        assert task.data == 'soon'
        await stage.queue.requeue(task, delay=5)
        with pytest.raises(TorrelqueTimeoutError):
            await stage.queue.dequeue(0.02)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(stage.queue.dequeue)
            while not int(stage.command('INFO', 'clients').split(b'blocked_clients:')[1].split()[0]):  # noqa: ASYNC110 - only the server knows
                await anyio.sleep(0.001)
            await stage.others.enqueue('now')


async def fires(stage: Stage) -> None:
    await stage.others.schedule('x', 1, every=60)
    await stage.others.schedule('y', 2, cron='* * * * *')
    for name in 'xy':
        stage.command('HSET', f'q:schedule:{name}', 'next', 5)
        stage.command('ZADD', 'q:schedules', 5, name)
    stage.command('ZADD', 'q:schedules', 1, 'gone')
    tasks = await stage.queue.dequeue_nowait(max_tasks=9)
    assert sorted(task.data for task in tasks) == [1, 2]
    with anyio.fail_after(5):
        while len(stage.command('HGET', 'q:schedule:y', 'next').split()) < 9:  # noqa: ASYNC110 - only the server knows
            await anyio.sleep(0.005)


async def announces(stage: Stage) -> None:
    stage.command('HSET', 'q:workers', 'killed', '1 1 {}')
    await stage.queue.announce('w', name='worker', concurrency=1)
    assert [worker.id async for worker in stage.others.workers()] == ['w']
    assert stage.command('HLEN', 'q:workers') == 1
    await stage.queue.retract('w')


async def counts(stage: Stage) -> None:
    await stage.others.enqueue('pending')
    await stage.others.schedule('x', 1, every=60)
    stats = await stage.queue.get_queue_stats()
    assert (stats.pending, stats.schedules) == (1, 1)


async def serves_groups(stage: Stage) -> None:
    await stage.others.limit(group='ordered', ordered=True, dead='hold')
    await stage.others.limit(group='rated', rate=(1, 0.05))
    for group in ('ordered', 'rated', 'plain'):
        await stage.others.enqueue_many(range(6), group=group)
    stage.command('HSET', 'q:counters', 'recheck', 'blocked 0')  # as if the caller of `limit` had been cancelled
    ordered, plain, rated = await stage.queue.dequeue_nowait(max_tasks=3)
    await stage.queue.requeue(ordered, 0.001)
    await stage.queue.requeue(plain, 0.001, group=True)
    await stage.queue.giveback(rated)
    await anyio.sleep(0.002)
    for end in (stage.queue.giveback, stage.queue.release, lambda task: stage.queue.reject(task, 'why')):
        for task in await stage.queue.dequeue_nowait(max_tasks=2):
            await end(task)
    assert len(await stage.queue.dequeue_nowait(max_tasks=2)) == 2
    stage.network.lose = 'claim'
    with pytest.raises(TorrelqueConnectionError):
        await stage.queue.dequeue_nowait(max_tasks=9)


async def serves_priorities(stage: Stage) -> None:
    for priority in ('low', 'normal', 'high'):
        await stage.others.enqueue_many([priority] * 3, priority=priority)
    tasks = await stage.queue.dequeue_nowait(max_tasks=6)
    for task in tasks:
        await (stage.queue.giveback(task) if task.data == 'high' else stage.queue.requeue(task))
    assert (await stage.others.get_queue_stats())[:4] == (9, 9, 0, 0)


async def takes_back_groups(stage: Stage) -> None:
    await stage.others.limit(group='g', ordered=True, dead='hold')
    await stage.others.enqueue_many(['a', 'b'], group='g', task_timeout=0.001)
    await stage.others.enqueue('late', group='h', expires_in=0.001)
    await stage.others.enqueue('due', group='h', delay=0.001)
    await stage.others.enqueue('last', group='i', task_timeout=0.001, max_dequeues=1)
    await stage.queue.dequeue_nowait(max_tasks=3)
    await anyio.sleep(0.002)
    assert 'a' in [task.data for task in await stage.queue.dequeue_nowait(max_tasks=9)]
    assert (await stage.others.get_queue_stats()).rejected == 1


async def hears(stage: Stage) -> None:
    """Of tasks that are cancelled. Another channel keeps the connection, so that one has to be left alone."""
    await stage.others.enqueue('a', task_id='a')
    watching = stage.queue.watch('a')
    await anext(watching)
    with anyio.fail_after(2):  # who may not subscribe hears nothing
        async with aclosing(stage.queue.cancellations()) as announcements:
            assert await anext(announcements) is None
            await stage.others.dequeue(20)
            await stage.others.cancel('a', running='ask')
            assert await anext(announcements) == ('a', 'ask')
        while stage.command('PUBSUB', 'NUMSUB', 'q:cancel')[1]:  # noqa: ASYNC110 - only the server knows
            await anyio.sleep(0.001)


# Observer -------------------------------------------------------------------------------------------------------------


async def looks(stage: Stage) -> None:
    await stage.others.enqueue_many(range(6))
    await stage.others.enqueue('later', delay=60)
    working, rejected, completed = await stage.others.dequeue(20, max_tasks=3)
    await stage.others.reject(rejected, 'why')
    await stage.others.release(completed, result='done')
    stats = await stage.queue.get_queue_stats()
    assert stats[:5] == (5, 3, 1, 1, 1)
    assert stats.oldest_pending_age is not None
    assert (await stage.queue.get_task(working)).deadline is not None
    assert (await stage.queue.get_task_state(completed)).result == 'done'
    assert await stage.queue.get_server_time() >= working.deadline - 300
    for status, count in ((None, 6), (PENDING, 3), (WORKING, 1), (DELAYED, 1), (REJECTED, 1)):
        assert len([task_id async for task_id, _ in stage.queue.tasks(status)]) == count
    await stage.others.announce('w', name='worker', concurrency=1)
    assert [worker.id async for worker in stage.queue.workers()] == ['w']
    await stage.others.schedule('x', 1, every=60)
    assert (await stage.queue.get_queue_stats()).schedules == 1
    assert [each.id async for each in stage.queue.schedules()] == ['x']


async def looks_at_groups(stage: Stage) -> None:
    await stage.others.limit(group='g', concurrency=1)
    await stage.others.limit(group='h', rate=(1, 3600))
    for group in 'ghi':
        await stage.others.enqueue_many(['a', 'b'], group=group)
    await stage.others.enqueue('a', priority='low')
    await stage.others.enqueue('a', group='j')
    tasks = await stage.others.dequeue_nowait(max_tasks=5)
    assert len(tasks) == 5
    infos = {info.name: info.state async for info in stage.queue.groups()}
    assert infos == {'g': 'blocked', 'h': 'held', 'i': 'ready', 'j': 'idle'}
    assert await stage.queue.limits('g') == Limits(1)
    assert (await stage.queue.get_queue_stats()).groups == (1, 1, 1)


async def watches(stage: Stage) -> None:
    one, other = await stage.others.enqueue('a'), await stage.others.enqueue('b')
    results: dict[str, Any] = {}

    async def wait(task_id: str) -> None:
        results[task_id] = (await stage.queue.wait(task_id)).result

    def listeners(task_id: str) -> int:
        count: int = stage.command('PUBSUB', 'NUMSUB', f'q:task:{task_id}')[1]
        return count

    with anyio.fail_after(20):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(wait, one)
            tasks.start_soon(wait, other)
            with anyio.move_on_after(0.2):  # who may not subscribe never gets there
                while not listeners(other):  # noqa: ASYNC110 - only the server knows
                    await anyio.sleep(0.001)
            await stage.others.release(await stage.others.dequeue(20), result=1)
            while one not in results or listeners(one):  # noqa: ASYNC110
                await anyio.sleep(0.001)
            await stage.others.release(await stage.others.dequeue(20), result=2)
    assert results == {one: 1, other: 2}


# Operator -------------------------------------------------------------------------------------------------------------


async def cancels(stage: Stage) -> None:
    for task_id in (await stage.others.enqueue('a'), await stage.others.enqueue('b', delay=60)):
        await stage.queue.cancel(task_id)
    assert (await stage.others.get_queue_stats()).tasks == 0
    await stage.others.enqueue('later', delay=60)
    await stage.others.enqueue('a', task_id='1')
    stage.network.repeat = True
    await stage.queue.cancel('1')
    stage.network.repeat = False
    await stage.others.enqueue('a', task_id='1')
    stage.network.lose = 'cancel'
    await stage.queue.cancel('1')
    await stage.others.enqueue_many(['b', 'c'])
    with anyio.fail_after(2):
        async with aclosing(stage.others.cancellations()) as announcements:
            assert await anext(announcements) is None
            one, other = await stage.others.dequeue(20, max_tasks=2)
            await stage.queue.cancel(one.id, running='ask')
            await stage.queue.cancel(other.id, running='end')
            assert await anext(announcements) == (one.id, 'ask')
            assert await anext(announcements) == (other.id, 'end')


async def sweeps(stage: Stage) -> None:
    items = [EnqueueItem('a', task_timeout=0.001), EnqueueItem('b', task_timeout=0.001, max_dequeues=1)]
    await stage.others.enqueue_many([*items, 'c'])
    await stage.others.dequeue(20, max_tasks=2)
    await stage.others.enqueue('d', delay=0.001)
    await anyio.sleep(0.002)
    stage.command('RPOPLPUSH', 'q:pending', 'q:dequeueing')
    assert await stage.queue.sweep() == (1, 1, 0)
    assert await stage.queue.sweep() == (0, 0, 1)
    assert (await stage.others.get_queue_stats())[:5] == (3, 3, 0, 0, 1)


async def sweeps_what_expired(stage: Stage) -> None:
    await stage.others.enqueue_many(['a', 'b'], expires_in=0.001)
    await stage.others.enqueue('c', expires_in=0.001, on_expiry='reject')
    await stage.others.enqueue('d', expires_in=0.001, group='g')
    await anyio.sleep(0.002)
    await stage.queue.sweep()
    assert (await stage.others.get_queue_stats())[:5] == (0, 0, 0, 0, 1)


async def works_off_dead_letters(stage: Stage) -> None:
    await stage.others.enqueue_many(range(4))
    ids = [str(task.id) for task in await stage.others.dequeue(20, max_tasks=4)]
    for task_id in ids:
        await stage.others.reject(task_id, 'why')
    assert await stage.queue.redrive(ids[3]) == 1
    assert await stage.queue.redrive(limit=1) == 1
    assert await stage.queue.purge(ids[1]) == 1
    assert await stage.queue.purge(older_than=0) == 1


async def unschedules(stage: Stage) -> None:
    await stage.others.schedule('x', 1, every=60)
    stage.network.repeat = True
    await stage.queue.unschedule('x')
    stage.network.repeat = False
    assert stage.command('HGET', 'q:counters', 'uses') == b''


async def audits(stage: Stage) -> None:
    for name in ('kept', 'listed', 'recorded'):
        await stage.others.schedule(name, 1, every=60)
    await stage.others.enqueue_many(range(5))
    for number in range(3):
        await stage.others.enqueue(number, task_id=f't{number}')
    await stage.others.enqueue('d', delay=60)
    await stage.others.reject(await stage.others.dequeue(20), 'why')
    endless = await stage.others.dequeue(20)
    pushed = stage.command('LINDEX', 'q:pending', 0)
    for words in (
        'SET q:timer 1|0',
        'SET q:lane:5 x',
        'ZADD q:missing 1 old',
        'LPUSH q:dequeueing ghost',
        'HSET q:task:ghost status 0',
        'HSET q:task:result status 3 result 1',
        'HSET q:tasks lost payload',
        'HSET q:task:lost status 0 claim x',
        f'LPUSH q:pending {pushed.decode()}',
        f'ZADD q:working inf {endless.id}',
        'EXPIRE q:task:t1 1000',
        'SADD q:undequeued x',
        'EXPIRE q:epoch 1000',
        'EXPIRE q:counters 1000',
        'HSET q:workers w x',
        'DEL q:schedule:listed',
        'ZREM q:schedules recorded',
        'EXPIRE q:schedule:kept 1000',
    ):
        stage.command(*words.split())
    for key in ('pending', 'dequeueing', 'undequeued', 'working', 'delayed', 'rejected', 'tasks', 'wake', 'schedules'):
        stage.command('EXPIRE', f'q:{key}', 1000)
    found = await stage.queue.audit(repair=True)
    assert [violation.kind for violation in found if not violation.repaired] == ['worker']
    assert len(found) == 24, found
    stage.command('DEL', 'q:workers')
    assert await stage.queue.audit() == []


async def audits_what_is_left(stage: Stage) -> None:
    stage.command('ZADD', 'q:wake', 0, '0')
    stage.command('SADD', 'q:undequeued', 'x')
    assert await stage.queue.audit(repair=True) == []
    assert stage.command('EXISTS', 'q:wake', 'q:undequeued') == 0


async def pauses(stage: Stage) -> None:
    await stage.others.enqueue('a')
    task = await stage.others.dequeue(20)
    stage.network.repeat = True
    await stage.queue.pause('why', until=await stage.others.get_server_time() + 1000)
    stage.network.repeat = False
    await stage.others.enqueue('b')
    assert await stage.others.dequeue_nowait() == []
    await stage.others.release(task)
    await stage.queue.pause(wait=True, timeout=20)
    assert await stage.others.dequeue_nowait() == []
    await stage.queue.resume()
    assert len(await stage.others.dequeue_nowait()) == 1


async def limits(stage: Stage) -> None:
    await stage.others.enqueue_many(range(4))
    stage.network.repeat = True
    await stage.queue.limit(concurrency=1, rate=(3, 3600))
    stage.network.repeat = False
    (task,) = await stage.others.dequeue_nowait(max_tasks=4)
    await stage.others.release(task)
    (task,) = await stage.others.dequeue_nowait(max_tasks=4)
    await stage.others.giveback(task)
    await stage.others.enqueue('b')
    assert await stage.queue.limits() == Limits(1, (3, 3600.0), 3)
    await stage.queue.limit()


async def limits_groups(stage: Stage) -> None:
    for group in 'ab':
        await stage.others.enqueue_many(range(4), group=group)
    await stage.others.enqueue('later', delay=60)
    stage.network.repeat = True
    await stage.queue.limit(group='*', concurrency=1)
    await stage.queue.limit(group='a', rate=(1, 3600), dead='hold')
    stage.network.repeat = False
    tasks = await stage.others.dequeue_nowait(max_tasks=9)
    await stage.queue.limit(group='*', concurrency=2, rate=(1, 3600))
    await stage.queue.limit(group='a')
    await stage.queue.limit(group='*')
    assert (await stage.queue.limits('a'), len(tasks)) == (Limits(), 2)


async def moves_tasks_of_groups(stage: Stage) -> None:
    await stage.others.limit(group='g', ordered=True, dead='hold')
    await stage.others.enqueue_many(range(3), group='g')
    cancelled = await stage.others.enqueue('cancelled', group='g')
    low = await stage.others.enqueue('low', priority='low')
    for task_id in (cancelled, low):
        await stage.queue.cancel(task_id)
    for _ in range(2):
        (task,) = await stage.others.dequeue_nowait()
        await stage.others.reject(task, 'why')
        await stage.queue.redrive()
    (task,) = await stage.others.dequeue_nowait()
    await stage.others.reject(task, 'why')
    assert await stage.queue.purge(older_than=0) == 1
    items = [EnqueueItem('stale', group='h', task_timeout=0.001), EnqueueItem('due', group='h', delay=0.001)]
    await stage.others.enqueue_many([*items, EnqueueItem('late', group='i', expires_in=0.001)])
    await stage.others.dequeue_nowait(max_tasks=2)
    await anyio.sleep(0.002)
    await stage.queue.sweep()


async def audits_groups(stage: Stage) -> None:
    await stage.others.limit(group='held', rate=(1, 3600))
    for group in ('held', 'ready'):
        await stage.others.enqueue_many(range(4), group=group)
    for task_id in ('low-1', 'low-2', 'low-3'):
        await stage.others.enqueue('x', priority='low', task_id=task_id)
    (task,) = [each for each in await stage.others.dequeue_nowait(max_tasks=3) if each.group == 'ready']
    await stage.others.enqueue('x', group='other')
    await stage.others.enqueue('x', group='ready', task_id='twice')
    assert await stage.queue.audit(repair=True) == []
    for words in (
        'ZREM q:groups ready',
        'ZADD q:groups:blocked 1 nobody',
        'SADD q:groups:working:ready ghost',
        f'SREM q:groups:working:{task.group} {task.id}',
        'LPUSH q:groups:pending:ready twice',
        'LREM q:pending:low 0 low-2',
        'PEXPIRE q:groups 60000',
        'PEXPIRE q:groups:limits 60000',
        'PEXPIRE q:pending:low 60000',
    ):
        stage.command(*words.split())
    found = await stage.queue.audit(repair=True)
    assert {each.kind for each in found if each.repaired} == {'key', 'lost', 'twice', 'group'}
    assert all(each.repaired for each in found), found
    assert await stage.queue.audit() == []
    stage.command('SADD', 'q:groups:working:gone', 'ghost')
    await stage.queue.delete(force=True)
    assert stage.command('KEYS', 'q:*') == []


async def deletes(stage: Stage) -> None:
    await stage.others.schedule('x', 1, every=60)
    await stage.others.enqueue_many(range(5))
    for task, end in zip(await stage.others.dequeue(20, max_tasks=3), ('release', 'reject', None), strict=True):
        if end == 'release':
            await stage.others.release(task, result='kept')
        elif end == 'reject':
            await stage.others.reject(task, 'why')
    await stage.others.enqueue('later', delay=60)
    for words in (
        'RPOPLPUSH q:pending q:dequeueing',
        'SADD q:undequeued x',
        'SET q:timer 1|0',
        'HSET q:tasks lost payload',
        'HSET q:task:some:thing status 3',
        'HSET q:workers w x',
    ):
        stage.command(*words.split())
    with pytest.raises(TorrelqueUsageError, match='claimed'):
        await stage.queue.delete()
    stage.network.repeat = True
    await stage.queue.delete(force=True)
    stage.network.repeat = False
    assert stage.command('KEYS', 'q:*') == []
    stage.command('SADD', 'q:undequeued', *range(260))
    await stage.queue.delete()


WORKS: Mapping[str, Sequence[Work]] = {
    'producer': (enqueues, enqueues_in_a_group, enqueues_again, enqueues_in_lines, enqueues_beside_schedules),
    'consumer': (
        claims,
        ends_what_expired,
        ends_claims,
        takes_back,
        serves_groups,
        serves_priorities,
        takes_back_groups,
        loses_a_reply,
        waits,
        announces,
        counts,
        fires,
        hears,
    ),
    'observer': (looks, looks_at_groups, watches),
    'operator': (
        cancels,
        sweeps,
        sweeps_what_expired,
        pauses,
        limits,
        limits_groups,
        moves_tasks_of_groups,
        audits_groups,
        unschedules,
        works_off_dead_letters,
        audits,
        audits_what_is_left,
        deletes,
    ),
}

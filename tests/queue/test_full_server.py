"""Servers that refuse: full ones, read-only users, wrong types."""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable
from contextlib import suppress

import anyio
import pytest

from tests.servers import Server
from torrelque import EnqueueItem, Task, Torrelque, TorrelqueLookupError, TorrelqueReplyError, connect
from torrelque.acl import rules
from torrelque.transports.base import Transport

pytestmark = pytest.mark.anyio

ENOUGH = 20  # seconds, for a machine under load
SERVERS = ['valkey-9.1', 'redis-6.2']


@pytest.mark.parametrize('name', SERVERS)
async def test_a_full_server_can_be_drained(fresh_server: Callable[..., Server], name: str) -> None:
    server = fresh_server(name=name)
    async with connect(server.url) as client, Torrelque(client, queue='q') as queue:
        await queue.enqueue_many(range(4))
        done, again, bad, held = await queue.dequeue_nowait(max_tasks=4)
        ids = await queue.enqueue_many(range(4, 8))
        server.config(maxmemory=1, maxmemory_policy='noeviction')

        before = await queue.get_queue_stats()
        for attempt in (queue.enqueue('no'), queue.enqueue('no', delay=1)):
            with pytest.raises(TorrelqueReplyError, match="used memory > 'maxmemory'"):
                await attempt
        outcomes = await queue.enqueue_many(['no', 'no'])
        assert [type(outcome) for outcome in outcomes] == [TorrelqueReplyError] * 2
        after = await queue.get_queue_stats()
        assert after._replace(oldest_pending_age=0) == before._replace(oldest_pending_age=0)

        await queue.release(done, result='kept')
        await queue.requeue(again)
        await queue.reject(bad, 'why')
        await queue.extend(held, 1000)
        await queue.giveback(held)
        assert await queue.sweep() == (0, 0, 0)
        await queue.cancel(str(ids[3]))
        await queue.limit(rate=(100, 60))
        await queue.pause('full')
        assert await queue.dequeue_nowait() == []
        await queue.resume()
        tasks = await queue.dequeue(ENOUGH, max_tasks=10)
        assert [task.data for task in tasks] == [3, 4, 5, 6, 1]
        assert await queue.release_many(tasks) == [None] * 5
        assert (await queue.get_queue_stats()).tasks == 0

        async with connect(server.url) as newcomer, Torrelque(newcomer, queue='q') as other:
            assert await other.dequeue_nowait() == []  # which needs lanes of its own

        server.config(maxmemory=0)
        await queue.enqueue('yes')
        assert (await queue.dequeue(ENOUGH)).data == 'yes'


@pytest.mark.parametrize('name', SERVERS)
async def test_schedules_on_a_full_server(fresh_server: Callable[..., Server], name: str) -> None:
    server = fresh_server(name=name)
    async with connect(server.url) as client, Torrelque(client, queue='q') as queue:
        await queue.schedule('kept', 1, every=0.05)
        before = [each async for each in queue.schedules()]
        server.config(maxmemory=1, maxmemory_policy='noeviction')
        for attempt in (queue.schedule('new', 1, every=1), queue.schedule('kept', 2, every=1), queue.fire('kept')):
            with pytest.raises(TorrelqueReplyError, match="used memory > 'maxmemory'"):
                await attempt
        assert [each async for each in queue.schedules()] == before
        await queue.release(await queue.dequeue(ENOUGH))  # it goes on adding tasks, as they are worked off
        await queue.unschedule('kept')
        assert [each async for each in queue.schedules()] == []


@pytest.mark.parametrize('name', SERVERS)
async def test_groups_and_priorities_on_a_full_server(fresh_server: Callable[..., Server], name: str) -> None:
    server = fresh_server(name=name)
    async with connect(server.url) as client, Torrelque(client, queue='q') as queue:
        await queue.limit(group='*', ordered=True, dead='hold')
        await queue.enqueue_many(range(3), group='g')
        await queue.enqueue_many(range(3, 6), priority='low')
        first, second = await queue.dequeue_nowait(max_tasks=2)
        server.config(maxmemory=1, maxmemory_policy='noeviction')
        before = snapshot(server)
        new = [EnqueueItem('no', group='g'), EnqueueItem('no', group='new'), EnqueueItem('no', priority='high')]
        for outcome in await queue.enqueue_many(new):
            assert isinstance(outcome, TorrelqueReplyError)
        with pytest.raises(TorrelqueReplyError, match="used memory > 'maxmemory'"):
            await queue.enqueue('no', group='new')
        assert snapshot(server) == before

        await queue.requeue(first, 0.001)
        await queue.giveback(second)
        await queue.limit(group='h', concurrency=1)
        rejected = await queue.dequeue(ENOUGH)
        await queue.reject(rejected, 'why')
        assert await queue.redrive() == 1
        assert await queue.audit(repair=True) == []
        data: list[int] = []
        while len(data) < 6:
            task = await queue.dequeue(ENOUGH)
            data.append(task.data)
            await queue.release(task)
        assert [item for item in data if item < 3] == [0, 1, 2]
        assert sorted(data) == list(range(6))
        assert (await queue.get_queue_stats()).tasks == 0


async def test_a_user_without_rights(fresh_server: Callable[..., Server]) -> None:
    server = fresh_server()
    server.command('ACL', 'SETUSER', 'reader', 'on', '>secret', '~*', '&*', '+@read', '+@connection', '-@write')
    async with connect(server.url.replace('//', '//reader:secret@')) as client, Torrelque(client, queue='q') as queue:
        for attempt in (queue.enqueue('a'), queue.dequeue(1), queue.dequeue_nowait(), queue.release('a')):
            with pytest.raises(TorrelqueReplyError) as caught:
                await attempt
            assert caught.value.code == 'NOPERM'


@pytest.mark.parametrize('right', ['zrem', 'zscore'])
async def test_an_operator_who_may_not_place_groups(fresh_server: Callable[..., Server], right: str) -> None:
    """Calls that could never make progress raise instead of going on for ever."""
    server = fresh_server()
    words = [re.sub(rf'(?<=^\(~q:groups )(.*?)\+{right}\b', r'\1', word) for word in rules('operator', 'q')]
    assert words != rules('operator', 'q')
    server.command('ACL', 'SETUSER', 'ops', 'reset', 'on', '>secret', *words)
    async with connect(server.url) as client, Torrelque(client, queue='q') as queue:
        await queue.enqueue_many(['a', 'b'], group='g')
    async with connect(server.url.replace('//', '//ops:secret@')) as client, Torrelque(client, queue='q') as queue:
        calls = (queue.delete(force=True), queue.sweep(), queue.limit(group='g', concurrency=0), queue.cancel('x'))
        before = snapshot(server)
        for call in calls:
            with pytest.raises(TorrelqueReplyError) as caught, anyio.fail_after(ENOUGH):
                await call
            assert caught.value.code == 'NOPERM'
        assert snapshot(server) == before


VERBS: dict[str, Callable[[Torrelque, Task], Awaitable[object]]] = {
    'enqueue': lambda queue, _: queue.enqueue('c'),
    'dequeue': lambda queue, _: queue.dequeue_nowait(max_tasks=9),
    'release': lambda queue, task: queue.release(task),
    'result': lambda queue, task: queue.release(task, result=1),
    'requeue': lambda queue, task: queue.requeue(task),
    'delay': lambda queue, task: queue.requeue(task, 60),
    'reject': lambda queue, task: queue.reject(task, 'why'),
    'giveback': lambda queue, task: queue.giveback(task),
    'extend': lambda queue, task: queue.extend(task),
    'sweep': lambda queue, _: queue.sweep(),
    'pause': lambda queue, _: queue.pause(),
    'resume': lambda queue, _: queue.resume(),
    'limit': lambda queue, _: queue.limit(concurrency=1, rate=(1, 1)),
}


UNTOUCHED = {
    ('enqueue', 'working'), ('enqueue', 'delayed'), ('release', 'pending'), ('release', 'delayed'),
    ('result', 'pending'), ('result', 'delayed'),
}  # fmt: skip


@pytest.mark.parametrize('anyio_backend', ['asyncio'])  # what matters happens in the server
@pytest.mark.parametrize('verb', VERBS)
@pytest.mark.parametrize('key', ['pending', 'working', 'delayed', 'tasks', 'wake', 'timer', 'rejected', 'counters'])
async def test_a_key_of_a_wrong_type_leaves_nothing_half_done(
    server: Server, queue: Torrelque, key: str, verb: str
) -> None:
    """All is read before anything is written: a script's error does not undo what it wrote."""
    await queue.enqueue_many(['a', 'b'])
    task = (await queue.dequeue_nowait())[0]
    await queue.enqueue('due', delay=-1)
    server.command('DEL', f'q:{key}')
    server.command(*(['HSET', 'q:timer', 'a', 'b'] if key == 'timer' else ['SET', f'q:{key}', 'of a wrong type']))
    before = snapshot(server)
    try:
        await VERBS[verb](queue, task)
    except TorrelqueReplyError:
        assert snapshot(server) == before
    else:  # the hint and the timer can fail no call
        assert key not in ('pending', 'working', 'delayed') or (verb, key) in UNTOUCHED or verb == 'extend'


def snapshot(server: Server, name: str = 'q') -> dict[bytes, bytes]:
    """What is stored, but for lanes."""
    with server.client() as client:
        keys = sorted(client.command('KEYS', f'{name}:*'))
        aside = (f'{name}:lane'.encode(), f'{name}:epoch'.encode())
        return {key: client.command('DUMP', key) for key in keys if not key.startswith(aside)}


Ends = Callable[[Torrelque, Task, Task], Awaitable[object]]

IN_GROUPS: dict[str, tuple[Ends, set[str], set[str]]] = {
    'enqueue': (lambda queue, *_: queue.enqueue('new', group='g'), set(), {'new'}),
    'enqueue in a new group': (lambda queue, *_: queue.enqueue('new', group='new'), set(), {'new'}),
    'enqueue with a priority': (lambda queue, *_: queue.enqueue('new', priority='low'), set(), {'new'}),
    'replace': (lambda queue, *_: queue.enqueue('b', task_id='b', group='h', if_exists='replace'), set(), set()),
    'dequeue': (lambda queue, *_: queue.dequeue_nowait(max_tasks=9), set(), set()),
    'release': (lambda queue, task, _: queue.release(task), {'a'}, set()),
    'requeue': (lambda queue, task, _: queue.requeue(task), set(), set()),
    'delay': (lambda queue, task, _: queue.requeue(task, 0.001), set(), set()),
    'reject': (lambda queue, task, _: queue.reject(task, 'why'), set(), set()),
    'giveback': (lambda queue, task, _: queue.giveback(task), set(), set()),
    'cancel': (lambda queue, *_: queue.cancel('b'), {'b'}, set()),
    'end': (lambda queue, *_: queue.cancel('a', running='end'), {'a'}, set()),
    'redrive': (lambda queue, *_: queue.redrive('x'), set(), set()),
    'purge': (lambda queue, *_: queue.purge('x'), {'x'}, set()),
    'sweep': (lambda queue, *_: queue.sweep(), set(), set()),
    'limit': (lambda queue, *_: queue.limit(group='g', rate=(9, 0.001)), set(), set()),
    'default': (lambda queue, *_: queue.limit(group='*', concurrency=3), set(), set()),
}
"""What is done, and what it removes and adds."""

KEYS_OF_GROUPS = (
    'groups', 'groups:blocked', 'groups:held', 'groups:idle', 'groups:limits', 'groups:arrivals', 'groups:pending:g',
    'groups:working:g', 'groups:rejected:x', 'pending:low', 'counters',
)  # fmt: skip


@pytest.mark.parametrize('anyio_backend', ['asyncio'])
@pytest.mark.parametrize('key', KEYS_OF_GROUPS)
async def test_a_key_of_groups_of_a_wrong_type_loses_nothing(server: Server, client: Transport, key: str) -> None:
    """A call fails before it writes, or an audit makes the queue whole once the key is gone."""
    for number, (act, removed, added) in enumerate(IN_GROUPS.values()):
        async with Torrelque(client, queue=f'w{number}') as queue:
            await queue.limit(group='*', ordered=True, dead='hold')
            await queue.enqueue('x', group='x', task_id='x')
            await queue.reject((await queue.dequeue_nowait())[0], 'why')
            for data in 'abc':
                await queue.enqueue(data, group='g', task_id=data)
            (task,) = await queue.dequeue_nowait()
            await queue.enqueue('y', group='x', task_id='y')
            await queue.enqueue('due', group='h', delay=-1, task_id='due')
            await queue.enqueue('low', priority='low', task_id='low')
            server.command('DEL', f'w{number}:{key}')
            server.command('SET', f'w{number}:{key}', 'of a wrong type')
            before, left = snapshot(server, f'w{number}'), {*'xabcy', 'due', 'low'}
            try:
                await act(queue, task, task)
            except TorrelqueReplyError:
                assert snapshot(server, f'w{number}') == before
            else:
                left = (left - removed) | added
            server.command('DEL', f'w{number}:{key}')
            assert await rest(queue) == left, f'{key}, {list(IN_GROUPS)[number]}'


async def rest(queue: Torrelque) -> set[object]:
    """What is left in a queue whose groups may have lost their records."""
    await queue.audit(repair=True)
    assert await queue.audit() == []
    for task_id in (*'abcxy', 'due', 'low'):
        with suppress(TorrelqueLookupError):
            await queue.giveback(task_id)
    await queue.limit(group='*')
    await queue.limit(group='g')
    data: list[object] = []
    for _ in range(2):
        while tasks := await queue.dequeue_nowait(max_tasks=99):
            data += [task.data for task in tasks]
            await queue.release_many(tasks)
            await anyio.sleep(0.001)
        await queue.redrive()
    assert len(data) == len(set(data))
    assert (await queue.get_queue_stats()).tasks == 0
    return set(data)

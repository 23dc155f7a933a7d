"""Servers that refuse: full ones, read-only users, wrong types."""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable

import anyio
import pytest

from tests.servers import Server
from torrelque import Task, Torrelque, TorrelqueReplyError, connect
from torrelque.acl import rules

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


def snapshot(server: Server) -> dict[bytes, bytes]:
    """What is stored, but for lanes."""
    with server.client() as client:
        keys = sorted(client.command('KEYS', 'q:*'))
        return {key: client.command('DUMP', key) for key in keys if not key.startswith((b'q:lane', b'q:epoch'))}

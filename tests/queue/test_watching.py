"""Watching: what it costs, what it misses (row 15 of the defects of 0.9), and without any rights."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from typing import Any

import anyio
import coredis
import pytest
import redis.asyncio

import torrelque.engine.watch
from tests.queue.legacy import Legacy
from tests.servers import Server
from torrelque import Torrelque, TorrelqueReplyError, TorrelqueTaskState, TorrelqueTaskStatus, connect

pytestmark = pytest.mark.anyio

ENOUGH = 20  # seconds, for a machine under load
PENDING, WORKING, DELAYED, COMPLETED, REJECTED, *_ = TorrelqueTaskStatus


async def collect(queue: Torrelque, task_id: str, states: list[TorrelqueTaskState]) -> None:
    async for state in queue.watch(task_id):
        states.append(state)  # noqa: PERF401 - as they come


async def until(condition: Callable[[], object]) -> None:
    with anyio.fail_after(ENOUGH):
        while not condition():  # noqa: ASYNC110 - nobody sets an event
            await anyio.sleep(0.002)


async def test_150_watches_that_race_with_the_change(server: Server, queue: Torrelque) -> None:
    """0.9 missed the change between its first read and its subscription, 7 times of 150."""
    async with connect(server.url) as client, Torrelque(client, queue='q') as worker:
        for number in range(150):
            task_id = await queue.enqueue('a')
            states: list[TorrelqueTaskState] = []
            with anyio.fail_after(ENOUGH):
                async with anyio.create_task_group() as tasks:
                    tasks.start_soon(collect, queue, task_id, states)
                    await anyio.sleep(number * 0.00002)
                    await worker.release(await worker.dequeue(), result='r')
            statuses = [state.status for state in states]
            assert statuses == sorted(set(statuses))
            assert statuses[-1] is COMPLETED


async def test_without_any_rights_but_to_the_keys(fresh_server: Callable[..., Server]) -> None:
    """0.9 raised where CONFIG is forbidden. Here neither it nor channels are needed: reading is enough."""
    server = fresh_server()
    server.command('ACL', 'SETUSER', 'limited', 'on', '>secret', '~q:*', 'resetchannels', '+@all', '-@admin', '-config')
    with server.client() as client:
        client.command('AUTH', 'limited', 'secret')
        with pytest.raises(TorrelqueReplyError, match='NOPERM'):
            client.command('CONFIG', 'GET', 'notify-keyspace-events')
    states: list[TorrelqueTaskState] = []
    async with (
        connect(server.url.replace('//', '//limited:secret@')) as limited,
        Torrelque(limited, queue='q') as queue,
    ):
        task_id = await queue.enqueue('a')
        with anyio.fail_after(ENOUGH):
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(collect, queue, task_id, states)
                await until(lambda: states)
                await queue.release(await queue.dequeue(), result='r')
        assert states[-1].status is COMPLETED
        assert (await queue.wait(task_id)).result == 'r'
        assert (await queue.get_queue_stats()).total_completed == 1


async def test_goes_on_after_its_connection_was_cut(server: Server, queue: Torrelque) -> None:
    task_id = await queue.enqueue('a')
    states: list[TorrelqueTaskState] = []
    with anyio.fail_after(ENOUGH):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(collect, queue, task_id, states)
            await until(lambda: server.command('PUBSUB', 'NUMSUB', f'q:task:{task_id}')[1])
            server.command('CLIENT', 'KILL', 'TYPE', 'pubsub')
            task = await queue.dequeue()
            await until(lambda: len(states) == 2)
            await queue.release(task, result='r')
    assert [state.status for state in states] == [PENDING, WORKING, COMPLETED]


async def test_sees_what_nobody_publishes(server: Server, queue: Torrelque, monkeypatch: pytest.MonkeyPatch) -> None:
    """As 0.9 changes a state."""
    monkeypatch.setattr(torrelque.engine.watch, 'REREAD', 0.05)
    task_id = await queue.enqueue('a')
    states: list[TorrelqueTaskState] = []
    with anyio.fail_after(ENOUGH):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(collect, queue, task_id, states)
            await until(lambda: states)
            server.command('HSET', f'q:task:{task_id}', 'status', 1)
            await until(lambda: len(states) == 2)
            server.command('DEL', f'q:task:{task_id}')
    assert [state.status for state in states] == [PENDING, WORKING, COMPLETED]  # as after a release of 0.9


async def watched(server: Server, queue: Torrelque, legacy: Legacy, before: str) -> list[TorrelqueTaskStatus]:
    """Watch a task that 0.9 works on once the channel is subscribed to. ``before`` comes before its state's key."""
    task_id = await queue.enqueue('a')
    states: list[TorrelqueTaskState] = []
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(collect, queue, task_id, states)
        await until(lambda: server.command('PUBSUB', 'NUMSUB', f'{before}q:task:{task_id}')[1])
        assert before or not server.command('PUBSUB', 'CHANNELS', '__key*')
        assert legacy.dequeue() == (task_id, 'a')
        await until(lambda: len(states) == 2)
        legacy.release(task_id, result='r')
    return [state.status for state in states]


@pytest.mark.parametrize('kind', ['native', 'redis_py', 'coredis'])
async def test_hears_0_9_where_the_server_reports_changes(
    fresh_server: Callable[..., Server], kind: str, anyio_backend_name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = fresh_server()
    server.command('CONFIG', 'SET', 'notify-keyspace-events', 'Kgh')
    url = f'{server.url}/1'
    made: dict[str, Callable[[], AbstractAsyncContextManager[Any]]] = {
        'native': lambda: connect(url),
        'redis_py': lambda: (connect if anyio_backend_name == 'trio' else redis.asyncio.Redis.from_url)(url),
        'coredis': lambda: coredis.Redis.from_url(url),
    }
    with server.client() as client, anyio.fail_after(ENOUGH):
        client.command('SELECT', 1)
        legacy = Legacy(client, 'q')
        async with made[kind]() as used, Torrelque(used, queue='q') as queue:
            monkeypatch.setattr(torrelque.engine.watch, 'REREAD', 0.05)  # until the first has found out about 0.9
            assert await watched(server, queue, legacy, '') == [PENDING, WORKING, COMPLETED]
            monkeypatch.setattr(torrelque.engine.watch, 'REREAD', 600)
            assert await watched(server, queue, legacy, '__keyspace@1__:') == [PENDING, WORKING, COMPLETED]
            await until(lambda: not server.command('PUBSUB', 'CHANNELS'))


async def test_goes_on_if_changes_may_not_be_heard(
    fresh_server: Callable[..., Server], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torrelque.engine.watch, 'REREAD', 0.05)
    server = fresh_server()
    server.command('ACL', 'SETUSER', 'limited', 'on', '>secret', '~q:*', 'resetchannels', '&q:*', '+@all')
    async with (
        connect(server.url.replace('//', '//limited:secret@')) as limited,
        Torrelque(limited, queue='q') as queue,
    ):
        with server.client() as client, anyio.fail_after(ENOUGH):
            for _ in range(3):
                assert await watched(server, queue, Legacy(client, 'q'), '') == [PENDING, WORKING, COMPLETED]
    (refusal,) = server.command('ACL', 'LOG')
    assert refusal[refusal.index(b'count') + 1] == 1, 'it is asked for once'


async def test_other_messages_are_ignored(server: Server, queue: Torrelque) -> None:
    task_id = await queue.enqueue('a')
    states: list[TorrelqueTaskState] = []
    with anyio.fail_after(ENOUGH):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(collect, queue, task_id, states)
            await until(lambda: server.command('PUBSUB', 'NUMSUB', f'q:task:{task_id}')[1])
            for message in ('', 'hello', '1', '1 9', 'nan 3', '9 \xff'):
                server.command('PUBLISH', f'q:task:{task_id}', message)
            await queue.release(await queue.dequeue(), result='r')
    assert [state.status for state in states] == [PENDING, WORKING, COMPLETED]


async def test_two_watchers_of_which_one_leaves(server: Server, queue: Torrelque) -> None:
    task_id = await queue.enqueue('a')
    channel = f'q:task:{task_id}'
    states: list[TorrelqueTaskState] = []
    with anyio.fail_after(ENOUGH):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(collect, queue, task_id, states)
            with anyio.move_on_after(0.05):
                await queue.wait(task_id)
            await until(lambda: server.command('PUBSUB', 'NUMSUB', channel)[1] == 1)
            await queue.release(await queue.dequeue(), result='r')
    assert states[-1].status is COMPLETED
    await until(lambda: server.command('PUBSUB', 'NUMSUB', channel)[1] == 0)


async def test_sees_progress(queue: Torrelque) -> None:
    seen: list[TorrelqueTaskState] = []
    news = anyio.Event()

    async def look() -> None:
        async for state in queue.watch('a'):
            seen.append(state)
            news.set()

    async def until(count: int) -> None:
        nonlocal news
        while len(seen) < count:
            news = anyio.Event()
            await news.wait()

    await queue.enqueue('a', task_id='a')
    task = await queue.dequeue()
    with anyio.fail_after(ENOUGH):
        async with anyio.create_task_group() as group:
            group.start_soon(look)
            await until(1)
            for number in (1, 2):
                await task.progress(number, 2)
                await until(1 + number)
            await queue.release(task)
    progress = [state.progress and state.progress.value for state in seen]
    assert progress == [None, 1.0, 2.0, None]
    assert len({state.revision for state in seen[:3]}) == 1

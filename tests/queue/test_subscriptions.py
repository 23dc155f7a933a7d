"""How many connections watchers open, and what becomes of them: after cuts, errors, and when a watcher is dropped."""

from __future__ import annotations

import gc
from collections.abc import Callable
from typing import Any

import anyio
import pytest
import redis.asyncio

from tests import clusters, servers
from tests.engine.listeners import Waits, release, subscribed, until
from tests.servers import Server
from tests.transports.settings import CLUSTER_CLIENTS
from torrelque import (
    Torrelque,
    TorrelqueTaskState,
    TorrelqueTaskStatus,
    TorrelqueTimeoutError,
    connect,
    queues,
)
from torrelque.errors import TorrelqueConnectionError
from torrelque.transports.native import NativeTransport

pytestmark = pytest.mark.anyio
on_asyncio = pytest.mark.parametrize('anyio_backend', ['asyncio'])

ENOUGH = 20  # seconds, for a machine under load
PENDING, WORKING, DELAYED, COMPLETED, REJECTED, *_ = TorrelqueTaskStatus


@pytest.mark.parametrize('kind', ['valkey-9.1', 'redis-6.2'])
@pytest.mark.parametrize('name', ['native-cluster', 'redis_py-cluster', 'coredis-cluster'])
@on_asyncio
async def test_waits_on_all_nodes_of_a_real_cluster(kind: str, name: str) -> None:
    """On servers without sharded channels two at once ended the queue object."""
    try:
        cluster = clusters.shared(kind)
    except servers.MissingServerError as error:
        pytest.skip(str(error))
    cluster.flush()

    def subscribers() -> int:
        return sum(node.command('CLIENT', 'LIST', 'TYPE', 'pubsub').count(b'\n') for node in cluster.nodes)

    await until(lambda: subscribers() == 0)
    async with CLUSTER_CLIENTS[name].make(cluster) as client, Torrelque(client, queue='q', shards=9) as queue:
        before = sum(int(node.info('stats')['total_connections_received']) for node in cluster.nodes)
        ids = [await queue.enqueue(number, task_id=f'{number}') for number in range(60)]
        waits = Waits(queue, *ids)
        with anyio.fail_after(ENOUGH):
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(waits.run)
                await until(lambda: _count_standing(queue) == len(ids))
                assert subscribers() == 3
                for _ in ids:
                    await release(queue)
        assert (len(waits.states), waits.errors) == (len(ids), [])
        looks = 3  # of `info` above
        after = sum(int(node.info('stats')['total_connections_received']) for node in cluster.nodes)
        assert after - before - looks < 60
    await until(lambda: subscribers() == 0)


def _count_standing(queue: Torrelque) -> int:
    return sum(len(line.standing) for line in queue._engine.hub._lines.values())


# What heals ----------------------------------------------------------------------------------------------------------


@on_asyncio
async def test_watchers_of_a_client_that_does_not_retry_outlast_a_cut(server: Server) -> None:
    client = redis.asyncio.Redis.from_url(server.url)
    client.connection_pool.connection_kwargs['retry'] = None
    states: list[TorrelqueTaskState] = []

    async def watch() -> None:
        async for state in queue.watch(task_id):
            states.append(state)  # noqa: PERF401 - as they come

    async with (
        connect(server.url) as other,
        Torrelque(other, queue='q') as worker,
        Torrelque(client, queue='q') as queue,
    ):
        task_id = await worker.enqueue('a')
        waits = Waits(queue, task_id)
        with anyio.fail_after(ENOUGH):
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(waits.run)
                tasks.start_soon(watch)
                await subscribed(queue, task_id)
                for kind in ('pubsub', 'normal'):
                    server.command('CLIENT', 'KILL', 'TYPE', kind)
                await subscribed(queue, task_id)
                await release(worker, result='r')
        assert [state.result for state in waits.states] == ['r']
        assert states[-1].result == 'r'
    await client.aclose()


async def test_watchers_outlast_a_restart_of_the_server(fresh_server: Callable[..., Server]) -> None:
    server = fresh_server('--appendonly', 'yes', '--appendfsync', 'always')
    async with connect(server.url, retry_timeout=0.1) as client, Torrelque(client, queue='q') as queue:
        task_id = await queue.enqueue('a')
        waits = Waits(queue, task_id)
        with anyio.fail_after(ENOUGH):
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(waits.run)
                await subscribed(queue, task_id)
                server.kill()
                await anyio.sleep(0.5)
                server.start()
                await release(queue, result='r')
        assert [state.result for state in waits.states] == ['r']


async def test_an_outage_ends_with_the_time_of_the_watcher(fresh_server: Callable[..., Server]) -> None:
    server = fresh_server()
    async with connect(server.url, retry_timeout=0.05) as client, Torrelque(client, queue='q') as queue:
        task_id = await queue.enqueue('a')
        watching = queue.watch(task_id, timeout=1)
        assert (await anext(watching)).status is PENDING
        server.kill()
        with anyio.fail_after(ENOUGH), pytest.raises(TorrelqueTimeoutError) as caught:
            await anext(watching)
        assert isinstance(caught.value.__cause__, TorrelqueConnectionError)
        with pytest.raises(TorrelqueConnectionError):
            await queue.wait(task_id, 1)


# Who else publishes there --------------------------------------------------------------------------------------------


@pytest.mark.parametrize('result', [None, 'r'])
async def test_a_task_of_the_same_id_in_another_database(
    server: Server, client: NativeTransport, result: object
) -> None:
    async with (
        connect(f'{server.url}/1') as other,
        Torrelque(other, queue='q') as elsewhere,
        Torrelque(client, queue='q') as queue,
    ):
        for end in ('cancel', 'release'):
            task_id = await queue.enqueue('a', task_id=f'same {end}')
            await elsewhere.enqueue('a', task_id=task_id)
            waits = Waits(queue, task_id)
            with anyio.fail_after(ENOUGH):
                async with anyio.create_task_group() as tasks:
                    tasks.start_soon(waits.run)
                    await subscribed(queue, task_id)
                    if end == 'cancel':
                        await elsewhere.cancel(task_id)
                    else:
                        await release(elsewhere)
                    await anyio.sleep(0.05)
                    assert waits.states == []
                    assert waits.errors == []
                    task = await queue.dequeue(ENOUGH)
                    await queue.release(task, result=result, status=REJECTED)
            assert [(state.status, state.result) for state in waits.states] == [(REJECTED, result)]


# Iteration that is broken off ----------------------------------------------------------------------------------------


async def test_iterators_that_are_dropped_leave_nothing(server: Server, client: NativeTransport) -> None:
    """Warnings are errors here, and Trio warns of asynchronous generators that are collected before their end."""
    async with Torrelque(client, queue='q') as queue:
        await queue.enqueue('b')
        await queue.reject(await queue.dequeue(ENOUGH), 'why')
        task_id = await queue.enqueue('a')
        channel = f'q:task:{task_id}'
        with anyio.fail_after(ENOUGH):
            async for _ in queue.watch(task_id):
                await subscribed(queue, task_id)
                break
            async for _ in queue.tasks():
                break
            async for _ in queue.rejected():
                break
            async for name in queues(client):
                assert name == 'q'
                break
            gc.collect()
            await until(lambda: server.command('PUBSUB', 'NUMSUB', channel)[1] == 0)
        assert queue._engine.hub._inboxes == {}
        await release(queue)


async def test_closing_iterators(client: NativeTransport) -> None:
    async with Torrelque(client, queue='q') as queue:
        task_id = await queue.enqueue('a')
        iterators: list[Any] = [queue.watch(task_id), queue.tasks(), queue.rejected(), queues(client)]
        for iterator in iterators:
            for _ in range(2):
                await iterator.aclose()
            with pytest.raises(StopAsyncIteration):
                await anext(iterator)
        watching: Any = queue.watch(task_id)
        assert (await anext(watching)).status is PENDING
        await watching.aclose()
        assert queue._engine.hub._inboxes == {}
        with pytest.raises(StopAsyncIteration):
            await anext(watching)

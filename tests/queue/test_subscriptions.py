"""How many connections watchers open, and what becomes of them: after cuts, errors, and when a watcher is dropped."""

from __future__ import annotations

import asyncio
import gc
import logging
from collections.abc import AsyncIterator, Callable, Hashable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any

import anyio
import pytest
import redis.asyncio

from tests import clusters, servers
from tests.servers import Server
from tests.transports.settings import CLUSTER_CLIENTS
from torrelque import (
    Torrelque,
    TorrelqueLookupError,
    TorrelqueTaskState,
    TorrelqueTaskStatus,
    TorrelqueTimeoutError,
    connect,
    queues,
)
from torrelque.engine import subscriptions as listening
from torrelque.errors import TorrelqueConnectionError
from torrelque.testing import MemoryTransport, VirtualClock
from torrelque.transports.base import Listener
from torrelque.transports.cluster.slots import slot_of
from torrelque.transports.native import NativeTransport

pytestmark = pytest.mark.anyio
on_asyncio = pytest.mark.parametrize('anyio_backend', ['asyncio'])

ENOUGH = 20  # seconds, for a machine under load
PENDING, WORKING, DELAYED, COMPLETED, REJECTED = TorrelqueTaskStatus


class Counting(MemoryTransport):
    """Counts listeners; ``fail`` is raised as one is opened. ``places`` are those of a cluster's nodes."""

    def __init__(self, places: int = 1, clock: VirtualClock | None = None) -> None:
        super().__init__(clock=clock)
        self.opened = 0
        self.open = 0
        self.fail: list[BaseException] = []
        self.listeners: list[Listener] = []
        self._places = places

    def listen(self) -> AbstractAsyncContextManager[Listener]:
        return self._counted(super().listen())

    def node_of(self, key: bytes) -> Hashable:
        return slot_of(key) % self._places

    @asynccontextmanager
    async def _counted(self, listening: AbstractAsyncContextManager[Listener]) -> AsyncIterator[Listener]:
        self.opened += 1
        if self.fail:
            raise self.fail.pop()
        self.open += 1
        try:
            async with listening as listener:
                self.listeners.append(listener)
                yield listener
        finally:
            self.open -= 1


async def until(condition: Callable[[], object]) -> None:
    with anyio.fail_after(ENOUGH):
        while not condition():  # noqa: ASYNC110 - nobody sets an event
            await anyio.sleep(0.002)


async def subscribed(queue: Torrelque, *task_ids: str) -> None:
    """Until the subscriptions of all these stand."""

    def stand() -> bool:
        lines = queue._engine.hub._lines.values()
        standing: set[bytes] = set().union(*(line.standing for line in lines))
        return all(queue._runtime.keys.state(task_id) in standing for task_id in task_ids)

    await until(stand)


async def release(queue: Torrelque, result: object = None) -> None:
    await queue.release(await queue.dequeue(ENOUGH), result=result)


class Waits:
    """Waits in the background, and what came of them."""

    def __init__(self, queue: Torrelque, *task_ids: str) -> None:
        self._queue = queue
        self._task_ids = task_ids
        self.states: list[TorrelqueTaskState] = []
        self.errors: list[Exception] = []

    async def run(self) -> None:
        async with anyio.create_task_group() as tasks:
            for task_id in self._task_ids:
                tasks.start_soon(self._wait, task_id)

    async def _wait(self, task_id: str) -> None:
        try:
            self.states.append(await self._queue.wait(task_id))
        except TorrelqueLookupError as error:
            self.errors.append(error)


# How many ------------------------------------------------------------------------------------------------------------


async def test_waits_for_what_has_ended_open_no_connection() -> None:
    transport = Counting()
    async with Torrelque(transport, queue='q') as queue:
        task_id = await queue.enqueue('a')
        await release(queue, result=1)
        for _ in range(500):
            assert (await queue.wait(task_id)).status is COMPLETED
        with pytest.raises(TorrelqueLookupError):
            await queue.wait('unknown')
        assert [state.status async for state in queue.watch(task_id)] == [COMPLETED]
    assert transport.opened == 0


async def test_waits_one_after_the_other_share_a_connection() -> None:
    transport = Counting()
    async with Torrelque(transport, queue='q') as queue:
        for _ in range(50):
            task_id = await queue.enqueue('a')
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(Waits(queue, task_id).run)
                await subscribed(queue, task_id)
                await release(queue)
        assert (transport.opened, transport.open) == (1, 1)
    assert transport.open == 0


async def test_an_unused_connection_is_closed_after_a_while() -> None:
    clock = VirtualClock()
    transport = Counting(clock=clock)
    async with Torrelque(transport, queue='q') as queue:
        task_id = await queue.enqueue('a', delay=3600)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(queue.wait, task_id)
            await clock.advance(1)
            tasks.cancel_scope.cancel()
        await clock.advance(listening.LINGER - 0.5)
        assert transport.open == 1
        await clock.advance(0.5)
        assert transport.open == 0
        assert queue._engine.hub._lines == {}


@on_asyncio
async def test_an_object_that_was_not_entered_keeps_nothing() -> None:
    transport = Counting()
    queue = Torrelque(transport, queue='q')
    before = asyncio.all_tasks()
    for _ in range(3):
        task_id = await queue.enqueue('a')
        waits = Waits(queue, task_id, task_id)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(waits.run)
            await subscribed(queue, task_id)
            await release(queue)
        assert [state.status for state in waits.states] == [COMPLETED] * 2
        await until(lambda: transport.open == 0 and asyncio.all_tasks() == before)
    assert transport.opened == 3


async def test_what_is_remembered_does_not_grow_while_another_watches() -> None:
    transport = Counting()
    async with Torrelque(transport, queue='q') as queue, anyio.create_task_group() as tasks:
        watched = await queue.enqueue('a', delay=3600)
        tasks.start_soon(queue.wait, watched)
        await subscribed(queue, watched)
        for _ in range(50):
            task_id = await queue.enqueue('b')
            async with anyio.create_task_group() as group:
                group.start_soon(queue.wait, task_id)
                await subscribed(queue, task_id)
                await release(queue)
        (line,) = queue._engine.hub._lines.values()
        assert line.standing == line.channels == {queue._runtime.keys.state(watched)}
        assert len(queue._engine.hub._inboxes) == len(queue._engine.hub._line_of) == 1
        await until(lambda: len(transport.listeners[0]._ends) == 1)  # type: ignore[attr-defined]
        tasks.cancel_scope.cancel()


async def test_each_node_of_a_cluster_has_its_own_connection() -> None:
    """Watchers of tasks on two nodes fought over one."""
    transport = Counting(places=2)
    async with Torrelque(transport, queue='q') as queue:
        ids = [await queue.enqueue(number, task_id=f'{number}') for number in range(60)]
        waits = Waits(queue, *ids)
        with anyio.fail_after(ENOUGH):
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(waits.run)
                await subscribed(queue, *ids)
                for _ in ids:
                    await release(queue)
        assert len(waits.states) == len(ids)
        assert transport.opened == 2


async def test_channels_follow_their_slots() -> None:
    """After a failure each is listened to where it is by then."""
    transport = Counting(places=3)
    async with Torrelque(transport, queue='q') as queue:
        ids = [await queue.enqueue(number, task_id=f'{number}') for number in range(12)]
        waits = Waits(queue, *ids)
        with anyio.fail_after(ENOUGH):
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(waits.run)
                await subscribed(queue, *ids)
                transport._places = 2
                for listener in tuple(transport.listeners):
                    listener.close()  # type: ignore[attr-defined]
                await until(lambda: transport.opened >= 5)
                await subscribed(queue, *ids)
                hub = queue._engine.hub
                assert {place for place, line in hub._lines.items() if line.channels} == {0, 1}
                for _ in ids:
                    await release(queue)
        assert len(waits.states) == len(ids)


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


async def test_watchers_outlast_unexpected_errors(caplog: pytest.LogCaptureFixture) -> None:
    transport = Counting()
    transport.fail = [TorrelqueConnectionError('lost'), OSError(24, 'too many'), ZeroDivisionError('no credentials')]
    async with Torrelque(transport, queue='q') as queue:
        task_id = await queue.enqueue('a')
        waits = Waits(queue, task_id)
        with anyio.fail_after(ENOUGH):
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(waits.run)
                await subscribed(queue, task_id)
                await release(queue)
        assert [state.status for state in waits.states] == [COMPLETED]
    assert transport.opened == 4
    (logged,) = caplog.records
    assert (logged.name, logged.levelno) == ('torrelque', logging.ERROR)
    assert logged.getMessage() == 'Cannot listen to changes of tasks, retrying; states are read meanwhile'


async def test_watchers_read_while_nothing_can_be_heard() -> None:
    transport = Counting()
    transport.fail = [OSError('never')] * 1000
    async with Torrelque(transport, queue='q') as queue:
        task_id = await queue.enqueue('a')
        waits = Waits(queue, task_id)
        with anyio.fail_after(ENOUGH):
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(waits.run)
                await release(queue, result=1)
        assert [state.status for state in waits.states] == [COMPLETED]


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

"""Calls that return once the write is durable, on real servers with an append-only file and replicas."""

from __future__ import annotations

import os
import signal
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager

import anyio
import coredis
import pytest
import redis.asyncio

from tests.clusters import Cluster
from tests.queue.transports import LosingTransport, RepeatingTransport
from tests.servers import Server
from torrelque import (
    Durability,
    Torrelque,
    TorrelqueConnectionError,
    TorrelqueDurabilityError,
    TorrelqueTypeError,
    TorrelqueUsageError,
    Worker,
    connect,
    events,
)
from torrelque.testing import MemoryTransport

pytestmark = pytest.mark.anyio

Start = Callable[..., Server]

AOF = ('--appendonly', 'yes', '--appendfsync', 'always')
FSYNCED = Durability(fsynced=True, timeout=20)
REPLICATED = Durability(replicas=1, timeout=20)
IN_VAIN = 0.2
"""Seconds after which what cannot be confirmed is given up."""

each_modern = pytest.mark.parametrize('name', ['valkey-9.1', 'redis-8.2'])
asyncio_only = pytest.mark.parametrize('anyio_backend', ['asyncio'])


@pytest.fixture(scope='module', params=['asyncio', 'trio'])
def anyio_backend(request: pytest.FixtureRequest) -> str:
    """What is done here does not depend on the kind of asyncio's loop, and servers take time to start."""
    return str(request.param)


@asynccontextmanager
async def queue_on(kind: str, server: Server, durability: Durability) -> AsyncIterator[Torrelque]:
    if kind == 'native':
        async with connect(server.url) as client, Torrelque(client, queue='q', durability=durability) as queue:
            yield queue
    elif kind == 'coredis':
        theirs = coredis.Redis[bytes](port=server.port)
        async with theirs, Torrelque(theirs, queue='q', durability=durability) as queue:
            yield queue
    else:
        users = redis.asyncio.Redis(port=server.port)
        async with users, Torrelque(users, queue='q', durability=durability) as queue:
            yield queue


def calls(server: Server, command: str) -> int:
    said = server.info('commandstats').get(f'cmdstat_{command}', 'calls=0,')
    return int(said.partition('=')[2].partition(',')[0])


def with_replica(start: Start, name: str, *arguments: str) -> tuple[Server, Server]:
    """A server, and a replica of it that has caught up."""
    early = () if name == 'redis-6.2' else ('--repl-diskless-sync-delay', '0')
    primary, replica = (start(*arguments, *early, name=name) for _ in range(2))
    replica.command('REPLICAOF', '127.0.0.1', primary.port)
    wait = ('WAITAOF', 1, 1, 20000) if arguments else ('WAIT', 1, 20000)
    with primary.client(timeout=30) as client:
        client.command('SET', 'caught up', 'yes')
        assert client.command(*wait) in ([1, 1], 1)
    return primary, replica


def is_waited_on(server: Server) -> bool:
    return server.info('clients')['blocked_clients'] != '0'


async def until(condition: Callable[[], Awaitable[bool]]) -> None:
    with anyio.fail_after(15):
        while not await condition():  # noqa: ASYNC110 - a server tells nobody of what is asked here
            await anyio.sleep(0.01)


@contextmanager
def stopped(server: Server) -> Iterator[None]:
    os.kill(server.pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(server.pid, signal.SIGCONT)


async def use(queue: Torrelque) -> None:
    """Every call that waits."""
    await queue.enqueue('a')
    assert all(isinstance(new_id, str) for new_id in await queue.enqueue_many(['b', 'c', 'd', 'e']))
    a, b, c, d, e = await queue.dequeue(max_tasks=5)
    await queue.release(a)
    assert await queue.release_many([b, c]) == [None, None]
    await queue.requeue(d)
    await queue.reject(e, 'bad')


# Fsynced --------------------------------------------------------------------------------------------------------------


@each_modern
async def test_fsynced(fresh_server: Start, name: str) -> None:
    server = fresh_server(*AOF, name=name)
    async with queue_on('native', server, FSYNCED) as queue:
        await use(queue)
        assert calls(server, 'waitaof') == 7, 'one call a write, and one to begin with'
        await queue.enqueue('kept')
        server.restart()
        assert (await queue.get_queue_stats()).tasks == 2


@asyncio_only
@pytest.mark.parametrize('kind', ['redis_py', 'coredis'])
async def test_fsynced_over_other_clients(fresh_server: Start, kind: str) -> None:
    server = fresh_server(*AOF)
    async with queue_on(kind, server, FSYNCED) as queue:
        await use(queue)
        assert calls(server, 'waitaof') == 7
        server.config(appendonly='no')
        with pytest.raises(TorrelqueDurabilityError, match='appendonly is disabled') as caught:
            await queue.enqueue('x')
        assert (await queue.get_task(caught.value.task_id)).data == 'x'


@pytest.mark.parametrize('arguments', [(), ('--appendonly', 'yes', '--appendfsync', 'no')])
async def test_a_file_that_is_not_kept_or_not_synced(fresh_server: Start, arguments: tuple[str, ...]) -> None:
    server = fresh_server(*arguments)
    async with queue_on('native', server, Durability(fsynced=True, timeout=IN_VAIN)) as queue:
        if not arguments:
            for _ in range(2):
                with pytest.raises(TorrelqueUsageError, match=r'fsynced on the server.*appendonly yes'):
                    await queue.enqueue('x')
            assert server.command('KEYS', '*') == []
        else:
            with pytest.raises(TorrelqueDurabilityError, match='no confirmation from the server itself'):
                await queue.enqueue('x')
        assert (await queue.get_queue_stats()).tasks == bool(arguments)


@pytest.mark.parametrize('name', ['redis-7.0', 'redis-6.2'])
async def test_an_old_server_cannot_tell_what_is_fsynced(fresh_server: Start, name: str) -> None:
    server = fresh_server(*AOF, name=name)
    async with queue_on('native', server, FSYNCED) as queue:
        with pytest.raises(TorrelqueUsageError, match=r'Redis 7\.2 or newer.*nothing was written.*unknown command'):
            await queue.enqueue('x')
        with pytest.raises(TorrelqueUsageError):
            await queue.enqueue_many(['x', 'y'])
        assert server.command('KEYS', '*') == []


# Replicas -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize('name', ['valkey-9.1', 'redis-8.2', 'redis-7.0', 'redis-6.2'])
@asyncio_only
async def test_received_by_a_replica(fresh_server: Start, name: str) -> None:
    primary, replica = with_replica(fresh_server, name)
    async with queue_on('native', primary, REPLICATED) as queue:
        await use(queue)
        assert calls(primary, 'wait') == 8, 'one call a write, one to begin with, one of the test'
        task_id = await queue.enqueue('x')
        primary.kill()
        assert replica.command('HGET', 'q:tasks', task_id) == b'"x"'


@each_modern
async def test_a_replica_that_hangs(fresh_server: Start, name: str) -> None:
    primary, replica = with_replica(fresh_server, name, *AOF)
    durability = Durability(fsynced=True, replicas=1, timeout=IN_VAIN)
    async with queue_on('native', primary, durability) as queue:
        claimed = None
        with stopped(replica):
            with anyio.fail_after(10):
                with pytest.raises(TorrelqueDurabilityError, match='no confirmation from 1 of 1 replicas') as caught:
                    await queue.enqueue('x')
                error = caught.value
                (other,) = await queue.enqueue_many(['y'])
            assert isinstance(other, TorrelqueDurabilityError)
            assert (await queue.get_task(error.task_id)).data == 'x', 'it is written all the same'
            claimed = await queue.dequeue()
            with pytest.raises(TorrelqueDurabilityError):
                await queue.release(str(claimed.id))
            assert (await queue.get_queue_stats()).tasks == 1
        queue_again = Torrelque(queue._client, queue='q', durability=Durability(fsynced=True, replicas=1, timeout=20))
        async with queue_again:
            assert await queue_again.enqueue('y', task_id=other.task_id) == other.task_id
        assert (await queue.get_queue_stats()).tasks == 1, 'it was there already, and is confirmed now'
        assert replica.command('HLEN', 'q:tasks') == 1


@asyncio_only
@pytest.mark.parametrize('kind', ['native', 'redis_py', 'coredis'])
async def test_others_are_not_held_up_and_one_wait_serves_a_group(fresh_server: Start, kind: str) -> None:
    primary, replica = with_replica(fresh_server, 'valkey-9.1')
    async with queue_on(kind, primary, REPLICATED) as queue:
        await queue.enqueue('first')
        primary.command('CONFIG', 'RESETSTAT')
        done = 0

        async def enqueue(number: int) -> None:
            nonlocal done
            await queue.enqueue(number)
            done += 1

        with stopped(replica):
            async with anyio.create_task_group() as tasks:
                for number in range(50):
                    tasks.start_soon(enqueue, number)
                with anyio.fail_after(15):
                    for _ in range(51):
                        await queue.extend(await queue.dequeue())
                assert done == 0
                assert is_waited_on(primary)
                os.kill(replica.pid, signal.SIGCONT)
        assert calls(primary, 'wait') == 1


@asyncio_only
async def test_on_a_cluster() -> None:
    cluster = Cluster('valkey-9.1', replicas=1)
    try:
        async with connect(f'redis+cluster://{cluster.hosts}') as client:
            for name in ('a', 'b', 'c'):  # on a node each, as their slots have it
                async with Torrelque(client, queue=name, durability=REPLICATED) as queue:
                    await use(queue)
        assert [calls(node, 'wait') for node in cluster.primaries] == [7, 7, 7]
    finally:
        cluster.close()


# What breaks ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(('retry_timeout', 'kills'), [(30.0, 3), (0.0, 1)], ids=['repeated', 'settled'])
async def test_a_connection_that_breaks_while_it_waits(fresh_server: Start, retry_timeout: float, kills: int) -> None:
    primary, replica = with_replica(fresh_server, 'valkey-9.1')
    async with (
        connect(primary.url, retry_timeout=retry_timeout) as client,
        Torrelque(client, queue='q', durability=REPLICATED) as queue,
    ):
        await queue.enqueue('first')
        ids: list[str] = []

        async def enqueue() -> None:
            ids.append(await queue.enqueue('x'))

        async def waiting() -> bool:
            return is_waited_on(primary)

        with stopped(replica):
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(enqueue)
                for _ in range(kills):
                    await until(waiting)
                    for line in primary.command('CLIENT', 'LIST').decode().splitlines():
                        if 'cmd=wait ' in line:
                            primary.command('CLIENT', 'KILL', 'ID', line.split()[0].partition('=')[2])
                await until(waiting)
                assert not ids, 'a repeat that writes nothing would be confirmed at once'
                os.kill(replica.pid, signal.SIGCONT)
        assert replica.command('HLEN', 'q:tasks') == 2
        assert primary.command('HLEN', 'q:tasks') == 2


async def test_a_caller_that_is_cancelled_and_a_queue_that_is_closed_meanwhile(fresh_server: Start) -> None:
    primary, replica = with_replica(fresh_server, 'valkey-9.1')
    with stopped(replica), anyio.fail_after(15):
        async with queue_on('native', primary, Durability(replicas=1, timeout=300)) as queue:
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(queue.enqueue, 'x')

                async def waiting() -> bool:
                    return is_waited_on(primary)

                await until(waiting)
                tasks.cancel_scope.cancel()
            assert (await queue.dequeue()).data == 'x'
    assert primary.command('HLEN', 'q:tasks') == 1


async def test_a_reply_that_is_lost() -> None:
    transport = LosingTransport()
    async with Torrelque(transport, durability=Durability(fsynced=True)) as queue:
        await queue.enqueue('first')
        transport.lose = 'enqueue'
        await queue.enqueue('x')
        assert transport.lost == 1
        transport.server.fsyncs = False
        with pytest.raises(TorrelqueDurabilityError):
            await queue.enqueue('y')
        transport.before = True
        with pytest.raises(TorrelqueConnectionError):
            await queue.enqueue('z')
        assert (await queue.get_queue_stats()).tasks == 3


async def test_everything_is_sent_again() -> None:
    async with Torrelque(RepeatingTransport(), durability=Durability(replicas=1)) as queue:
        queue._transport.server.replicas = 1  # type: ignore[attr-defined]
        await use(queue)


# Elsewhere ------------------------------------------------------------------------------------------------------------


async def test_in_memory() -> None:
    transport = MemoryTransport()
    async with Torrelque(transport, durability=Durability(fsynced=True, replicas=1)) as queue:
        with pytest.raises(TorrelqueDurabilityError, match='1 of 1 replicas'):
            await queue.enqueue('x')
        transport.server.replicas = 1
        await use(queue)
        transport.server.fsyncs = False
        (error,) = await queue.release_many([await queue.dequeue()])
        assert isinstance(error, TorrelqueDurabilityError)


async def test_a_worker_counts_what_is_written_as_done(caplog: pytest.LogCaptureFixture) -> None:
    transport = MemoryTransport()
    told: list[events.WorkerEvent] = []
    finished = anyio.Event()

    def tell(event: events.WorkerEvent) -> None:
        told.append(event)
        if sum(isinstance(each, events.Finished) for each in told) == 3:
            finished.set()

    async def handle(_: object) -> None:
        pass

    async with Torrelque(transport, queue='q') as plain:
        ids = await plain.enqueue_many(['a', 'b', 'c'])
        async with Torrelque(transport, queue='q', durability=Durability(replicas=1)) as queue:
            worker = Worker(queue, handle, concurrency=3, on_event=tell)
            with anyio.fail_after(10):
                async with anyio.create_task_group() as tasks:
                    await tasks.start(worker.run)
                    await finished.wait()
                    worker.stop()
        assert (await plain.get_queue_stats()).tasks == 0
    assert not [event for event in told if isinstance(event, (events.Retried, events.Unsettled, events.LeaseLost))]
    for task_id in ids:
        assert f"task '{task_id}': written, but not confirmed" in caplog.text


async def test_what_cannot_be_asked_for() -> None:
    with pytest.raises(TorrelqueTypeError, match=r'durability must be a torrelque\.Durability, got True'):
        Torrelque(MemoryTransport(), durability=True)  # type: ignore[arg-type]  # that is what is tested
    queue = Torrelque(MemoryTransport(), durability=FSYNCED)
    with pytest.raises(TorrelqueUsageError, match='a write in a pipeline cannot be confirmed'):
        await queue.enqueue('x', pipeline=object())

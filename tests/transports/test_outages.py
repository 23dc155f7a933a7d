"""What the adapters of redis-py and coredis make of connections that break, whatever the client is set to do."""

from __future__ import annotations

import time
from collections.abc import Iterator

import anyio
import pytest

from tests.servers import Server
from tests.transports.gate import Gate
from tests.transports.native_support import Start, blocked, call, connections, until
from tests.transports.outages import Kind, anyio_backend, kind
from torrelque import Torrelque, TorrelqueReplyError
from torrelque.transports import adapt

pytestmark = pytest.mark.anyio
__all__ = ('anyio_backend', 'kind')

SOON = 10.0
"""Seconds in which calls and consumers have to be back, as the documentation says."""


@pytest.fixture
def server(fresh_server: Start) -> Server:
    return fresh_server('--repl-diskless-sync-delay', '0')  # replicas catch up at once, not after 5 s


@pytest.fixture
def gate(server: Server) -> Iterator[Gate]:
    with Gate(server.port) as gate:
        yield gate


# Connections that were cut --------------------------------------------------------------------------------------------


async def test_idle_connections_that_the_server_closes(kind: Kind, server: Server) -> None:
    server.config(timeout=1)
    async with kind.make(server.url) as client, Torrelque(client) as queue:
        for _ in range(3):
            await queue.enqueue('a')
            assert (await queue.get_queue_stats()).pending == 1
            task = await queue.dequeue(5)
            await queue.release(task)
            await until(lambda: connections(server) == 0)


async def test_calls_and_a_watcher_outlast_a_cut(kind: Kind, server: Server, gate: Gate) -> None:
    states: list[object] = []
    async with kind.make(gate.url) as client, Torrelque(client) as queue:
        task_id = await queue.enqueue('a')

        async def watch() -> None:
            states.extend([state.result async for state in queue.watch(task_id, timeout=30)])

        with anyio.fail_after(30):
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(watch)
                tasks.start_soon(queue.wait, task_id)
                await until(lambda: bool(server.command('PUBSUB', 'CHANNELS')))
                for _ in range(3):
                    gate.cut()
                    await queue.get_task_state(task_id)
                    await anyio.sleep(0.3)  # each call outlasts one cut, not two
                gate.cut()
                task = await queue.dequeue(5)
                gate.cut()
                await queue.release(task, result='done')
        assert states[-1] == 'done'


async def test_a_consumer_outlasts_a_cut(kind: Kind, server: Server, gate: Gate) -> None:
    got: list[str] = []
    async with kind.make(gate.url) as client, Torrelque(client) as queue, kind.make(server.url) as other:

        async def consume() -> None:
            got.append((await queue.dequeue(30)).data)

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(consume)
            for _ in range(2):
                await until(lambda: blocked(server) == 1)
                gate.cut()
                await until(lambda: blocked(server) == 0)
            await until(lambda: blocked(server) == 1)
            async with Torrelque(other) as producer:
                await producer.enqueue('a')
    assert got == ['a']


async def test_confirmed_writes_outlast_a_cut(kind: Kind, gate: Gate) -> None:
    async with kind.make(gate.url) as client:
        transport = adapt(client)
        for _ in range(3):
            assert list(await transport.execute_dedicated([call('ECHO', 'a'), call('WAIT', 0, 100)], 1)) == [b'a', 0]
            gate.cut()
        await transport.aclose()


# Connections that are open at this end only ---------------------------------------------------------------------------


async def test_calls_over_a_connection_that_was_forgotten(kind: Kind, gate: Gate) -> None:
    async with kind.make(gate.url) as client, Torrelque(client) as queue:
        await queue.enqueue('a')
        gate.forget()
        start = time.monotonic()
        await queue.enqueue('b')
        assert time.monotonic() - start < SOON
        assert (await queue.get_queue_stats()).pending == 2


async def test_a_consumer_whose_connection_was_forgotten(kind: Kind, server: Server, gate: Gate) -> None:
    got: list[str] = []
    async with kind.make(gate.url) as client, Torrelque(client) as queue, kind.make(server.url) as other:

        async def consume() -> None:
            got.append((await queue.dequeue(60)).data)

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(consume)
            await until(lambda: blocked(server) == 1)
            gate.forget()
            start = time.monotonic()
            async with Torrelque(other) as producer:
                await producer.enqueue('a')
    assert got == ['a']
    assert time.monotonic() - start < SOON + 2  # on a machine under load


# A server that was demoted --------------------------------------------------------------------------------------------


@pytest.mark.parametrize('failover_timeout', [0, 10])
async def test_calls_follow_an_address_to_the_new_primary(
    kind: Kind, server: Server, gate: Gate, fresh_server: Start, failover_timeout: float
) -> None:
    replica = fresh_server('--replicaof', '127.0.0.1', str(server.port))
    await until(lambda: replica.info('replication')['master_link_status'] == 'up')
    async with kind.make(gate.url) as client, Torrelque(client, failover_timeout=failover_timeout) as queue:
        await queue.enqueue('a')
        replica.command('REPLICAOF', 'NO', 'ONE')
        server.command('REPLICAOF', '127.0.0.1', replica.port)
        gate.target = replica.port
        await queue.enqueue('b')
        assert replica.command('LLEN', 'trq:pending') == 2


@pytest.mark.parametrize('failover_timeout', [0, 10])
async def test_a_consumer_follows_an_address_to_the_new_primary(
    kind: Kind, server: Server, gate: Gate, fresh_server: Start, failover_timeout: float
) -> None:
    replica = fresh_server('--replicaof', '127.0.0.1', str(server.port))
    await until(lambda: replica.info('replication')['master_link_status'] == 'up')
    got: list[str] = []
    async with (
        kind.make(gate.url) as client,
        Torrelque(client, failover_timeout=failover_timeout) as queue,
        kind.make(replica.url) as other,
    ):

        async def consume() -> None:
            got.append((await queue.dequeue(60)).data)

        with anyio.fail_after(30):
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(consume)
                await until(lambda: blocked(server) == 1)
                replica.command('REPLICAOF', 'NO', 'ONE')
                gate.target = replica.port
                server.command('REPLICAOF', '127.0.0.1', replica.port)
                async with Torrelque(other) as producer:
                    await producer.enqueue('a')
    assert got == ['a']


async def test_a_replica_that_stays_one_is_told(kind: Kind, server: Server, fresh_server: Start) -> None:
    replica = fresh_server('--replicaof', '127.0.0.1', str(server.port))
    await until(lambda: replica.info('replication')['master_link_status'] == 'up')
    async with kind.make(replica.url) as client, Torrelque(client) as queue:
        for _ in range(2):
            with pytest.raises(TorrelqueReplyError) as caught:
                await queue.enqueue('a')
            assert caught.value.code == 'READONLY'

"""A pool whose connections are all in use: calls wait for one, and for as long as that is sensible."""

from __future__ import annotations

from typing import Any

import anyio
import pytest
import redis
from redis.asyncio import BlockingConnectionPool, ConnectionPool, Redis

from tests.servers import Server
from tests.transports.custom import OwnConnection
from tests.transports.native_support import Start, blocked, call, until
from tests.transports.outages import Kind, anyio_backend, kind
from torrelque import Torrelque, TorrelqueConnectionError
from torrelque.transports import adapt, redis_py_pool
from torrelque.transports.redis_py import RedisPyTransport

pytestmark = pytest.mark.anyio
__all__ = ('anyio_backend', 'kind')

CALLERS = 200


@pytest.fixture
def server(fresh_server: Start) -> Server:
    return fresh_server()


@pytest.mark.parametrize('connections', [2, 100])
async def test_more_callers_than_connections(kind: Kind, server: Server, connections: int) -> None:
    async with kind.make(server.url, max_connections=connections) as client, Torrelque(client) as queue:
        ids = await queue.enqueue_many(range(CALLERS))

        async def look(task_id: str) -> None:
            await queue.get_task_state(task_id)
            await queue.get_task(task_id)
            await queue.enqueue('more')

        async def take() -> None:
            await queue.release(await queue.dequeue(30), result=1)

        async def wait(task_id: str) -> None:
            await queue.wait(task_id, 60)

        async with anyio.create_task_group() as tasks:
            for task_id in ids:
                tasks.start_soon(look, str(task_id))
                tasks.start_soon(wait, str(task_id))
                tasks.start_soon(take)


async def test_calls_of_the_transport_wait_their_turn(kind: Kind, server: Server) -> None:
    async with kind.make(server.url, max_connections=2) as client:
        transport = adapt(client)
        async with anyio.create_task_group() as tasks:
            for number in range(CALLERS):
                tasks.start_soon(transport.execute, [call('ECHO', number)] * 3)
        await transport.aclose()


OWN: dict[str, Any] = {'connection_class': OwnConnection, 'max_connections': 1}
POOLS: dict[str, Any] = {
    'plain': lambda url: ConnectionPool.from_url(url, **OWN),
    'blocking': lambda url: BlockingConnectionPool.from_url(url, timeout=0.01, **OWN),
    'blocking without end': lambda url: BlockingConnectionPool.from_url(url, timeout=None, **OWN),
}


@pytest.mark.parametrize('kind', [Kind('redis_py', 'asyncio')], ids=str)
@pytest.mark.parametrize('pool', POOLS)
async def test_waiting_for_a_connection_of_the_users(server: Server, pool: str, kind: Kind) -> None:
    client = Redis(connection_pool=POOLS[pool](server.url))
    transport = RedisPyTransport(client)

    async def hold() -> None:
        await client.blpop(['list'], 30)

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(hold)
        await until(lambda: blocked(server) == 1)
        for number in range(5):
            tasks.start_soon(transport.execute, [call('RPUSH', 'order', number)])
        await anyio.sleep(0.1)
        server.command('LPUSH', 'list', 'x')
    assert sorted(server.command('LRANGE', 'order', 0, -1)) == [b'0', b'1', b'2', b'3', b'4']
    await transport.aclose()
    await client.connection_pool.aclose()


@pytest.mark.parametrize('kind', [Kind('redis_py', 'asyncio')], ids=str)
@pytest.mark.parametrize('pool', POOLS)
async def test_waiting_in_vain(
    server: Server,
    pool: str,
    kind: Kind,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(redis_py_pool, 'POOL_TIMEOUT', 0.1)
    client = Redis(connection_pool=POOLS[pool](server.url))
    transport = RedisPyTransport(client)

    async def hold() -> None:
        await client.blpop(['list'], 30)

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(hold)
        await until(lambda: blocked(server) == 1)
        with pytest.raises(TorrelqueConnectionError, match=r'no connection free .* of 1 in all: raise') as caught:
            await transport.execute([call('PING')])
        assert isinstance(caught.value, redis.ConnectionError)
        assert blocked(server) == 1  # it is in use, and was not closed
        server.command('LPUSH', 'list', 'x')
    assert await transport.execute([call('PING')]) == [b'PONG']
    await transport.aclose()
    await client.connection_pool.aclose()


@pytest.mark.parametrize('kind', [Kind('redis_py', 'asyncio')], ids=str)
async def test_a_caller_that_stands_in_line_and_leaves(server: Server, kind: Kind) -> None:
    client = Redis(connection_pool=POOLS['plain'](server.url))
    transport = RedisPyTransport(client)

    async def hold() -> None:
        await client.blpop(['list'], 30)

    async def leave(seconds: float) -> None:
        with anyio.move_on_after(seconds):
            await transport.execute([call('PING')])

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(hold)
        await until(lambda: blocked(server) == 1)
        for seconds in (0.05, 0.02, 0.07):
            tasks.start_soon(leave, seconds)
        tasks.start_soon(transport.execute, [call('PING')])
        await anyio.sleep(0.1)
        server.command('LPUSH', 'list', 'x')
    await transport.aclose()
    await client.connection_pool.aclose()

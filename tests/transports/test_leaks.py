"""What is made over a client and forgotten leaves no connection and no task behind."""

from __future__ import annotations

import gc
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any

import anyio
import coredis
import pytest
import redis.asyncio

from tests import clusters, servers
from tests.servers import Server
from tests.transports.native_support import Start, connections
from tests.transports.settings import LOOPS, tidy
from torrelque import Client, Torrelque, connect, queues, shards_of
from torrelque.transports import spares

pytestmark = pytest.mark.anyio

ROUNDS = 5


@asynccontextmanager
async def redis_py(url: str) -> AsyncIterator[Client]:
    async with redis.asyncio.Redis.from_url(url) as client:
        yield client


@asynccontextmanager
async def with_coredis(url: str) -> AsyncIterator[Client]:
    client: coredis.Redis[Any] = coredis.Redis.from_url(url)
    async with client:
        yield client


CLIENTS: dict[str, Callable[[str], AbstractAsyncContextManager[Client]]] = {
    'native': connect,
    'redis_py': redis_py,
    'coredis': with_coredis,
}
KINDS = [(name, loop) for name in CLIENTS for loop in LOOPS if (name, loop) != ('redis_py', 'trio')]


@pytest.fixture(params=KINDS, ids='/'.join)
def kind(request: pytest.FixtureRequest) -> tuple[str, str]:
    chosen: tuple[str, str] = request.param
    return chosen


@pytest.fixture
def anyio_backend(kind: tuple[str, str]) -> Any:  # noqa: ANN401 - a name and the plugin's options for it
    return LOOPS[kind[1]]


@pytest.fixture
def server(fresh_server: Start) -> Server:
    return fresh_server()


async def settled(count: Callable[[], int]) -> int:
    """A count once nothing goes any more that was forgotten."""
    seen: list[int] = []
    with anyio.fail_after(30):
        while len(seen) < 5 or len(set(seen[-5:])) > 1:
            gc.collect()
            await anyio.sleep(0.05)
            seen.append(count())
    return seen[-1]


def tasks() -> int:
    return len(anyio.get_running_tasks())


async def test_looking_at_a_server(kind: tuple[str, str], server: Server) -> None:
    async with CLIENTS[kind[0]](server.url) as client:

        async def look() -> None:
            assert [name async for name in queues(client)] == ['q']
            async for _ in queues(client):
                break
            assert await shards_of(client, 'q') is None

        async with Torrelque(client, queue='q') as queue:
            await queue.enqueue('a')
        await look()
        before = await settled(lambda: connections(server)), await settled(tasks)
        for _ in range(ROUNDS):
            await look()
        assert (await settled(lambda: connections(server)), await settled(tasks)) == before


async def test_queue_objects_that_are_dropped(
    kind: tuple[str, str], server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(spares, 'KEEP', 0.2)  # for which a connection is kept that waits for its next use
    async with CLIENTS[kind[0]](server.url) as client:

        async def use(queue: Torrelque) -> None:
            task_id = await queue.enqueue('a')
            task = await queue.dequeue(10)
            await queue.release(task, result=1)
            await queue.wait(task_id, 10)

        async def use_and_drop() -> None:
            if kind[1] == 'trio':
                async with Torrelque(client) as queue:
                    await use(queue)
            else:
                await use(Torrelque(client))

        await use_and_drop()
        before = await settled(lambda: connections(server)), await settled(tasks)
        for _ in range(ROUNDS):
            await use_and_drop()
        await anyio.sleep(0.5)
        assert await settled(lambda: connections(server)) <= before[0]
        assert await settled(tasks) <= before[1]


@pytest.mark.parametrize('kind', [('coredis-cluster', 'asyncio'), ('coredis-cluster', 'trio')], ids='/'.join)
async def test_looking_at_a_cluster(kind: tuple[str, str]) -> None:
    try:
        cluster = clusters.shared('valkey-9.1')
    except servers.MissingServerError as error:
        pytest.skip(str(error))
    client: coredis.RedisCluster[Any] = coredis.RedisCluster('127.0.0.1', cluster.nodes[0].port)
    async with client:
        async with Torrelque(client, queue='leaks') as queue:
            await queue.enqueue('a')

        async def look() -> None:
            assert 'leaks' in [name async for name in queues(client)]
            assert await shards_of(client, 'leaks') is None

        await look()
        before = await settled(tasks)
        for _ in range(3):
            await look()
        assert await settled(tasks) <= before
    tidy(client)

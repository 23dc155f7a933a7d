"""Asynchronous queues at module level, with an event loop for each call: they work, or the error says what does."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, TypeAlias
from uuid import uuid4

import coredis
import pytest
import redis.asyncio
from asgiref.sync import async_to_sync

from tests import clusters, servers
from torrelque import Torrelque, TorrelqueUsageError, connect

Run: TypeAlias = Callable[[Callable[[], Coroutine[Any, Any, Any]]], Any]


def by_asyncio_run(function: Callable[[], Coroutine[Any, Any, Any]]) -> Any:  # noqa: ANN401 - as it returns
    return asyncio.run(function())


def by_async_to_sync(function: Callable[[], Coroutine[Any, Any, Any]]) -> Any:  # noqa: ANN401 - as it returns
    return async_to_sync(function)()


def by_a_loop_of_its_own(function: Callable[[], Coroutine[Any, Any, Any]]) -> Any:  # noqa: ANN401 - as it returns
    loop = asyncio.new_event_loop()
    try:
        return loop.run_until_complete(function())
    finally:
        loop.run_until_complete(loop.shutdown_asyncgens())
        loop.close()


@pytest.fixture(params=[by_asyncio_run, by_async_to_sync, by_a_loop_of_its_own])
def run(request: pytest.FixtureRequest) -> Run:
    chosen: Run = request.param
    return chosen


def use(queue: Torrelque, run: Run) -> None:
    async def enqueue() -> str:
        return await queue.enqueue('a')

    async def look() -> object:
        return await queue.get_queue_stats()

    async def consume() -> None:
        await queue.release(await queue.dequeue(5))

    for _ in range(3):
        run(enqueue)
        run(enqueue)
        run(look)
        run(consume)
        run(consume)


def test_redis_py_works(run: Run) -> None:
    client = redis.asyncio.Redis.from_url(servers.shared('valkey-9.1').url)
    use(Torrelque(client, queue=f'loops-{uuid4().hex}'), run)


AFTER_CALLS_OF_THE_USER = """
import asyncio, sys, redis.asyncio, torrelque
client = {client}
queue = torrelque.Torrelque(client, queue='loops-after')
for _ in range(3):
    asyncio.run(queue.enqueue('a'))
    {call}
    asyncio.run(queue.dequeue(5))
print('works')
"""


@pytest.mark.parametrize('kind', ['redis', 'cluster'])
def test_redis_py_works_after_calls_of_the_user(kind: str) -> None:
    call = 'asyncio.run(client.ping())'  # leaves a connection behind
    if kind == 'redis':
        client = f'redis.asyncio.Redis(port={servers.shared("valkey-9.1").port})'
    else:  # whose own calls fail on another event loop
        call = ''
        client = f'redis.asyncio.RedisCluster(host="127.0.0.1", port={clusters.shared("valkey-9.1").nodes[0].port})'
    code = AFTER_CALLS_OF_THE_USER.format(client=client, call=call)
    run = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True, timeout=40, check=False)
    assert (run.returncode, run.stdout) == (0, 'works\n'), run.stderr


def outside(kind: str) -> tuple[Any, Callable[[], Awaitable[object]]]:
    """A client, and what opens it."""
    if kind == 'coredis':
        client = coredis.Redis[bytes].from_url(servers.shared('valkey-9.1').url)
        return client, client.__aenter__
    native = connect(servers.shared('valkey-9.1').url)
    return native, native.aopen


@pytest.mark.parametrize('kind', ['coredis', 'native'])
def test_other_clients_name_the_synchronous_queue(run: Run, kind: str) -> None:
    client, _ = outside(kind)
    queue = Torrelque(client, queue=f'loops-{uuid4().hex}')

    async def enqueue() -> str:
        return await queue.enqueue('a')

    for _ in range(2):
        with pytest.raises(TorrelqueUsageError, match=r'use torrelque\.sync'):
            run(enqueue)


def test_a_client_that_was_opened_on_another_event_loop() -> None:
    client, aopen = outside('native')
    queue = Torrelque(client, queue=f'loops-{uuid4().hex}')

    async def enqueue() -> str:
        return await queue.enqueue('a')

    async def open_and_enqueue() -> str:
        await aopen()
        return await enqueue()

    asyncio.run(open_and_enqueue())
    for function in (enqueue, open_and_enqueue):
        with pytest.raises(TorrelqueUsageError, match=r'use torrelque\.sync'):
            asyncio.run(function())


def test_two_event_loops_at_the_same_time() -> None:
    client = redis.asyncio.Redis.from_url(servers.shared('valkey-9.1').url)
    queue = Torrelque(client, queue=f'loops-{uuid4().hex}')

    async def enqueue() -> str:
        return await queue.enqueue('a')

    async def enqueue_twice() -> None:
        async with queue:
            with pytest.raises(TorrelqueUsageError, match=r'another event loop.*use torrelque\.sync'):
                await asyncio.to_thread(by_a_loop_of_its_own, enqueue)

    asyncio.run(enqueue_twice())

"""A service that sentinels watch over: its primary is killed while a queue works."""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager, suppress

import anyio
import coredis
import pytest
from coredis.connection import TCPLocation
from redis.asyncio.sentinel import Sentinel

from tests.sentinels import SERVICE, Watched
from torrelque import (
    Client,
    Torrelque,
    TorrelqueConnectionError,
    TorrelqueLeaseLostError,
    TorrelqueLookupError,
    TorrelqueValueError,
    connect,
)
from torrelque.transports.native.url import parse_url

pytestmark = pytest.mark.anyio

MakeClient = Callable[[Watched], AbstractAsyncContextManager[Client]]

BEFORE, IN_ALL = 150, 450
"""Tasks done before the primary is killed, and enqueued at all."""

LAST_MOMENTS = 50
"""The most tasks that may have been under way then."""


@asynccontextmanager
async def native(watched: Watched) -> AsyncIterator[Client]:
    async with connect(f'redis+sentinel://{watched.hosts}/{SERVICE}') as client:
        yield client


@asynccontextmanager
async def redis_py(watched: Watched) -> AsyncIterator[Client]:
    places = [('127.0.0.1', port) for port in watched.ports]
    sentinel = Sentinel(places, socket_timeout=1)  # type: ignore[no-untyped-call]
    client = sentinel.master_for(SERVICE, socket_timeout=5)
    try:
        yield client
    finally:
        await client.aclose()
        for each in sentinel.sentinels:
            await each.aclose()


@asynccontextmanager
async def of_coredis(watched: Watched) -> AsyncIterator[Client]:
    async with AsyncExitStack() as stack:
        places = [TCPLocation('127.0.0.1', port) for port in watched.ports]
        sentinel = await stack.enter_async_context(coredis.Sentinel(places))
        yield await stack.enter_async_context(sentinel.primary_for(SERVICE))


@pytest.mark.parametrize(
    ('anyio_backend', 'make_client'), [('trio', native), ('asyncio', redis_py), ('asyncio', of_coredis)]
)
async def test_work_goes_on_when_the_primary_is_killed(make_client: MakeClient) -> None:
    """Nobody sees an error. What only the killed primary had may be gone or come again; the rest is done once."""
    enqueued: set[str] = set()
    done: Counter[str] = Counter()
    reached = anyio.Event()
    with Watched() as watched:
        async with (
            make_client(watched) as client,
            Torrelque(client, queue='q', failover_timeout=60) as queue,
            anyio.create_task_group() as tasks,
        ):

            async def consume() -> None:
                while True:
                    task = await queue.dequeue()
                    done[task.id] += 1
                    if len(done) == BEFORE:
                        reached.set()
                    with suppress(TorrelqueLookupError, TorrelqueLeaseLostError):  # of a lost task or claim
                        await queue.release(task)

            async def produce() -> None:
                for number in range(IN_ALL // 3):
                    enqueued.add(await queue.enqueue(number))
                    await anyio.sleep(0.002)

            async with anyio.create_task_group() as producers:
                for _ in range(3):
                    tasks.start_soon(consume)
                    producers.start_soon(produce)
                with anyio.fail_after(60):
                    await reached.wait()
                watched.primary.kill()
            with anyio.fail_after(60):
                last = await queue.enqueue('last')
                while not done[last] or (await queue.get_queue_stats()).tasks:  # noqa: ASYNC110 - is of the server
                    await anyio.sleep(0.02)
            tasks.cancel_scope.cancel()
        assert watched.replica.info('replication')['role'] == 'master'
    lost = enqueued - set(done)
    # What was written in the last moments of the primary had no time to reach the replica.
    assert len(lost) <= LAST_MOMENTS
    assert sum(count > 1 for count in done.values()) <= LAST_MOMENTS


async def test_what_is_wrong_is_told_once_the_time_is_over(free_tcp_port: int) -> None:
    url = f'redis+sentinel://127.0.0.1:{free_tcp_port}/mail'
    with pytest.raises(TorrelqueConnectionError, match=r"no sentinel names the primary of 'mail': .*cannot connect"):
        async with connect(url, retry_timeout=0.1):
            pass


def test_a_url_of_sentinels() -> None:
    target = parse_url('redis+sentinel://ann:p%40w@one,two:7,[::1]/my%20mail?db=3')
    addresses = target.addresses
    assert (target.kind, target.service) == ('sentinel', 'my mail')
    assert [(address.host, address.port) for address in addresses] == [('one', 26379), ('two', 7), ('::1', 26379)]
    assert {(address.user, address.password, address.db, address.tls) for address in addresses} == {
        ('ann', 'p@w', 3, False)
    }
    assert parse_url('rediss+sentinel://one/mail').addresses[0].tls


@pytest.mark.parametrize(
    'rest',
    ['one', 'one/', 'one/a/b', '/mail', 'one,/mail', 'one:0/mail', 'one/mail?db=x', 'one/mail?x=1', 'one:x/mail'],
)
def test_a_bad_url_of_sentinels(rest: str) -> None:
    with pytest.raises(TorrelqueValueError, match='url ') as caught:
        connect(f'redis+sentinel://:secret@{rest}')
    assert 'secret' not in str(caught.value)

"""The native connection where an address leads to another server by now, or nowhere, or is far away."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import anyio
import pytest

from tests.chaos.proxy import Proxy
from tests.servers import Server
from tests.transports.native_support import call, until
from torrelque import Durability, Task, Torrelque, TorrelqueReplyError, Worker, connect

pytestmark = pytest.mark.anyio

Start = Callable[..., Server]

LONGEST = 10.0
"""Seconds until a call or a consumer is back after its connection leads nowhere."""

SLACK = 3.0
"""Seconds for a machine under load."""


def demote(old: Server, new: Server) -> None:
    """A manual fail-over: both have the same data, and then the other one leads."""
    old.config(repl_diskless_sync_delay=0)
    new.command('REPLICAOF', '127.0.0.1', old.port)
    while new.info('replication')['master_link_status'] != 'up':
        pass
    new.command('REPLICAOF', 'NO', 'ONE')
    old.command('REPLICAOF', '127.0.0.1', new.port)


@pytest.mark.parametrize('dedicated', [False, True], ids=['shared', 'dedicated'])
async def test_a_call_that_a_demoted_server_refuses_is_the_last_one_there(
    fresh_server: Start, *, dedicated: bool
) -> None:
    old, new = fresh_server('--appendonly', 'yes'), fresh_server('--appendonly', 'yes')
    durability = Durability(fsynced=True) if dedicated else None
    with Proxy(old.port, seed=1, mean=None) as proxy:
        async with connect(proxy.url) as client, Torrelque(client, queue='q', durability=durability) as queue:
            await queue.enqueue('a')
            demote(old, new)
            with pytest.raises(TorrelqueReplyError, match=r'READONLY|replica'):
                await queue.enqueue('b')  # the address still leads to the old one
            proxy.redirect(new.port)
            await queue.enqueue('c')
            assert [task.data for task in await queue.dequeue_nowait(max_tasks=3)] == ['a', 'c']


@pytest.mark.parametrize('dedicated', [False, True], ids=['shared', 'dedicated'])
async def test_nobody_sees_an_error_where_the_address_moved_at_once(fresh_server: Start, *, dedicated: bool) -> None:
    old, new = fresh_server('--appendonly', 'yes'), fresh_server('--appendonly', 'yes')
    durability = Durability(fsynced=True) if dedicated else None
    with Proxy(old.port, seed=1, mean=None) as proxy:
        async with connect(proxy.url) as client, Torrelque(client, queue='q', durability=durability) as queue:
            await queue.enqueue('a')
            demote(old, new)
            proxy.redirect(new.port)
            async with anyio.create_task_group() as group:
                for number in range(5):
                    group.start_soon(queue.enqueue, number)
            assert (await queue.get_queue_stats()).tasks == 6


async def test_nobody_sees_an_error_with_a_failover_timeout(fresh_server: Start) -> None:
    old, new = fresh_server(), fresh_server()
    with Proxy(old.port, seed=1, mean=None) as proxy:
        async with connect(proxy.url) as client, Torrelque(client, queue='q', failover_timeout=20) as queue:
            await queue.enqueue('a')
            assert (await queue.dequeue()).data == 'a'
            async with anyio.create_task_group() as group:
                got: list[Any] = []

                async def consume() -> None:
                    got.append((await queue.dequeue()).data)

                group.start_soon(consume)
                await until(lambda: int(old.info('clients')['blocked_clients']) == 1)
                demote(old, new)
                proxy.redirect(new.port)
                await queue.enqueue('b')
            assert got == ['b']


async def test_a_worker_goes_on_at_the_new_primary(fresh_server: Start) -> None:
    old, new = fresh_server(), fresh_server()
    done: list[Any] = []

    async def handle(task: Task) -> None:
        done.append(task.data)

    with Proxy(old.port, seed=1, mean=None) as proxy:
        async with connect(proxy.url) as client, Torrelque(client, queue='q') as queue:
            worker = Worker(queue, handle, concurrency=1)
            async with anyio.create_task_group() as group:
                group.start_soon(worker.run)
                await until(lambda: int(old.info('clients')['blocked_clients']) == 1)
                demote(old, new)
                proxy.redirect(new.port)
                async with connect(new.url) as other, Torrelque(other, queue='q') as producer:
                    await producer.enqueue('a')
                await until(lambda: bool(done))
                worker.stop()
        assert done == ['a']


async def test_a_connection_that_leads_nowhere_is_given_up(fresh_server: Start) -> None:
    server = fresh_server('--appendonly', 'yes')
    times: dict[str, float] = {}

    async def measure(name: str, call: Callable[[], Any]) -> None:
        begun = anyio.current_time()
        await call()
        times[name] = anyio.current_time() - begun

    with Proxy(server.port, seed=1, mean=None) as proxy:
        durability = Durability(fsynced=True)
        async with (
            connect(proxy.url) as client,
            Torrelque(client, queue='q') as queue,
            Torrelque(client, queue='safe', durability=durability) as safe,
            Torrelque(client, queue='idle') as idle,
            connect(server.url) as other,
            Torrelque(other, queue='idle') as producer,
        ):
            await queue.enqueue('a')
            await safe.enqueue('a')
            async with anyio.create_task_group() as group:
                group.start_soon(measure, 'consumer', idle.dequeue)
                await until(lambda: int(server.info('clients')['blocked_clients']) == 1)
                proxy.swallow()
                await producer.enqueue('b')
                group.start_soon(measure, 'call', lambda: queue.enqueue('b'))
                group.start_soon(measure, 'durable call', lambda: safe.enqueue('b'))
    assert max(times.values()) < LONGEST + SLACK, times


async def test_an_idle_connection_that_leads_nowhere_is_given_up(fresh_server: Start) -> None:
    """The first call after it was forgotten does not wait long, and only one has to find out."""
    server = fresh_server()
    with Proxy(server.port, seed=1, mean=None) as proxy:
        async with connect(proxy.url, response_timeout=1) as client, Torrelque(client, queue='q') as queue:
            await queue.enqueue('a')
            proxy.swallow()
            with anyio.fail_after(5):
                await queue.enqueue('b')
            begun = anyio.current_time()
            await queue.enqueue('c')
            assert anyio.current_time() - begun < 0.9


async def test_a_slow_line_is_not_a_silent_server(fresh_server: Start) -> None:
    """The time for a confirmation begins when the payload has arrived, and silence is what nothing moves in."""
    server = fresh_server('--appendonly', 'yes', '--appendfsync', 'always')
    durability = Durability(fsynced=True, timeout=1)
    with Proxy(server.port, seed=1, mean=None, rate=500_000) as proxy:
        client = connect(proxy.url, response_timeout=1.5, retry_timeout=0)
        async with client, Torrelque(client, queue='q', durability=durability) as queue:
            begun = anyio.current_time()
            async with anyio.create_task_group() as group:
                group.start_soon(queue.enqueue, 'x' * 2_500_000)
                group.start_soon(client.execute, [call('ECHO', bytes(1_500_000))])
            assert anyio.current_time() - begun > 1 + 1.5
        assert server.command('HLEN', 'q:tasks') == 1

"""How long a call may take when the server is gone: as long as it may be repeated, or its time-out, and little more."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Sequence
from contextlib import AsyncExitStack
from functools import partial
from typing import Any

import anyio
import pytest

from tests.servers import Server
from tests.transports.settings import CLIENTS, LOOPS
from torrelque import Torrelque, TorrelqueConnectionError, TorrelqueTimeoutError, connect
from torrelque.core.protocol import Batch, Reply
from torrelque.transports.memory import MemoryServer, MemoryTransport

pytestmark = pytest.mark.anyio

BUDGET = 4.0
LONGEST = BUDGET + 2
"""Seconds: one more than a call may take, for a machine under load; twice the budget is well above."""

SETTINGS: Sequence[Any] = (
    pytest.param({'retry_timeout': BUDGET}, {}, id='retry_timeout'),
    pytest.param({'retry_timeout': 0}, {'failover_timeout': BUDGET}, id='failover_timeout'),
)


async def took(call: Callable[[], Any], error: type[Exception] = TorrelqueConnectionError) -> float:
    """Seconds until a call fails."""
    begun = anyio.current_time()
    with pytest.raises(error):
        await call()
    return anyio.current_time() - begun


@pytest.mark.parametrize(('of_client', 'of_queue'), SETTINGS)
async def test_the_settling_of_a_call_takes_no_time_of_its_own(
    fresh_server: Callable[..., Server], of_client: dict[str, Any], of_queue: dict[str, Any]
) -> None:
    server = fresh_server()
    async with connect(server.url, **of_client) as client, Torrelque(client, queue='q', **of_queue) as queue:
        await queue.enqueue('a')
        (task,) = await queue.dequeue_nowait()
        server.kill()
        async with anyio.create_task_group() as tasks:
            times: list[float] = []

            async def measure(call: Callable[[], Any]) -> None:
                times.append(await took(call))

            tasks.start_soon(measure, lambda: queue.release(task))
            tasks.start_soon(measure, lambda: queue.enqueue('b'))
            tasks.start_soon(measure, queue.dequeue_nowait)
        assert all(BUDGET - 1 < each < LONGEST for each in times), times
        server.start()
        assert await queue.enqueue('c')


class Silent(MemoryTransport):
    """A connection that breaks; then the server does not answer any more."""

    silent = False

    async def execute(self, batch: Batch) -> Sequence[Reply]:
        if self.silent:
            raise TorrelqueConnectionError('cut')
        return await super().execute(batch)

    async def execute_once(self, batch: Batch) -> Sequence[Reply]:
        if self.silent:
            await anyio.sleep_forever()
        return await super().execute(batch)


async def test_a_silent_server_is_given_a_moment_to_settle_a_call() -> None:
    transport = Silent(server=MemoryServer())
    async with Torrelque(transport, queue='q') as queue:
        await queue.enqueue('a')
        transport.silent = True
        assert await took(lambda: queue.enqueue('b')) < 2
        transport.silent = False
        await queue.enqueue('c')
        assert (await queue.get_queue_stats()).tasks == 2


TIMEOUT = 0.3
LATEST = 5.0
"""Seconds: the time-out, the two seconds after it that are promised, and as much again for a machine under load."""


async def until_late(call: Callable[[], Any]) -> None:
    assert await took(call, TorrelqueTimeoutError) < LATEST, call


async def watch(queue: Torrelque, task_id: str) -> None:
    async for _ in queue.watch(task_id, timeout=TIMEOUT):
        pass


def start_calls(tasks: anyio.abc.TaskGroup, queue: Torrelque, task_id: str) -> None:
    calls: list[Callable[[], Any]] = [
        partial(queue.dequeue, TIMEOUT),
        partial(queue.dequeue_many, 2, TIMEOUT),
        partial(queue.wait, task_id, TIMEOUT),
        partial(watch, queue, task_id),
        partial(queue.pause, wait=True, timeout=TIMEOUT),
    ]
    for call in calls:
        tasks.start_soon(until_late, call)


SITUATIONS = (
    ('gone', 'native', 'trio'),
    ('gone', 'redis_py', 'asyncio+uvloop'),
    ('gone', 'coredis', 'asyncio'),
    ('silent', 'native', 'asyncio'),
    ('silent', 'redis_py', 'asyncio'),
    ('silent', 'coredis', 'trio'),
)


@pytest.mark.parametrize(
    ('trouble', 'name', 'anyio_backend'),
    [pytest.param(trouble, name, LOOPS[loop], id=f'{trouble}-{name}-{loop}') for trouble, name, loop in SITUATIONS],
    indirect=['anyio_backend'],
)
async def test_a_time_out_holds_without_a_server(fresh_server: Callable[..., Server], trouble: str, name: str) -> None:
    server = fresh_server()
    async with AsyncExitStack() as stack:
        client = await stack.enter_async_context(CLIENTS[name].make(server))
        queues = [
            await stack.enter_async_context(Torrelque(client, queue='known', failover_timeout=20)),
            await stack.enter_async_context(Torrelque(client, queue='sharded', shards=3, failover_timeout=20)),
            await stack.enter_async_context(Torrelque(client, queue='new', shards=3, failover_timeout=20)),
        ]
        ids = [await queue.enqueue('a') for queue in queues[:2]]
        if trouble == 'gone':
            server.kill()
        else:
            os.kill(server.pid, signal.SIGSTOP)
        async with anyio.create_task_group() as tasks:
            for queue, task_id in zip(queues, [*ids, '?'], strict=True):
                start_calls(tasks, queue, task_id)
        if trouble == 'gone':
            server.start()
        else:
            os.kill(server.pid, signal.SIGCONT)
        for queue in queues:
            await queue.resume()
            await queue.enqueue('b')
            left = {'b'} if trouble == 'gone' or queue is queues[2] else {'a', 'b'}
            while left:
                left -= {task.data for task in await queue.dequeue_many(2, 20)}


@pytest.mark.parametrize('anyio_backend', [LOOPS['asyncio']], indirect=True)
async def test_a_time_out_holds_while_a_transport_never_answers() -> None:
    class Mute(MemoryTransport):
        async def execute(self, batch: Batch) -> Sequence[Reply]:
            await anyio.sleep_forever()
            return []

    async with Torrelque(Mute(), queue='q') as queue, anyio.create_task_group() as tasks:
        start_calls(tasks, queue, 'a')

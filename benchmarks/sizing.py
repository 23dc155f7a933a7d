"""What tasks and idle objects hold: ``python -m benchmarks.sizing``.

The server counts what it has allocated (``used_memory``), so other load on the machine does not disturb the figures.
Each is the difference that many tasks make, divided by their number; half as many of them were there before, so that
what a queue costs once is not counted.
"""

from __future__ import annotations

import argparse
import gc
import json
import tracemalloc
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from functools import partial
from typing import Any

import anyio

from tests.servers import Server, start
from torrelque import Torrelque, connect
from torrelque.transports.native.transport import NativeTransport

SERVERS = 'valkey-9.1', 'redis-7.0'
PAYLOADS = 60, 1_000, 10_000
"""Bytes of the payload as JSON."""

CHUNK = 500
IDLE_WORKERS = 20
OBJECTS = 100

State = Callable[[Torrelque, list[Any]], Awaitable[None]]


async def pending(queue: Torrelque, payloads: list[Any]) -> None:
    await queue.enqueue_many(payloads)


async def delayed(queue: Torrelque, payloads: list[Any]) -> None:
    await queue.enqueue_many(payloads, delay=3600)


async def claimed(queue: Torrelque, payloads: list[Any]) -> None:
    await queue.enqueue_many(payloads)
    await queue.dequeue_many(len(payloads))


async def dead(queue: Torrelque, payloads: list[Any]) -> None:
    await queue.enqueue_many(payloads)
    async with anyio.create_task_group() as group:
        for task in await queue.dequeue_many(len(payloads)):
            group.start_soon(queue.reject, task, 'ValueError: no such address')


async def finished(queue: Torrelque, payloads: list[Any]) -> None:
    await queue.enqueue_many(payloads)
    await queue.release_many(await queue.dequeue_many(len(payloads)), finished_ttl=3600)


async def with_result(queue: Torrelque, payloads: list[Any]) -> None:
    await queue.enqueue_many(payloads)
    async with anyio.create_task_group() as group:
        for task in await queue.dequeue_many(len(payloads)):
            group.start_soon(partial(queue.release, task, result=payloads[0]))


STATES: dict[str, State] = {
    'pending': pending,
    'delayed': delayed,
    'claimed': claimed,
    'dead letter': dead,
    'finished, without a result': finished,
    'finished, with a result as large as the payload': with_result,
}


def main() -> None:
    parser = argparse.ArgumentParser(prog='python -m benchmarks.sizing', description=__doc__)
    parser.add_argument('--tasks', type=int, default=10_000, help='of each kind (%(default)s)')
    options = parser.parse_args()
    for name in SERVERS:
        server = start(name)
        try:
            info = server.info()
            print(f'\n{name}, allocator {info["mem_allocator"]}, {options.tasks:,} tasks of each kind\n')
            print('| bytes a task, with a payload of |', ' | '.join(f'{size:,} bytes' for size in PAYLOADS), '|')
            print('|---|', '|'.join('--:' for _ in PAYLOADS), '|', sep='')
            for label, state in STATES.items():
                found = [anyio.run(_bytes_per_task, server, state, size, options.tasks) for size in PAYLOADS]
                print(f'| {label} |', ' | '.join(f'{bytes_:,.0f}' for bytes_ in found), '|')
            print(f'\nidle worker: {anyio.run(_connections, server):.1f} connections; once connected, it and its queue')
            print(f'object add {anyio.run(_bytes_per_worker, server):,.0f} bytes to the server')
            idle, waiting = anyio.run(_bytes_per_object, server)
            print(f'idle queue object: {idle:,.0f} bytes of Python; with a consumer that waits {waiting:,.0f}')
        finally:
            server.close()


def _payload(size: int) -> str:
    return 'x' * (size - len(json.dumps('')))


async def _bytes_per_task(server: Server, state: State, size: int, tasks: int) -> float:
    server.flush()
    before = await _used_with(server, state, size, tasks // 2)
    return (await _used_with(server, state, size, tasks) - before) / tasks


async def _used_with(server: Server, state: State, size: int, tasks: int) -> int:
    """Bytes after as many more tasks, without the buffers of connections."""
    clients = server.info('clients')['connected_clients']
    async with connect(server.url) as client, Torrelque(client, queue='sizing') as queue:
        for _ in range(0, tasks, CHUNK):
            await state(queue, [_payload(size)] * CHUNK)
    while server.info('clients')['connected_clients'] != clients:  # noqa: ASYNC110 - nothing says when the server has noticed
        await anyio.sleep(0.01)
    return int(server.info('memory')['used_memory'])


async def _connections(server: Server) -> float:
    return (await _idle(server))[0]


async def _bytes_per_worker(server: Server) -> float:
    return (await _idle(server))[1]


async def _idle(server: Server) -> tuple[float, float]:
    """Connections, and bytes on the server, of a process with one idle consumer."""
    server.flush()
    before = server.info()
    async with anyio.create_task_group() as group:
        for _ in range(IDLE_WORKERS):
            group.start_soon(_wait, server)
        await anyio.sleep(3)
        after = server.info()
        group.cancel_scope.cancel()
    connections = int(after['connected_clients']) - int(before['connected_clients'])
    taken = int(after['used_memory']) - int(before['used_memory'])
    return connections / IDLE_WORKERS, taken / IDLE_WORKERS


async def _bytes_per_object(server: Server) -> tuple[float, float]:
    """Bytes of this process for a queue object that was used: without a consumer, and with its own connection."""
    found: list[float] = []
    async with connect(server.url) as client:
        for waits in (False, True):
            async with AsyncExitStack() as stack:
                await _use(client, stack, 'first', waits=waits)
                tracemalloc.start()
                for number in range(OBJECTS):
                    await _use(client, stack, f'{number}', waits=waits)
                await anyio.sleep(1)
                gc.collect()
                found.append(tracemalloc.get_traced_memory()[0] / OBJECTS)
                tracemalloc.stop()
    idle, waiting = found
    return idle, waiting


async def _use(client: NativeTransport, stack: AsyncExitStack, name: str, *, waits: bool) -> None:
    queue = await stack.enter_async_context(Torrelque(client, queue=name))
    await queue.enqueue('payload')
    await queue.release(await queue.dequeue())
    if waits:
        group = await stack.enter_async_context(anyio.create_task_group())
        group.start_soon(queue.dequeue)
        stack.callback(group.cancel_scope.cancel)


async def _wait(server: Server) -> None:
    async with connect(server.url) as client, Torrelque(client, queue='sizing') as queue:
        await queue.dequeue()


if __name__ == '__main__':
    main()

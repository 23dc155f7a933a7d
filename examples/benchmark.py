"""A synthetic benchmark: how many empty tasks a second go through a queue in one process.

Without ``--url`` it starts a Valkey server of its own::

    python examples/benchmark.py --tasks 20000 --bulk 50 --client native --loop uvloop
"""

from __future__ import annotations

import argparse
import contextlib
import os
import time
from collections.abc import Iterator
from contextlib import AbstractAsyncContextManager

import anyio
import coredis
import redis.asyncio

import torrelque
from torrelque import Client, Task, Torrelque
from torrelque.embedded import EmbeddedServer

PILL = 'stop'
LOOPS = {
    'asyncio': ('asyncio', {'use_uvloop': False}),
    'uvloop': ('asyncio', {'use_uvloop': True}),
    'trio': ('trio', {}),
}


def connect(client: str, url: str) -> AbstractAsyncContextManager[Client]:
    match client:
        case 'redis-py':
            return redis.asyncio.Redis.from_url(url)
        case 'coredis':
            return coredis.Redis.from_url(url)
        case _:
            return torrelque.connect(url)


async def produce(queue: Torrelque, bulks: Iterator[int]) -> None:
    for size in bulks:
        if size == 1:
            await queue.enqueue('')
        else:
            for added in await queue.enqueue_many([''] * size):
                if isinstance(added, Exception):
                    raise added


async def consume(queue: Torrelque, bulk: int) -> None:
    pill: Task | None = None
    while pill is None:
        tasks = [await queue.dequeue()] if bulk == 1 else await queue.dequeue(max_tasks=bulk)
        if tasks[-1].data == PILL:
            pill = tasks.pop()
        if len(tasks) == 1:
            await queue.release(tasks[0])
        else:
            for failure in await queue.release_many(tasks):
                if failure is not None:
                    raise failure
    await queue.requeue(pill)  # for the next consumer


async def run(arguments: argparse.Namespace, url: str) -> None:
    full, rest = divmod(arguments.tasks, arguments.bulk)
    bulks = iter([arguments.bulk] * full + [rest] * bool(rest))
    name = f'benchmark-{os.urandom(4).hex()}'
    async with connect(arguments.client, url) as client, Torrelque(client, queue=name) as queue:
        start = time.perf_counter()
        async with anyio.create_task_group() as producers:
            for _ in range(arguments.concurrency):
                producers.start_soon(produce, queue, bulks)
        enqueued = time.perf_counter()
        pill_id = await queue.enqueue(PILL)
        async with anyio.create_task_group() as consumers:
            for _ in range(arguments.concurrency):
                consumers.start_soon(consume, queue, arguments.bulk)
        consumed = time.perf_counter()
        await queue.cancel(pill_id)
        assert (await queue.get_queue_stats()).total_completed == arguments.tasks
    print(f'enqueued: {arguments.tasks / (enqueued - start):,.0f} tasks/s')
    print(f'dequeued and released: {arguments.tasks / (consumed - enqueued):,.0f} tasks/s')


def main() -> None:
    parser = argparse.ArgumentParser(description='How many empty tasks a second go through a queue.')
    parser.add_argument('--tasks', type=int, default=10_000, metavar='N')
    parser.add_argument('--bulk', type=int, default=1, metavar='N', help='tasks a call')
    parser.add_argument('--concurrency', type=int, default=10, metavar='N', help='producers, then consumers')
    parser.add_argument('--client', choices=['redis-py', 'coredis', 'native'], default='native')
    parser.add_argument('--loop', choices=LOOPS, default='asyncio')
    parser.add_argument('--url', help='of a server; without it one is started')
    arguments = parser.parse_args()
    if min(arguments.tasks, arguments.bulk, arguments.concurrency) < 1:
        parser.error('tasks, bulk and concurrency are at least 1')
    if (arguments.client, arguments.loop) == ('redis-py', 'trio'):
        parser.error('redis-py runs on asyncio only')
    backend, options = LOOPS[arguments.loop]
    with contextlib.ExitStack() as stack:
        url = arguments.url or stack.enter_context(EmbeddedServer(port=0)).url
        anyio.run(run, arguments, url, backend=backend, backend_options=options)


if __name__ == '__main__':
    main()

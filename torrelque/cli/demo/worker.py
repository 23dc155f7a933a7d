"""A worker process of the demonstration. It hashes files from a queue until its standard input ends.

Usage: ``python -m torrelque.cli.demo.worker NAME LOOP CLIENT URL``. It prints a line
once it consumes. Its parent holds the other end of its standard input, so it exits
with its parent, even if the parent is killed.
"""

from __future__ import annotations

import hashlib
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager

import anyio
import anyio.to_thread

from torrelque import Client, Task, Torrelque, TorrelqueError, TorrelqueLeaseLostError, connect

__all__ = ('CLIENTS', 'QUEUE', 'TASK_TIMEOUT')

QUEUE = 'demo'

TASK_TIMEOUT = 3.0
"""Lease of a task, in seconds. A live worker renews it; tasks of a killed worker go to others when it expires."""

CONSUMERS = 4
"""Number of files that a worker hashes at once."""

BULK = 8
"""Number of tasks that a consumer claims at once, and then processes one by one."""

PART = 1 << 23
"""Number of bytes to hash between two renewals of a lease."""

RESULT_TTL = 24 * 3600.0


@asynccontextmanager
async def _redis_py(url: str) -> AsyncIterator[Client]:
    import redis.asyncio  # noqa: PLC0415 - workers start faster without the other clients

    async with redis.asyncio.Redis.from_url(url) as client:
        yield client


@asynccontextmanager
async def _coredis(url: str) -> AsyncIterator[Client]:
    import coredis  # noqa: PLC0415 - see above

    async with coredis.Redis.from_url(url) as client:
        yield client


CLIENTS: dict[str, Callable[[str], AbstractAsyncContextManager[Client]]] = {
    'redis-py': _redis_py,
    'coredis': _coredis,
    'native': connect,
}


async def work(name: str, client_name: str, url: str) -> None:
    """Consume until standard input ends."""
    async with anyio.create_task_group() as life:
        life.start_soon(end_with_input, life.cancel_scope)
        async with (
            CLIENTS[client_name](url) as client,
            Torrelque(client, queue=QUEUE) as queue,
            anyio.create_task_group() as consumers,
        ):
            for _ in range(CONSUMERS):
                consumers.start_soon(consume, queue, name)
            print(name, flush=True)  # noqa: T201 - the parent waits for this line


async def end_with_input(scope: anyio.CancelScope) -> None:
    await anyio.wait_readable(sys.stdin)  # nothing is ever written there, so it only becomes readable at its end
    scope.cancel()


async def consume(queue: Torrelque, name: str) -> None:
    """Claim some files and hash them one by one, forever."""
    while True:
        for task in await queue.dequeue(max_tasks=BULK):
            if anyio.current_time() < task.expires:  # otherwise others may have claimed it by now
                await do(queue, task, name)


async def do(queue: Torrelque, task: Task, name: str) -> None:
    """Hash one file."""
    try:
        try:
            digest = await hash_file(queue, task)
        except OSError as error:
            await queue.reject(task, str(error))
        else:
            await queue.release(task, result={'sha256': digest, 'worker': name}, result_ttl=RESULT_TTL)
    except TorrelqueLeaseLostError:
        pass  # this process was so slow that another one has claimed the task


async def hash_file(queue: Torrelque, task: Task) -> str:
    """Hash the task's file, and renew the lease in between. Raises OSError and TorrelqueLeaseLostError."""
    parts = hash_parts(task.data)
    while (digest := await anyio.to_thread.run_sync(next, parts)) is None:
        await queue.extend(task)
    return digest


def hash_parts(path: str) -> Iterator[str | None]:
    """Hash a file. Yield None after each part, and finally the digest."""
    digest = hashlib.sha256()
    with open(path, 'rb') as file:  # noqa: PTH123 - the path is a string already
        while part := file.read(PART):
            digest.update(part)
            if len(part) == PART:
                yield None
    yield digest.hexdigest()


def main() -> None:
    name, loop, client_name, url = sys.argv[1:]
    try:
        anyio.run(work, name, client_name, url, backend=loop)
    except* (TorrelqueError, OSError) as group:
        error: BaseException = group
        while isinstance(error, BaseExceptionGroup):
            error = error.exceptions[0]
        raise SystemExit(str(error)) from None


if __name__ == '__main__':
    main()

"""Those who go on through an outage: on one client a worker, a consumer and somebody who waits for a task's end."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager

import anyio
import coredis
import redis.asyncio

from tests.outages.troubles import Trouble
from torrelque import (
    Client,
    Task,
    Torrelque,
    TorrelqueConnectionError,
    TorrelqueLookupError,
    TorrelqueReplyError,
    Worker,
    connect,
)

__all__ = ('CREWS', 'ROLES', 'Crew', 'crews_on')

TROUBLE = (TorrelqueConnectionError, TorrelqueReplyError)

AGAIN = 0.1
"""Seconds until somebody whose call has failed tries again."""

Clients = Callable[[Trouble], AbstractAsyncContextManager[Client]]


@asynccontextmanager
async def _redis_py(trouble: Trouble) -> AsyncIterator[Client]:
    client = redis.asyncio.Redis.from_url(f'redis://127.0.0.1:{trouble.port}')
    try:
        yield client
    finally:
        with anyio.CancelScope(shield=True):  # cancelled, it would leave connections open
            await client.aclose()


@asynccontextmanager
async def _coredis(trouble: Trouble) -> AsyncIterator[Client]:
    client: coredis.Redis[bytes] = coredis.Redis.from_url(f'redis://127.0.0.1:{trouble.port}')
    async with client:
        yield client


def _native(trouble: Trouble) -> AbstractAsyncContextManager[Client]:
    return connect(f'redis://127.0.0.1:{trouble.port}')


def _native_cluster(trouble: Trouble) -> AbstractAsyncContextManager[Client]:
    assert trouble.cluster is not None
    return connect(f'redis+cluster://{trouble.cluster.hosts}')


CREWS: dict[str, tuple[Clients, int | None]] = {
    'redis_py': (_redis_py, None),
    'coredis': (_coredis, None),
    'native': (_native, None),
    'native-shards': (_native, 4),
    'native-cluster': (_native_cluster, None),
}
"""How each comes by its client, and how many shards its queues have."""

ROLES = ('worker', 'consumer', 'waiter', 'caller')


def crews_on(trouble: Trouble, loop: str) -> list[str]:
    """Those who can be there."""
    left_out = {'redis_py'} if loop == 'trio' else set()
    if trouble.cluster is None:
        left_out.add('native-cluster')
    return [name for name in CREWS if name not in left_out]


class Crew:
    """One client, with a queue for each role. ``done`` are the roles that have done what there was to do."""

    def __init__(self, name: str, trouble: Trouble) -> None:
        self.name = name
        self.done: dict[str, float] = {}
        self.ready: anyio.Event = anyio.Event()
        self.call: anyio.Event = anyio.Event()
        self._make, self.shards = CREWS[name]
        self._trouble = trouble
        self._over = False
        self._watched = ''

    async def run(self) -> None:
        """Until cancelled."""
        async with (
            self._make(self._trouble) as client,
            self._queue(client, 'worker') as for_worker,
            self._queue(client, 'consumer') as for_consumer,
            self._queue(client, 'waiter') as for_waiter,
            anyio.create_task_group() as group,
        ):
            self._watched = await for_waiter.enqueue('watched')
            group.start_soon(self._work, for_worker)
            group.start_soon(self._consume, for_consumer)
            group.start_soon(self._wait, for_waiter)
            group.start_soon(self._call, for_waiter)
            self.ready.set()

    async def give_work(self, client: Client) -> None:
        """Have something to do for each, by another client."""
        self._over = True
        self.call.set()
        for role in ('worker', 'consumer'):
            async with self._queue(client, role) as queue:
                await queue.enqueue('after')
        async with self._queue(client, 'waiter') as queue:
            await queue.release(await queue.dequeue(20), result='result')

    def missing(self) -> list[str]:
        """The roles that have not done it yet."""
        return [role for role in ROLES if role not in self.done]

    def _queue(self, client: Client, role: str) -> Torrelque:
        return Torrelque(client, queue=f'{self.name}-{role}', shards=self.shards)

    def _tell(self, role: str) -> None:
        if self._over:
            self.done.setdefault(role, anyio.current_time())

    async def _work(self, queue: Torrelque) -> None:
        async def handler(task: Task) -> None:
            self._tell('worker')

        await Worker(queue, handler, concurrency=3).run()

    async def _consume(self, queue: Torrelque) -> None:
        while True:
            try:
                task = await queue.dequeue()
                self._tell('consumer')
                await queue.release(task)
            except TROUBLE:
                await anyio.sleep(AGAIN)

    async def _wait(self, queue: Torrelque) -> None:
        while 'waiter' not in self.done:
            try:
                await queue.wait(self._watched)
                self._tell('waiter')
            except TorrelqueLookupError:
                return
            except TROUBLE:
                await anyio.sleep(AGAIN)

    async def _call(self, queue: Torrelque) -> None:
        """One call, begun when the server can be used again."""
        await self.call.wait()
        while True:
            try:
                await queue.get_queue_stats()
            except TROUBLE:
                await anyio.sleep(AGAIN)
            else:
                self._tell('caller')
                return

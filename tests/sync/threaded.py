"""The queue for synchronous code as an asynchronous one, each of whose calls runs in a thread."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager, closing
from functools import partial
from typing import Any, Self

import anyio
import anyio.to_thread
import redis
from redis.cluster import RedisCluster

from tests.clusters import Cluster
from tests.servers import Server
from torrelque import sync

DONE = object()


class Threaded:
    """What the conformance suite takes for a queue. A call that is cancelled goes on in its thread."""

    def __init__(self, client: Any, **options: Any) -> None:  # noqa: ANN401 - of any type
        self._queue = sync.Torrelque(client, **options)
        self._threads: anyio.CapacityLimiter | None = None
        self._running: set[object] = set()

    async def __aenter__(self) -> Self:
        self._queue.__enter__()
        return self

    async def __aexit__(self, *_: object) -> None:
        with anyio.CancelScope(shield=True):
            await self._run(self._queue.close)
            with anyio.move_on_after(5):  # for calls that were cancelled to end
                while self._running:  # noqa: ASYNC110 - threads tell no event loop
                    await anyio.sleep(0.01)
            await self._run(self._queue.close)  # they may have kept connections

    def __getattr__(self, name: str) -> Any:  # noqa: ANN401 - as above
        value = getattr(self._queue, name)
        if name in ('tasks', 'rejected', 'watch', 'workers', 'groups', 'schedules'):
            return lambda *args, **options: _Iterator(self._run, value(*args, **options))
        return partial(self._run, value) if callable(value) else value

    def __setattr__(self, name: str, value: Any) -> None:  # noqa: ANN401 - as above
        if name.startswith('_'):
            super().__setattr__(name, value)
        else:
            setattr(self._queue, name, value)

    async def _run(self, function: Callable[..., Any], *args: Any, **options: Any) -> Any:  # noqa: ANN401 - as above
        if self._threads is None:
            self._threads = anyio.CapacityLimiter(1000)
        call = object()

        def run() -> Any:  # noqa: ANN401 - as above
            self._running.add(call)
            try:
                return function(*args, **options)
            finally:
                self._running.discard(call)

        return await anyio.to_thread.run_sync(run, abandon_on_cancel=True, limiter=self._threads)


class _Iterator(AsyncIterator[Any]):
    def __init__(self, run: Callable[..., Any], inner: Iterator[Any]) -> None:
        self._run = run
        self._inner = inner

    async def __anext__(self) -> Any:  # noqa: ANN401 - as above
        value = await self._run(next, self._inner, DONE)
        if value is DONE:
            raise StopAsyncIteration
        return value

    async def aclose(self) -> None:
        await self._run(self._inner.close)  # type: ignore[attr-defined]  # as the queue's iterators have it


def client_of(server: Server, **options: Any) -> AbstractAsyncContextManager[object]:  # noqa: ANN401 - redis-py's
    @asynccontextmanager
    async def make() -> AsyncIterator[object]:
        with closing(redis.Redis.from_url(server.url, **options)) as client:
            yield client

    return make()


def client_of_cluster(cluster: Cluster) -> AbstractAsyncContextManager[object]:
    @asynccontextmanager
    async def make() -> AsyncIterator[object]:
        client = RedisCluster(host='127.0.0.1', port=cluster.nodes[0].port)
        with closing(client):
            yield client

    return make()

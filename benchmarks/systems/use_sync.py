"""The synchronous API, on redis-py, called by threads."""

from __future__ import annotations

from typing import ClassVar, Self

import anyio
import redis

import torrelque.sync
from benchmarks.systems import Handler, Payload, System


class Subject(System):
    threaded: ClassVar[bool] = True

    async def __aenter__(self) -> Self:
        self._client = redis.Redis.from_url(self.url)
        self._queue = torrelque.sync.Torrelque(self._client)
        return self

    async def __aexit__(self, *error: object) -> None:
        self._queue.close()
        self._client.close()

    def enqueue_now(self, task: Payload) -> None:
        self._queue.enqueue(task)

    async def enqueue(self, task: Payload, delay: float | None = None) -> None:
        raise NotImplementedError

    async def work(self, handler: Handler, concurrency: int, stop: anyio.Event) -> None:
        raise NotImplementedError

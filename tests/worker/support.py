"""A worker in the background, over a server in memory that can be watched, and can go away."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any, TypeVar

import anyio

from torrelque import Router, Torrelque, TorrelqueReplyError, Worker, events
from torrelque.core.protocol import Batch, Call, Reply, Script
from torrelque.testing import MemoryTransport, VirtualClock

E = TypeVar('E', bound=events.WorkerEvent)

Handler = Callable[..., Any]

SOON = 10


class WatchedTransport(MemoryTransport):
    """Remembers what was sent; raises or answers ``away`` while that is an error."""

    def __init__(self, clock: VirtualClock | None = None) -> None:
        super().__init__(clock=clock)
        self.batches: list[list[str]] = []
        self.away: Exception | None = None
        self.too_large: Exception | None = None
        """What is answered to, or raised of, a call of more than 1,000 bytes."""
        self.tries = 0

    async def execute(self, batch: Batch) -> Sequence[Reply]:
        if self.away is not None:
            self.tries += 1
            await self._travel()
            return self._refuse(batch)
        if self.too_large is not None and any(size_of(call) > 1000 for call in batch):
            if not isinstance(self.too_large, TorrelqueReplyError):
                raise self.too_large
            fitting = iter(await super().execute([call for call in batch if size_of(call) <= 1000]))
            return [self.too_large if size_of(call) > 1000 else next(fitting) for call in batch]
        self.batches.append([call.command.name if isinstance(call.command, Script) else call.command for call in batch])
        return await super().execute(batch)

    async def block(self, call: Call[Reply], timeout: float) -> Reply:
        return await super().block(call, timeout) if self.away is None else self._refuse((call,))[0]

    def _refuse(self, batch: Batch) -> list[Reply]:
        assert self.away is not None
        if isinstance(self.away, TorrelqueReplyError):
            return [self.away for _ in batch]
        raise self.away

    def count(self, name: str) -> int:
        """How many calls of a script there were, repeats after a NOSCRIPT not counted."""
        return sum(batch.count(name) for batch in self.batches)


def size_of(call: Call[Reply]) -> int:
    return 0 if call.command == 'SCRIPT LOAD' else sum(len(arg) for arg in call.args if isinstance(arg, (str, bytes)))


class LiveBench:
    """A queue in real time, and a worker on it."""

    def __init__(self, queue: Torrelque) -> None:
        self.queue = queue
        self.events: list[events.WorkerEvent] = []
        self._news = anyio.Event()

    def hear(self, event: events.WorkerEvent) -> None:
        self.events.append(event)
        self._news.set()

    def worker(self, handler: Handler | Router, concurrency: int = 1, **settings: Any) -> Worker:  # noqa: ANN401 - the Worker's
        return Worker(self.queue, handler, concurrency=concurrency, **{'on_event': self.hear, **settings})

    @asynccontextmanager
    async def working(
        self,
        handler: Handler | Router,
        concurrency: int = 1,
        **settings: Any,  # noqa: ANN401 - the Worker's
    ) -> AsyncIterator[Worker]:
        """Runs a worker meanwhile; it is cancelled at the end."""
        worker = self.worker(handler, concurrency, **settings)
        async with anyio.create_task_group() as group:
            await group.start(worker.run)
            await self.settle()
            yield worker
            group.cancel_scope.cancel()

    async def settle(self) -> None:
        """Let everything happen that can without time passing."""

    async def until(self, kind: type[events.WorkerEvent], count: int = 1) -> None:
        """Wait for a number of events of one kind."""
        with anyio.fail_after(SOON):
            while len(self.told(kind)) < count:
                self._news = anyio.Event()
                await self._news.wait()

    def told(self, kind: type[E]) -> list[E]:
        """The events of one kind."""
        return [event for event in self.events if isinstance(event, kind)]

    async def peek(self) -> tuple[int, int, int, int]:
        """How many tasks are pending, working, delayed, rejected."""
        stats = await self.queue.get_queue_stats()
        return stats.pending, stats.working, stats.delayed, stats.rejected


class Bench(LiveBench):
    """The same in virtual time, over a server in memory."""

    def __init__(self, queue: Torrelque, transport: WatchedTransport, clock: VirtualClock) -> None:
        super().__init__(queue)
        self.transport = transport
        self.clock = clock

    def worker(self, handler: Handler | Router, concurrency: int = 1, **settings: Any) -> Worker:  # noqa: ANN401 - the Worker's
        return super().worker(handler, concurrency, **{'clock': self.clock, **settings})

    async def settle(self) -> None:
        await self.clock.advance(0)

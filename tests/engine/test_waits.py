"""Queue objects that share their waits: each is woken by its own tasks, whatever happens to the others."""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncIterator, Sequence
from random import Random
from typing import Any

import anyio
import pytest

from torrelque import Torrelque, TorrelqueConnectionError, TorrelqueReplyError, WaitSharer
from torrelque.core.protocol import Call, Reply
from torrelque.testing import MemoryTransport, VirtualClock

pytestmark = pytest.mark.anyio


class Calls(MemoryTransport):
    """Counts the blocking calls on the server, and can refuse one key or lose all connections."""

    def __init__(self, clock: VirtualClock) -> None:
        super().__init__(clock=clock)
        self.blocked: list[Sequence[Any]] = []
        self.behind = 0
        self.refused: set[bytes] = set()
        self.lost = anyio.Event()

    async def block(self, call: Call[Reply], timeout: float) -> Reply:
        self.blocked.append(call.keys)
        try:
            if self.refused.intersection(call.keys):
                return TorrelqueReplyError('WRONGTYPE')
            reply: Reply = None
            async with anyio.create_task_group() as group:

                async def lose() -> None:
                    await self.lost.wait()
                    group.cancel_scope.cancel()

                group.start_soon(lose)
                reply = await super().block(call, timeout)
                group.cancel_scope.cancel()
            if self.lost.is_set():
                raise TorrelqueConnectionError('cut')
            return reply
        finally:
            self.blocked.remove(call.keys)

    async def block_then(self, call: Call[Reply], then: Call[Reply], timeout: float) -> Sequence[Reply]:
        self.behind += 1
        return [await self.block(call, timeout), self.server.call(then)]

    @property
    def keys(self) -> list[list[str]]:
        """The names of the queues in each call on the server."""
        return sorted(sorted(key.decode()[0] for key in keys) for keys in self.blocked)


class Bench:
    """Three queues that share their waits, each with a consumer that notes what it gets."""

    def __init__(self, transport: Calls, clock: VirtualClock) -> None:
        self.transport = transport
        self.clock = clock
        self.queues: dict[str, Torrelque] = {}
        self.scopes: dict[str, anyio.CancelScope] = {}
        self.ends = {name: anyio.Event() for name in 'abc'}
        self.sharer = WaitSharer(3)
        self.got: list[str] = []

    async def consume(self, name: str) -> None:
        async with Torrelque(self.transport, queue=name) as queue:
            self.queues[name] = queue
            with queue.share_waits(self.sharer), anyio.CancelScope() as self.scopes[name]:
                while True:
                    try:
                        task = await queue.dequeue()
                    except (TorrelqueConnectionError, TorrelqueReplyError):
                        await self.clock.sleep(1)
                    else:
                        self.got.append(task.queue)
                        await queue.release(task)
            await self.ends[name].wait()

    async def check(self, *names: str) -> None:
        """Check that each of these queues wakes its consumer at once."""
        self.got.clear()
        for name in names or self.queues:
            await self.queues[name].enqueue(1)
            await self.clock.advance(0)
        assert self.got == list(names or self.queues)


@pytest.fixture
async def bench() -> AsyncIterator[Bench]:
    clock = VirtualClock()
    transport = Calls(clock)
    bench = Bench(transport, clock)
    async with anyio.create_task_group() as group:
        for name in 'abc':
            group.start_soon(bench.consume, name)
        await clock.advance(0)
        yield bench
        group.cancel_scope.cancel()


async def test_one_call_serves_all(bench: Bench) -> None:
    assert bench.transport.keys == [['a', 'b', 'c']]
    await bench.check()
    await bench.clock.advance(30)
    assert bench.transport.keys == [['a', 'b', 'c']]
    assert bench.transport.behind == 0


async def test_hints_of_several_queues_at_once_wake_all(bench: Bench) -> None:
    for queue in bench.queues.values():
        await queue.enqueue_many([1] * 5)
    await bench.clock.advance(0)
    assert Counter(bench.got) == dict.fromkeys('abc', 5)


@pytest.mark.parametrize('name', ['a', 'b', 'c'])
async def test_a_consumer_that_leaves_takes_nobody_along(bench: Bench, name: str) -> None:
    bench.scopes[name].cancel()
    await bench.clock.advance(0)
    others = [each for each in bench.queues if each != name]
    await bench.check(*others)
    await bench.queues[name].enqueue(1)
    await bench.check(*others)
    assert len(await bench.queues[name].dequeue_nowait()) == 1


@pytest.mark.parametrize('name', ['a', 'b', 'c'])
async def test_a_queue_that_is_closed_takes_nobody_along(bench: Bench, name: str) -> None:
    bench.scopes[name].cancel()
    bench.ends[name].set()
    await bench.clock.advance(0)
    assert bench.transport.keys == [[each for each in 'abc' if each != name]]
    await bench.check(*[each for each in bench.queues if each != name])


async def test_a_lost_connection_is_forgotten_soon(bench: Bench) -> None:
    bench.transport.lost.set()
    await bench.clock.advance(20)
    bench.transport.lost = anyio.Event()
    await bench.clock.advance(8)
    await bench.check()
    assert sorted(key for keys in bench.transport.keys for key in keys) == ['a', 'b', 'c']


async def test_an_error_that_concerns_one_key_fails_one_queue(bench: Bench) -> None:
    bench.transport.refused = {b'b:wake'}
    await bench.clock.advance(20)
    await bench.check('a', 'c')
    bench.transport.refused = set()
    await bench.clock.advance(20)
    await bench.check()


@pytest.mark.parametrize('seed', range(4))
async def test_no_task_waits_for_a_consumer_that_waits(bench: Bench, seed: int) -> None:
    """Consumers come and leave, and queues are closed; after each step, no task of a waiting consumer is left."""
    rng = Random(seed)
    async with anyio.create_task_group() as group:
        for _ in range(40):
            name = rng.choice('abc')
            match rng.randrange(5):
                case 0:
                    bench.scopes[name].cancel()
                    await bench.clock.advance(0)
                case 1 if bench.scopes[name].cancel_called:
                    bench.ends[name].set()
                    await bench.clock.advance(0)
                    bench.ends[name] = anyio.Event()
                    group.start_soon(bench.consume, name)
                case 2:
                    await bench.clock.advance(rng.random() * 9)
                case _:
                    await bench.queues[name].enqueue_many([1] * rng.randrange(1, 4))
            await bench.clock.advance(0)
            for each, queue in bench.queues.items():
                if not bench.scopes[each].cancel_called:
                    assert (await queue.get_queue_stats()).pending == 0
        for name in bench.queues:
            bench.scopes[name].cancel()
            bench.ends[name].set()


async def test_sharing_ends_with_its_context() -> None:
    clock = VirtualClock()
    transport = Calls(clock)
    async with Torrelque(transport, queue='a') as queue, anyio.create_task_group() as group:
        with queue.share_waits(WaitSharer(1)), queue.share_waits(WaitSharer(1)):
            pass
        await queue.enqueue(1)
        await queue.dequeue()
        group.start_soon(queue.dequeue)
        await clock.advance(20)
        assert transport.behind > 0, 'the next claim is behind the wait again'
        group.cancel_scope.cancel()

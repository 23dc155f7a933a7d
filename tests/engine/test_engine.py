"""The engine: it keeps no tasks, survives whatever a transport raises, and works with eager tasks."""

from __future__ import annotations

import asyncio
import gc
import sys
import tracemalloc
from collections.abc import AsyncIterator, Callable, Hashable, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack
from typing import Any

import anyio
import pytest
from anyio.lowlevel import checkpoint, current_token

from tests.servers import Server
from torrelque import Torrelque, TorrelqueError, TorrelqueReplyError, connect
from torrelque.core.protocol import Batch, Call, Reply, Script
from torrelque.engine import engine
from torrelque.engine.driving import SPARE_DRIVERS
from torrelque.engine.sharded import ShardedDispatcher
from torrelque.testing import MemoryTransport
from torrelque.testing.conformance.support import blocked_clients
from torrelque.transports import spares
from torrelque.transports.base import Listener, Then

on_each_loop = pytest.mark.anyio

ENOUGH = 30  # seconds, for a machine under load


def tasks_alive() -> int:
    """Tasks of the event loop, of whatever kind."""
    token = current_token().native_token
    if isinstance(token, asyncio.AbstractEventLoop):
        return len(asyncio.all_tasks())
    import trio  # noqa: PLC0415 - only where it runs

    return trio.lowlevel.current_statistics().tasks_living


async def settle() -> None:
    for _ in range(50):
        await checkpoint()


async def until(is_so: Callable[[], bool]) -> None:
    with anyio.fail_after(ENOUGH):
        while not is_so():  # noqa: ASYNC110 - of things that tell nobody
            await anyio.sleep(0.001)


# Flat ---------------------------------------------------------------------------------------------------------------


class HastyTransport(MemoryTransport):
    """A wait on it ends after some milliseconds."""

    block_limit = 0.005
    blocked = 0

    async def block(self, call: Call[Reply], timeout: float) -> Reply:
        self.blocked += 1
        return await super().block(call, timeout)


async def consume(queue: Torrelque, done: Callable[[str], object]) -> None:
    while True:
        task = await queue.dequeue()
        await queue.release(task)
        done(task.id)


async def feed(queue: Torrelque, count: int) -> None:
    """Enqueue lone tasks, each of which wakes an idle consumer."""
    done: list[str] = []
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(consume, queue, done.append)
        for number in range(count):
            await queue.enqueue(number)
            await until(lambda: len(done) > number)  # noqa: B023 - called at once
        tasks.cancel_scope.cancel()


@on_each_loop
@pytest.mark.parametrize('shards', [None, 3])
async def test_wake_ups_leave_no_tasks_behind(shards: int | None) -> None:
    async with Torrelque(MemoryTransport(), shards=shards) as queue:
        await feed(queue, 5)
        await settle()
        before = tasks_alive()
        await feed(queue, 100)
        await settle()
        assert tasks_alive() <= before + SPARE_DRIVERS


@on_each_loop
async def test_wake_ups_on_a_server_leave_no_tasks_behind(server: Server) -> None:
    async with connect(server.url) as client, Torrelque(client) as queue:
        await feed(queue, 5)
        await settle()
        before = tasks_alive()
        await feed(queue, 60)
        await settle()
        assert tasks_alive() <= before + SPARE_DRIVERS


@on_each_loop
@pytest.mark.parametrize('shards', [None, 3])
async def test_slices_leave_no_tasks_behind(shards: int | None) -> None:
    transport = HastyTransport()
    async with Torrelque(transport, shards=shards) as queue, anyio.create_task_group() as tasks:
        tasks.start_soon(consume, queue, print)
        await anyio.sleep(0.05)
        before = tasks_alive()
        already = transport.blocked
        await until(lambda: transport.blocked >= already + 50)
        assert tasks_alive() <= before + SPARE_DRIVERS
        tasks.cancel_scope.cancel()


@on_each_loop
async def test_a_burst_leaves_no_more_than_spare_tasks_behind() -> None:
    async with Torrelque(MemoryTransport()) as queue:
        await queue.enqueue('first')
        before = tasks_alive()
        async with anyio.create_task_group() as tasks:
            for number in range(500):
                tasks.start_soon(queue.enqueue, number)
        await settle()
        assert tasks_alive() <= before + SPARE_DRIVERS


# Errors of every kind ------------------------------------------------------------------------------------------------


class AwkwardError(Exception):
    """Cannot be made again from what it says."""

    def __init__(self, *, reason: str) -> None:
        super().__init__(f'awkward: {reason}')


FAULTS: dict[str, Callable[[], Exception]] = {
    'ValueError': lambda: ValueError('no'),
    'OSError': lambda: OSError(24, 'Too many open files'),
    'TypeError': lambda: TypeError('no credentials'),
    'group': lambda: ExceptionGroup('some', [RuntimeError('a'), KeyError('b')]),
    'awkward': lambda: AwkwardError(reason='no'),
    'reply': lambda: TorrelqueReplyError('ERR raised, not returned'),
}


class FaultyTransport(MemoryTransport):
    """Raises a given error, before or after it has done what it was asked for."""

    def __init__(self) -> None:
        super().__init__()
        self.fault: Callable[[], Exception] | None = None
        self.where = ''
        self.raised = 0

    def fail(self, point: str) -> None:
        if self.fault is not None and point == self.where:
            self.raised += 1
            raise self.fault()

    async def execute(self, batch: Batch) -> Sequence[Reply]:
        self.fail('before')
        verbs = {call.command.name for call in batch if isinstance(call.command, Script)}
        for verb in verbs:
            self.fail(verb)
        replies = await super().execute(batch)
        self.fail('after')
        return replies

    async def block(self, call: Call[Reply], timeout: float) -> Reply:
        self.fail('block')
        return await super().block(call, timeout)

    def listen(self) -> AbstractAsyncContextManager[Listener]:
        self.fail('listen')
        return super().listen()

    def node_of(self, key: bytes) -> Hashable:
        self.fail('node_of')
        return super().node_of(key)

    async def pause(self, event: anyio.Event, until: float) -> None:
        self.fail('pause')
        await super().pause(event, until)


async def persist(queue: Torrelque, got: list[Any], errors: list[Exception]) -> None:
    """Consume as somebody does who minds no error."""
    while True:
        try:
            task = await queue.dequeue()
            got.append(task.data)
            await queue.release(task)
        except Exception as error:  # noqa: BLE001 - whatever the transport raised
            errors.append(error)
            await anyio.sleep(0.01)


PLAIN = ('before', 'after', 'claim', 'tick', 'enqueue', 'release', 'mint', 'block', 'listen', 'pause')


@on_each_loop
@pytest.mark.parametrize('kind', FAULTS)
@pytest.mark.parametrize('where', PLAIN)
async def test_whatever_a_transport_raises_the_object_goes_on(where: str, kind: str) -> None:
    transport = FaultyTransport()
    async with Torrelque(transport) as queue:
        await outlive(transport, queue, where, FAULTS[kind])


@on_each_loop
@pytest.mark.parametrize('where', [*PLAIN, 'survey', 'node_of'])
async def test_whatever_a_transport_raises_a_sharded_object_goes_on(where: str) -> None:
    transport = FaultyTransport()
    async with Torrelque(transport, shards=2) as queue:
        await outlive(transport, queue, where, FAULTS['ValueError'])


@pytest.mark.parametrize('where', PLAIN)
def test_whatever_a_transport_raises_an_object_without_its_context_goes_on(where: str) -> None:
    async def main() -> None:
        transport = FaultyTransport()
        queue = Torrelque(transport)
        await outlive(transport, queue, where, FAULTS['OSError'])
        await queue.aclose()

    asyncio.run(main())


async def outlive(transport: FaultyTransport, queue: Torrelque, where: str, fault: Callable[[], Exception]) -> None:
    got: list[Any] = []
    errors: list[Exception] = []
    watched = await queue.enqueue('watched', delay=3600)
    with anyio.fail_after(ENOUGH):
        async with anyio.create_task_group() as tasks:
            for _ in range(2):
                tasks.start_soon(persist, queue, got, errors)
            await anyio.sleep(0.02)
            transport.fault, transport.where = fault, where
            tasks.start_soon(follow, queue, watched, errors)
            for number in range(20):
                try:
                    await queue.enqueue(number)
                except Exception as error:  # noqa: BLE001
                    errors.append(error)
                await anyio.sleep(0.01)
            transport.fault = None
            await queue.enqueue('after')
            await until(lambda: 'after' in got)
            tasks.cancel_scope.cancel()
    assert {type(error) for error in errors} <= {type(fault())}


async def follow(queue: Torrelque, task_id: str, errors: list[Exception]) -> None:
    while True:
        try:
            async for _ in queue.watch(task_id):
                pass
        except Exception as error:  # noqa: BLE001
            errors.append(error)
        await anyio.sleep(0.01)


@on_each_loop
@pytest.mark.parametrize('where', ['block', 'claim'])
async def test_consumers_that_wait_are_told_of_an_error_and_the_next_is_served(where: str) -> None:
    transport = FaultyTransport()
    transport.fault, transport.where = FAULTS['OSError'], where
    async with Torrelque(transport) as queue:
        with pytest.raises(OSError, match='Too many'), anyio.fail_after(ENOUGH):
            await queue.dequeue()
        transport.fault = None
        await queue.enqueue('tea')
        with anyio.fail_after(ENOUGH):
            assert (await queue.dequeue()).data == 'tea'


@on_each_loop
async def test_a_claim_whose_answer_was_lost_by_an_odd_error_is_given_back() -> None:
    transport = FaultyTransport()
    async with Torrelque(transport) as queue:
        await queue.enqueue('tea')
        transport.fault, transport.where = FAULTS['ValueError'], 'after'
        with pytest.raises(ValueError, match='no'):
            await queue.dequeue(1)
        transport.fault = None
        with anyio.fail_after(ENOUGH):
            task = await queue.dequeue()
        assert (task.data, task.attempt) == ('tea', 1)


@on_each_loop
async def test_a_step_that_fails_tells_its_callers_and_the_next_works(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with Torrelque(MemoryTransport()) as queue:
        await queue.enqueue('first')
        session = queue._engine._session

        def fail() -> Any:  # noqa: ANN401 - never returns
            raise ValueError('a defect')

        with monkeypatch.context() as patch:
            patch.setattr(session, 'poll', fail)
            for _ in range(3):
                with pytest.raises(ValueError, match='a defect'):
                    await queue.enqueue('second')
        await queue.enqueue('third')
        assert [(await queue.dequeue()).data for _ in range(2)] == ['first', 'third']
    assert [record.message for record in caplog.records] == ['Unexpected error in the background, continuing']


@on_each_loop
async def test_a_layout_that_cannot_be_read_is_asked_for_by_one_task_at_a_time(
    caplog: pytest.LogCaptureFixture,
) -> None:
    transport = FaultyTransport()
    async with Torrelque(transport, shards=2) as queue:
        await queue.enqueue('first')
        routes = queue._dispatcher
        assert isinstance(routes, ShardedDispatcher)
        before = tasks_alive()
        transport.fault, transport.where = FAULTS['OSError'], 'before'
        for _ in range(20):
            routes._compare_generation(99)
            await settle()
        assert tasks_alive() <= before + SPARE_DRIVERS
        transport.fault = None
        await queue.enqueue('second')
        assert len(await queue.dequeue_nowait(max_tasks=2)) == 2
    assert [record.message for record in caplog.records] == ["Cannot read how many shards queue 'trq' has"]


# Eager tasks ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize('shards', [None, 2])
@pytest.mark.parametrize('entered', [False, True])
def test_eager_tasks(entered: bool, shards: int | None) -> None:
    async def main() -> None:
        if sys.version_info >= (3, 12):  # before, tasks are never eager: there is nothing to set
            asyncio.get_running_loop().set_task_factory(asyncio.eager_task_factory)
        async with AsyncExitStack() as stack:
            queue = Torrelque(MemoryTransport(), shards=shards)
            if entered:
                await stack.enter_async_context(queue)
            queue.schedule_sweep(0.01)
            for round_ in range(3):  # where it is not entered, the engine starts again with each
                waiting = asyncio.ensure_future(queue.dequeue())
                await asyncio.sleep(0.02)
                task_id = await queue.enqueue(round_)
                task = await waiting
                assert task.id == task_id
                ended = asyncio.ensure_future(queue.wait(task_id))
                await asyncio.sleep(0)
                await asyncio.gather(*[queue.extend(task) for _ in range(3)])
                await queue.release(task, result=round_)
                assert (await ended).result == round_
                queue.unschedule_sweep()
                await asyncio.sleep(0.02)
            await queue.aclose()

    asyncio.run(asyncio.wait_for(main(), ENOUGH))


# Lanes ---------------------------------------------------------------------------------------------------------------


async def use(queue: Torrelque) -> None:
    async with anyio.create_task_group() as tasks:
        for number in range(10):
            tasks.start_soon(queue.enqueue, number)
    for _ in range(5):
        await queue.release(await queue.dequeue())
    await queue.dequeue_nowait(max_tasks=2)


def lanes_in(transport: MemoryTransport) -> list[bytes]:
    return [key for key in transport.server.snapshot() if b':lane:' in key]


@on_each_loop
@pytest.mark.parametrize('shards', [None, 3])
async def test_a_closed_object_leaves_no_lanes(shards: int | None) -> None:
    transport = MemoryTransport()
    async with Torrelque(transport, shards=shards) as queue:
        await use(queue)
        assert lanes_in(transport)
    await anyio.sleep(0.01)
    assert lanes_in(transport) == []


@on_each_loop
async def test_what_a_wait_claimed_for_a_cancelled_consumer_is_there_at_once(server: Server) -> None:
    """It is given back before the caller that added it claims."""
    rounds, found = 20, 0
    async with connect(server.url) as client, Torrelque(client) as queue:
        for _ in range(rounds):
            with anyio.move_on_after(0.01):
                await queue.dequeue()
            await queue.enqueue('a')
            tasks = await queue.dequeue_nowait()
            found += bool(tasks)
            await queue.release(tasks[0] if tasks else await queue.dequeue(ENOUGH))
    assert found > rounds / 2


@on_each_loop
async def test_a_closed_object_leaves_no_lanes_on_a_server(server: Server) -> None:
    async with connect(server.url) as client:
        async with Torrelque(client) as queue:
            await use(queue)
        with anyio.fail_after(ENOUGH):
            while [reply async for reply in scan(client)]:  # noqa: ASYNC110 - keys expire in silence
                await anyio.sleep(0.01)


async def scan(client: Any) -> AsyncIterator[bytes]:  # noqa: ANN401 - a transport
    (reply,) = await client.execute([Call[Reply]('SCAN', args=('0', 'MATCH', '*:lane:*', 'COUNT', '10000'))])
    for key in reply[1]:
        yield key


@pytest.mark.parametrize('resting', [False, True])
def test_an_object_that_was_not_entered_leaves_no_lanes_after_aclose(resting: bool) -> None:
    async def main() -> None:
        transport = MemoryTransport()
        queue = Torrelque(transport)
        await use(queue)
        if resting:
            await asyncio.sleep(0.05)
        else:
            asyncio.get_running_loop().call_soon(asyncio.ensure_future, swallow(queue))
            await asyncio.sleep(0.01)
        assert lanes_in(transport)
        await queue.aclose()
        await queue.aclose()
        await asyncio.sleep(0.01)
        assert lanes_in(transport) == []
        await queue.enqueue('still usable')
        assert lanes_in(transport)

    async def swallow(queue: Torrelque) -> None:
        for _ in range(20):
            try:
                await queue.dequeue(60)
            except Exception:  # noqa: BLE001 - it was closed
                return

    asyncio.run(main())


@on_each_loop
async def test_a_late_request_on_a_lane_that_was_dropped_does_nothing() -> None:
    sent: list[Call[Reply]] = []

    class Remembering(MemoryTransport):
        async def execute(self, batch: Batch) -> Sequence[Reply]:
            sent.extend(call for call in batch if isinstance(call.command, Script))
            return await super().execute(batch)

    transport = Remembering()
    async with Torrelque(transport) as queue:
        await use(queue)
    await anyio.sleep(0.01)
    before = {key: value for key, value in transport.server.snapshot().items() if b':lane:' not in key}
    late = [call for call in sent if isinstance(call.command, Script) and call.command.name in ('enqueue', 'claim')]
    assert len(late) > 5
    assert [transport.server.call(call)[0] for call in late] == [b'NOLANE'] * len(late)
    assert transport.server.snapshot() == before


@on_each_loop
async def test_an_object_closes_in_silence_though_its_lanes_cannot_be_dropped(caplog: pytest.LogCaptureFixture) -> None:
    transport = FaultyTransport()
    async with Torrelque(transport) as queue:
        await use(queue)
        transport.fault, transport.where = FAULTS['OSError'], 'drop'
    assert transport.raised == 1
    assert caplog.records == []


# Without a task ------------------------------------------------------------------------------------------------------


class DeafTransport(MemoryTransport):
    """Begins calls, and never answers; those that are executed are answered."""

    def __init__(self) -> None:
        super().__init__()
        self.begun = self.abandoned = 0
        self.hears = True

    def start(self, batch: Batch, then: Then) -> Callable[[], None] | None:
        if self.hears:
            return super().start(batch, then)
        self.begun += 1

        def abandon() -> None:
            self.abandoned += 1

        return abandon


@on_each_loop
async def test_what_is_under_way_without_a_task_is_cut_off_at_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine, 'CLOSING_TIME', 0.2)
    transport = DeafTransport()
    errors: list[Exception] = []

    async def enqueue(queue: Torrelque) -> None:
        try:
            await queue.enqueue('second')
        except Exception as error:  # noqa: BLE001 - looked at below
            errors.append(error)

    async with anyio.create_task_group() as tasks, Torrelque(transport) as queue:
        await queue.enqueue('first')
        transport.hears = False
        tasks.start_soon(enqueue, queue)
        await until(lambda: transport.begun == 1)
    assert transport.abandoned == 1
    assert [str(error) for error in errors] == ['the queue was closed during the call']


def test_a_wait_without_a_task_ends_with_its_object(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    """It gets tasks after unused connections would have been closed. In the end its connection is closed."""
    monkeypatch.setattr(spares, 'KEEP', 0.04)
    name, errors, got = 'waits without a task', [], []

    async def consume(queue: Torrelque) -> None:
        try:
            for _ in range(4):  # the first wait opens the connection, and needs a task
                task = await queue.dequeue()
                got.append(task.data)
                await queue.release(task)
        except TorrelqueError as error:
            errors.append(str(error))

    async def main() -> None:
        async with connect(server.url) as client, connect(server.url) as own, Torrelque(client, queue=name) as other:
            async with anyio.create_task_group() as tasks, Torrelque(own, queue=name) as queue:
                tasks.start_soon(consume, queue)
                for number in range(3):
                    await anyio.sleep(0.03)
                    await other.enqueue(number)
                    await until(lambda: len(got) > number)  # noqa: B023 - it is called here
                await anyio.sleep(0.05)
            assert errors == ['the queue was closed while waiting for a task']
            with anyio.fail_after(5):  # less than it would have waited
                while await blocked_clients(client):  # noqa: ASYNC110 - nobody sets an event
                    await anyio.sleep(0.01)

    asyncio.run(main())  # unlike `anyio.run`, it does not let callbacks call all of anyio


class CountingTransport(MemoryTransport):
    """Counts what is begun."""

    begun = 0

    def start(self, batch: Batch, then: Then) -> Callable[[], None] | None:
        self.begun += len(batch)
        return super().start(batch, then)


def test_a_lone_call_is_sent_by_its_caller_at_once() -> None:
    async def main() -> None:
        transport = CountingTransport()
        async with Torrelque(transport) as queue:
            for number in range(3):
                await queue.enqueue(number)
            before = transport.begun
            call = queue.enqueue('lone')
            call.send(None)  # up to where it waits
            assert transport.begun == before + 1
            call.close()

    asyncio.run(main())


@on_each_loop
async def test_calls_of_one_moment_are_merged_also_after_a_lone_one() -> None:
    transport = CountingTransport()
    async with Torrelque(transport) as queue:
        for number in range(3):
            await queue.enqueue(number)
        for most in (2, 1, 1):  # the first of the first crowd was taken for a lone one
            before = transport.begun
            async with anyio.create_task_group() as tasks:
                for number in range(50):
                    tasks.start_soon(queue.enqueue, number)
            assert transport.begun - before <= most + 1  # a lane may be made


# Memory --------------------------------------------------------------------------------------------------------------

MOST_BYTES = 60_000


@on_each_loop
async def test_an_idle_object_takes_little_memory() -> None:
    """One that was used: its lanes, its tasks and their stacks, and what waits to be used again."""
    transport, count = MemoryTransport(), 20
    async with AsyncExitStack() as stack:

        async def use_one(name: str) -> None:
            queue = await stack.enter_async_context(Torrelque(transport, queue=name))
            await queue.enqueue(name)
            await queue.release(await queue.dequeue())
            await settle()

        await use_one('first')
        tracemalloc.start()
        try:
            before = tracemalloc.get_traced_memory()[0]
            for number in range(count):
                await use_one(f'queue {number}')
            gc.collect()
            taken = tracemalloc.get_traced_memory()[0] - before
        finally:
            tracemalloc.stop()
        assert taken / count <= MOST_BYTES

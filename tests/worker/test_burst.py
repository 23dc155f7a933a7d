"""A burst: the worker ends when nothing is pending or due, and it holds nothing."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

import anyio
import pytest

from tests import servers
from tests.worker.support import SOON, Bench, LiveBench
from tests.worker.test_real_servers import client_of
from torrelque import (
    Burst,
    EnqueueItem,
    Retry,
    Task,
    Torrelque,
    TorrelqueConnectionError,
    TorrelqueReplyError,
    TorrelqueTaskSerialiser,
    events,
)
from torrelque.core.protocol import Call, Reply
from torrelque.testing import MemoryTransport

pytestmark = pytest.mark.anyio


async def handle(task: Task) -> Any:  # noqa: ANN401 - any payload
    return task.data


async def until_empty(bench: LiveBench, *arguments: Any, **options: Any) -> None:  # noqa: ANN401 - the worker's
    with anyio.fail_after(SOON):
        await bench.worker(*arguments, burst=True, **options).run()


@pytest.mark.parametrize('concurrency', [1, 3, 50])
async def test_it_ends_when_the_queue_is_empty(
    bench: Bench, concurrency: int, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, 'torrelque.worker')
    await bench.queue.enqueue_many(range(20))
    await until_empty(bench, handle, concurrency)
    assert len(bench.told(events.Finished)) == 20
    assert await bench.peek() == (0, 0, 0, 0)
    assert [record.message for record in caplog.records] == ['The queue is empty: stopping']


async def test_an_empty_queue(bench: Bench) -> None:
    await until_empty(bench, handle)
    assert bench.events == []


async def test_what_is_due_counts_and_what_is_due_later_does_not(bench: Bench) -> None:
    await bench.queue.enqueue('later', delay=60)
    await bench.queue.enqueue('due', delay=5)
    await bench.queue.enqueue('stale', task_timeout=5)
    await bench.queue.dequeue()
    await bench.clock.advance(10)
    await until_empty(bench, handle)
    assert {event.task.data for event in bench.told(events.Finished)} == {'due', 'stale'}
    assert await bench.peek() == (0, 0, 1, 0)


@pytest.mark.parametrize('concurrency', [1, 4])
async def test_what_handlers_add_is_done(bench: Bench, concurrency: int) -> None:
    async def handler(task: Task) -> None:
        if task.data:
            await bench.queue.enqueue_many([task.data - 1] * 2)

    await bench.queue.enqueue(5)
    await until_empty(bench, handler, concurrency)
    assert len(bench.told(events.Finished)) == 2**6 - 1


async def test_a_handler_may_wait_for_a_task_that_it_adds(bench: Bench) -> None:
    async def handler(task: Task) -> Any:  # noqa: ANN401 - as above
        if task.data == 'leaf':
            return 'leaf'
        await bench.clock.sleep(30)
        return (await bench.queue.wait(await bench.queue.enqueue('leaf'))).result

    task_id = await bench.queue.enqueue('root')
    async with anyio.create_task_group() as group:
        group.start_soon(until_empty, bench, handler, 2)
        await bench.settle()
        await bench.clock.advance(30)
    assert (await bench.queue.get_task_state(task_id)).result == 'leaf'


async def test_retries_that_are_due_count(bench: Bench) -> None:
    async def handler(task: Task) -> None:
        if task.data == 'wait':
            raise Retry(60)
        if task.dequeue_count < 3:
            raise ValueError

    await bench.queue.enqueue_many(['wait', 'fail'])
    await until_empty(bench, handler, 2, retry=lambda _attempt, _error: 0)
    assert [event.task.data for event in bench.told(events.Finished)] == ['fail']
    assert await bench.peek() == (0, 0, 1, 0)


async def test_it_does_not_wait_for_tasks_that_others_hold(bench: Bench) -> None:
    await bench.queue.enqueue_many(['theirs', 'mine'])
    await bench.queue.dequeue()
    async with anyio.create_task_group() as group:
        group.start_soon(until_empty, bench, handle, 2)
        await bench.clock.advance(1)
    assert [event.task.data for event in bench.told(events.Finished)] == ['mine']
    assert await bench.peek() == (0, 1, 0, 0)


async def test_it_waits_for_its_outcomes(bench: Bench) -> None:
    async def handler(task: Task) -> str:
        bench.transport.away = TorrelqueConnectionError('away')
        return 'done'

    task_id = await bench.queue.enqueue(1)
    async with anyio.create_task_group() as group:
        group.start_soon(until_empty, bench, handler)
        await bench.clock.advance(20)
        assert not bench.told(events.Finished)
        bench.transport.away = None
        await bench.clock.advance(5)
    assert (await bench.queue.get_task_state(task_id)).result == 'done'


async def test_it_begins_while_the_server_is_away(bench: Bench) -> None:
    await bench.queue.enqueue(1)
    bench.transport.away = TorrelqueConnectionError('away')
    async with anyio.create_task_group() as group:
        group.start_soon(until_empty, bench, handle)
        await bench.clock.advance(20)
        bench.transport.away = None
        await bench.clock.advance(5)
    assert len(bench.told(events.Finished)) == 1


async def test_it_waits_while_a_queue_with_tasks_is_paused(bench: Bench) -> None:
    await bench.queue.enqueue(1)
    await bench.queue.pause()
    async with anyio.create_task_group() as group:
        group.start_soon(until_empty, bench, handle)
        await bench.clock.advance(3600)
        assert bench.transport.count('stats') < 700, 'it looks less and less often'
        await bench.queue.resume()
        await bench.clock.advance(10)
    assert len(bench.told(events.Finished)) == 1


async def test_payloads_that_cannot_be_read_are_no_empty_queue(bench: Bench) -> None:
    async with Torrelque(bench.transport, queue='q', serialiser=TorrelqueTaskSerialiser(bytes, bytes)) as other:
        await other.enqueue_many([b'{'] * 5)
    await bench.queue.enqueue('good')
    await until_empty(bench, handle, 1)
    assert len(bench.told(events.Finished)) == 1
    assert await bench.peek() == (0, 0, 0, 5)


async def test_a_task_that_a_claim_in_flight_has_taken(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """The server has handed it out, and the answer arrives after the last handler has ended."""
    block = bench.transport.block

    async def block_late(call: Call[Reply], timeout: float) -> Reply:
        reply = await block(call, timeout)
        await bench.clock.sleep(0.3)
        return reply

    async def execute_late(batch: Sequence[Call[Any]]) -> Sequence[Reply]:
        replies = await execute(batch)
        if bench.told(events.Finished) and any(getattr(call.command, 'name', '') == 'claim' for call in batch):
            await bench.clock.sleep(0.3)
        return replies

    async def handler(task: Task) -> None:
        if task.data:
            await bench.queue.enqueue(task.data - 1)

    execute = bench.transport.execute
    monkeypatch.setattr(bench.transport, 'block', block_late)
    monkeypatch.setattr(bench.transport, 'execute', execute_late)
    monkeypatch.setattr(bench.transport, 'start', lambda *_: None)
    await bench.queue.enqueue(4)
    async with anyio.create_task_group() as group:
        group.start_soon(until_empty, bench, handler, 2)
        await bench.clock.advance(10)
    assert len(bench.told(events.Finished)) == 5


async def test_workers_that_share_a_burst_end_together() -> None:
    async with Torrelque(MemoryTransport(), queue='a') as a, Torrelque(MemoryTransport(), queue='b') as b:
        burst = Burst()
        first, second = LiveBench(a), LiveBench(b)

        async def ping(task: Task) -> None:
            if task.data:
                await b.enqueue(task.data - 1)

        async def pong(task: Task) -> None:
            await anyio.sleep(0.01)
            if task.data:
                await a.enqueue(task.data - 1)

        await a.enqueue(10)
        with anyio.fail_after(SOON):
            async with anyio.create_task_group() as group:
                group.start_soon(first.worker(ping, 1, burst=burst).run)
                group.start_soon(second.worker(pong, 5, burst=burst).run)
    assert (len(first.told(events.Finished)), len(second.told(events.Finished))) == (6, 5)


async def test_one_that_is_stopped_holds_up_no_other() -> None:
    async with Torrelque(MemoryTransport(), queue='a') as a, Torrelque(MemoryTransport(), queue='b') as b:
        burst = Burst()
        workers = [LiveBench(queue).worker(handle, 1, burst=burst) for queue in (a, b)]
        workers[0].stop()
        with anyio.fail_after(SOON):
            async with anyio.create_task_group() as group:
                for worker in workers:
                    group.start_soon(worker.run)


async def test_it_may_be_stopped_before(bench: Bench) -> None:
    async def handler(task: Task) -> None:
        worker.stop()

    worker = bench.worker(handler, burst=True)
    await bench.queue.enqueue_many([1, 2])
    with anyio.fail_after(SOON):
        await worker.run()
    assert await bench.peek() == (1, 0, 0, 0)


async def test_a_queue_that_may_not_be_counted(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    async def refuse() -> None:
        raise TorrelqueReplyError('NOPERM no permission')

    monkeypatch.setattr(bench.queue, 'get_queue_stats', refuse)
    with anyio.fail_after(SOON), pytest.raises(TorrelqueReplyError, match='NOPERM'):
        await bench.worker(handle, burst=True).run()


@pytest.mark.parametrize(('kind', 'shards'), [('native', None), ('native', 5), ('redis-py', None), ('coredis', None)])
async def test_steps_in_a_row_are_done_to_the_last(kind: str, shards: int | None, anyio_backend_name: str) -> None:
    if kind == 'redis-py' and anyio_backend_name == 'trio':
        kind = 'native'
    server = servers.shared('valkey-9.1')
    server.start()
    server.flush()
    async with client_of(kind, server) as client, Torrelque(client, queue='q', shards=shards) as queue:

        async def handler(task: Task) -> None:
            if task.data:
                await queue.enqueue(task.data - 1)

        bench = LiveBench(queue)
        await queue.enqueue_many([EnqueueItem(30), EnqueueItem(0, delay=60)])
        await until_empty(bench, handler, 3)
        assert sorted(event.task.data for event in bench.told(events.Finished)) == [*range(31)]
        assert (await queue.get_queue_stats())[:4] == (1, 0, 0, 1)

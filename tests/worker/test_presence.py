"""A worker is listed while it works, and whatever comes of its announcements does it no harm."""

from __future__ import annotations

import logging
import os
import socket
from collections.abc import Callable
from typing import Any

import anyio
import pytest

from tests.worker.support import Bench
from torrelque import Task, Torrelque, TorrelqueConnectionError, TorrelqueReplyError, WorkerInfo, events
from torrelque.core.keys import Keys

pytestmark = pytest.mark.anyio

WORKERS = Keys.of_queue('q')['workers']


async def listed(queue: Torrelque) -> list[WorkerInfo]:
    return sorted([worker async for worker in queue.workers()], key=lambda worker: worker.name)


def silent(queue: Torrelque) -> Callable[..., Any]:
    async def announce(*_: object, **__: object) -> None:
        raise failure

    failure = TorrelqueReplyError('NOPERM no permission')
    vars(queue)['announce'] = announce
    return announce


async def test_it_is_listed_while_it_works(bench: Bench) -> None:
    async def handler(task: Task) -> None:
        await bench.clock.sleep(25)

    for number in range(3):
        await bench.queue.enqueue(number)
    begun = bench.clock.time()
    worker = bench.worker(handler, concurrency=2, name='mail')
    async with anyio.create_task_group() as group:
        await group.start(worker.run)
        await bench.settle()
        (first,) = await listed(bench.queue)
        assert (first.name, first.host, first.pid) == ('mail', socket.gethostname(), os.getpid())
        assert (first.since, first.seen, first.concurrency) == (begun, begun, 2)
        await bench.clock.advance(1)
        (soon,) = await listed(bench.queue)
        assert (soon.id, soon.running) == (first.id, 2)
        assert soon.since == pytest.approx(begun, abs=1e-5)
        await bench.clock.advance(10)
        (later,) = await listed(bench.queue)
        assert soon.seen + 8 <= later.seen <= soon.seen + 10
        await bench.clock.advance(49)
        assert bench.clock.time() - (await listed(bench.queue))[0].seen <= 10
        worker.stop()
    assert len(bench.told(events.Finished)) == 3
    assert await listed(bench.queue) == []
    assert WORKERS not in bench.transport.server.snapshot()


async def test_it_can_be_seen_which_worker_holds_a_task(bench: Bench) -> None:
    async def handler(task: Task) -> None:
        await bench.clock.sleep(1000)

    task_id = await bench.queue.enqueue(1)
    async with Torrelque(bench.transport, queue='q') as other, bench.working(handler):
        await other.announce('o', name='other', concurrency=1)
        names = {worker.consumer: worker.name for worker in await listed(other)}
        holder = (await other.get_task(task_id)).consumer
        assert holder is not None
        assert names.pop(holder) == f'{socket.gethostname()}:{os.getpid()}'
        assert list(names.values()) == ['other']


async def test_it_is_gone_when_it_was_cancelled(bench: Bench) -> None:
    async def handler(task: Task) -> None: ...

    async with bench.working(handler):
        assert len(await listed(bench.queue)) == 1
    assert await listed(bench.queue) == []


async def test_a_killed_worker_is_listed_for_half_a_minute(bench: Bench) -> None:
    await bench.queue.announce('killed', name='killed', concurrency=1)
    await bench.clock.advance(29.9)
    assert [worker.name for worker in await listed(bench.queue)] == ['killed']
    await bench.clock.advance(0.2)
    assert await listed(bench.queue) == []
    assert WORKERS not in bench.transport.server.snapshot(), 'the key went with it'


async def test_an_outage(bench: Bench, caplog: pytest.LogCaptureFixture) -> None:
    async def handler(task: Task) -> None: ...

    async with bench.working(handler):
        bench.transport.away = TorrelqueConnectionError('cut off')
        await bench.clock.advance(600)
        bench.transport.away = None
        await bench.clock.advance(10)
        (worker,) = await listed(bench.queue)
        assert worker.seen - worker.since > 600
        bench.transport.away = TorrelqueConnectionError('cut off')
        await bench.clock.advance(11)
    assert [record.message for record in caplog.records if 'announce' in record.message] == []


async def test_without_permission_it_says_so_once_and_works(bench: Bench, caplog: pytest.LogCaptureFixture) -> None:
    async def handler(task: Task) -> str:
        return 'done'

    allowed = bench.queue.announce
    silent(bench.queue)
    caplog.set_level(logging.INFO)
    async with bench.working(handler):
        task_id = await bench.queue.enqueue(1)
        await bench.clock.advance(100)
        assert (await bench.queue.get_task_state(task_id)).result == 'done'
        assert [record.levelname for record in caplog.records] == ['WARNING']
        assert 'The worker cannot announce itself' in caplog.text
        assert 'NOPERM no permission' in caplog.text
        vars(bench.queue)['announce'] = allowed
        await bench.clock.advance(10)
        assert len(await listed(bench.queue)) == 1
        silent(bench.queue)
        await bench.clock.advance(30)
    assert len(caplog.records) == 2, 'it says so again'


async def test_a_server_that_hangs_does_not_hold_up_the_end(bench: Bench) -> None:
    async def handler(task: Task) -> None: ...

    async def hang(_: str) -> None:
        await anyio.sleep_forever()

    vars(bench.queue)['retract'] = hang
    worker = bench.worker(handler)
    with anyio.fail_after(3):
        async with anyio.create_task_group() as group:
            await group.start(worker.run)
            await bench.settle()
            worker.stop()


@pytest.mark.parametrize('anyio_backend', ['asyncio'])
async def test_ten_thousand_workers_leave_nothing(bench: Bench) -> None:
    for number in range(10_000):
        await bench.queue.announce(f'{number}', name='w', concurrency=1)
        if number % 2:  # the others are killed
            await bench.queue.retract(f'{number}')
        if not number % 100:
            await bench.clock.advance(1)
    assert len(await listed(bench.queue)) <= 50 * 31
    _, workers, _ = bench.transport.server.snapshot()[WORKERS]
    assert isinstance(workers, dict)
    assert len(workers) <= 50 * 31, 'each call removes some that have expired'
    await bench.clock.advance(31)
    assert WORKERS not in bench.transport.server.snapshot()

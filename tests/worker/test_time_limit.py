"""Handlers that take too long are cancelled, and their deliveries failed."""

from __future__ import annotations

import threading

import anyio
import pytest

from tests.worker.support import Bench, Handler
from torrelque import Reject, Router, Task, TorrelqueTimeLimitError, TorrelqueValueError, events, retry

pytestmark = pytest.mark.anyio


async def forever(task: Task) -> None:
    await anyio.sleep_forever()


async def test_a_handler_is_cancelled_and_the_policy_asked(bench: Bench) -> None:
    asked: list[Exception] = []

    def policy(attempt: int, error: Exception) -> float | None:
        asked.append(error)
        return 60.0 if attempt == 1 else None

    task_id = await bench.queue.enqueue(1)
    async with bench.working(forever, time_limit=10, retry=policy):
        await bench.clock.advance(9)
        assert await bench.peek() == (0, 1, 0, 0)
        await bench.clock.advance(1)
        assert await bench.peek() == (0, 0, 1, 0)
        await bench.clock.advance(80)
        assert await bench.peek() == (0, 0, 0, 1)
        reason = (await bench.queue.get_task_state(task_id)).reason
    assert reason == 'TorrelqueTimeLimitError: the handler took longer than 10 s'
    assert [type(error) for error in asked] == [TorrelqueTimeLimitError] * 2
    assert (len(bench.told(events.Retried)), len(bench.told(events.Rejected))) == (1, 1)


async def test_the_limit_of_a_task_counts_before_that_of_its_kind_and_of_the_worker(bench: Bench) -> None:
    router = Router()

    @router.task('own', time_limit=20)
    async def own(data: int) -> None:
        await anyio.sleep_forever()

    @router.task('other')
    async def other(data: int) -> None:
        await anyio.sleep_forever()

    ids = [
        await other.enqueue(bench.queue, 1),
        await own.enqueue(bench.queue, 1),
        await own.enqueue(bench.queue, 1, time_limit=30),
    ]
    async with bench.working(router, concurrency=4, time_limit=10, retry=retry.never()):
        for seconds, rejected in ((9, 0), (1, 1), (9, 1), (1, 2), (9, 2), (1, 3)):
            await bench.clock.advance(seconds)
            assert (await bench.peek())[3] == rejected
    assert [event.task.id for event in bench.told(events.Rejected)] == ids


async def fails_when_cancelled(task: Task) -> None:
    try:
        await anyio.sleep_forever()
    finally:
        raise ValueError('closed')


async def rejects_when_cancelled(task: Task) -> None:
    try:
        await anyio.sleep_forever()
    finally:
        raise Reject('mine')


@pytest.mark.parametrize(
    ('handler', 'reason'),
    [
        (fails_when_cancelled, 'TorrelqueTimeLimitError: the handler took longer than 10 s'),
        (rejects_when_cancelled, 'mine'),
    ],
)
async def test_what_a_cancelled_handler_raises(bench: Bench, handler: Handler, reason: str) -> None:
    task_id = await bench.queue.enqueue(1)
    async with bench.working(handler, time_limit=10, retry=retry.never()):
        await bench.clock.advance(10)
        assert (await bench.queue.get_task_state(task_id)).reason == reason
    (rejected,) = bench.told(events.Rejected)
    if reason != 'mine':
        assert isinstance(rejected.error.__cause__, ValueError)


async def test_quick_handlers_leave_nothing_behind(bench: Bench) -> None:
    ids = await bench.queue.enqueue_many(range(10))

    async def handler(task: Task[int]) -> int:
        return task.data + 1

    async with bench.working(handler, concurrency=5, time_limit=10):
        await bench.until(events.Finished, 10)
        assert [(await bench.queue.get_task_state(str(each))).result for each in ids] == list(range(1, 11))
        await bench.clock.advance(100)
    assert len(bench.told(events.Started)) == 10


async def test_a_thread_fails_at_its_limit_and_keeps_its_slot(bench: Bench, caplog: pytest.LogCaptureFixture) -> None:
    running, going_on = threading.Event(), threading.Event()

    def handler(task: Task) -> str:
        if task.data == 'slow':
            running.set()
            going_on.wait(10)
        return 'done'

    slow = await bench.queue.enqueue('slow')
    async with bench.working(handler, time_limit=10, retry=retry.never()):
        await anyio.to_thread.run_sync(running.wait, 10)
        quick = await bench.queue.enqueue('quick')
        await bench.clock.advance(10)
        await bench.until(events.Rejected)
        assert await bench.peek() == (1, 0, 0, 1), 'its slot is taken'
        going_on.set()
        await bench.until(events.Finished)
        assert (await bench.queue.get_task_state(quick)).result == 'done'
        assert 'took longer' in ((await bench.queue.get_task_state(slow)).reason or '')
    assert f'The thread of task:{slow} is still running' in caplog.text
    assert len(bench.told(events.Finished)) == 1


async def test_a_worker_that_stops_gives_back_what_still_has_time(bench: Bench) -> None:
    await bench.queue.enqueue(1)
    async with bench.working(forever, time_limit=10) as worker:
        worker.stop(5)
        await bench.clock.advance(5)
        assert await bench.peek() == (1, 0, 0, 0)
        await bench.clock.advance(10)
    assert bench.told(events.Retried) == []


@pytest.mark.parametrize('bad', [0, -1])
async def test_bad_limits(bench: Bench, bad: float) -> None:
    with pytest.raises(TorrelqueValueError, match='time_limit'):
        bench.worker(forever, time_limit=bad)
    with pytest.raises(TorrelqueValueError, match='time_limit'):
        await bench.queue.enqueue(1, time_limit=bad or -1)


async def test_a_header_that_is_no_limit_is_none(bench: Bench) -> None:
    async def handler(task: Task) -> str:
        return 'done'

    await bench.queue.enqueue(1, headers={'torrelque.time_limit': 'soon'})
    async with bench.working(handler):
        await bench.until(events.Finished)

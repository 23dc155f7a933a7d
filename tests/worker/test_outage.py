"""The server goes away and comes back, also before the worker begins."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

import anyio
import pytest

from tests.transient import EACH
from tests.worker.support import SOON, Bench
from torrelque import (
    Task,
    TorrelqueConnectionError,
    TorrelqueHandshakeError,
    TorrelqueRefusedError,
    TorrelqueReplyError,
    TorrelqueTooLargeError,
    events,
)
from torrelque.transports.repeating import PoolFullError

pytestmark = pytest.mark.anyio

PASSING = [
    TorrelqueConnectionError('cut off'),
    PoolFullError('all 10 connections of the pool were in use'),
    TorrelqueReplyError('ERR Error running script (call to f_1): @user_script: 8: -READONLY this is a replica', 'ERR'),
    *map(TorrelqueReplyError, EACH),
    TorrelqueReplyError('OOM command not allowed'),
]
LASTING = [
    TorrelqueReplyError('NOPERM no permission'),
    TorrelqueReplyError('WRONGTYPE Operation against a key holding the wrong kind of value'),
    TorrelqueHandshakeError('the certificate is not trusted'),
    TorrelqueRefusedError('WRONGPASS invalid username-password pair'),
]


async def double(task: Task) -> int:
    return task.data * 2  # type: ignore[no-any-return]  # it is what was enqueued


@pytest.mark.parametrize('error', PASSING, ids=str)
async def test_it_survives_an_outage_while_it_waits(bench: Bench, error: Exception) -> None:
    async with bench.working(double, concurrency=5):
        bench.transport.away = error
        await bench.clock.advance(60)
        bench.transport.away = None
        task_id = await bench.queue.enqueue(4)
        await bench.clock.advance(1)
        assert (await bench.queue.get_task_state(task_id)).result == 8
    assert [type(event) for event in bench.events][:2] == [events.Disconnected, events.Reconnected]
    assert len(bench.events) == 4


@pytest.mark.parametrize('error', PASSING, ids=str)
async def test_it_survives_an_outage_at_the_start(bench: Bench, error: Exception) -> None:
    task_id = await bench.queue.enqueue(4)
    bench.transport.away = error
    async with bench.working(double, concurrency=5):
        await bench.clock.advance(60)
        assert [type(event) for event in bench.events] == [events.Disconnected]
        bench.transport.away = None
        await bench.clock.advance(1)
        assert (await bench.queue.get_task_state(task_id)).result == 8


@pytest.mark.parametrize('error', LASTING, ids=str)
async def test_what_will_not_pass_ends_it(bench: Bench, error: Exception) -> None:
    bench.transport.away = error
    with anyio.fail_after(SOON), pytest.raises(type(error), match=str(error)[:20]):  # no group of errors
        await bench.worker(double, concurrency=5).run()


async def test_what_will_not_pass_lets_handlers_finish(bench: Bench) -> None:
    async def handler(task: Task) -> str:
        await bench.clock.sleep(10)
        return 'done'

    task_id = await bench.queue.enqueue(1)
    worker = bench.worker(handler, concurrency=2, grace=20)

    async def run() -> None:
        with pytest.raises(TorrelqueReplyError, match='NOPERM'):
            await worker.run()

    async with anyio.create_task_group() as group:
        group.start_soon(run)
        await bench.settle()
        bench.transport.away = TorrelqueReplyError('NOPERM no permission')
        await bench.clock.advance(9)
        bench.transport.away = None
        await bench.clock.advance(2)
    assert (await bench.queue.get_task_state(task_id)).result == 'done'


async def test_tries_are_few_and_one_slot_makes_them_for_all(bench: Bench) -> None:
    async with bench.working(double, concurrency=100):
        bench.transport.away = TorrelqueConnectionError('cut off')
        await bench.clock.advance(20)
        bench.transport.tries = 0
        await bench.clock.advance(60)
        assert 100 <= bench.transport.tries <= 300  # each up to half a second after the last, with jitter
        bench.transport.away = None
        await bench.clock.advance(1)
        assert len(bench.told(events.Reconnected)) == 1


async def test_one_line_a_change_of_state(bench: Bench, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, 'torrelque')
    async with bench.working(double, concurrency=20):
        for _ in range(3):
            bench.transport.away = TorrelqueConnectionError('cut off')
            await bench.clock.advance(60)
            bench.transport.away = None
            await bench.clock.advance(60)
    said = [(record.levelname, record.message) for record in caplog.records]
    assert (
        said
        == [
            ('WARNING', 'The server cannot be used, trying again until it can: cut off'),
            ('INFO', 'The server can be used again'),
        ]
        * 3
    )


async def test_the_try_that_finds_the_server_back_may_bring_a_task(bench: Bench) -> None:
    ids = [await bench.queue.enqueue(number) for number in range(4)]
    bench.transport.away = TorrelqueConnectionError('cut off')
    async with bench.working(double, concurrency=3):
        await bench.clock.advance(10)
        bench.transport.away = None
        await bench.clock.advance(1)
        assert [(await bench.queue.get_task_state(task_id)).result for task_id in ids] == [0, 2, 4, 6]


@pytest.mark.parametrize('error', PASSING, ids=str)
async def test_an_outcome_is_written_when_the_server_is_back(bench: Bench, error: Exception) -> None:
    async def handler(task: Task) -> str:
        bench.transport.away = error
        return 'done'

    task_id = await bench.queue.enqueue(1, task_timeout=100)
    async with bench.working(handler):
        await bench.clock.advance(90)
        bench.transport.away = None
        await bench.clock.advance(1)
        state = await bench.queue.get_task_state(task_id)
        assert (state.result, state.dequeue_count) == ('done', 1)


async def test_an_outcome_is_given_up_with_the_lease(bench: Bench, caplog: pytest.LogCaptureFixture) -> None:
    async def handler(task: Task) -> str:
        if task.dequeue_count == 1:
            bench.transport.away = TorrelqueConnectionError('cut off')
        return f'of delivery {task.dequeue_count}'

    task_id = await bench.queue.enqueue(1, task_timeout=10)
    async with bench.working(handler):
        await bench.clock.advance(9)
        assert bench.told(events.Unsettled) == []
        await bench.clock.advance(5)
        (event,) = bench.told(events.Unsettled)
        assert event.outcome == events.Finished(event.task, 'of delivery 1')
        assert 'could not be written' in caplog.text
        bench.transport.away = None
        await bench.clock.advance(1)
        assert (await bench.queue.get_task_state(task_id)).result == 'of delivery 2'


async def test_an_outcome_that_is_refused_for_good_is_told_at_once(bench: Bench) -> None:
    async def handler(task: Task) -> str:
        bench.transport.away = TorrelqueReplyError('NOPERM no permission')
        return 'done'

    async def run() -> None:
        with pytest.raises(TorrelqueReplyError, match='NOPERM'):
            await bench.worker(handler).run()

    await bench.queue.enqueue(1)
    async with anyio.create_task_group() as group:
        group.start_soon(run)
        await bench.settle()
        (event,) = bench.told(events.Unsettled)
        assert isinstance(event.error, TorrelqueReplyError)


async def test_stop_and_cancellation_while_the_server_is_away(bench: Bench) -> None:
    bench.transport.away = TorrelqueConnectionError('cut off')
    worker = bench.worker(double, concurrency=5)
    with anyio.fail_after(SOON):
        async with anyio.create_task_group() as group:
            group.start_soon(worker.run)
            await bench.clock.advance(3)
            worker.stop()
        async with bench.working(double, concurrency=5):
            await bench.clock.advance(3)
    assert bench.told(events.Unsettled) == []


# What nobody expects --------------------------------------------------------------------------------------------------

UNEXPECTED = [OSError(24, 'Too many open files'), RuntimeError('the provider of credentials failed'), KeyError('bug')]


@pytest.mark.parametrize('error', UNEXPECTED, ids=str)
async def test_it_survives_an_error_that_nobody_expects(
    bench: Bench, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    broken = False
    calls: list[float] = []

    def breaking(function: Callable[..., Any]) -> Callable[..., Any]:
        async def call(*args: Any, **options: Any) -> Any:  # noqa: ANN401 - the queue's
            if broken:
                calls.append(bench.clock.time())
                raise error
            return await function(*args, **options)

        return call

    for name in ('dequeue_many', 'dequeue_nowait'):
        monkeypatch.setattr(bench.queue, name, breaking(getattr(bench.queue, name)))
    async with bench.working(double, concurrency=2):
        broken = True
        await bench.queue.enqueue(1)  # the claim that is under way takes it; the next one fails
        await bench.clock.advance(600)
        assert 1000 <= len(calls) <= 2500, 'up to half a second after each other, with jitter'
        broken = False
        task_id = await bench.queue.enqueue(4)
        await bench.clock.advance(1)
        assert (await bench.queue.get_task_state(task_id)).result == 8
    assert caplog.text.count('The server cannot be used') == 1
    assert len(bench.told(events.Disconnected)) == len(bench.told(events.Reconnected)) == 1


async def test_a_task_that_is_too_large_to_be_claimed_does_not_end_the_worker(
    bench: Bench, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    blocked = True
    calls = 0

    def blocking(function: Callable[..., Any]) -> Callable[..., Any]:
        async def call(*args: Any, **options: Any) -> Any:  # noqa: ANN401 - the queue's
            nonlocal calls
            if blocked:
                calls += 1
                raise TorrelqueTooLargeError('the answer is larger than 1000 bytes')
            return await function(*args, **options)

        return call

    for name in ('dequeue_many', 'dequeue_nowait'):
        monkeypatch.setattr(bench.queue, name, blocking(getattr(bench.queue, name)))
    async with bench.working(double, concurrency=2):
        await bench.clock.advance(150)
        assert 250 <= calls <= 800, 'up to half a second after each other, with jitter'
        assert caplog.text.count('A task is too large to be claimed') == 3, 'one a minute'
        blocked = False
        task_id = await bench.queue.enqueue(4)
        await bench.clock.advance(1)
        assert (await bench.queue.get_task_state(task_id)).result == 8
    assert [type(event) for event in bench.events] == [events.Started, events.Finished]


async def test_leases_are_renewed_again_after_an_error_that_nobody_expects(
    bench: Bench, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    extend, failures = bench.queue.extend, 2

    async def extend_or_fail(task: Task) -> float:
        nonlocal failures
        if failures:
            failures -= 1
            raise OSError(24, 'Too many open files')
        return await extend(task)

    async def handler(task: Task) -> str:
        await bench.clock.sleep(60)
        return 'done'

    monkeypatch.setattr(bench.queue, 'extend', extend_or_fail)
    task_id = await bench.queue.enqueue(1, task_timeout=10)
    async with bench.working(handler):
        await bench.clock.advance(61)
        assert (await bench.queue.get_task_state(task_id)).result == 'done'
    assert bench.told(events.LeaseLost) == []
    assert caplog.text.count('Leases cannot be renewed') == 1

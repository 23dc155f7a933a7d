"""Tasks that are cancelled while their handlers run."""

from __future__ import annotations

import logging
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial

import anyio
import anyio.from_thread
import pytest

from tests.worker.support import Bench
from torrelque import (
    Cancellation,
    Reject,
    Retry,
    Task,
    TorrelqueConnectionError,
    TorrelqueLeaseLostError,
    TorrelqueLookupError,
    events,
    retry,
)
from torrelque.core.models import Running
from torrelque.core.protocol import Call
from torrelque.testing import MemoryTransport
from torrelque.transports.base import Listener

pytestmark = pytest.mark.anyio

LEASE = 600
SOON = 0.1


async def begin(bench: Bench) -> str:
    """A task with a long lease."""
    return await bench.queue.enqueue('a', task_timeout=LEASE)


async def is_gone(bench: Bench, task_id: str) -> bool:
    with pytest.raises(TorrelqueLookupError):
        await bench.queue.get_task_state(task_id)
    return await bench.peek() == (0, 0, 0, 0)


async def sleep(_task: Task) -> None:
    await anyio.sleep_forever()


@pytest.mark.parametrize('running', ['end', 'ask'])
async def test_the_handler_is_cancelled_at_once(
    bench: Bench, running: Running, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, 'torrelque.worker')
    task_id = await begin(bench)
    async with bench.working(sleep):
        assert await bench.queue.cancel(task_id, running=running)
        await bench.clock.advance(SOON)
        assert [event.task.id for event in bench.told(events.Cancelled)] == [task_id]
        assert await is_gone(bench, task_id)
        others = (events.LeaseLost, events.Retried, events.Rejected, events.GivenBack, events.Unsettled)
        assert not any(bench.told(kind) for kind in others)
        assert 'cancel' in caplog.text
        assert not [record for record in caplog.records if record.levelno > logging.INFO]
        await bench.queue.enqueue('b')  # the slot is free
        await bench.settle()
        assert len(bench.told(events.Started)) == 2


@pytest.mark.parametrize('running', ['end', 'ask'])
async def test_a_worker_that_may_not_subscribe_learns_when_it_renews(
    bench: Bench, running: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> Listener:
        raise PermissionError

    monkeypatch.setattr(type(bench.transport), 'listen', refuse)
    task_id = await begin(bench)
    async with bench.working(sleep):
        await bench.queue.cancel(task_id, running=running)
        await bench.clock.advance(SOON)
        assert len(bench.told(events.Started)) == 1
        assert not bench.told(events.Cancelled)
        await bench.clock.advance(LEASE / 2 + 1)
        assert await is_gone(bench, task_id)
        assert bench.told(events.Cancelled if running == 'ask' else events.LeaseLost)


async def test_a_handler_that_shields_itself_may_finish(bench: Bench) -> None:
    async def handler(_task: Task) -> str:
        with anyio.CancelScope(shield=True):
            await done.wait()
        return 'done'

    done = anyio.Event()
    task_id = await begin(bench)
    async with bench.working(handler):
        await bench.queue.cancel(task_id, running='ask')
        await bench.clock.advance(SOON)
        assert (await bench.queue.get_task_state(task_id)).cancel_time is not None
        done.set()
        await bench.settle()
        assert (await bench.queue.get_task_state(task_id)).result == 'done'
        assert bench.told(events.Finished)
        assert not bench.told(events.Cancelled)


class Odd(BaseException):
    pass


@pytest.mark.parametrize('running', ['end', 'ask'])
@pytest.mark.parametrize(
    'error', [ValueError('while cleaning up'), Retry(5), Retry(0, count=False), Odd(), GeneratorExit()], ids=repr
)
async def test_what_a_cancelled_handler_raises_is_no_reason_to_deliver_the_task_again(
    bench: Bench, error: BaseException, running: Running
) -> None:
    async def handler(_task: Task) -> None:
        try:
            await anyio.sleep_forever()
        finally:
            raise error

    task_id = await begin(bench)
    async with bench.working(handler):
        await bench.queue.cancel(task_id, running=running)
        await bench.clock.advance(SOON)
        assert len(bench.told(events.Cancelled)) == 1
        assert not bench.told(events.Retried)
        assert await is_gone(bench, task_id)


async def test_a_cancelled_handler_may_reject_its_task(bench: Bench) -> None:
    async def handler(_task: Task) -> None:
        try:
            await anyio.sleep_forever()
        finally:
            raise Reject('half done')

    task_id = await begin(bench)
    async with bench.working(handler):
        await bench.queue.cancel(task_id, running='ask')
        await bench.clock.advance(SOON)
        assert [event.reason for event in bench.told(events.Rejected)] == ['half done']
        assert await bench.peek() == (0, 0, 0, 1)


async def test_a_handler_that_ignores_everything_keeps_nothing_but_its_slot(bench: Bench) -> None:
    async def handler(_task: Task) -> str:
        with anyio.CancelScope(shield=True):
            await done.wait()
        return 'late'

    done = anyio.Event()
    task_id = await begin(bench)
    async with bench.working(handler):
        await bench.queue.cancel(task_id, running='ask')
        await bench.clock.advance(10 * LEASE)
        assert await bench.peek() == (0, 1, 0, 0)  # it goes on, and its lease is renewed
        await bench.queue.cancel(task_id, running='end')
        await bench.clock.advance(SOON)
        assert await is_gone(bench, task_id)
        await bench.queue.enqueue('b')
        await bench.clock.advance(SOON)
        assert len(bench.told(events.Started)) == 1
        done.set()
        await bench.settle()
        assert [event.task.data for event in bench.told(events.Finished)] == ['b']
        assert len(bench.told(events.Cancelled)) == 1


async def test_a_worker_that_cannot_listen_for_long_hears_again(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> Listener:
        raise TorrelqueConnectionError('cut off')

    async with bench.working(sleep):
        with monkeypatch.context() as cut:
            cut.setattr(type(bench.transport), 'listen', refuse)
            first = await begin(bench)
            await bench.settle()
            await bench.queue.cancel(first, running='end')
            await bench.clock.advance(SOON)
            assert not bench.told(events.LeaseLost)
            await bench.clock.advance(LEASE)
            assert len(bench.told(events.LeaseLost)) == 1  # as its renewal found out
        await bench.clock.advance(10)
        second = await begin(bench)
        await bench.settle()
        await bench.queue.cancel(second, running='end')
        await bench.clock.advance(SOON)
        assert len(bench.told(events.Cancelled)) == 1


async def test_a_task_that_was_delivered_before(bench: Bench) -> None:
    task_id = await bench.queue.enqueue('a', task_timeout=10)
    stale = await bench.queue.dequeue()
    await bench.clock.advance(11)
    async with bench.working(sleep):
        assert [event.task.dequeue_count for event in bench.told(events.Started)] == [2]
        await bench.queue.cancel(task_id, running='end')
        await bench.clock.advance(SOON)
        assert len(bench.told(events.Cancelled)) == 1
        with pytest.raises(TorrelqueLeaseLostError):
            await bench.queue.release(stale)
        assert await is_gone(bench, task_id)


async def test_nothing_that_the_holder_does_after_the_end_has_any_effect(bench: Bench) -> None:
    task_id = await begin(bench)
    task = await bench.queue.dequeue()
    assert await bench.queue.cancel(task_id, running='end')
    await bench.queue.enqueue('new', task_id=task_id)
    again = await bench.queue.dequeue()
    for call in (
        partial(bench.queue.release, task, result=1),
        partial(bench.queue.requeue, task),
        partial(bench.queue.reject, task, 'why'),
        partial(bench.queue.giveback, task),
        partial(bench.queue.extend, task),
        partial(task.progress, 1),
    ):
        with pytest.raises(TorrelqueLeaseLostError):
            await call()
    await bench.queue.release(again)


@pytest.mark.parametrize('how', ['giveback', 'requeue', 'requeue later', 'lease', 'lease at its limit'])
async def test_a_task_is_never_delivered_again_after_it_was_asked_for(bench: Bench, how: str) -> None:
    task_id = await bench.queue.enqueue('a', task_timeout=LEASE, max_dequeues=1 if 'limit' in how else None)
    task = await bench.queue.dequeue()
    assert not (await bench.queue.extend(task)).cancel_asked
    assert await bench.queue.cancel(task_id, running='ask')
    assert await bench.queue.cancel(task_id, running='ask')
    assert (await bench.queue.extend(task)).cancel_asked
    ended: list[Exception] = []

    async def wait() -> None:
        try:
            await bench.queue.wait(task_id)
        except TorrelqueLookupError as error:
            ended.append(error)

    async with anyio.create_task_group() as group:
        group.start_soon(wait)
        await bench.settle()
        match how:
            case 'giveback':
                await bench.queue.giveback(task)
            case 'requeue':
                await bench.queue.requeue(task)
            case 'requeue later':
                await bench.queue.requeue(task, 5)
            case _:
                await bench.clock.advance(LEASE + 1)
                assert await bench.queue.dequeue_nowait() == []
        await bench.settle()
    assert ended
    assert await is_gone(bench, task_id)
    assert await bench.queue.audit() == []


async def test_what_its_holder_decides_counts(bench: Bench) -> None:
    for _ in range(2):
        await begin(bench)
    released, rejected = await bench.queue.dequeue_many(2)
    for task in (released, rejected):
        await bench.queue.cancel(task.id, running='ask')
    await bench.queue.release(released, result=1)
    assert (await bench.queue.get_task_state(released.id)).result == 1
    await bench.queue.reject(rejected, 'no')
    assert (await bench.queue.get_task_state(rejected.id)).cancel_time is None
    assert await bench.queue.redrive(rejected.id) == 1
    await bench.queue.requeue(await bench.queue.dequeue())
    assert (await bench.queue.dequeue()).id == rejected.id


async def test_waiting_tasks_are_removed_whatever_is_said_of_running_ones(bench: Bench) -> None:
    for running in ('end', 'ask', None):
        for delay in (None, 60):
            task_id = await bench.queue.enqueue('a', delay=delay)
            assert not await bench.queue.cancel(task_id, running=running)
            assert await is_gone(bench, task_id)
    await begin(bench)
    task = await bench.queue.dequeue()
    with pytest.raises(TorrelqueLookupError, match='no pending or delayed task'):
        await bench.queue.cancel(task.id)
    with pytest.raises(TorrelqueLookupError, match='no pending, delayed or working task'):
        await bench.queue.cancel('none', running='end')


async def test_a_time_limit_and_the_end_of_the_worker_are_something_else(bench: Bench) -> None:
    async def stubborn(_task: Task) -> None:
        with anyio.CancelScope(shield=True):
            await done.wait()
        await anyio.sleep_forever()

    done = anyio.Event()
    first = await bench.queue.enqueue('limited', task_timeout=LEASE, time_limit=1)
    async with bench.working(stubborn, retry=retry.constant(60)):
        await bench.clock.advance(2)  # its time is over, and it goes on
        await bench.queue.cancel(first, running='ask')
        await bench.clock.advance(SOON)
        done.set()
        await bench.settle()
    assert [type(event) for event in bench.events] == [events.Started, events.Retried]
    assert await is_gone(bench, first)
    bench.events.clear()
    done = anyio.Event()
    second = await begin(bench)
    async with bench.working(stubborn, grace=1) as worker:
        await bench.queue.cancel(second, running='ask')
        await bench.clock.advance(SOON)
        worker.stop()
        await bench.clock.advance(2)
        done.set()
        await bench.settle()
    assert [type(event) for event in bench.events] == [events.Started, events.Cancelled]
    assert await is_gone(bench, second)


async def test_a_thread_may_finish(bench: Bench) -> None:
    def handler(task: Task) -> str:
        anyio.from_thread.run_sync(begun.set)
        leave.wait(10)
        anyio.from_thread.run(report, task)
        return 'done'

    async def report(task: Task) -> None:
        await task.progress(1, 1)

    begun, leave = anyio.Event(), threading.Event()
    task_id = await begin(bench)
    async with bench.working(handler):
        await begun.wait()
        await bench.queue.cancel(task_id, running='ask')
        await bench.clock.advance(SOON)
        leave.set()
        await bench.until(events.Finished)
        assert (await bench.queue.get_task_state(task_id)).result == 'done'


async def test_a_task_that_is_cancelled_before_the_worker_listens(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    @asynccontextmanager
    async def listen_late(transport: MemoryTransport) -> AsyncIterator[Listener]:
        await opened.wait()
        async with listen(transport) as listener:
            yield listener

    opened, listen = anyio.Event(), MemoryTransport.listen
    monkeypatch.setattr(type(bench.transport), 'listen', listen_late)
    first, second = await begin(bench), await begin(bench)
    async with bench.working(sleep, 2):
        await bench.queue.cancel(first, running='end')
        await bench.queue.requeue(second, 3600)
        await bench.clock.advance(SOON)
        assert not bench.told(events.Cancelled)
        opened.set()
        await bench.clock.advance(SOON)
        assert [event.task.id for event in bench.told(events.Cancelled)] == [first]
        assert [event.task.id for event in bench.told(events.LeaseLost)] == [second]
        third = await begin(bench)
        await bench.settle()
        await bench.queue.release(third)
        await bench.clock.advance(LEASE)
        assert [event.task.id for event in bench.told(events.LeaseLost)] == [second, third]


@pytest.mark.parametrize('finishes', [True, False])
async def test_a_claim_that_is_found_lost_before_the_announcement_arrives(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, finishes: bool
) -> None:
    async def handler(_task: Task) -> None:
        await done.wait()

    done = anyio.Event()
    task_id = await begin(bench)
    async with bench.working(handler) as worker:
        await bench.clock.advance(SOON)
        (feed,), (job,) = worker._feeds, worker._jobs
        note = feed.cancellations._note
        monkeypatch.setattr(feed.cancellations, '_note', lambda _: None)
        monkeypatch.setattr(worker, '_look_at', lambda *_: None)
        read = bench.queue.get_task_state

        async def read_then_hear(which: str) -> object:
            note(Cancellation(task_id, 'end'))
            return await read(which)

        monkeypatch.setattr(bench.queue, 'get_task_state', read_then_hear)
        await bench.queue.cancel(task_id, running='end')
        if finishes:
            done.set()
        else:
            feed.keeper.hurry(job)
        await bench.clock.advance(SOON)
        assert [event.task.id for event in bench.told(events.Cancelled)] == [task_id]
        assert not bench.told(events.LeaseLost)


async def test_announcements_are_only_hints(bench: Bench) -> None:
    async with bench.working(sleep):
        task_id = await begin(bench)
        await bench.settle()
        before = bench.transport.count('extend')
        for data in (b'end ' + task_id.encode(), b'ask ' + task_id.encode(), b'end', b'', b'\xff x', b'end other'):
            bench.transport.server.call(Call('PUBLISH', (), (b'q:cancel', data)))
        await bench.clock.advance(SOON)
        assert 1 <= bench.transport.count('extend') - before <= 2
        assert await bench.peek() == (0, 1, 0, 0)
        assert not bench.told(events.Cancelled)


async def test_a_task_that_is_cancelled_on_its_way_to_the_worker(bench: Bench) -> None:
    async with bench.working(sleep) as worker:
        await bench.queue.enqueue('first', task_id='first')  # it listens from now on
        await bench.settle()
        await bench.queue.cancel('first', running='end')
        await bench.clock.advance(SOON)
        worker._feeds[0].cancellations._note(Cancellation('a', 'ask'))
        await bench.queue.enqueue('a', task_id='a', task_timeout=LEASE)
        before = bench.transport.count('extend')
        await bench.clock.advance(SOON)
        assert bench.transport.count('extend') == before + 1


async def test_few_announcements_are_remembered(bench: Bench) -> None:
    async with bench.working(sleep) as worker:
        listener = worker._feeds[0].cancellations
        for number in range(10_000):
            listener._note(Cancellation(f'{number}', 'end'))
        assert len(listener._announced) == 100
        assert '9999' in listener
        assert listener.was_ended('9999')
        assert not listener.was_ended('9999')

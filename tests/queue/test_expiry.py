"""Tasks that nobody starts in time end, and never start."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from tests.queue.transports import RecordingTransport
from torrelque import EnqueueItem, Torrelque, TorrelqueTaskStatus, TorrelqueTypeError, TorrelqueValueError
from torrelque.testing import MemoryTransport, VirtualClock

pytestmark = pytest.mark.anyio

PENDING, WORKING, DELAYED, COMPLETED, REJECTED, EXPIRED = TorrelqueTaskStatus


@pytest.fixture
def clock() -> VirtualClock:
    return VirtualClock()


@pytest.fixture
async def queue(clock: VirtualClock) -> AsyncIterator[Torrelque]:
    async with Torrelque(MemoryTransport(clock=clock)) as queue:
        yield queue


async def test_what_is_not_started_in_time_never_starts(queue: Torrelque, clock: VirtualClock) -> None:
    await queue.enqueue('code', task_id='a', expires_in=300, task_timeout=1000)
    await queue.enqueue('code', task_id='b', expires_in=300)
    states = queue.watch('b')
    assert (await anext(states)).expires == pytest.approx(await queue.get_server_time() + 300)
    assert [task.id for task in await queue.dequeue_nowait()] == ['a']
    await clock.advance(300)
    assert await queue.dequeue_nowait() == []
    assert (await anext(states)).status is EXPIRED
    with pytest.raises(StopAsyncIteration):
        await anext(states)
    assert (await queue.wait('b')).status is EXPIRED  # who looks a moment later
    assert [task_id async for task_id, _ in queue.tasks(EXPIRED)] == ['b']
    stats = await queue.get_queue_stats()
    assert (stats.tasks, stats.working, stats.total_expired, stats.total_rejected) == (1, 1, 1, 0)
    assert await queue.audit() == []
    await clock.advance(61)
    assert [task_id async for task_id, _ in queue.tasks(EXPIRED)] == []


async def test_it_may_become_a_dead_letter(queue: Torrelque, clock: VirtualClock) -> None:
    at = datetime.fromtimestamp(await queue.get_server_time() + 60, UTC)
    await queue.enqueue('quote', task_id='a', expires_at=at, on_expiry='reject')
    state = await queue.get_task_state('a')
    assert state.expires == pytest.approx(at.timestamp())
    assert state.on_expiry == 'reject'
    await clock.advance(60)
    assert await queue.dequeue_nowait() == []
    assert ((await queue.wait('a')).status, (await queue.wait('a')).reason) == (REJECTED, 'expired')
    await queue.redrive('a')  # an operator who does that wants it to run
    await clock.advance(1000)
    assert [task.data for task in await queue.dequeue_nowait()] == ['quote']
    assert (await queue.get_queue_stats()).total_expired == 0


async def test_whatever_the_reason_a_redriven_task_does_not_expire(queue: Torrelque, clock: VirtualClock) -> None:
    for task_id, limit in (('rejected', None), ('exhausted', 1)):
        await queue.enqueue(1, task_id=task_id, expires_in=30, max_dequeues=limit)
    rejected, exhausted = await queue.dequeue_many(2)
    await queue.reject(rejected, 'spoilt')
    await queue.requeue(exhausted)
    assert await queue.dequeue_nowait() == []
    await clock.advance(1000)
    assert await queue.redrive() == 2
    assert {(await queue.get_task_state(task_id)).expires for task_id in ('rejected', 'exhausted')} == {None}
    assert len(await queue.dequeue_nowait(max_tasks=9)) == 2
    assert await queue.audit() == []


async def test_a_retry_keeps_the_time(queue: Torrelque, clock: VirtualClock) -> None:
    for task_id, timeout in (('back off', 300), ('at once', 300), ('stale', 20)):
        await queue.enqueue(1, task_id=task_id, expires_in=30, task_timeout=timeout)
    tasks = await queue.dequeue_many(3)
    await queue.requeue(tasks[0], delay=3600)
    await queue.requeue(tasks[1])
    assert (await queue.get_task('back off')).due == (await queue.get_task_state('back off')).expires
    await clock.advance(30)
    assert await queue.dequeue_nowait(max_tasks=9) == []
    assert [(await queue.get_task_state(task.id)).status for task in tasks] == [EXPIRED] * 3


async def test_a_delayed_task_ends_when_it_expires(queue: Torrelque, clock: VirtualClock) -> None:
    at = datetime.fromtimestamp(await queue.get_server_time() + 5, UTC)
    await queue.enqueue(1, task_id='a', delay=60, expires_at=at)
    await clock.advance(5)
    assert await queue.sweep() == (0, 1, 0)
    assert (await queue.get_task_state('a')).status is EXPIRED
    await queue.enqueue(1, task_id='a', expires_at=at)  # that was before
    assert await queue.dequeue_nowait() == []


@pytest.mark.parametrize('sweeps', [True, False])
async def test_at_its_limit_a_task_is_a_dead_letter_even_if_it_has_expired(
    queue: Torrelque, clock: VirtualClock, *, sweeps: bool
) -> None:
    for task_id, timeout in (('delayed', 300), ('pending', 300), ('stale', 20)):
        await queue.enqueue(task_id, task_id=task_id, expires_in=30, max_dequeues=1, task_timeout=timeout)
    delayed, pending, _ = await queue.dequeue_many(3)
    await queue.requeue(delayed, delay=3600)
    await queue.requeue(pending)
    await clock.advance(30)
    if sweeps:
        await queue.sweep()
    else:
        assert await queue.dequeue_nowait(max_tasks=9) == []
    letters = {task_id: state.reason async for task_id, state in queue.rejected()}
    assert letters == dict.fromkeys(('delayed', 'pending', 'stale'), 'delivered 1 times, the limit is 1')
    assert (await queue.get_queue_stats()).total_expired == 0
    assert await queue.audit() == []


async def test_a_crowd_that_expired_is_worked_off_in_steps(queue: Torrelque, clock: VirtualClock) -> None:
    await queue.enqueue_many([*range(1000), EnqueueItem('later', task_id='later')], expires_in=5)
    await clock.advance(5)
    (task,) = await queue.dequeue_nowait()
    assert task.id == 'later'
    assert (await queue.get_queue_stats()).total_expired == 1000


async def test_a_sweep_ends_those_at_the_front(queue: Torrelque, clock: VirtualClock) -> None:
    await queue.enqueue_many(range(600), expires_in=5)
    await queue.enqueue('other')
    await queue.enqueue('last', expires_in=5)
    await clock.advance(5)
    assert await queue.sweep() == (0, 0, 0)
    assert (await queue.get_queue_stats())[:2] == (1, 1)
    assert await queue.audit() == []


async def test_a_paused_queue_keeps_them_until_it_is_resumed(queue: Torrelque, clock: VirtualClock) -> None:
    await queue.pause()
    await queue.enqueue(1, task_id='a', expires_in=5)
    await clock.advance(5)
    assert await queue.dequeue_nowait() == []
    assert (await queue.get_task_state('a')).status is PENDING
    await queue.resume()
    assert await queue.dequeue_nowait() == []
    assert (await queue.get_task_state('a')).status is EXPIRED


async def test_one_that_expired_can_be_replaced(queue: Torrelque, clock: VirtualClock) -> None:
    await queue.enqueue('old', task_id='a', expires_in=5, on_expiry='reject')
    await clock.advance(5)
    await queue.enqueue('new', task_id='a', replace=True)
    assert (await queue.get_task_state('a')).expires is None
    assert [task.data for task in await queue.dequeue_nowait()] == ['new']


async def test_a_plain_queue_pays_nothing() -> None:
    transport = RecordingTransport()
    async with Torrelque(transport) as queue:
        await queue.enqueue(1, task_id='a')
        (mint, *_, call) = transport.calls
        assert call.args[3:] == (2, '300', '', '', b'', b'a', b'1')
        assert mint is not call


AWARE = datetime.now(UTC) + timedelta(hours=1)


@pytest.mark.parametrize(
    ('given', 'error', 'message'),
    [
        ({'expires_in': 0}, TorrelqueValueError, 'expires_in must be above 0, got 0'),
        ({'expires_in': -5}, TorrelqueValueError, 'expires_in must not be negative, got -5'),
        ({'expires_in': '5'}, TorrelqueTypeError, "expires_in must be a number of seconds, got '5'"),
        ({'expires_in': 60, 'delay': 60}, TorrelqueValueError, 'more than delay .60 s., got 60: the task would never'),
        ({'expires_in': 5, 'expires_at': AWARE}, TorrelqueValueError, 'either expires_in or expires_at, got 5 and'),
        ({'expires_at': AWARE.replace(tzinfo=None)}, TorrelqueValueError, 'expires_at must be a datetime with a time'),
        ({'expires_at': 'soon'}, TorrelqueTypeError, "expires_at must be a datetime or a Unix time, got 'soon'"),
        ({'expires_in': 5, 'on_expiry': 'keep'}, TorrelqueValueError, "must be 'drop' or 'reject', got 'keep'"),
        ({'on_expiry': 'reject'}, TorrelqueValueError, "on_expiry='reject' needs expires_in or expires_at"),
    ],
)
async def test_what_makes_no_sense(given: dict[str, Any], error: type[Exception], message: str) -> None:
    transport = RecordingTransport()
    async with Torrelque(transport) as queue:
        for call in (
            lambda: queue.enqueue(1, **given),
            lambda: queue.enqueue_many([1], **given),
            lambda: queue.enqueue_many([0, EnqueueItem(1, **given)]),
        ):
            with pytest.raises(error, match=message):
                await call()
        assert transport.calls == []

"""The transport in memory, and time that stands still."""

from __future__ import annotations

import math
import subprocess
import sys
from collections.abc import AsyncIterator
from typing import Any

import anyio
import pytest

from torrelque import (
    Torrelque,
    TorrelqueLookupError,
    TorrelqueTimeoutError,
    TorrelqueTypeError,
    TorrelqueValueError,
)
from torrelque.core.protocol import Arg, Call, Reply
from torrelque.testing import MemoryTransport, VirtualClock

pytestmark = pytest.mark.anyio

START = 1_700_000_000.0


def call(command: str, *args: Arg) -> Call[Reply]:
    return Call(command, args=args)


WAIT: Call[Reply] = Call('BZPOPMIN', (b'z',), ('8.000',))


@pytest.mark.parametrize('bad', [-1, math.nan, math.inf, 10**400, 'x', None, True, float], ids=repr)
async def test_bad_arguments_are_named(bad: Any) -> None:  # noqa: ANN401 - of a wrong type, on purpose
    with pytest.raises((TorrelqueTypeError, TorrelqueValueError), match='start must be') as caught:
        VirtualClock(start=bad)
    assert repr(bad) in str(caught.value)
    with pytest.raises((TorrelqueTypeError, TorrelqueValueError), match='seconds must be') as caught:
        await VirtualClock().advance(bad)
    assert repr(bad) in str(caught.value)
    if bad is not None:
        with pytest.raises(TorrelqueTypeError, match='clock must be a VirtualClock, got '):
            MemoryTransport(clock=bad)
        with pytest.raises(TorrelqueTypeError, match='server must be a MemoryServer, got '):
            MemoryTransport(server=bad)


@pytest.fixture
def clock() -> VirtualClock:
    return VirtualClock(START)


@pytest.fixture
def transport(clock: VirtualClock) -> MemoryTransport:
    return MemoryTransport(clock=clock)


@pytest.fixture
async def queue(transport: MemoryTransport) -> AsyncIterator[Torrelque]:
    async with Torrelque(transport) as queue:
        yield queue


class TestQueue:
    """What the clock is for: after an advance, all that was due has been done."""

    async def test_delayed_tasks_are_worked_off_at_their_time(self, clock: VirtualClock, queue: Torrelque) -> None:
        done: list[tuple[float, float]] = []

        async def consumer() -> None:
            while True:
                task = await queue.dequeue()
                done.append((task.data, round(clock.time() - START, 6)))
                await queue.release(task)

        async with anyio.create_task_group() as tasks:
            for _ in range(5):
                tasks.start_soon(consumer)
            for delay in (3600, 2, 1, 7, 90.000001):
                await queue.enqueue(delay, delay=delay)
            await queue.enqueue(0)
            for moment in (0, 1.5, 90, 90.000001, 3599.999999, 3600):
                await clock.advance(START + moment - clock.time())
                assert done == [(delay, delay) for delay in (0, 1, 2, 7, 90.000001, 3600) if delay <= moment]
            tasks.cancel_scope.cancel()
        assert (await queue.get_queue_stats())[:4] == (0, 0, 0, 0)

    async def test_a_lease_that_runs_out(self, clock: VirtualClock, queue: Torrelque) -> None:
        await queue.enqueue('x', task_timeout=300)
        first = await queue.dequeue()
        await clock.advance(299.9)
        assert await queue.dequeue_nowait() == []
        await clock.advance(0.1)
        (second,) = await queue.dequeue_nowait()
        assert (second.id, second.dequeue_count) == (first.id, 2)

    async def test_a_dequeue_that_times_out(self, clock: VirtualClock, queue: Torrelque) -> None:
        timed_out: list[float] = []

        async def consumer() -> None:
            try:
                await queue.dequeue(timeout=60)
            except TorrelqueTimeoutError:
                timed_out.append(clock.time() - START)

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(consumer)
            await clock.advance(59)
            assert timed_out == []
            await clock.advance(1)
        assert timed_out == [60]

    async def test_a_result_is_kept_for_its_time(self, clock: VirtualClock, queue: Torrelque) -> None:
        task_id = await queue.enqueue('x')
        states: list[str] = []

        async def watcher() -> None:
            states.extend([state.status.name async for state in queue.watch(task_id)])

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(watcher)
            await clock.advance(0)
            task = await queue.dequeue()
            await clock.advance(0)
            await queue.release(task, result='y', result_ttl=100)
        assert states == ['PENDING', 'WORKING', 'COMPLETED']
        await clock.advance(100)
        assert (await queue.get_task_state(task_id)).result == 'y'
        await clock.advance(0.001)
        with pytest.raises(TorrelqueLookupError, match=task_id):
            await queue.get_task_state(task_id)

    async def test_the_scheduled_sweep(self, clock: VirtualClock, queue: Torrelque) -> None:
        await queue.enqueue('x', delay=45)
        queue.schedule_sweep(30)
        await clock.advance(59)
        assert (await queue.get_queue_stats()).pending == 0
        await clock.advance(1)
        assert (await queue.get_queue_stats()).pending == 1
        queue.unschedule_sweep()


def test_needs_no_pytest() -> None:
    code = 'import sys, torrelque.testing; sys.exit("pytest" in sys.modules)'
    subprocess.run([sys.executable, '-c', code], check=True)

"""Time that stands still."""

from __future__ import annotations

import math
from functools import partial

import anyio
import pytest
from anyio.lowlevel import checkpoint

from torrelque import (
    Torrelque,
    TorrelqueUsageError,
)
from torrelque.core.protocol import Arg, Call, Reply
from torrelque.errors import TorrelqueValueError
from torrelque.testing import MemoryTransport, VirtualClock
from torrelque.transports.memory.clock import FEW

pytestmark = pytest.mark.anyio

START = 1_700_000_000.0


def call(command: str, *args: Arg) -> Call[Reply]:
    return Call(command, args=args)


WAIT: Call[Reply] = Call('BZPOPMIN', (b'z',), ('8.000',))


async def test_stands_still(clock: VirtualClock, transport: MemoryTransport) -> None:
    await anyio.sleep(0.01)
    assert (clock.time(), transport.now()) == (START, 0)
    await clock.advance(0.25)
    assert (clock.time(), transport.now()) == (START + 0.25, 0.25)
    assert await transport.execute([call('TIME')]) == [[b'1700000000', b'250000']]


async def test_sleepers_wake_in_order_each_at_its_time(clock: VirtualClock) -> None:
    woken: list[tuple[float, float]] = []

    async def sleeper(interval: float) -> None:
        for _ in range(3):
            await clock.sleep(interval)
            woken.append((interval, clock.time() - START))

    async with anyio.create_task_group() as tasks:
        for interval in (2.0, 0.75, math.inf):
            tasks.start_soon(sleeper, interval)
        await clock.advance(4)
        tasks.cancel_scope.cancel()
    assert woken == [(0.75, 0.75), (0.75, 1.5), (2.0, 2.0), (0.75, 2.25), (2.0, 4.0)]


async def test_cancelled_timers_are_forgotten(clock: VirtualClock) -> None:
    rung: list[int] = []
    for number in range(1000):
        clock.call_at(3600 + number, partial(rung.append, -number))()
        if not number % 100:
            clock.call_at(7200 - number, partial(rung.append, number))
    assert len(clock._timers) <= 2 * (10 + FEW)
    await clock.advance(10_000)
    assert rung == list(range(900, -1, -100))
    assert not clock._timers
    assert not clock._live


async def test_idle_consumers_leave_no_timers_behind(clock: VirtualClock, transport: MemoryTransport) -> None:
    async with Torrelque(transport) as queue, anyio.create_task_group() as tasks:
        tasks.start_soon(queue.dequeue)
        await clock.advance(60)
        before = len(clock._timers)
        for _ in range(100):
            with anyio.move_on_after(0):
                await queue.dequeue(1e6)
        await clock.advance(3600)
        assert len(clock._timers) <= before + 2 * FEW
        tasks.cancel_scope.cancel()


async def test_a_pause_ends_with_its_event(clock: VirtualClock) -> None:
    event = anyio.Event()
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(clock.pause, event, 1)
        await clock.advance(0.5)
        event.set()
    assert clock.time() == START + 0.5
    await clock.pause(anyio.Event(), 0.5)
    await clock.advance(10)  # the timer of the first pause is gone


async def test_a_block_times_out_by_it(clock: VirtualClock, transport: MemoryTransport) -> None:
    replies: list[Reply] = []

    async def block() -> None:
        replies.append(await transport.block(WAIT, 8))

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(block)
        await clock.advance(7.999)
        assert replies == []
        await clock.advance(0.001)
        assert replies == [None]


@pytest.mark.parametrize('seconds', [-1, math.nan, math.inf])
async def test_only_goes_forward(clock: VirtualClock, seconds: float) -> None:
    with pytest.raises(TorrelqueValueError, match=repr(seconds)):
        await clock.advance(seconds)


@pytest.mark.parametrize('start', [-1, math.nan, math.inf])
async def test_starts_at_a_time(start: float) -> None:
    with pytest.raises(TorrelqueValueError, match=repr(start)):
        VirtualClock(start)


async def test_one_task_advances_it(clock: VirtualClock) -> None:
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(clock.advance, 1)
        for _ in range(2):
            await checkpoint()
        with pytest.raises(TorrelqueUsageError, match='another task'):
            await clock.advance(1)


async def test_cancelling_an_advance_leaves_the_time_it_has_come_to(clock: VirtualClock) -> None:
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(clock.sleep, 1)
        with anyio.CancelScope() as scope:
            clock.call_at(2, scope.cancel)
            await clock.advance(3)
    assert clock.time() == START + 2
    await clock.advance(1)
    assert clock.time() == START + 3


async def test_tasks_that_never_settle_are_told(
    clock: VirtualClock, transport: MemoryTransport, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr('torrelque.transports.memory.clock.MOST_ROUNDS', 100)

    async def spin() -> None:
        while True:
            await transport.execute([call('PING')])

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(spin)
        with pytest.raises(TorrelqueUsageError, match='did not settle'):
            await clock.advance(1)
        tasks.cancel_scope.cancel()

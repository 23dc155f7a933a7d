"""How many connections watchers open over a server in memory."""

from __future__ import annotations

import asyncio
import logging

import anyio
import pytest

from tests.engine.listeners import Counting, Waits, release, subscribed, until
from torrelque import (
    Torrelque,
    TorrelqueLookupError,
    TorrelqueTaskStatus,
)
from torrelque.engine import subscriptions as listening
from torrelque.errors import TorrelqueConnectionError
from torrelque.testing import VirtualClock

pytestmark = pytest.mark.anyio
on_asyncio = pytest.mark.parametrize('anyio_backend', ['asyncio'])

ENOUGH = 20  # seconds, for a machine under load
PENDING, WORKING, DELAYED, COMPLETED, REJECTED, *_ = TorrelqueTaskStatus


async def test_waits_for_what_has_ended_open_no_connection() -> None:
    transport = Counting()
    async with Torrelque(transport, queue='q') as queue:
        task_id = await queue.enqueue('a')
        await release(queue, result=1)
        for _ in range(500):
            assert (await queue.wait(task_id)).status is COMPLETED
        with pytest.raises(TorrelqueLookupError):
            await queue.wait('unknown')
        assert [state.status async for state in queue.watch(task_id)] == [COMPLETED]
    assert transport.opened == 0


async def test_waits_one_after_the_other_share_a_connection() -> None:
    transport = Counting()
    async with Torrelque(transport, queue='q') as queue:
        for _ in range(50):
            task_id = await queue.enqueue('a')
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(Waits(queue, task_id).run)
                await subscribed(queue, task_id)
                await release(queue)
        assert (transport.opened, transport.open) == (1, 1)
    assert transport.open == 0


async def test_an_unused_connection_is_closed_after_a_while() -> None:
    clock = VirtualClock()
    transport = Counting(clock=clock)
    async with Torrelque(transport, queue='q') as queue:
        task_id = await queue.enqueue('a', delay=3600)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(queue.wait, task_id)
            await clock.advance(1)
            tasks.cancel_scope.cancel()
        await clock.advance(listening.LINGER - 0.5)
        assert transport.open == 1
        await clock.advance(0.5)
        assert transport.open == 0
        assert queue._engine.hub._lines == {}


@on_asyncio
async def test_an_object_that_was_not_entered_keeps_nothing() -> None:
    transport = Counting()
    queue = Torrelque(transport, queue='q')
    before = asyncio.all_tasks()
    for _ in range(3):
        task_id = await queue.enqueue('a')
        waits = Waits(queue, task_id, task_id)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(waits.run)
            await subscribed(queue, task_id)
            await release(queue)
        assert [state.status for state in waits.states] == [COMPLETED] * 2
        await until(lambda: transport.open == 0 and asyncio.all_tasks() == before)
    assert transport.opened == 3


async def test_what_is_remembered_does_not_grow_while_another_watches() -> None:
    transport = Counting()
    async with Torrelque(transport, queue='q') as queue, anyio.create_task_group() as tasks:
        watched = await queue.enqueue('a', delay=3600)
        tasks.start_soon(queue.wait, watched)
        await subscribed(queue, watched)
        for _ in range(50):
            task_id = await queue.enqueue('b')
            async with anyio.create_task_group() as group:
                group.start_soon(queue.wait, task_id)
                await subscribed(queue, task_id)
                await release(queue)
        (line,) = queue._engine.hub._lines.values()
        assert line.standing == line.channels == {queue._runtime.keys.state(watched)}
        assert len(queue._engine.hub._inboxes) == len(queue._engine.hub._line_of) == 1
        await until(lambda: len(transport.listeners[0]._ends) == 1)  # type: ignore[attr-defined]
        tasks.cancel_scope.cancel()


async def test_each_node_of_a_cluster_has_its_own_connection() -> None:
    """Watchers of tasks on two nodes fought over one."""
    transport = Counting(places=2)
    async with Torrelque(transport, queue='q') as queue:
        ids = [await queue.enqueue(number, task_id=f'{number}') for number in range(60)]
        waits = Waits(queue, *ids)
        with anyio.fail_after(ENOUGH):
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(waits.run)
                await subscribed(queue, *ids)
                for _ in ids:
                    await release(queue)
        assert len(waits.states) == len(ids)
        assert transport.opened == 2


async def test_channels_follow_their_slots() -> None:
    """After a failure each is listened to where it is by then."""
    transport = Counting(places=3)
    async with Torrelque(transport, queue='q') as queue:
        ids = [await queue.enqueue(number, task_id=f'{number}') for number in range(12)]
        waits = Waits(queue, *ids)
        with anyio.fail_after(ENOUGH):
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(waits.run)
                await subscribed(queue, *ids)
                transport._places = 2
                for listener in tuple(transport.listeners):
                    listener.close()  # type: ignore[attr-defined]
                await until(lambda: transport.opened >= 5)
                await subscribed(queue, *ids)
                hub = queue._engine.hub
                assert {place for (place, _), line in hub._lines.items() if line.channels} == {0, 1}
                for _ in ids:
                    await release(queue)
        assert len(waits.states) == len(ids)


async def test_watchers_outlast_unexpected_errors(caplog: pytest.LogCaptureFixture) -> None:
    transport = Counting()
    transport.fail = [TorrelqueConnectionError('lost'), OSError(24, 'too many'), ZeroDivisionError('no credentials')]
    async with Torrelque(transport, queue='q') as queue:
        task_id = await queue.enqueue('a')
        waits = Waits(queue, task_id)
        with anyio.fail_after(ENOUGH):
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(waits.run)
                await subscribed(queue, task_id)
                await release(queue)
        assert [state.status for state in waits.states] == [COMPLETED]
    assert transport.opened == 4
    (logged,) = caplog.records
    assert (logged.name, logged.levelno) == ('torrelque', logging.ERROR)
    assert logged.getMessage() == 'Cannot listen to changes of tasks, retrying; states are read meanwhile'


async def test_watchers_read_while_nothing_can_be_heard() -> None:
    transport = Counting()
    transport.fail = [OSError('never')] * 1000
    async with Torrelque(transport, queue='q') as queue:
        task_id = await queue.enqueue('a')
        waits = Waits(queue, task_id)
        with anyio.fail_after(ENOUGH):
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(waits.run)
                await release(queue, result=1)
        assert [state.status for state in waits.states] == [COMPLETED]

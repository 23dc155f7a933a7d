"""A watched task, over a server in memory."""

from __future__ import annotations

import anyio
import pytest

from tests.queue.transports import LaggingTransport, RecordingTransport
from torrelque import Torrelque, TorrelqueTaskState, TorrelqueTaskStatus
from torrelque.engine import watch

pytestmark = pytest.mark.anyio

ENOUGH = 20  # seconds, for a machine under load
PENDING, WORKING, DELAYED, COMPLETED, REJECTED, *_ = TorrelqueTaskStatus


async def collect(queue: Torrelque, task_id: str, states: list[TorrelqueTaskState]) -> None:
    async for state in queue.watch(task_id):
        states.append(state)  # noqa: PERF401 - as they come


async def subscribed(transport: LaggingTransport) -> None:
    """Wait until the watcher has subscribed, read the task again, and waits for messages."""
    with anyio.fail_after(ENOUGH):
        await transport.heard.wait()
        await anyio.wait_all_tasks_blocked()


async def test_no_transition_is_missed_though_messages_lag(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watch, 'LAG', ENOUGH)
    transport = LaggingTransport()
    states: list[TorrelqueTaskState] = []
    async with Torrelque(transport, queue='q') as queue, anyio.create_task_group() as tasks:
        task_id = await queue.enqueue('a')
        tasks.start_soon(collect, queue, task_id, states)
        await subscribed(transport)
        for _ in range(3):
            await queue.requeue(await queue.dequeue(ENOUGH))
        await queue.release(await queue.dequeue(ENOUGH), result='r')
    assert [state.status for state in states] == [PENDING, *[WORKING, PENDING] * 3, WORKING, COMPLETED]
    assert [state.revision for state in states] == list(range(1, 10))


async def test_an_end_without_a_state_is_told_though_messages_lag(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watch, 'LAG', ENOUGH)
    transport = LaggingTransport()
    states: list[TorrelqueTaskState] = []
    async with Torrelque(transport, queue='q') as queue, anyio.create_task_group() as tasks:

        async def wait(task_id: str) -> None:
            states.append(await queue.wait(task_id))

        tasks.start_soon(wait, await queue.enqueue('a'))
        await subscribed(transport)
        await queue.release(await queue.dequeue(ENOUGH), status=REJECTED)
    assert [state.status for state in states] == [REJECTED]


async def test_an_idle_watch_does_nothing() -> None:
    """One idle watch of 0.9 burns a CPU core."""
    transport = RecordingTransport()
    async with Torrelque(transport, queue='q') as queue, anyio.create_task_group() as tasks:
        task_id = await queue.enqueue('a')
        for count in (1, 4):  # the first one subscribes
            for _ in range(count):
                tasks.start_soon(collect, queue, task_id, [])
            await anyio.wait_all_tasks_blocked()
        transport.calls.clear()
        await anyio.sleep(0.7)
        assert transport.calls == []
        tasks.cancel_scope.cancel()

"""The final state of a task without a result, seen by a caller who looks a moment later."""

from __future__ import annotations

import pytest

from tests.worker.support import Bench
from torrelque import ReleaseItem, Task, TorrelqueLookupError, TorrelqueTaskStatus, TorrelqueValueError, events

pytestmark = pytest.mark.anyio


async def handler(task: Task) -> None: ...


async def test_it_stays_for_a_minute(bench: Bench) -> None:
    task_id = await bench.queue.enqueue({'some': 'payload'})
    async with bench.working(handler, finished_ttl=60):
        await bench.until(events.Finished)
        state = await bench.queue.get_task_state(task_id)
        assert (state.status, state.result) == (TorrelqueTaskStatus.COMPLETED, None)
        assert state.release_time is not None
        assert (await bench.queue.wait(task_id)).status is TorrelqueTaskStatus.COMPLETED
        assert [each.status async for each in bench.queue.watch(task_id)] == [TorrelqueTaskStatus.COMPLETED]
        with pytest.raises(TorrelqueLookupError):
            await bench.queue.get_task(task_id)  # its payload has gone
        await bench.clock.advance(61)
        with pytest.raises(TorrelqueLookupError):
            await bench.queue.get_task_state(task_id)


async def test_none_is_kept_if_nobody_wants_it(bench: Bench) -> None:
    task_id = await bench.queue.enqueue(1)
    async with bench.working(handler, finished_ttl=0):
        await bench.until(events.Finished)
        with pytest.raises(TorrelqueLookupError):
            await bench.queue.get_task_state(task_id)
    with pytest.raises(TorrelqueValueError, match='finished_ttl'):
        bench.worker(handler, finished_ttl=-1)


async def test_a_direct_release_keeps_none_unless_it_is_asked_to(bench: Bench) -> None:
    ids = [await bench.queue.enqueue(number) for number in range(6)]
    tasks = await bench.queue.dequeue_many(6)
    await bench.queue.release(tasks[0])
    await bench.queue.release(tasks[1], finished_ttl=5)
    await bench.queue.release_many([tasks[2], ReleaseItem(tasks[3], finished_ttl=5)])
    await bench.queue.release_many(tasks[4:], finished_ttl=5)
    for task_id, kept in zip(ids, (False, True, False, True, True, True), strict=True):
        if kept:
            assert (await bench.queue.get_task_state(task_id)).status is TorrelqueTaskStatus.COMPLETED
        else:
            with pytest.raises(TorrelqueLookupError):
                await bench.queue.get_task_state(task_id)
    assert await bench.queue.audit() == []
    await bench.clock.advance(6)
    assert [task_id async for task_id, _ in bench.queue.tasks(TorrelqueTaskStatus.COMPLETED)] == []

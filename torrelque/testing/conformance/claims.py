"""Tests of ending, renewing and losing claims."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable

import anyio
import pytest

from torrelque.core.commands import ReleaseItem, RequeueItem
from torrelque.core.models import Task, TorrelqueTaskStatus
from torrelque.errors import TorrelqueError, TorrelqueLeaseLostError, TorrelqueLookupError
from torrelque.queue import Torrelque
from torrelque.testing.conformance.support import OnQueue, eventually

__all__ = ('ClaimConformance',)

COMPLETED, REJECTED = TorrelqueTaskStatus.COMPLETED, TorrelqueTaskStatus.REJECTED

VERBS: dict[str, Callable[[Torrelque, str | Task], Awaitable[object]]] = {
    'release': lambda queue, task: queue.release(task, result='stolen'),
    'requeue': lambda queue, task: queue.requeue(task, 60),
    'reject': lambda queue, task: queue.reject(task, 'stolen'),
    'giveback': lambda queue, task: queue.giveback(task),
    'extend': lambda queue, task: queue.extend(task, 3600),
}
WARNING_VERBS = ('release', 'requeue')
each_verb: pytest.MarkDecorator = pytest.mark.parametrize('verb', VERBS)


async def claimed(queue: Torrelque, data: object = 'a') -> Task:
    await queue.enqueue(data)
    task: Task = await queue.dequeue(20)
    return task


async def lost_claim(queue: Torrelque) -> tuple[Task, Task]:
    """Return a claim that became stale, and the one that replaced it."""
    await queue.enqueue('a', task_timeout=0.001)
    lost: Task = await queue.dequeue(20)
    await anyio.sleep(0.002)
    live: Task = await queue.dequeue(20)
    assert (live.id, live.dequeue_count) == (lost.id, 2)
    await queue.extend(live, 100)
    return lost, live


class ClaimConformance(OnQueue):
    # Release ---------------------------------------------------------------------------------------------------------

    async def test_release_removes_the_task(self, queue: Torrelque) -> None:
        task = await claimed(queue)
        await queue.release(task.id)
        assert (await queue.get_queue_stats())[:5] == (0, 0, 0, 0, 0)
        with pytest.raises(TorrelqueLookupError, match=task.id):
            await queue.get_task_state(task.id)

    @pytest.mark.parametrize('status', [COMPLETED, REJECTED])
    async def test_release_keeps_a_result(self, queue: Torrelque, status: TorrelqueTaskStatus) -> None:
        task = await claimed(queue)
        await queue.release(task.id, result={'a': [1]}, result_ttl=60, status=status)
        state = await queue.get_task_state(task.id)
        assert (state.status, state.result) == (status, {'a': [1]})
        assert state.release_time is not None
        assert (await queue.get_queue_stats())[:5] == (0, 0, 0, 0, 0)
        with pytest.raises(TorrelqueLookupError):
            await queue.get_task(task.id)

    async def test_release_keeps_a_falsy_result(self, queue: Torrelque) -> None:
        results: list[object] = [0, '', [], False, 0.0]
        for result in results:
            task = await claimed(queue)
            await queue.release(task, result=result)
            assert (await queue.get_task_state(task.id)).result == result

    async def test_a_result_expires(self, queue: Torrelque) -> None:
        task = await claimed(queue)
        await queue.release(task, result=1, result_ttl=0.02)

        async def is_gone() -> bool:
            try:
                await queue.get_task_state(task.id)
            except TorrelqueLookupError:
                return True
            return False

        await eventually(is_gone)

    async def test_release_wants_a_final_status(self, queue: Torrelque) -> None:
        task = await claimed(queue)
        with pytest.raises(TorrelqueError, match='Invalid status for released task: '):
            await queue.release(task, status=TorrelqueTaskStatus.WORKING)
        await queue.release(task, status=None)
        assert (await queue.get_queue_stats()).tasks == 0

    # Requeue ---------------------------------------------------------------------------------------------------------

    async def test_requeue_to_the_back(self, queue: Torrelque) -> None:
        task = await claimed(queue, 'first')
        await queue.enqueue('second')
        await queue.requeue(task.id, task_timeout=7)
        state = await queue.get_task_state(task.id)
        assert (state.status, state.requeue_count, state.timeout) == (TorrelqueTaskStatus.PENDING, 1, 7)
        assert [again.data for again in await queue.dequeue(20, max_tasks=2)] == ['second', 'first']

    async def test_requeue_for_later(self, queue: Torrelque) -> None:
        task = await claimed(queue)
        await queue.requeue(task, 60)
        assert (await queue.get_task_state(task.id)).status is TorrelqueTaskStatus.DELAYED
        assert await queue.dequeue_nowait() == []

    async def test_requeue_for_soon(self, queue: Torrelque) -> None:
        task = await claimed(queue)
        await queue.requeue(task, delay=0.02)
        again = await queue.dequeue(20)
        assert (again.id, again.dequeue_count) == (task.id, 2)

    # Reject, giveback, extend ----------------------------------------------------------------------------------------

    async def test_reject_keeps_the_task(self, queue: Torrelque) -> None:
        task = await claimed(queue, 'bad')
        await queue.reject(task, 'no good: \u00fc')
        kept = await queue.get_task(task.id)
        assert (kept.id, kept.data, kept.state.status) == (task.id, 'bad', REJECTED)
        assert kept.state.reason == 'no good: \u00fc'
        assert (await queue.get_queue_stats())[:5] == (0, 0, 0, 0, 1)
        await queue.enqueue('other', task_id=task.id)
        assert (await queue.get_task(task.id)).data == 'bad'

    async def test_giveback_undoes_the_claim(self, queue: Torrelque) -> None:
        ids = [await queue.enqueue(number) for number in range(3)]
        first, second = await queue.dequeue(20, max_tasks=2)
        await queue.giveback(second)
        await queue.giveback(first.id)
        state = await queue.get_task_state(first.id)
        assert (state.status, state.dequeue_count, state.requeue_count) == (TorrelqueTaskStatus.PENDING, 0, 0)
        assert [task.id for task in await queue.dequeue(20, max_tasks=3)] == ids

    async def test_extend_renews(self, queue: Torrelque) -> None:
        task = await claimed(queue)
        deadline = await queue.extend(task, 1000)
        assert deadline >= task.deadline + 690
        assert await queue.extend(task.id) == deadline, 'never shorter'
        await queue.release(task)

    async def test_extend_by_the_tasks_own_time(self, queue: Torrelque) -> None:
        await queue.enqueue('a', task_timeout=50)
        task = await queue.dequeue(20)
        assert task.deadline <= await queue.extend(task) < task.deadline + 40

    # Fencing ---------------------------------------------------------------------------------------------------------

    @each_verb
    async def test_a_lost_claim_changes_nothing(
        self, queue: Torrelque, verb: str, caplog: pytest.LogCaptureFixture
    ) -> None:
        lost, live = await lost_claim(queue)
        before = await queue.get_task_state(live.id)
        with pytest.raises(TorrelqueLeaseLostError, match=lost.id):
            await VERBS[verb](queue, lost)
        assert caplog.text == ''
        if verb in WARNING_VERBS:
            await VERBS[verb](queue, lost.id)
            assert f'Inconsistent {verb} of task:{lost.id}: ' in caplog.text
        else:
            with pytest.raises(TorrelqueLeaseLostError, match=lost.id):
                await VERBS[verb](queue, lost.id)
        assert await queue.get_task_state(live.id) == before
        await queue.release(live)

    @each_verb
    async def test_a_plain_id_means_the_live_claim(
        self, queue: Torrelque, verb: str, caplog: pytest.LogCaptureFixture
    ) -> None:
        _, live = await lost_claim(queue)
        await VERBS[verb](queue, str(live.id))
        assert caplog.text == ''
        if verb != 'extend':
            with pytest.raises(TorrelqueLeaseLostError):
                await queue.release(live)

    @each_verb
    async def test_an_id_without_a_claim_changes_nothing(
        self, queue: Torrelque, verb: str, caplog: pytest.LogCaptureFixture
    ) -> None:
        rejected, released = await claimed(queue), await claimed(queue)
        await queue.reject(rejected, 'why')
        await queue.release(released, result=1)
        pending, delayed = await queue.enqueue('a'), await queue.enqueue('b', delay=60)
        before = (await queue.get_queue_stats())._replace(oldest_pending_age=None)
        for task_id in (str(rejected.id), str(released.id), pending, delayed, 'nobody'):
            caplog.clear()
            if verb in WARNING_VERBS:
                await VERBS[verb](queue, task_id)
                assert [(record.levelno, record.name) for record in caplog.records] == [(logging.WARNING, 'torrelque')]
                assert f'Inconsistent {verb} of task:{task_id}: ' in caplog.text
            else:
                with pytest.raises(TorrelqueLookupError, match=task_id):
                    await VERBS[verb](queue, task_id)
        assert (await queue.get_queue_stats())._replace(oldest_pending_age=None) == before
        with pytest.raises(TorrelqueLookupError):
            await queue.get_task_state('nobody')

    @each_verb
    async def test_a_claim_ends_once(self, queue: Torrelque, verb: str) -> None:
        task = await claimed(queue)
        await VERBS[verb](queue, task)
        if verb != 'extend':
            with pytest.raises(TorrelqueLeaseLostError):
                await VERBS[verb](queue, task)

    async def test_extending_twice_at_once(self, queue: Torrelque) -> None:
        task = await claimed(queue)
        deadlines: list[float] = []

        async def extend(target: str | Task, seconds: float) -> None:
            deadlines.append(await queue.extend(target, seconds))

        async with anyio.create_task_group() as group:
            group.start_soon(extend, task, 1000)
            group.start_soon(extend, task, 2000)
            group.start_soon(extend, str(task.id), 500)
        assert max(deadlines) >= task.deadline + 1690
        assert await queue.extend(task, 1) == max(deadlines), 'never shorter'

    # Many ------------------------------------------------------------------------------------------------------------

    async def test_releasing_many_with_some_that_fail(self, queue: Torrelque) -> None:
        lost, live = await lost_claim(queue)
        good, better = await claimed(queue), await claimed(queue)
        outcomes = await queue.release_many([good, lost, 'nobody', ReleaseItem(better.id, 'well'), lost.id, live, live])
        assert [type(outcome) for outcome in outcomes] == [
            type(None), TorrelqueLeaseLostError, TorrelqueLookupError, type(None), TorrelqueLeaseLostError, type(None),
            TorrelqueLeaseLostError,
        ]  # fmt: skip
        assert (await queue.get_task_state(better.id)).result == 'well'
        stats = await queue.get_queue_stats()
        assert (stats.tasks, stats.total_completed) == (0, 3)

    async def test_requeueing_many(self, queue: Torrelque) -> None:
        await queue.enqueue_many(range(1_100))
        tasks = await queue.dequeue_nowait(max_tasks=1_100)
        steps: list[int] = []
        outcomes = await queue.requeue_many(
            [RequeueItem(tasks[0], delay=60), *tasks[1:], 'nobody'], on_progress=lambda done, _: steps.append(done)
        )
        assert outcomes[:-1] == [None] * 1_100
        assert isinstance(outcomes[-1], TorrelqueLookupError)
        assert steps == [250, 500, 750, 1_000, 1_101]
        stats = await queue.get_queue_stats()
        assert (stats.pending, stats.delayed, stats.working) == (1_099, 1, 0)
        assert [task.data for task in await queue.dequeue_nowait(max_tasks=1_100)] == list(range(1, 1_100))

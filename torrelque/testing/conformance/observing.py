"""Tests of reading tasks and queues, and of watching tasks to their end."""

from __future__ import annotations

import os
import socket

import anyio
import pytest

from torrelque import Client
from torrelque.core.models import Task, TorrelqueQueueStats, TorrelqueTaskState, TorrelqueTaskStatus
from torrelque.engine.discovery import queues
from torrelque.errors import TorrelqueLookupError, TorrelqueTimeoutError
from torrelque.queue import Torrelque
from torrelque.testing.conformance.support import PATIENCE, OnQueue, eventually, unique

__all__ = ('ObservingConformance',)

PENDING, WORKING, DELAYED, COMPLETED, REJECTED, _EXPIRED = TorrelqueTaskStatus


class Watched:
    """A watcher in the background, with the states that it has seen."""

    def __init__(self, queue: Torrelque, task_id: str, *, timeout: float | None = PATIENCE) -> None:
        self._queue = queue
        self._task_id = task_id
        self._timeout = timeout
        self._news = anyio.Event()
        self.states: list[TorrelqueTaskState] = []
        self.ended: bool = False

    @property
    def statuses(self) -> list[TorrelqueTaskStatus]:
        return [state.status for state in self.states]

    async def run(self) -> None:
        async for state in self._queue.watch(self._task_id, timeout=self._timeout):
            self.states.append(state)
            self._tell()
        self.ended = True
        self._tell()

    async def until(self, count: int) -> None:
        """Wait until ``count`` states have arrived."""
        with anyio.fail_after(PATIENCE):
            while len(self.states) < count:
                await self._news.wait()

    def _tell(self) -> None:
        self._news.set()
        self._news = anyio.Event()


class ObservingConformance(OnQueue):
    # Looking ---------------------------------------------------------------------------------------------------------

    async def test_a_state(self, queue: Torrelque) -> None:
        task_id = await queue.enqueue('a', task_timeout=12.5, max_dequeues=4)
        state = await queue.get_task_state(task_id)
        assert state[:12] == (PENDING, 12.5, None, 0, 0, state.enqueue_time, None, None, None, 4, None, 1)
        task = await queue.dequeue(20)
        await queue.requeue(task)
        await queue.release(await queue.dequeue(20), result='r')
        state = await queue.get_task_state(task_id)
        assert (state.status, state.result, state.dequeue_count, state.requeue_count) == (COMPLETED, 'r', 2, 1)
        times = (state.enqueue_time, state.last_requeue_time, state.last_dequeue_time, state.release_time)
        known = [time for time in times if time is not None]
        assert len(known) == 4
        assert known == sorted(known)

    async def test_workers(self, queue: Torrelque) -> None:
        assert [worker async for worker in queue.workers()] == []
        await queue.announce('a', name='first ü', concurrency=5, age=60)
        await queue.announce('b', name='second', concurrency=1)
        await queue.announce('a', name='first ü', concurrency=5, running=3, age=60)
        workers = {worker.id: worker async for worker in queue.workers()}
        assert workers.keys() == {'a', 'b'}
        first = workers['a']
        assert (first.name, first.concurrency, first.running) == ('first ü', 5, 3)
        assert (first.host, first.pid) == (socket.gethostname(), os.getpid())
        assert first.seen - first.since == pytest.approx(60, abs=1e-3)
        await queue.retract('a')
        await queue.retract('a')
        assert [worker.id async for worker in queue.workers()] == ['b']

    async def test_who_holds_a_task(self, queue: Torrelque) -> None:
        task_id = await queue.enqueue('a')
        assert (await queue.get_task(task_id)).consumer is None
        task = await queue.dequeue(20)
        await queue.announce('w', name='worker', concurrency=1)
        (worker,) = [worker async for worker in queue.workers()]
        assert (await queue.get_task(task_id)).consumer == worker.consumer != ''
        await queue.requeue(task)
        assert (await queue.get_task(task_id)).consumer is None

    async def test_an_unknown_task(self, queue: Torrelque) -> None:
        with pytest.raises(TorrelqueLookupError, match='nobody'):
            await queue.get_task_state('nobody')
        with pytest.raises(TorrelqueLookupError, match='nobody'):
            await queue.get_task('nobody')

    async def test_a_task(self, queue: Torrelque) -> None:
        task_id = await queue.enqueue({'a': 1}, headers={'b': 'c'})
        task = await queue.get_task(task_id)
        assert (task.id, task.data, task.headers, task.state.status) == (task_id, {'a': 1}, {'b': 'c'}, PENDING)
        assert (task.deadline, task.due) == (None, None)

    async def test_when_something_will_happen_to_a_task(self, queue: Torrelque) -> None:
        delayed = await queue.get_task(await queue.enqueue('a', delay=60))
        assert delayed.due is not None
        assert delayed.state.enqueue_time is not None
        assert delayed.due == pytest.approx(delayed.state.enqueue_time + 60, abs=1e-3)
        await queue.enqueue('b')
        claimed = await queue.dequeue(20)
        working = await queue.get_task(claimed)
        assert working.deadline == pytest.approx(claimed.deadline, abs=1e-3)
        assert (delayed.deadline, working.due) == (None, None)

    async def test_the_servers_clock(self, queue: Torrelque) -> None:
        state = await queue.get_task_state(await queue.enqueue('a'))
        assert state.enqueue_time is not None
        assert state.enqueue_time <= await queue.get_server_time() < state.enqueue_time + PATIENCE

    async def test_stats(self, queue: Torrelque) -> None:
        assert await queue.get_queue_stats() == TorrelqueQueueStats(0, 0, 0, 0)
        await queue.enqueue_many(range(6))
        await queue.enqueue('later', delay=60)
        one, other, third, *_ = await queue.dequeue_nowait(max_tasks=4)
        await queue.release(one)
        await queue.reject(other, 'why')
        await queue.requeue(third)
        stats = await queue.get_queue_stats()
        assert stats[:5] == (5, 3, 1, 1, 1)
        assert stats[6:12] == (7, 4, 1, 1, 1, 0)
        assert stats.oldest_pending_age is not None
        assert 0 <= stats.oldest_pending_age < PATIENCE

    async def test_listing_tasks(self, queue: Torrelque) -> None:
        await queue.enqueue_many(range(4))
        working, rejected, completed = await queue.dequeue_nowait(max_tasks=3)
        await queue.reject(rejected, 'why')
        await queue.release(completed, result=1)
        delayed = await queue.enqueue('later', delay=60)
        (pending,) = {task_id async for task_id, _ in queue.tasks(PENDING)}
        assert {task_id: state.status async for task_id, state in queue.tasks()} == {
            pending: PENDING, working.id: WORKING, rejected.id: REJECTED, delayed: DELAYED,
        }  # fmt: skip
        for task_id, status in ((working.id, WORKING), (delayed, DELAYED), (rejected.id, REJECTED)):
            assert {(one, state.status) async for one, state in queue.tasks(status)} == {(task_id, status)}
        assert {(one, state.result) async for one, state in queue.tasks(COMPLETED)} == {(completed.id, 1)}

    async def test_listing_many_tasks(self, queue: Torrelque) -> None:
        ids = await queue.enqueue_many(range(700))
        assert {task_id async for task_id, _ in queue.tasks()} == set(ids)

    async def test_finding_queues(self, client: Client, queue: Torrelque) -> None:
        await queue.enqueue('a')
        async with self.make_queue(client, unique('odd*[x]:')) as other:
            await other.enqueue('a')
            assert {name async for name in queues(client)} >= {queue.queue, other.queue}

    # Watching --------------------------------------------------------------------------------------------------------

    async def test_watching_to_the_end(self, queue: Torrelque) -> None:
        task_id = await queue.enqueue('a')
        watched = Watched(queue, task_id)
        with anyio.fail_after(PATIENCE):
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(watched.run)
                task = await self._dequeue_heard(queue, watched)
                await queue.requeue(task)
                await queue.requeue(await queue.dequeue(), delay=0.01)
                task = await queue.dequeue()
                await queue.release(task, result='r')
        assert watched.ended
        assert watched.statuses == [PENDING, WORKING, PENDING, WORKING, DELAYED, PENDING, WORKING, COMPLETED]
        assert watched.states[-1].result == 'r'

    async def test_watching_a_task_released_without_a_result(self, queue: Torrelque) -> None:
        task_id = await queue.enqueue('a')
        watched = Watched(queue, task_id)
        with anyio.fail_after(PATIENCE):
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(watched.run)
                await queue.release(await self._dequeue_heard(queue, watched))
        assert watched.ended
        assert watched.statuses == [PENDING, WORKING, COMPLETED]

    async def test_watching_what_has_ended(self, queue: Torrelque) -> None:
        await queue.enqueue('a')
        task = await queue.dequeue(20)
        await queue.release(task, result=1)
        assert [state.status async for state in queue.watch(task.id)] == [COMPLETED]
        assert (await queue.wait(task.id)).result == 1

    async def test_watching_the_unknown(self, queue: Torrelque) -> None:
        with pytest.raises(TorrelqueLookupError, match='nobody'):
            async for _ in queue.watch('nobody'):
                pass
        with pytest.raises(TorrelqueLookupError, match='nobody'):
            await queue.wait('nobody')

    async def test_watching_ends_with_its_time(self, queue: Torrelque) -> None:
        task_id = await queue.enqueue('a')
        watched = Watched(queue, task_id, timeout=0.03)
        with anyio.fail_after(PATIENCE), pytest.raises(TorrelqueTimeoutError, match=task_id):
            await watched.run()
        assert watched.statuses == [PENDING]
        with anyio.fail_after(PATIENCE), pytest.raises(TorrelqueTimeoutError, match=task_id):
            await queue.wait(task_id, 0.03)

    async def test_several_watch_one_task(self, queue: Torrelque) -> None:
        task_id = await queue.enqueue('a')
        watchers = [Watched(queue, task_id) for _ in range(3)]
        with anyio.fail_after(PATIENCE):
            async with anyio.create_task_group() as tasks:
                for watched in watchers:
                    tasks.start_soon(watched.run)
                task = await self._dequeue_heard(queue, *watchers)
                await queue.release(task, result=1)
        for watched in watchers:
            assert watched.statuses == [PENDING, WORKING, COMPLETED]

    async def test_a_watcher_may_stop(self, queue: Torrelque) -> None:
        task_id = await queue.enqueue('a')
        for _ in range(2):
            watching = queue.watch(task_id)
            async for state in watching:
                assert state.status is PENDING
                break
            await watching.aclose()  # type: ignore[attr-defined]  # it is a generator
        with anyio.move_on_after(0.02) as scope:
            await queue.wait(task_id)
        assert scope.cancelled_caught
        await queue.release(await queue.dequeue(20), result=1)
        assert (await queue.wait(task_id)).status is COMPLETED

    @pytest.mark.parametrize('status', [COMPLETED, REJECTED])
    async def test_waiting_tells_the_status_without_a_result(
        self, queue: Torrelque, status: TorrelqueTaskStatus
    ) -> None:
        task_id = await queue.enqueue('a')
        final = await self._wait_while(queue, task_id, status)
        assert (final.status, final.result) == (status, None)

    async def _wait_while(self, queue: Torrelque, task_id: str, status: TorrelqueTaskStatus) -> TorrelqueTaskState:
        states: list[TorrelqueTaskState] = []
        watched = Watched(queue, task_id)

        async def wait() -> None:
            states.append(await queue.wait(task_id))

        with anyio.fail_after(PATIENCE):
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(wait)
                tasks.start_soon(watched.run)
                task = await self._dequeue_heard(queue, watched)
                await queue.release(task, status=status)
        (final,) = states
        return final

    async def _dequeue_heard(self, queue: Torrelque, *watchers: Watched) -> Task:
        """Dequeue. Once the watchers see it, their shared subscription is active, and they will miss nothing."""
        for watched in watchers:
            await watched.until(1)
        task: Task = await queue.dequeue()
        for watched in watchers:
            await watched.until(2)
        return task

    async def test_waiting_ends_at_the_dead_letters(self, queue: Torrelque) -> None:
        task_id = await queue.enqueue('a')
        watched = Watched(queue, task_id)
        with anyio.fail_after(PATIENCE):
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(watched.run)
                await queue.reject(await self._dequeue_heard(queue, watched), 'why')
        assert watched.statuses == [PENDING, WORKING, REJECTED]
        assert (await queue.wait(task_id)).reason == 'why'

    async def test_waiting_for_a_task_that_is_cancelled(self, queue: Torrelque) -> None:
        task_id = await queue.enqueue('a')
        errors: list[TorrelqueLookupError] = []

        async def wait() -> None:
            with pytest.raises(TorrelqueLookupError, match=task_id) as caught:
                await queue.wait(task_id)
            errors.append(caught.value)

        with anyio.fail_after(PATIENCE):
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(wait)
                await anyio.sleep(0.02)
                await queue.cancel(task_id)
        assert len(errors) == 1

    async def test_a_watch_does_not_outlive_its_queue(self, client: Client, queue: Torrelque) -> None:
        async def nothing_left() -> bool:
            return (await queue.get_queue_stats()).tasks == 0

        async with self.make_queue(client, queue.queue) as other:
            task_id = await other.enqueue('a')
            watching = other.watch(task_id)
            async for state in watching:
                assert state.status is PENDING
                break
        await watching.aclose()  # type: ignore[attr-defined]  # it is a generator
        await queue.release(await queue.dequeue(20))
        await eventually(nothing_left)

"""Tests of dequeue: order, waiting, stale and due tasks, limits, payloads that cannot be deserialised."""

from __future__ import annotations

import copy
import json
import pickle
from typing import Any

import anyio
import pytest

from torrelque import Client
from torrelque.core.codec import TorrelqueTaskSerialiser
from torrelque.core.commands import EnqueueItem
from torrelque.core.models import Limits, Task, TaskId, TorrelqueTaskStatus
from torrelque.errors import TorrelqueLeaseLostError, TorrelqueLookupError, TorrelqueTimeoutError
from torrelque.queue import Torrelque
from torrelque.testing.conformance.support import PATIENCE, OnQueue, eventually, unique

__all__ = ('ConsumingConformance',)


def _loads(data: bytes) -> Any:  # noqa: ANN401 - any JSON value
    if b'broken' in data:
        raise ValueError('that is broken')
    return json.loads(data)


_FUSSY = TorrelqueTaskSerialiser(json.dumps, _loads)


class ConsumingConformance(OnQueue):
    async def test_first_in_first_out(self, queue: Torrelque) -> None:
        ids = [await queue.enqueue(number) for number in range(5)]
        assert [(await queue.dequeue(20)).id for _ in range(5)] == ids

    async def test_a_paused_queue_gives_out_nothing(self, queue: Torrelque) -> None:
        await queue.pause('why', wait=True, timeout=20)
        task_id = await queue.enqueue('a')
        assert await queue.dequeue_nowait() == []
        paused = (await queue.get_queue_stats()).paused
        assert paused is not None
        assert (paused.until, paused.reason) == (None, 'why')
        await queue.resume()
        assert (await queue.dequeue(20)).id == task_id
        assert (await queue.get_queue_stats()).paused is None

    async def test_limits_hold_until_a_task_ends(self, queue: Torrelque) -> None:
        await queue.limit(concurrency=2, rate=(3, 3600))
        await queue.enqueue_many(range(5))
        held = await queue.dequeue_nowait(max_tasks=5)
        assert len(held) == 2
        assert await queue.dequeue_nowait(max_tasks=5) == []
        await queue.release_many(held)
        assert len(await queue.dequeue_nowait(max_tasks=5)) == 1
        await queue.limit(concurrency=2)
        assert await queue.limits() == (await queue.get_queue_stats()).limits == Limits(2)
        assert len(await queue.dequeue_nowait(max_tasks=5)) == 1
        await queue.limit()
        assert len(await queue.dequeue_nowait(max_tasks=5)) == 1

    async def test_what_is_dequeued(self, queue: Torrelque) -> None:
        await queue.enqueue({'a': 1}, task_timeout=100)
        before = anyio.current_time()
        task = await queue.dequeue(20)
        state = await queue.get_task_state(task.id)
        task_id, data = task
        assert isinstance(task, Task)
        assert isinstance(task_id, TaskId)
        assert (task.id, task.data) == (task_id, data)
        assert data == {'a': 1}
        assert (task.receipt.id, task.dequeue_count) == (task_id, 1)
        assert state.last_dequeue_time is not None
        assert task.deadline == pytest.approx(state.last_dequeue_time + 100, abs=0.001)
        assert before + 99 < task.expires < anyio.current_time() + 100.01
        assert (state.status, state.dequeue_count) == (TorrelqueTaskStatus.WORKING, 1)

    async def test_an_id_remembers_its_claim(self, queue: Torrelque) -> None:
        await queue.enqueue('a')
        task_id, _ = await queue.dequeue(20)
        for one in (copy.copy(task_id), copy.deepcopy(task_id), pickle.loads(pickle.dumps(task_id))):  # noqa: S301 - the test's own data
            assert (one, one.receipt) == (task_id, task_id.receipt)
        assert type(str(task_id)) is str
        await queue.release(pickle.loads(pickle.dumps(task_id)))  # noqa: S301 - see above
        assert (await queue.get_queue_stats()).tasks == 0

    async def test_several_at_once(self, queue: Torrelque) -> None:
        ids = [await queue.enqueue(number) for number in range(5)]
        assert [task.id for task in await queue.dequeue(20, max_tasks=3)] == ids[:3]
        assert [task.id for task in await queue.dequeue(20, max_tasks=3)] == ids[3:]

    async def test_what_is_there(self, queue: Torrelque) -> None:
        assert await queue.dequeue_nowait() == []
        ids = [await queue.enqueue(number) for number in range(3)]
        assert [task.id for task in await queue.dequeue_nowait()] == ids[:1]
        assert [task.id for task in await queue.dequeue_nowait(max_tasks=9)] == ids[1:]

    async def test_waiting_ends_with_its_time(self, queue: Torrelque) -> None:
        with anyio.fail_after(PATIENCE), pytest.raises(TorrelqueTimeoutError):
            await queue.dequeue(0.03)

    async def test_a_waiting_consumer_gets_what_comes(self, queue: Torrelque) -> None:
        got: list[Task] = []

        async def consume() -> None:
            got.append(await queue.dequeue())

        with anyio.fail_after(PATIENCE):
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(consume)
                await anyio.sleep(0.02)
                await queue.enqueue('mine')
        assert [task.data for task in got] == ['mine']

    async def test_a_waiting_consumer_gets_what_another_client_sends(self, client: Client, queue: Torrelque) -> None:
        got: list[Task] = []

        async def consume() -> None:
            got.extend(await queue.dequeue(max_tasks=5))

        with anyio.fail_after(PATIENCE):
            async with self.make_queue(client, queue.queue) as producer, anyio.create_task_group() as tasks:
                tasks.start_soon(consume)
                await anyio.sleep(0.02)
                await producer.enqueue('theirs')
        assert [task.data for task in got] == ['theirs']

    async def test_a_waiting_consumer_gets_what_becomes_due(self, queue: Torrelque) -> None:
        await queue.enqueue('a', delay=0.05)
        with anyio.fail_after(PATIENCE):
            task = await queue.dequeue()
        state = await queue.get_task_state(task.id)
        assert state.last_dequeue_time is not None
        assert state.enqueue_time is not None
        assert 0.05 <= state.last_dequeue_time - state.enqueue_time < PATIENCE
        assert state.requeue_count == 1

    async def test_due_tasks_come_in_the_order_they_are_due(self, queue: Torrelque) -> None:
        await queue.enqueue_many([EnqueueItem(delay, delay=delay) for delay in (0.03, 0.01, 0.02)])
        with anyio.fail_after(PATIENCE):
            assert [(await queue.dequeue()).data for _ in range(3)] == [0.01, 0.02, 0.03]

    async def test_a_waiting_consumer_gets_what_a_schedule_adds(self, client: Client, queue: Torrelque) -> None:
        got: list[str] = []

        async def consume(queue: Torrelque) -> None:
            while len(got) < 2:
                task = await queue.dequeue(PATIENCE)
                got.append(str(task.id))
                await queue.release(task)

        async with self.make_queue(client, queue.queue) as other:
            with anyio.fail_after(PATIENCE):
                async with anyio.create_task_group() as tasks:
                    for each in (queue, other):
                        tasks.start_soon(consume, each)
                    await queue.schedule('ping', {'a': 1}, every=0.05)
            assert (await queue.get_queue_stats()).schedules == 1
            (schedule,) = [each async for each in queue.schedules()]
            assert (schedule.id, schedule.task, schedule.every) == ('ping', {'a': 1}, 0.05)
            assert schedule.last in got
            await queue.unschedule('ping')
        times = [task_id.partition('@')[2] for task_id in got]
        assert len({*times}) == len(got)
        assert got == [f'ping@{time}' for time in times]

    async def test_a_waiting_consumer_gets_what_becomes_stale(self, queue: Torrelque) -> None:
        await queue.enqueue('a', task_timeout=0.05)
        lost = await queue.dequeue(20)
        with anyio.fail_after(PATIENCE):
            task = await queue.dequeue()
        assert (task.id, task.dequeue_count) == (lost.id, 2)
        with pytest.raises(TorrelqueLeaseLostError):
            await queue.release(lost)
        await queue.release(task)

    async def test_the_delivery_limit(self, queue: Torrelque) -> None:
        task_id = await queue.enqueue('deadly', max_dequeues=2)
        for _ in range(2):
            await queue.requeue(await queue.dequeue(20))
        assert await queue.dequeue_nowait() == []
        state = await queue.get_task_state(task_id)
        assert (state.status, state.max_dequeues) == (TorrelqueTaskStatus.REJECTED, 2)
        assert '2 times' in (state.reason or '')
        assert (await queue.get_task(task_id)).data == 'deadly'
        stats = await queue.get_queue_stats()
        assert (stats.tasks, stats.rejected, stats.total_rejected) == (0, 1, 1)

    async def test_the_delivery_limit_of_stale_claims(self, client: Client) -> None:
        async with self.make_queue(client, unique(), max_dequeues=1) as queue:
            task_id = await queue.enqueue('deadly', task_timeout=0.01)
            await queue.dequeue(20)

            async def is_rejected() -> bool:
                assert await queue.dequeue_nowait() == []
                return (await queue.get_task_state(task_id)).status is TorrelqueTaskStatus.REJECTED

            await eventually(is_rejected)

    async def test_a_cap_on_dead_letters(self, client: Client) -> None:
        async with self.make_queue(client, unique(), max_dequeues=1, max_rejected=2) as queue:
            ids = await queue.enqueue_many(range(5))
            first, second, *rest = await queue.dequeue(20, max_tasks=5)
            for task in (first, second):
                await queue.reject(task, 'no good')
                await anyio.sleep(0.001)  # the order of age has a resolution of a microsecond
            for task in rest:
                await queue.requeue(task)
            with pytest.raises(TorrelqueTimeoutError):  # because all three are over their limit
                await queue.dequeue(0.05)
            kept = [task_id async for task_id, _ in queue.rejected()]
            assert len(set(kept)) == 2
            assert set(kept) < set(ids[2:])
            for gone in set(ids) - set(kept):
                with pytest.raises(TorrelqueLookupError):
                    await queue.get_task_state(str(gone))
            stats = await queue.get_queue_stats()
            assert (stats.tasks, stats.rejected, stats.total_rejected) == (0, 2, 5)
            assert await queue.audit() == []
            assert await queue.enqueue('again', task_id=str(ids[0])) == ids[0]
            assert (await queue.get_task(str(ids[0]))).data == 'again'

    async def test_what_cannot_be_deserialised_spoils_nothing(
        self, client: Client, caplog: pytest.LogCaptureFixture
    ) -> None:
        async with self.make_queue(client, unique(), serialiser=_FUSSY) as queue:
            ids = await queue.enqueue_many(['a', 'broken', 'b'])
            assert [task.data for task in await queue.dequeue(20, max_tasks=3)] == ['a', 'b']
            broken = str(ids[1])

            async def is_rejected() -> bool:
                return (await queue.get_task_state(broken)).status is TorrelqueTaskStatus.REJECTED

            await eventually(is_rejected)
            assert 'that is broken' in ((await queue.get_task_state(broken)).reason or '')
            assert broken in caplog.text
            assert (await queue.get_queue_stats()).working == 2

    async def test_a_wait_goes_on_past_what_cannot_be_deserialised(
        self, client: Client, caplog: pytest.LogCaptureFixture
    ) -> None:
        async with self.make_queue(client, unique(), serialiser=_FUSSY) as queue:
            await queue.enqueue('broken')
            with pytest.raises(TorrelqueTimeoutError):
                await queue.dequeue(0.05)
            await queue.enqueue_many(['broken', 'a'])
            assert (await queue.dequeue(20)).data == 'a'

    async def test_sweep(self, queue: Torrelque) -> None:
        await queue.enqueue('stale', task_timeout=0.001)
        stale = await queue.dequeue(20)
        await queue.enqueue('due', delay=0.001)
        await queue.enqueue('later', delay=60)
        await anyio.sleep(0.01)
        assert await queue.sweep() == (1, 1, 0)
        assert await queue.sweep() == (0, 0, 0)
        assert sorted(task.data for task in await queue.dequeue_nowait(max_tasks=9)) == ['due', 'stale']
        assert (await queue.get_task_state(stale.id)).requeue_count == 1

    async def test_a_scheduled_sweep(self, queue: Torrelque) -> None:
        task_id = await queue.enqueue('due', delay=0.02)
        queue.schedule_sweep(0.01)

        async def is_pending() -> bool:
            return (await queue.get_task_state(task_id)).status is TorrelqueTaskStatus.PENDING

        await eventually(is_pending)
        queue.unschedule_sweep()
        queue.unschedule_sweep()

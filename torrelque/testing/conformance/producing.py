"""Tests of enqueueing and cancelling tasks."""

from __future__ import annotations

import pickle
import re
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Any

import anyio
import pytest

from torrelque import Client
from torrelque.core.codec import TorrelqueTaskSerialiser
from torrelque.core.commands import EnqueueItem
from torrelque.core.models import Cancellation, TorrelqueTaskStatus
from torrelque.errors import TorrelqueExistsError, TorrelqueLeaseLostError, TorrelqueLookupError
from torrelque.queue import Torrelque
from torrelque.testing.conformance.support import PATIENCE, OnQueue, unique

__all__ = ('ProducingConformance',)


async def _hear(announcements: AsyncGenerator[Cancellation | None, None]) -> Cancellation:
    """Return the next announcement; some of those before may have been missed."""
    while (announced := await anext(announcements)) is None:
        pass
    return announced


class ProducingConformance(OnQueue):
    async def test_an_id_is_32_hex_digits(self, queue: Torrelque) -> None:
        one, other = await queue.enqueue('a'), await queue.enqueue('a')
        assert re.fullmatch('[0-9a-f]{32}', one)
        assert one != other

    async def test_every_payload_arrives(self, queue: Torrelque) -> None:
        values: list[object] = [0, 0.0, '', [], {}, None, False, 'gr\u00fc\u00df \U0001f600', [1, {'a': [None]}]]
        for data in values:
            task_id = await queue.enqueue(data)
            got_id, got = await queue.dequeue(20)
            assert (got_id, got, type(got)) == (task_id, data, type(data))

    async def test_a_serialiser_of_bytes(self, client: Client) -> None:
        async with self.make_queue(client, unique(), serialiser=pickle) as queue:
            await queue.enqueue({1, 2.5, b'\x00\xff'})
            task = await queue.dequeue(20)
            assert task.data == {1, 2.5, b'\x00\xff'}
            await queue.release(task, result=(1, {2}), result_ttl=60)
            assert (await queue.get_task_state(task.id)).result == (1, {2})

    async def test_a_serialiser_of_text(self, client: Client) -> None:
        text = TorrelqueTaskSerialiser(lambda value: f'<{value}>', lambda data: data.decode()[1:-1])
        async with self.make_queue(client, unique(), serialiser=text) as queue:
            await queue.enqueue('gr\u00fcn')
            assert (await queue.dequeue(20)).data == 'gr\u00fcn'

    async def test_headers_travel_along(self, queue: Torrelque) -> None:
        headers = {'trace': '\u00e9 1', '': ''}
        task_id = await queue.enqueue('a', headers=headers)
        assert (await queue.get_task(task_id)).headers == headers
        assert (await queue.dequeue(20)).headers == headers
        await queue.enqueue('b')
        assert (await queue.dequeue(20)).headers == {}

    async def test_an_id_of_ones_own_is_queued_once(self, queue: Torrelque) -> None:
        task_id = unique('\u00fcber id')
        assert await queue.enqueue('first', task_id=task_id) == task_id
        assert await queue.enqueue('second', task_id=task_id, delay=60) == task_id
        stats = await queue.get_queue_stats()
        assert (stats.tasks, stats.pending, stats.delayed) == (1, 1, 0)
        task = await queue.dequeue(20)
        assert (task.id, task.data) == (task_id, 'first')
        await queue.enqueue('third', task_id=task_id)
        assert await queue.dequeue_nowait() == []

    async def test_an_id_whose_result_is_kept_can_be_queued_again(self, queue: Torrelque) -> None:
        await queue.enqueue('first', task_id='again')
        await queue.release(await queue.dequeue(20), result='done')
        await queue.enqueue('second', task_id='again')
        state = await queue.get_task_state('again')
        assert (state.status, state.result, state.dequeue_count) == (TorrelqueTaskStatus.PENDING, None, 0)
        assert (await queue.dequeue(20)).data == 'second'

    async def test_a_task_that_waits_can_be_replaced(self, queue: Torrelque) -> None:
        await queue.enqueue('one', task_id='a', headers={'a': 'b'}, if_exists='replace')
        await queue.enqueue('two', task_id='a', replace=True, max_dequeues=3)
        task = await queue.get_task('a')
        assert (task.data, task.state.max_dequeues, task.state.revision) == ('two', 3, 2)
        assert 'a' not in task.headers
        await queue.giveback(await queue.dequeue(20))
        await queue.enqueue('three', task_id='a', replace=True, delay=60)
        await queue.enqueue('four', task_id='a', replace=True, delay=70)
        task = await queue.get_task('a')
        assert (task.data, task.state.dequeue_count, task.state.revision) == ('four', 0, 6)
        assert task.due is not None
        assert task.due > await queue.get_server_time() + 60
        assert (await queue.get_queue_stats())[:4] == (1, 0, 0, 1)
        await queue.enqueue('five', task_id='a', replace=True)
        assert (await queue.get_queue_stats()).total_enqueued == 1
        assert (await queue.dequeue(20)).data == 'five'

    async def test_a_task_that_is_worked_on_cannot_be_replaced(self, queue: Torrelque) -> None:
        await queue.enqueue('one', task_id='a')
        task = await queue.dequeue(20)
        with pytest.raises(TorrelqueExistsError, match="'a' is running, nothing") as caught:
            await queue.enqueue('two', task_id='a', replace=True)
        assert caught.value.status is TorrelqueTaskStatus.WORKING
        await queue.reject(task, 'why')
        with pytest.raises(TorrelqueExistsError, match="'a' is a dead letter, nothing") as caught:
            await queue.enqueue('two', task_id='a', replace=True)
        assert caught.value.status is TorrelqueTaskStatus.REJECTED
        await queue.redrive('a')
        await queue.release(await queue.dequeue(20), result='done')
        await queue.enqueue('two', task_id='a', replace=True)
        assert (await queue.dequeue(20)).data == 'two'

    async def test_many_are_replaced_at_once(self, queue: Torrelque) -> None:
        await queue.enqueue_many([EnqueueItem(number, task_id=str(number)) for number in range(5)])
        items = [EnqueueItem(number, task_id=str(number % 5), delay=60) for number in range(20)]
        assert await queue.enqueue_many(items, replace=True) == [str(number % 5) for number in range(20)]
        tasks = [(task_id, (await queue.get_task(task_id)).data) async for task_id, _ in queue.tasks()]
        assert sorted(tasks) == [(str(number), number + 15) for number in range(5)]
        assert (await queue.get_queue_stats())[:4] == (5, 0, 0, 5)

    async def test_a_task_that_nobody_starts_in_time_never_starts(self, queue: Torrelque) -> None:
        await queue.enqueue_many(['b', 'c'], expires_in=0.001)
        await queue.enqueue('a', task_id='a', expires_in=0.001, on_expiry='reject')
        await anyio.sleep(0.01)
        assert await queue.dequeue_nowait(max_tasks=9) == []
        assert (await queue.wait('a')).reason == 'expired'
        stats = await queue.get_queue_stats()
        assert (stats.tasks, stats.rejected, stats.total_expired) == (0, 1, 2)
        await queue.enqueue('d', expires_in=600)
        assert (await queue.dequeue(20)).data == 'd'

    async def test_a_task_for_later_is_delayed(self, queue: Torrelque) -> None:
        task_id = await queue.enqueue('later', delay=60)
        assert (await queue.get_task_state(task_id)).status is TorrelqueTaskStatus.DELAYED
        stats = await queue.get_queue_stats()
        assert (stats.tasks, stats.pending, stats.delayed) == (1, 0, 1)
        assert await queue.dequeue_nowait() == []

    async def test_a_task_that_is_due_comes(self, queue: Torrelque) -> None:
        for delay in (None, 0, -5.0, 0.001):
            task_id = await queue.enqueue('now', delay=delay)
            assert (await queue.dequeue(20)).id == task_id

    async def test_many_at_once(self, queue: Torrelque) -> None:
        steps: list[tuple[int, int]] = []
        ids = await queue.enqueue_many(range(1_200), on_progress=lambda done, total: steps.append((done, total)))
        assert steps == [(done, 1_200) for done in (250, 500, 750, 1_000, 1_200)]
        assert len(set(ids)) == 1_200
        tasks = await queue.dequeue_nowait(max_tasks=2_000)
        assert [(task.id, task.data) for task in tasks] == list(zip(ids, range(1_200), strict=True))

    async def test_many_with_arguments_of_their_own(self, queue: Torrelque) -> None:
        items = [
            'plain',
            EnqueueItem('later', delay=60, task_id='x'),
            EnqueueItem('twin', task_id='x'),
            EnqueueItem('mine', task_timeout=7, headers={'a': 'b'}, max_dequeues=3),
        ]
        options: dict[str, Any] = {'task_timeout': 9, 'max_dequeues': 2, 'headers': {'c': 'd'}, 'time_limit': 5}
        ids = await queue.enqueue_many(items, **options)
        assert ids[1:3] == ['x', 'x']
        states = [await queue.get_task_state(str(task_id)) for task_id in ids]
        assert [(state.timeout, state.max_dequeues) for state in states] == [(9, 2), (300, None), (300, None), (7, 3)]
        plain, mine = await queue.dequeue_nowait(max_tasks=9)
        assert (plain.data, mine.data) == ('plain', 'mine')
        assert {'c': 'd', 'torrelque.time_limit': '5'}.items() <= plain.headers.items()
        assert [name for name in ('a', 'c') if name in mine.headers] == ['a']

    async def test_no_items(self, queue: Torrelque) -> None:
        assert await queue.enqueue_many([]) == []
        assert await queue.release_many([]) == []
        assert await queue.requeue_many([]) == []

    async def test_cancelling_a_task(self, queue: Torrelque) -> None:
        pending, delayed = await queue.enqueue('a'), await queue.enqueue('b', delay=60)
        for task_id in (pending, delayed):
            await queue.cancel(task_id)
            with pytest.raises(TorrelqueLookupError, match=task_id):
                await queue.get_task_state(task_id)
            with pytest.raises(TorrelqueLookupError, match=task_id):
                await queue.cancel(task_id)
        assert (await queue.get_queue_stats())[:4] == (0, 0, 0, 0)
        assert await queue.dequeue_nowait() == []

    async def test_a_claimed_task_is_not_cancelled(self, queue: Torrelque) -> None:
        await queue.enqueue('a')
        task = await queue.dequeue(20)
        with pytest.raises(TorrelqueLookupError, match=task.id):
            await queue.cancel(task.id)
        await queue.release(task)

    async def test_ending_a_running_task(self, queue: Torrelque) -> None:
        await queue.enqueue('a')
        task = await queue.dequeue(20)
        assert await queue.cancel(task.id, running='end') is True
        with pytest.raises(TorrelqueLookupError, match=task.id):
            await queue.get_task_state(task.id)
        assert await queue.enqueue('b', task_id=str(task.id)) == task.id
        assert (await queue.dequeue(20)).data == 'b'
        for call in (queue.release, queue.requeue, queue.giveback, queue.extend):
            with pytest.raises(TorrelqueLeaseLostError, match=task.id):
                await call(task)
        assert (await queue.get_queue_stats())[:4] == (1, 0, 1, 0)

    async def test_asking_for_the_end_of_a_running_task(self, queue: Torrelque) -> None:
        await queue.enqueue_many(['a', 'b', 'c'])
        finishes, returns, requeues = [await queue.dequeue(20) for _ in range(3)]
        for task in (finishes, returns, requeues):
            assert not (await queue.extend(task)).cancel_asked
            assert await queue.cancel(task.id, running='ask') is True
            assert (await queue.extend(task)).cancel_asked
            assert (await queue.get_task_state(task.id)).cancel_time is not None
        await queue.release(finishes, result='done')
        await queue.giveback(returns)
        await queue.requeue(requeues)
        assert (await queue.get_task_state(finishes.id)).result == 'done'
        assert (await queue.get_queue_stats())[:4] == (0, 0, 0, 0)
        assert await queue.audit() == []

    async def test_cancellations_of_running_tasks_are_announced(self, queue: Torrelque) -> None:
        await queue.enqueue('a')
        task = await queue.dequeue(20)
        with anyio.fail_after(PATIENCE):
            async with aclosing(queue.cancellations()) as announcements:
                for _ in range(queue.shards or 1):
                    assert await anext(announcements) is None
                await queue.cancel(task.id, running='ask')
                assert await _hear(announcements) == (task.id, 'ask')
                await queue.cancel(task.id, running='end')
                assert await _hear(announcements) == (task.id, 'end')

    async def test_queues_do_not_mix(self, client: Client, queue: Torrelque) -> None:
        async with self.make_queue(client, queue.queue + ':other') as other:
            task_id = await queue.enqueue('mine')
            assert await other.dequeue_nowait() == []
            with pytest.raises(TorrelqueLookupError):
                await other.get_task_state(task_id)

    async def test_keys_with_other_names(self, client: Client) -> None:
        class Renamed(Torrelque):
            keys = {'pending': 'todo', 'task': 'state'}  # noqa: RUF012 - users of 0.9 wrote it like this

        async with Renamed(client, queue=unique()) as queue:
            assert queue.keys['pending'] == queue.keys['tasks'].removesuffix('tasks') + 'todo'
            assert queue.keys['tasks'] in {
                f'{queue.queue}:tasks',
                f'{{{queue.queue}}}:tasks',
            }  # with a tag on a cluster
            await queue.enqueue('a')
            async with self.make_queue(client, queue.queue) as plain:
                assert await plain.dequeue_nowait() == []
            await queue.release(await queue.dequeue(20), result='done')

"""Dead letters: listed, redriven, purged."""

from __future__ import annotations

import json
from typing import Any

import anyio
import pytest

from torrelque import (
    RequeueItem,
    Torrelque,
    TorrelqueLookupError,
    TorrelqueTaskStatus,
    TorrelqueTypeError,
    TorrelqueValueError,
)
from torrelque.core.claiming import claim
from torrelque.core.commands import (
    ENQUEUE,
    REDRIVE,
    REJECT,
    REQUEUE,
    Command,
    Item,
    Outcome,
    enqueue_item,
    redrive_item,
    reject_item,
    requeue_item,
)
from torrelque.core.keys import Keys
from torrelque.core.lanes import Lane, Lanes
from torrelque.core.protocol import Call, as_is, blocking_drive
from torrelque.core.scripts import load
from torrelque.testing import MemoryServer, MemoryTransport, VirtualClock

pytestmark = pytest.mark.anyio


async def reject_all(queue: Torrelque, reason: str = 'no good') -> None:
    for task in await queue.dequeue_nowait(max_tasks=1000):
        await queue.reject(task, reason)


async def test_are_listed_with_reason_time_and_deliveries(queue: Torrelque) -> None:
    task_id = await queue.enqueue('a', headers={'of': 'a'})
    await queue.enqueue('alive')
    task = await queue.dequeue(5)
    await queue.reject(task, 'no good')
    ((rejected_id, state),) = [each async for each in queue.rejected()]
    assert (rejected_id, state.status, state.reason) == (task_id, TorrelqueTaskStatus.REJECTED, 'no good')
    assert state.dequeue_count == 1
    assert state.last_dequeue_time is not None
    assert state.release_time is not None
    assert state.release_time >= state.last_dequeue_time
    letter = await queue.get_task(task_id)
    assert (letter.data, letter.headers) == ('a', {'of': 'a'})
    stats = await queue.get_queue_stats()
    assert (stats.tasks, stats.rejected, stats.total_rejected) == (1, 1, 1)


async def test_a_limit_counts_requeued_deliveries_but_not_those_given_back(queue: Torrelque) -> None:
    task_id = await queue.enqueue('poison', max_dequeues=2)
    await queue.giveback(await queue.dequeue(5))
    for _ in range(2):
        await queue.requeue(await queue.dequeue(5))
    assert await queue.dequeue_nowait() == []
    ((rejected_id, state),) = [each async for each in queue.rejected()]
    assert rejected_id == task_id
    assert state.reason == 'delivered 2 times, the limit is 2'


async def test_a_requeue_that_does_not_count_is_no_attempt(queue: Torrelque) -> None:
    task_id = await queue.enqueue('patient', max_dequeues=2)
    for delivery in range(1, 5):
        task = await queue.dequeue(5)
        assert (task.dequeue_count, task.attempt) == (delivery, 1)
        if delivery % 2:
            await queue.requeue(task, count=False)
        else:
            assert await queue.requeue_many([RequeueItem(task, count=False)]) == [None]
    await queue.requeue(await queue.dequeue(5))
    last = await queue.dequeue(5)
    assert (last.dequeue_count, last.attempt) == (6, 2)
    await queue.requeue_many([last], count=False)
    await queue.requeue(await queue.dequeue(5))
    assert await queue.dequeue_nowait() == []
    assert (await queue.get_task_state(task_id)).reason == 'delivered 2 times, the limit is 2'
    assert await queue.redrive(task_id) == 1
    task = await queue.dequeue(5)
    assert task.attempt == 1
    await queue.reject(task, 'poison')
    assert await queue.purge(task) == 1  # not the id and the payload, of which a task consists


async def test_redriving_counts_the_deliveries_anew(queue: Torrelque) -> None:
    task_id = await queue.enqueue('poison', max_dequeues=1)
    await queue.requeue(await queue.dequeue(5))
    for _ in range(2):
        assert await queue.dequeue_nowait() == []
        assert await queue.redrive(task_id) == 1
        state = await queue.get_task_state(task_id)
        assert (state.status, state.reason, state.release_time) == (TorrelqueTaskStatus.PENDING, None, None)
        task = await queue.dequeue(5)
        assert (task.id, task.attempt) == (task_id, 1)
        assert task.dequeue_count > 1
        await queue.requeue(task)


def test_a_repeated_claim_tells_the_same_attempt() -> None:
    server, script = MemoryServer(lambda: 1.0), load()['claim']
    lane, client = Lane(), Lanes(load(), Keys.of_queue('q'), 'n')

    def do(verb: Command, item: Item) -> None:
        assert blocking_drive(client.call(verb.name, verb.arguments([item]), verb.parse), server.execute) == [
            Outcome.OK
        ]

    item = enqueue_item('a', b'data', 300, None, None, b'')
    blocking_drive(client.call('enqueue', ENQUEUE.arguments([item]), ENQUEUE.parse), server.execute)
    for attempt in (1, 2, 1):
        answer = blocking_drive(claim(client, 1, 0.0, lane, 0.0), server.execute)
        (task,) = answer.tasks
        words = (lane.number, lane.nonce, lane.sequence, 1, '0.000000')
        repeat = server.call(Call(script, client.script('claim', (), as_is).keys, words))
        assert (task.attempt, int(repeat[-1].split()[1])) == (attempt, attempt)
        if attempt == 1:
            do(REQUEUE, requeue_item(task.receipt, None, None))
        else:
            do(REJECT, reject_item(task.receipt, 'why'))
            do(REDRIVE, redrive_item('a', 0.0))
    assert task.receipt.dequeue_count == 3


async def test_redriving_wakes_a_consumer(queue: Torrelque) -> None:
    task_id = await queue.enqueue('a')
    await reject_all(queue)
    async with anyio.create_task_group() as tasks:

        async def consume() -> None:
            await queue.release(await queue.dequeue())

        tasks.start_soon(consume)
        assert await queue.redrive([task_id]) == 1


async def test_all_are_redriven_in_steps_the_oldest_first(queue: Torrelque) -> None:
    await queue.enqueue_many(range(1300))
    await reject_all(queue)
    await reject_all(queue)
    assert (await queue.get_queue_stats()).rejected == 1300
    assert await queue.redrive(limit=2) == 2
    assert [task.data for task in await queue.dequeue_nowait(max_tasks=5)] == [0, 1]
    assert await queue.redrive() == 1298
    assert await queue.redrive() == 0
    assert (await queue.get_queue_stats())[:5] == (1300, 1298, 2, 0, 0)


async def test_purging_leaves_nothing(queue: Torrelque) -> None:
    ids = [await queue.enqueue(number) for number in range(3)]
    await reject_all(queue)
    assert await queue.purge(ids[0]) == 1
    assert await queue.purge(older_than=0, limit=1) == 1
    assert await queue.purge(older_than=0) == 1
    for task_id in ids:
        with pytest.raises(TorrelqueLookupError):
            await queue.get_task_state(task_id)
    assert [each async for each in queue.tasks()] == []


@pytest.mark.parametrize('age', [0.5, 60.0])
async def test_purging_by_age(age: float) -> None:
    clock = VirtualClock()
    async with Torrelque(MemoryTransport(clock=clock)) as queue:
        old = await queue.enqueue('old')
        await reject_all(queue)
        await clock.advance(age)
        young = await queue.enqueue('young')
        await reject_all(queue)
        assert await queue.purge(older_than=age) == 1
        assert [task_id async for task_id, _ in queue.rejected()] == [young]
        assert old != young


async def test_watch_and_wait_end(queue: Torrelque) -> None:
    task_id = await queue.enqueue('a')
    async with anyio.create_task_group() as tasks:

        async def watch() -> None:
            assert [state.status async for state in queue.watch(task_id)][-1] is TorrelqueTaskStatus.REJECTED

        tasks.start_soon(watch)
        await reject_all(queue)
        assert (await queue.wait(task_id, 5)).reason == 'no good'


async def test_an_unknown_id_changes_nothing(queue: Torrelque) -> None:
    dead = await queue.enqueue('dead')
    await reject_all(queue)
    alive = await queue.enqueue('alive')
    for call in (queue.redrive, queue.purge):
        with pytest.raises(TorrelqueLookupError, match=alive):
            await call([dead, alive])
    assert [task_id async for task_id, _ in queue.rejected()] == [dead]


class Fussy:
    """Does not take everything back."""

    def dumps(self, task: object) -> bytes:
        return json.dumps(task).encode()

    def loads(self, data: bytes) -> Any:  # noqa: ANN401 - as a serialiser's
        if b'broken' in data:
            raise ValueError('that is broken')
        return json.loads(data)


async def rejected_times(queue: Torrelque) -> dict[str, float | None]:
    return {task_id: state.release_time async for task_id, state in queue.rejected()}


async def test_a_cap_on_what_was_there_before_is_reached_in_steps() -> None:
    clock = VirtualClock()
    transport = MemoryTransport(clock=clock)
    async with Torrelque(transport) as queue, Torrelque(transport, max_rejected=5) as capped:
        await queue.enqueue_many(range(100))
        for task in await queue.dequeue_nowait(max_tasks=100):
            await queue.reject(task, 'no good')
            await clock.advance(1)
        before = await rejected_times(queue)
        left = []
        for number in range(6):
            await queue.enqueue(number)
            await reject_all(capped)
            left.append(len(await rejected_times(queue)))
            await clock.advance(1)
        assert left == [80, 60, 40, 20, 5, 5]  # one and twenty more each time
        await queue.enqueue('beside')
        await reject_all(queue)  # a queue object without a cap removes none
        after = await rejected_times(queue)
        assert len(after) == 6
        assert not before.keys() & after.keys()
        assert (await queue.get_queue_stats()).total_rejected == 107


@pytest.mark.parametrize('how', ['claim', 'sweep', 'undeserialisable'])
async def test_whatever_adds_dead_letters_minds_the_cap(how: str) -> None:
    clock = VirtualClock()
    transport = MemoryTransport(clock=clock)
    async with Torrelque(transport, max_dequeues=1, max_rejected=3, serialiser=Fussy()) as queue:
        ids = []
        for number in range(7):  # taken back one after another, and all at once
            ids.append(await queue.enqueue('broken' if how == 'undeserialisable' else number, task_timeout=1))
            await queue.dequeue_nowait()
        await clock.advance(2)
        if how == 'claim':
            assert await queue.dequeue_nowait() == []
        elif how == 'sweep':
            await queue.sweep()
        await clock.advance(1)
        assert (await rejected_times(queue)).keys() < set(ids)
        stats = await queue.get_queue_stats()
        assert (stats.rejected, stats.total_rejected, stats.tasks) == (3, 7, 0)


async def test_bad_arguments(queue: Torrelque) -> None:
    with pytest.raises(TorrelqueTypeError, match='either'):
        await queue.purge()
    with pytest.raises(TorrelqueTypeError, match='either'):
        await queue.purge('a', older_than=1)
    with pytest.raises(TorrelqueValueError, match='-1'):
        await queue.purge(older_than=-1)
    for limit in (0, -1):
        with pytest.raises(TorrelqueValueError, match='limit'):
            await queue.redrive(limit=limit)
    with pytest.raises(TorrelqueTypeError):
        await queue.redrive([b'bytes'])  # type: ignore[list-item]  # that is the test

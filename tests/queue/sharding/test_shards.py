"""A queue over several shards: where its tasks lie, how consumers find them, and what they cost while they wait."""

from __future__ import annotations

from collections import Counter
from typing import Any

import anyio
import pytest
import redis.asyncio

from tests.queue.sharding.support import SETTINGS, SOON, Place, Watched, in_memory
from torrelque import (
    Durability,
    EnqueueItem,
    Task,
    Torrelque,
    TorrelqueLookupError,
    TorrelqueShardsError,
    TorrelqueTaskStatus,
    TorrelqueTypeError,
    TorrelqueUsageError,
    TorrelqueValueError,
    Worker,
    queues,
)
from torrelque.core.protocol import Call
from torrelque.core.sharding.consumers import FAIRNESS
from torrelque.core.sharding.layout import home_of
from torrelque.testing import MemoryTransport, VirtualClock

pytestmark = pytest.mark.anyio

# Where tasks lie -----------------------------------------------------------------------------------------------------


async def test_keys_and_homes(place: Place) -> None:
    async with place.queue(4) as queue:
        ids = [*await queue.enqueue_many(range(1000)), await queue.enqueue('own', task_id='chosen')]
    keys = place.keys()
    assert all(key.startswith(('{email}:', '{email:')) for key in keys - {'email:counters'})
    hashes = {key for key in keys if ':task:' in key}
    assert hashes == {f'{{email:{home_of(str(task_id), 4)}}}:task:{task_id}' for task_id in ids}
    assert {f'{{email:{shard}}}:pending' for shard in range(4)} < keys
    assert '{email}:counters' in keys


async def test_calls_that_come_one_after_the_other_spread_evenly(place: Place) -> None:
    async with place.queue(4) as queue:
        ids = [await queue.enqueue(number) for number in range(120)]
        homes = [home_of(task_id, 4) for task_id in ids]
        of_shard = Counter(homes)
        of_server = Counter(queue._transport.node_of(f'{{email:{home}}}:pending'.encode()) for home in homes)
    assert len(of_shard) == 4
    assert len(of_server) == max(1, len(place.servers))
    assert max(of_server.values()) - min(of_server.values()) <= 3
    if len(of_server) == 1:
        assert max(of_shard.values()) - min(of_shard.values()) <= 3


@in_memory
async def test_calls_made_at_once_go_to_one_shard_in_one_call() -> None:
    transport, ids = Watched(), list[str]()

    async def enqueue(queue: Torrelque) -> None:
        ids.append(await queue.enqueue('data'))

    async with Torrelque(transport, queue='email', shards=8) as queue:
        await queue.enqueue('the first opens the queue')
        transport.taken()
        async with anyio.create_task_group() as group:
            for _ in range(50):
                group.start_soon(enqueue, queue)
    assert len({home_of(task_id, 8) for task_id in ids}) == 1
    assert transport.taken().count('enqueue') == 1


@in_memory
async def test_many_at_once_are_spread(place: Place) -> None:
    async with place.queue(4) as queue:
        ids = await queue.enqueue_many(range(2000))
    counts = Counter(home_of(str(task_id), 4) for task_id in ids)
    assert [counts[shard] for shard in range(4)] == [500] * 4


# Consumers -----------------------------------------------------------------------------------------------------------


def id_of(shard: int, number: int, shards: int) -> str:
    """The id of a task of one shard."""
    return next(name for at in range(1000) if home_of(name := f'{number}-{at}', shards) == shard)


async def test_every_task_is_taken_once_by_any_of_the_waiting(place: Place) -> None:
    got: list[int] = []

    async def consume(queue: Torrelque) -> None:
        while True:
            for task in await queue.dequeue(max_tasks=5):
                await queue.release(task)
                got.append(task.data)
            if len(got) >= 200:
                group.cancel_scope.cancel()

    async with place.queue(5) as producer, place.queue(5) as one, place.queue(5) as other:
        with anyio.fail_after(SOON):
            async with anyio.create_task_group() as group:
                for queue in (one, one, other):
                    group.start_soon(consume, queue)
                await producer.enqueue_many(range(100))
                for number in range(100, 200):
                    await producer.enqueue(number)
        assert sorted(got) == list(range(200))
        assert (await producer.get_queue_stats())[:5] == (0, 0, 0, 0, 0)


@in_memory
async def test_one_task_does_not_wait_for_thousands_of_another_shard() -> None:
    clock = VirtualClock()
    async with Torrelque(MemoryTransport(clock=clock), queue='email', shards=4) as queue:
        await queue.enqueue_many(EnqueueItem('many', task_id=id_of(0, number, 4)) for number in range(2000))
        assert [(await queue.dequeue()).data for _ in range(3)] == ['many'] * 3
        await queue.enqueue('one', task_id=id_of(1, 0, 4))
        await clock.advance(1.1 * FAIRNESS)
        assert 'one' in [(await queue.dequeue()).data for _ in range(4)]


@in_memory
async def test_nor_while_consumers_never_wait(place: Place) -> None:
    found = anyio.Event()

    async def consume(queue: Torrelque) -> None:
        while not found.is_set():
            if (await queue.dequeue()).data == 'one':
                found.set()

    async with place.queue(4) as queue:
        await queue.enqueue_many(EnqueueItem('many', task_id=id_of(0, number, 4)) for number in range(4000))
        with anyio.fail_after(SOON):
            async with anyio.create_task_group() as group:
                for _ in range(4):
                    group.start_soon(consume, queue)
                await queue.enqueue('one', task_id=id_of(3, 0, 4))
                await found.wait()
                group.cancel_scope.cancel()
        assert (await queue.get_queue_stats()).pending > 0


async def test_no_fewer_are_taken_than_there_are(place: Place) -> None:
    """However the answers of the servers come in, also just after a consumer has given up."""
    async with place.queue(5) as producer, place.queue(5) as consumer:
        for round_ in range(60):
            await producer.enqueue_many(range(12))
            for number in range(3):
                await producer.enqueue(number)
            tasks = await consumer.dequeue_nowait(max_tasks=10)
            assert len(tasks) == 10
            tasks += await consumer.dequeue_nowait(max_tasks=10)
            assert len(tasks) == 15
            await consumer.release_many(tasks)
            if round_ % 3 == 0:
                with anyio.move_on_after(0.001):
                    await consumer.dequeue()


async def test_several_at_once_are_of_all_shards(place: Place) -> None:
    async with place.queue(4) as queue:
        for number in range(20):
            await queue.enqueue(number)
        tasks = await queue.dequeue_nowait(max_tasks=16)
        assert len(tasks) == 16
        assert len(await queue.dequeue(max_tasks=16)) == 4
        assert await queue.dequeue_nowait(max_tasks=16) == []
        assert await queue.release_many(tasks) == [None] * 16


@in_memory
@pytest.mark.parametrize(('shards', 'places'), [(1, 1), (4, 1), (16, 1), (4, 3), (16, 3), (64, 3)])
async def test_an_idle_consumer_costs_a_look_and_a_wait_a_server_and_slice(shards: int, places: int) -> None:
    clock = VirtualClock()
    transport, counts = Watched(places, clock=clock), Counter[str]()
    async with Torrelque(transport, queue='email', shards=shards) as queue, anyio.create_task_group() as group:
        for _ in range(10):
            group.start_soon(queue.dequeue)
        await clock.advance(0)
        transport.taken()
        await clock.advance(80)
        counts.update(transport.taken())
        group.cancel_scope.cancel()
    assert set(counts) == {'survey', 'BZPOPMIN'}
    assert 9 * places <= counts['BZPOPMIN'] <= 13 * places  # a slice lasts from 85 % to all of 8 s
    assert abs(counts['survey'] - counts['BZPOPMIN']) <= places


@pytest.mark.parametrize('setting', SETTINGS[1:], ids=str)
@pytest.mark.parametrize('shards', [1, 16])
async def test_one_connection_waits_on_each_server(place: Place, shards: int) -> None:
    async with place.queue(shards) as queue:
        homes = min(shards, len(place.servers))
        with anyio.fail_after(SOON):
            async with anyio.create_task_group() as group:
                for _ in range(5):
                    group.start_soon(queue.dequeue)
                while sum(place.blocked()) < homes:  # noqa: ASYNC110 - only the servers know
                    await anyio.sleep(0.005)
                assert sum(place.blocked()) == homes
                assert max(place.blocked()) == 1
                group.cancel_scope.cancel()


async def test_a_delayed_task_starts_in_time_without_a_sweep(place: Place) -> None:
    got: list[Task] = []

    async def consume(queue: Torrelque) -> None:
        got.append(await queue.dequeue())

    async with place.queue(4) as queue, place.queue(4) as other:
        with anyio.fail_after(SOON):
            async with anyio.create_task_group() as group:
                for each in (queue, queue, other, other):
                    group.start_soon(consume, each)
                for number, delay in enumerate((0.1, 0.25, 0.15, 0.2)):
                    await queue.enqueue(delay, delay=delay, task_id=id_of(number, 0, 4))
        assert sorted(task.data for task in got) == [0.1, 0.15, 0.2, 0.25]
        for task in got:
            state = await queue.get_task_state(task)
            assert state.last_dequeue_time is not None
            assert state.enqueue_time is not None
            assert 0 <= state.last_dequeue_time - state.enqueue_time - task.data < 5  # milliseconds are usual


# Everything else -----------------------------------------------------------------------------------------------------


async def test_a_task_is_found_by_its_id(place: Place) -> None:
    seen: list[TorrelqueTaskStatus] = []
    results: dict[str, Any] = {}

    async with place.queue(4) as queue:
        ids = [await queue.enqueue(number) for number in range(8)]

        async def wait(task_id: str) -> None:
            results[task_id] = (await queue.wait(task_id)).result

        async def watch(task_id: str) -> None:
            async for state in queue.watch(task_id):
                seen.append(state.status)  # noqa: PERF401 - what came so far counts

        with anyio.fail_after(SOON):
            async with anyio.create_task_group() as group:
                group.start_soon(watch, ids[0])
                for task_id in ids:
                    group.start_soon(wait, task_id)
                for _ in ids:
                    task = await queue.dequeue()
                    await queue.release(task, result=task.data * 2)
        assert results == {task_id: number * 2 for number, task_id in enumerate(ids)}
        assert seen[-1] is TorrelqueTaskStatus.COMPLETED
        assert [(await queue.get_task_state(task_id)).result for task_id in ids] == [n * 2 for n in range(8)]
        with pytest.raises(TorrelqueLookupError):
            await queue.get_task('unknown')


async def test_what_looks_at_all_looks_at_all_shards(place: Place) -> None:
    async with place.queue(4) as queue:
        for number in range(40):
            await queue.enqueue(number)
        for number in range(8):
            await queue.enqueue(number, delay=3600)
        dead, done = await queue.dequeue_nowait(max_tasks=10), await queue.dequeue_nowait(max_tasks=10)
        for task in dead:
            await queue.reject(task, 'why')
        await queue.release_many(done)
        stats = await queue.get_queue_stats()
        assert stats[:5] == (28, 20, 0, 8, 10)
        assert (stats.total_enqueued, stats.total_claimed, stats.total_completed) == (48, 20, 10)
        assert {task_id async for task_id, _ in queue.rejected()} == {task.id for task in dead}
        assert len({task_id async for task_id, _ in queue.tasks()}) == 38
        assert len({task_id async for task_id, _ in queue.tasks(TorrelqueTaskStatus.DELAYED)}) == 8
        assert await queue.audit() == []
        assert await queue.redrive([task.id for task in dead[:3]]) == 3
        assert await queue.redrive(limit=3) == 3
        assert await queue.purge(dead[9].id) == 1
        assert await queue.purge(older_than=0) == 3
        assert (await queue.get_queue_stats())[:5] == (34, 26, 0, 8, 0)
        assert [name async for name in queues(queue._client)] == ['email']


async def test_a_sweep_is_of_all_shards(place: Place) -> None:
    async with place.queue(4) as queue:
        for number in range(12):
            await queue.enqueue(number, delay=0.001, task_id=id_of(number % 4, number, 4))
        await anyio.sleep(0.002)
        assert await queue.sweep() == (0, 12, 0)
        assert (await queue.get_queue_stats()).pending == 12
        for number in range(8):
            await queue.enqueue(number, group=f'group {number}', expires_in=0.001)
        await anyio.sleep(0.002)
        assert await queue.sweep() == (0, 0, 0)
        assert (await queue.get_queue_stats()).total_expired == 8


@in_memory
async def test_an_audit_tells_of_every_shard_and_repairs(place: Place) -> None:
    async with place.client() as client, Torrelque(client, queue='email', shards=4) as queue:
        ids = [await queue.enqueue(number) for number in range(8)]
        await client.execute([Call('DEL', (f'{{email:{shard}}}:pending',)) for shard in range(4)])
        assert {found.task_id for found in await queue.audit()} >= set(ids)
        assert all(found.repaired for found in await queue.audit(repair=True))
        assert await queue.audit() == []
        assert len(await queue.dequeue_nowait(max_tasks=8)) == 8


async def test_a_worker_works_off_all_shards(place: Place) -> None:
    done: list[int] = []

    async def handle(task: Task) -> None:
        done.append(task.data)
        if len(done) == 60:
            worker.stop()

    async with place.queue(4) as queue:
        for number in range(60):
            await queue.enqueue(number)
        worker = Worker(queue, handle, concurrency=10)
        with anyio.fail_after(SOON):
            await worker.run()
        assert sorted(done) == list(range(60))
        assert (await queue.get_queue_stats())[:2] == (0, 0)


@pytest.mark.parametrize('setting', SETTINGS[1:2], ids=str)
async def test_a_pipeline_of_redis_py(place: Place) -> None:
    (server,) = place.servers
    client = redis.asyncio.Redis.from_url(server.url)
    async with Torrelque(client, queue='email', shards=4) as queue:
        async with client.pipeline(transaction=True) as pipeline:
            for number in range(8):
                await queue.enqueue(number, pipeline=pipeline, task_id=id_of(number % 4, number, 4))
            await pipeline.execute()
        tasks = await queue.dequeue_nowait(max_tasks=8)
        assert sorted(task.data for task in tasks) == list(range(8))
        async with client.pipeline() as pipeline:
            await queue.release(tasks[0], pipeline=pipeline)
            await queue.requeue(tasks[1], pipeline=pipeline)
            await pipeline.execute()
        assert (await queue.get_queue_stats())[:3] == (7, 1, 6)
    await client.aclose()


@pytest.mark.parametrize('setting', SETTINGS[1:2], ids=str)
async def test_what_is_confirmed_is_confirmed_by_the_shard(place: Place) -> None:
    async with place.client() as client:
        durable = Torrelque(client, queue='email', shards=4, durability=Durability(replicas=1, timeout=0.05))
        async with durable as queue, Torrelque(client, queue='email', shards=4) as other:
            for number in range(4):
                with pytest.raises(Exception, match='confirmed'):
                    await queue.enqueue(number)
            assert (await other.get_queue_stats()).pending == 4


# What is refused -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ('options', 'error', 'message'),
    [
        ({'shards': 0}, TorrelqueValueError, 'shards'),
        ({'shards': -1}, TorrelqueValueError, 'shards'),
        ({'shards': 1001}, TorrelqueValueError, 'at most 1000, got 1001'),
        ({'shards': True}, TorrelqueTypeError, 'True'),
        ({'shards': '3'}, TorrelqueTypeError, "'3'"),
        ({'shards': 2.0}, TorrelqueTypeError, '2.0'),
        ({'shards': 2, 'queue': '{email}'}, TorrelqueValueError, 'braces'),
        ({'shards': 2, 'queue': 'e}mail'}, TorrelqueValueError, 'braces'),
        ({'shards': 2, 'queue': 'email:1'}, TorrelqueValueError, 'end like that of a shard'),
    ],
)
def test_bad_arguments(options: dict[str, Any], error: type[Exception], message: str) -> None:
    transport = Watched()
    with pytest.raises(error, match=message):
        Torrelque(transport, **options)
    assert transport.taken() == []


@in_memory
@pytest.mark.parametrize('shards', [0, 1001, True, '3', None])
async def test_a_bad_number_to_reshard_to(shards: Any) -> None:  # noqa: ANN401 - of the wrong type
    transport = Watched()
    async with Torrelque(transport, queue='email', shards=2) as queue:
        with pytest.raises((TorrelqueTypeError, TorrelqueValueError), match='shards'):
            await queue.reshard(shards)
        assert transport.taken() == []


@in_memory
async def test_a_plain_queue_is_not_resharded() -> None:
    transport = Watched()
    async with Torrelque(transport, queue='email') as queue:
        with pytest.raises(TorrelqueUsageError, match='shards'):
            await queue.reshard(4)
    assert transport.taken() == []


async def test_another_number_is_told_and_nothing_done(place: Place) -> None:
    async with place.queue(4) as queue:
        await queue.enqueue('data', task_id='a')
        before = place.keys()
        async with place.queue(3) as other:
            for call in (
                lambda: other.enqueue('data'),
                lambda: other.enqueue_many(['data']),
                lambda: other.dequeue(1),
                other.dequeue_nowait,
                lambda: other.cancel('a'),
                other.sweep,
                other.get_queue_stats,
            ):
                with pytest.raises(TorrelqueShardsError, match='has 4 shards, not 3: pass shards=4'):
                    await call()
        assert place.keys() == before
        assert (await queue.get_queue_stats())[:2] == (1, 1)


async def test_keys_of_a_plain_queue_are_not_taken(place: Place) -> None:
    async with place.client() as client, Torrelque(client, queue='email') as plain:
        await plain.enqueue('data')
        before = place.keys()
        async with place.queue(2) as queue:
            with pytest.raises(TorrelqueUsageError, match='without shards already'):
                await queue.enqueue('data')
        assert place.keys() == before


async def test_of_several_who_open_a_queue_at_once_one_number_wins(place: Place) -> None:
    won: list[int] = []
    told: list[int] = []

    async def enqueue(queue: Torrelque, shards: int) -> None:
        try:
            await queue.enqueue(shards)
        except TorrelqueShardsError:
            told.append(shards)
        else:
            won.append(shards)

    async with (
        place.queue(2) as two,
        place.queue(3) as three,
        place.queue(5) as five,
        anyio.create_task_group() as group,
    ):
        for queue, shards in ((two, 2), (three, 3), (five, 5)):
            group.start_soon(enqueue, queue, shards)
    (number,) = won
    assert sorted([number, *told]) == [2, 3, 5]
    async with place.queue(number) as queue:
        assert [task.data for task in await queue.dequeue_nowait(max_tasks=9)] == [number]

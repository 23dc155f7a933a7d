"""What is recorded about the shards of a queue: it is restored where it was lost, and keeps others from the keys."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import anyio
import pytest
import redis.asyncio

from tests.queue.sharding.support import SETTINGS, SOON, Place, in_memory
from torrelque import (
    EnqueueItem,
    Torrelque,
    TorrelqueError,
    TorrelqueShardsError,
    TorrelqueUsageError,
    queues,
    shards_of,
)
from torrelque.core.keys import shard_name
from torrelque.core.protocol import Call
from torrelque.core.sharding.layout import home_of
from torrelque.transports.base import Transport

pytestmark = pytest.mark.anyio


async def counted(place: Place, total: int) -> list[Any]:
    """Enqueue some tasks by one object and take them by another, new one; their data."""
    async with place.queue(total) as producer, place.queue(total) as consumer:
        await producer.enqueue_many(range(20))
        tasks = await consumer.dequeue_nowait(max_tasks=50)
        await consumer.release_many(tasks)
        return sorted(task.data for task in tasks)


# What was lost -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize('first', ['producer', 'consumer', 'reader'])
async def test_a_server_that_was_emptied(place: Place, first: str) -> None:
    """Whichever of the objects that are open uses it first restores the record; those opened then find it."""
    async with place.queue(4) as producer, place.queue(4) as consumer:
        await producer.enqueue_many(range(8))
        assert len(await consumer.dequeue_nowait(max_tasks=8)) == 8
        place.flush()
        if first == 'consumer':
            assert await consumer.dequeue_nowait() == []
        elif first == 'reader':
            assert (await producer.get_queue_stats()).tasks == 0
        await producer.enqueue_many(EnqueueItem(number, task_id=f'chosen {number}') for number in range(20))
        async with place.queue(4) as new:
            assert (await new.get_queue_stats()).pending == 20
            assert await new.audit() == []
            await new.enqueue('new')
            assert len(await consumer.dequeue_nowait(max_tasks=50)) == 21
        with pytest.raises(TorrelqueShardsError, match='has 4 shards, not 3'):
            async with place.queue(3) as other:
                await other.enqueue('other')


async def test_an_idle_consumer_restores_it_within_a_slice(place: Place) -> None:
    async with place.queue(4, block_limit=0.2) as consumer, place.client() as client:
        await consumer.enqueue('data')
        await consumer.dequeue()
        with anyio.fail_after(SOON):
            async with anyio.create_task_group() as group:
                group.start_soon(consumer.dequeue)
                await anyio.sleep(0.05)
                place.flush()
                while await shards_of(client, 'email') != 4:  # noqa: ASYNC110 - only the server knows
                    await anyio.sleep(0.02)
                group.cancel_scope.cancel()


@pytest.mark.parametrize('lost', ['main', 'mark', '0', '2', 'main and 1', 'main and 1 and 2'])
async def test_a_record_that_is_lost_here_and_there(place: Place, lost: str) -> None:
    names = {'main': '{email}', 'mark': 'email', **{str(shard): shard_name('email', shard) for shard in range(4)}}
    async with place.queue(4) as running:
        await running.enqueue_many(range(8))
        place.delete(*(f'{names[each]}:counters' for each in lost.split(' and ')))
        with pytest.raises(TorrelqueShardsError, match='has 4 shards, not 5'):
            async with place.queue(5) as other:
                await other.enqueue('other')
        async with place.queue(4) as new, place.client() as client:
            await new.enqueue_many(range(8))
            await new.get_queue_stats()
            assert await shards_of(client, 'email') == 4
            await running.enqueue_many(range(8))
            assert len(await new.dequeue_nowait(max_tasks=50)) == 24
            assert [name async for name in queues(client)] == ['email']


async def test_who_opens_it_anew_with_another_number_decides(place: Place) -> None:
    async with place.queue(4) as running:
        await running.enqueue('lost')
        place.flush()
        async with place.queue(3) as new:
            await new.enqueue('new')
            for number in range(8):
                await running.enqueue(number)
            assert len(await new.dequeue_nowait(max_tasks=50)) == 9
            assert await new.audit() == []


async def test_an_object_with_an_old_number_adds_nothing_where_the_record_is_lost(place: Place) -> None:
    async with place.queue(2) as stale, place.queue(2) as operator:
        await stale.enqueue_many(range(4))
        await operator.reshard(5)
        for shard in range(5):
            place.delete(f'{shard_name("email", shard)}:counters')
        ids = await stale.enqueue_many(EnqueueItem(number, task_id=f'chosen {number}') for number in range(20))
        assert {f'{{email:{home_of(str(task_id), 5)}}}:task:{task_id}' for task_id in ids} <= place.keys()


# Queues without shards -----------------------------------------------------------------------------------------------


def calls(queue: Torrelque) -> list[Callable[[], Awaitable[Any]]]:
    """Every kind of call."""

    async def listed() -> list[Any]:
        return [each async for each in queue.tasks()]

    async def watched() -> list[Any]:
        return [each async for each in queue.watch('a')]

    return [
        lambda: queue.enqueue('data'),
        lambda: queue.enqueue_many(['data']),
        lambda: queue.dequeue(0.5),
        queue.dequeue_nowait,
        lambda: queue.release('a'),
        lambda: queue.requeue('a'),
        lambda: queue.reject('a', 'why'),
        lambda: queue.extend('a'),
        lambda: queue.release_many(['a']),
        lambda: queue.cancel('a'),
        queue.redrive,
        lambda: queue.redrive('a'),
        lambda: queue.purge(older_than=0),
        queue.sweep,
        queue.audit,
        queue.get_queue_stats,
        lambda: queue.get_task('a'),
        lambda: queue.get_task_state('a'),
        lambda: queue.wait('a'),
        watched,
        listed,
        lambda: queue.reshard(3),
    ]


async def test_an_object_without_shards_is_refused_on_a_queue_that_has_them(place: Place) -> None:
    async with place.queue(4) as sharded, place.client() as client, Torrelque(client, queue='email') as plain:
        await sharded.enqueue('data', task_id='a')
        before = place.keys()
        for number, call in enumerate(calls(plain)):
            with pytest.raises(TorrelqueUsageError, match='shards') as caught:
                await call()
            assert 'pass shards=4' in str(caught.value) or number == len(calls(plain)) - 1
        assert {key for key in place.keys() - before if ':lane:' not in key and ':epoch' not in key} == set()
        assert (await sharded.get_queue_stats())[:2] == (1, 1)


async def test_another_number_is_refused_for_every_call(place: Place) -> None:
    async with place.queue(4) as sharded, place.queue(3) as other:
        await sharded.enqueue('data', task_id='a')
        for call in calls(other)[:-1]:
            with pytest.raises(TorrelqueShardsError, match='has 4 shards, not 3: pass shards=4'):
                await call()


async def test_an_object_from_before_the_queue_had_shards_is_refused(place: Place) -> None:
    async with place.client() as client, Torrelque(client, queue='email') as plain:
        assert await plain.dequeue_nowait() == []
        assert (await plain.get_queue_stats()).tasks == 0
        async with place.queue(2) as sharded:
            await sharded.enqueue('data')
            with pytest.raises(TorrelqueShardsError):
                await plain.enqueue('data')
            with pytest.raises(TorrelqueShardsError):
                await plain.get_queue_stats()
            with pytest.raises(TorrelqueShardsError):
                await plain.dequeue_nowait()


@pytest.mark.parametrize('setting', SETTINGS[1:2], ids=str)
async def test_a_pipeline_is_refused_with_an_error(place: Place) -> None:
    (server,) = place.servers
    client = redis.asyncio.Redis.from_url(server.url)
    async with place.queue(2) as operator, Torrelque(client, queue='email', shards=2) as stale:
        await operator.enqueue('data')
        await stale.get_queue_stats()
        await operator.reshard(5)
        async with client.pipeline() as pipeline:
            await stale.enqueue('lost', pipeline=pipeline)
            with pytest.raises(redis.ResponseError, match='RESHARDED'):
                await pipeline.execute()
        async with Torrelque(client, queue='email') as plain, client.pipeline() as pipeline:
            await plain.enqueue('lost', pipeline=pipeline)
            with pytest.raises(redis.ResponseError, match='SHARDED'):
                await pipeline.execute()
        assert (await operator.get_queue_stats()).tasks == 1
    await client.aclose()


@in_memory
async def test_a_queue_without_shards_pays_one_look(place: Place) -> None:
    """That of the first call that reads; to add and to claim tasks none."""
    executed: list[Any] = []
    async with place.client() as client, Torrelque(client, queue='email') as plain:
        execute = client.execute

        async def watched(batch: Any) -> Any:  # noqa: ANN401 - as of the transport
            executed.append(batch)
            return await execute(batch)

        await plain.enqueue('data', task_id='a')
        client.execute = watched  # type: ignore[method-assign]
        client.start = Transport.start.__get__(client)  # type: ignore[method-assign]  # so that all is executed
        await plain.enqueue('more')
        await plain.release(await plain.dequeue())
        assert len(executed) == 3 + 1  # a lane for the claim
        executed.clear()
        for _ in range(3):
            await plain.get_queue_stats()
            with pytest.raises(TorrelqueError):
                await plain.get_task_state('a')
        assert len(executed) == 6 + 1


async def test_keys_of_another_queue_are_never_taken_over(place: Place) -> None:
    """Of one without shards that is named like a shard, on a server that was emptied."""
    async with place.queue(3) as sharded, place.client() as client:
        await sharded.enqueue('data')
        place.flush()
        async with Torrelque(client, queue='{email:1}') as plain:
            await plain.enqueue('plain')
            before = place.keys()
            for _ in range(2):
                with pytest.raises(TorrelqueUsageError, match='without shards already'):
                    await sharded.enqueue_many(EnqueueItem(number, task_id=f'{number}') for number in range(9))
            async with place.queue(3) as new:
                with pytest.raises(TorrelqueUsageError, match='without shards already'):
                    await new.enqueue('new')
            assert b'{email:1}:tasks' in {key.encode() for key in before}
            assert (await plain.get_queue_stats()).tasks == 1
            assert await plain.audit() == []


# Audits --------------------------------------------------------------------------------------------------------------


async def test_an_audit_finds_and_restores_records(place: Place) -> None:
    async with place.queue(3) as queue:
        await queue.enqueue_many(range(9))
        on_cluster = len(place.servers) > 1
        lost = ['{email}:counters', '{email:1}:counters', *([] if on_cluster else ['email:counters'])]
        for key in lost:
            place.delete(key)
            found = [each for each in await queue.audit() if each.kind == 'record']
            assert key == '{email}:counters' or {each.key for each in found} == {key}  # that is restored by any call
            found = [each for each in await queue.audit(repair=True) if each.kind == 'record']
            assert all(each.repaired for each in found)
            assert await queue.audit() == []


async def test_tasks_that_were_added_without_shards_are_found_and_moved(place: Place) -> None:
    """As if an older version, or one of before the server was emptied, had added them."""
    async with place.client() as client, Torrelque(client, queue='email') as plain, place.queue(3) as queue:
        await queue.enqueue('at home', task_id='a')
        main, keys = '{email}:counters', '{email}' if len(place.servers) > 1 else 'email'
        record = await client.execute([Call('HMGET', (main,), ('generation', 'shards'))])
        place.delete(f'{keys}:counters')
        for number in range(5):
            await plain.enqueue(number, task_id=f'lost {number}', headers={'n': 'x'}, max_dequeues=3, task_timeout=7)
        await plain.enqueue('later', task_id='later', delay=3600)
        await plain.enqueue('twice', task_id='a')
        held = await plain.dequeue()
        if keys == '{email}':
            ((generation, shards),) = record
            await client.execute([Call('HSET', (main,), ('generation', generation, 'shards', shards))])
        found = [each for each in await queue.audit() if each.kind == 'stranded']
        assert {each.task_id for each in found} == {f'lost {number}' for number in range(5)} | {'later', 'a'}
        assert not any(each.repaired for each in found)
        found = [each for each in await queue.audit(repair=True) if each.kind == 'stranded']
        assert [each.task_id for each in found if not each.repaired] == [held.id]
        await plain.giveback(held)
        assert all(each.repaired for each in await queue.audit(repair=True))
        assert await queue.audit() == []
        assert (await queue.get_queue_stats())[:4] == (7, 6, 0, 1)
        tasks = await queue.dequeue_nowait(max_tasks=10)
        assert sorted(str(task.data) for task in tasks) == [*map(str, range(5)), 'at home']
        assert all(task.headers == {'n': 'x'} for task in tasks if task.id != 'a')
        state = await queue.get_task_state('lost 1')
        assert state.timeout == 7
        for call in (lambda: plain.enqueue('data'), plain.dequeue_nowait):
            with pytest.raises(TorrelqueShardsError):
                await call()


async def test_an_audit_finds_and_removes_outdated_results(place: Place) -> None:
    ids = [f'chosen {number}' for number in range(12)]
    async with place.queue(2) as queue, place.client() as client:
        await queue.enqueue_many(EnqueueItem('data', task_id=task_id) for task_id in ids)
        for task in await queue.dequeue_nowait(max_tasks=20):
            await queue.release(task, result='old')
        await queue.reshard(5)
        await queue.enqueue_many(EnqueueItem('data', task_id=task_id) for task_id in ids[:6])
        moved = [task_id for task_id in ids[:6] if home_of(task_id, 2) != home_of(task_id, 5)]
        for task_id in moved:  # as an older version left them
            key = f'{shard_name("email", home_of(task_id, 2))}:task:{task_id}'
            await client.execute([Call('HSET', (key,), ('status', '3', 'result', '"old"'))])
            await client.execute([Call('PEXPIRE', (key,), (60_000,))])
        found = await queue.audit()
        assert {(each.kind, each.task_id) for each in found} == {('outdated', task_id) for task_id in moved}
        assert all(each.repaired for each in await queue.audit(repair=True))
        assert await queue.audit() == []
        for task_id in ids:
            assert (await queue.get_task_state(task_id)).result == (None if task_id in ids[:6] else 'old')

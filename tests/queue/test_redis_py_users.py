"""0.9's users: redis-py on asyncio, whatever the client's settings, and their own pipelines."""

from __future__ import annotations

import asyncio
import gc
import logging
import pickle
import random
import warnings
from collections.abc import AsyncIterator
from typing import Any

import anyio
import pytest
import redis
import redis.asyncio
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff

from tests.servers import Server
from torrelque import (
    Task,
    Torrelque,
    TorrelqueConnectionError,
    TorrelqueLookupError,
    TorrelqueReplyError,
    TorrelqueTaskStatus,
    TorrelqueTimeoutError,
    TorrelqueTypeError,
    TorrelqueUsageError,
)

pytestmark = pytest.mark.anyio

ENOUGH = 20  # seconds, for a machine under load


@pytest.fixture(scope='module', params=[{}, {'use_uvloop': True}], ids=['asyncio', 'asyncio+uvloop'])
def anyio_backend(request: pytest.FixtureRequest) -> Any:  # noqa: ANN401 - a name and the plugin's options for it
    return 'asyncio', request.param


@pytest.fixture
async def client(server: Server) -> AsyncIterator[redis.asyncio.Redis]:
    async with redis.asyncio.Redis.from_url(server.url) as client:
        yield client


@pytest.fixture
async def queue(client: redis.asyncio.Redis) -> AsyncIterator[Torrelque]:
    queue = Torrelque(client, queue='q')
    yield queue
    await queue.aclose()


# As 0.9's users call it ----------------------------------------------------------------------------------------------


async def test_a_producer_and_a_consumer(client: redis.asyncio.Redis) -> None:
    """As in the README of 0.9: no context, positional where that was possible, the id as a string."""
    torrelque = Torrelque(client, queue='email')
    torrelque.schedule_sweep()
    await torrelque.enqueue({'foo': 1}, task_timeout=5)
    task_id, task_data = await torrelque.dequeue()
    assert task_data == {'foo': 1}
    await torrelque.requeue(task_id, 0.01, task_timeout=30)
    task_id, task_data = await torrelque.dequeue(timeout=ENOUGH)
    await torrelque.release(task_id, result={'bar': 2}, status=TorrelqueTaskStatus.COMPLETED)
    states = [state async for state in torrelque.watch(task_id, timeout=ENOUGH)]
    assert [(state.status, state.result, state.timeout) for state in states] == [
        (TorrelqueTaskStatus.COMPLETED, {'bar': 2}, 30)
    ]
    tasks, pending, working, delayed, *_ = await torrelque.get_queue_stats()
    assert (tasks, pending, working, delayed) == (0, 0, 0, 0)
    torrelque.unschedule_sweep()
    await torrelque.aclose()


async def test_the_warnings_of_0_9(queue: Torrelque, caplog: pytest.LogCaptureFixture) -> None:
    await queue.requeue('nobody')
    await queue.release('nobody')
    assert [(record.name, record.levelno) for record in caplog.records] == [('torrelque', logging.WARNING)] * 2
    assert caplog.messages[0].startswith('Inconsistent requeue of task:nobody: ')
    assert caplog.messages[1].startswith('Inconsistent release of task:nobody: ')


async def test_the_pickle_module_as_serialiser(client: redis.asyncio.Redis) -> None:
    queue = Torrelque(client, queue='q', serialiser=pickle)
    await queue.enqueue({'a', 1})
    assert (await queue.dequeue(ENOUGH)).data == {'a', 1}
    await queue.aclose()


async def test_errors_are_redis_errors_too(server: Server, queue: Torrelque) -> None:
    server.command('SET', 'q:tasks', 'not a hash')
    with pytest.raises(redis.RedisError) as caught:
        await queue.enqueue('a')
    assert isinstance(caught.value, TorrelqueReplyError)
    assert isinstance(caught.value, redis.ResponseError)
    assert caught.value.code == 'WRONGTYPE'


async def test_connection_errors_are_redis_errors_too() -> None:
    client = redis.asyncio.Redis(host='127.0.0.1', port=1, retry=Retry(NoBackoff(), 0))
    queue = Torrelque(client)
    for attempt in (queue.enqueue('a'), queue.dequeue(ENOUGH), queue.get_queue_stats()):
        with pytest.raises(redis.ConnectionError) as caught:
            await attempt
        assert isinstance(caught.value, TorrelqueConnectionError)
    await queue.aclose()
    await client.aclose()


# The client's settings -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize('decode', [False, True], ids=['bytes', 'decoded'])
async def test_a_client_that_decodes(server: Server, decode: bool) -> None:
    """Row 12: dequeue crashed."""
    async with redis.asyncio.Redis.from_url(server.url, decode_responses=decode) as client:
        queue = Torrelque(client, queue='q')
        await queue.enqueue('\u00fc')
        task_id, data = await queue.dequeue(ENOUGH)
        assert data == '\u00fc'
        await queue.release(task_id)
        await queue.aclose()


async def test_a_wait_longer_than_the_clients_timeout(server: Server) -> None:
    """Row 13: dequeue(timeout=7) raised redis.TimeoutError after 5 s, or 60."""
    async with redis.asyncio.Redis.from_url(server.url, socket_timeout=0.1) as client:
        queue = Torrelque(client, queue='q')
        begun = anyio.current_time()  # uvloop's clock is up to a millisecond behind that of the system
        with pytest.raises(TorrelqueTimeoutError):
            await queue.dequeue(timeout=0.5)
        assert anyio.current_time() >= begun + 0.5
        waiting = asyncio.create_task(queue.dequeue(ENOUGH))
        await asyncio.sleep(0.4)
        await queue.enqueue('a')
        assert (await waiting).data == 'a'
        await queue.aclose()


async def test_more_consumers_than_the_pool_has_connections(server: Server) -> None:
    pool = redis.asyncio.ConnectionPool.from_url(server.url, max_connections=3)
    async with redis.asyncio.Redis.from_pool(pool) as client:
        queue = Torrelque(client, queue='q')
        consumers = [asyncio.create_task(queue.dequeue(ENOUGH)) for _ in range(50)]
        await asyncio.sleep(0.05)
        await queue.enqueue_many(range(50))
        tasks = await asyncio.gather(*consumers)
        assert sorted(task.data for task in tasks) == list(range(50))
        await asyncio.gather(*(queue.release(task) for task in tasks))
        await queue.aclose()


async def test_cancellations_are_not_swallowed(queue: Torrelque) -> None:
    """Row 14: of 300 cancellations that coincide with a send, redis-py on Python 3.11 swallows 18."""
    draw = random.Random(2)
    for number in range(300):
        own = asyncio.create_task(queue.get_queue_stats() if number % 2 else queue.enqueue(number))
        for _ in range(draw.randrange(8)):
            await asyncio.sleep(0)
        finished = own.done()
        own.cancel()
        try:
            await own
        except asyncio.CancelledError:
            assert not finished
        else:
            assert finished, 'a cancellation was swallowed'
    listed = [task.data for task in await queue.dequeue_nowait(max_tasks=300)]
    assert len(listed) == len(set(listed))


async def test_a_cancelled_loop_ends(queue: Torrelque) -> None:
    """Wherever it is; a swallowed cancellation would let it go on."""
    draw = random.Random(3)

    async def go_on() -> None:
        while True:
            await queue.get_queue_stats()
            await queue.enqueue('a')

    for _ in range(60):
        own = asyncio.create_task(go_on())
        await asyncio.sleep(draw.uniform(0, 0.004))
        own.cancel()
        done, _ = await asyncio.wait([own], timeout=ENOUGH)
        assert done


def test_plain_asyncio_run_closing_nothing(server: Server, capsys: pytest.CaptureFixture[str]) -> None:
    """As many a script does, which has nothing but its client to close."""
    complaints: list[dict[str, Any]] = []

    async def main() -> None:
        asyncio.get_running_loop().set_exception_handler(lambda _, context: complaints.append(context))
        client = redis.asyncio.Redis.from_url(server.url)
        queue = Torrelque(client, queue='q')
        queue.schedule_sweep()
        await queue.enqueue('a')
        task_id, _ = await queue.dequeue()
        await queue.release(task_id)
        with pytest.raises(TorrelqueTimeoutError):
            await queue.dequeue(0.02)
        background = asyncio.create_task(queue.dequeue())
        await blocked(1)
        background.cancel()
        await blocked(0)
        background = asyncio.create_task(queue.dequeue())
        await blocked(1)  # redis-py leaves a socket open if the event loop ends while it connects
        queue.unschedule_sweep()
        await client.aclose()
        assert not background.done()

    async def blocked(count: int) -> None:
        async with asyncio.timeout(ENOUGH):
            while int(server.info('clients')['blocked_clients']) != count:  # noqa: ASYNC110 - only the server knows
                await asyncio.sleep(0.005)

    with warnings.catch_warnings():
        warnings.simplefilter('error')
        asyncio.run(main())
        gc.collect()
    assert complaints == []
    assert capsys.readouterr().err == ''


def test_one_object_over_several_runs(server: Server) -> None:
    client = redis.asyncio.Redis.from_url(server.url)
    queue = Torrelque(client, queue='q')

    async def main(number: int) -> None:
        task_id = await queue.enqueue(number)
        task = await queue.dequeue(ENOUGH)
        assert task.data == number
        await queue.release(task, result=number)
        assert (await queue.wait(task_id, ENOUGH)).result == number
        await queue.aclose()
        await client.aclose()

    for number in range(3):
        asyncio.run(main(number))


# pipeline= -----------------------------------------------------------------------------------------------------------


async def test_a_task_in_the_same_transaction(server: Server, client: redis.asyncio.Redis, queue: Torrelque) -> None:
    server.command('SCRIPT', 'FLUSH')
    async with client.pipeline(transaction=True) as pipeline:
        pipeline.set('order', 'paid')
        task_id = await queue.enqueue('ship it', pipeline=pipeline, task_timeout=7, headers={'a': 'b'})
        later = await queue.enqueue('thank them', pipeline=pipeline, delay=60)
        assert server.command('KEYS', '*') == [], 'nothing yet'
        assert len(await pipeline.execute()) == 3
    assert server.command('GET', 'order') == b'paid'
    task = await queue.dequeue(ENOUGH)
    assert (task.id, task.data, task.headers) == (task_id, 'ship it', {'a': 'b'})
    assert (await queue.get_task_state(later)).status is TorrelqueTaskStatus.DELAYED


async def test_a_waiting_consumer_gets_what_a_pipeline_brings(client: redis.asyncio.Redis, queue: Torrelque) -> None:
    waiting = asyncio.create_task(queue.dequeue(ENOUGH))
    await asyncio.sleep(0.02)
    async with client.pipeline() as pipeline:
        await queue.enqueue('a', pipeline=pipeline)
        await pipeline.execute()
    assert (await waiting).data == 'a'


async def test_claims_end_in_the_same_transaction(client: redis.asyncio.Redis, queue: Torrelque) -> None:
    await queue.enqueue_many(range(4))
    one, two, three, four = await queue.dequeue_nowait(max_tasks=4)
    async with client.pipeline(transaction=True) as pipeline:
        await queue.release(one, pipeline=pipeline)
        await queue.release(two.id, result='r', result_ttl=60, pipeline=pipeline)
        await queue.requeue(three, pipeline=pipeline)
        await queue.requeue(str(four.id), 60, task_timeout=5, pipeline=pipeline)
        assert (await queue.get_queue_stats()).working == 4
        await pipeline.execute()
    assert (await queue.get_queue_stats())[:4] == (2, 1, 0, 1)
    assert (await queue.get_task_state(two.id)).result == 'r'
    with pytest.raises(TorrelqueLookupError):
        await queue.get_task_state(one.id)


async def lost_claim(queue: Torrelque) -> tuple[Task, Task]:
    await queue.enqueue('a', task_timeout=0.001)
    lost = await queue.dequeue(ENOUGH)
    await asyncio.sleep(0.002)
    live = await queue.dequeue(ENOUGH)
    await queue.extend(live, 100)
    return lost, live


@pytest.mark.parametrize('verb', ['release', 'requeue'])
async def test_a_lost_claim_in_a_transaction(client: redis.asyncio.Redis, queue: Torrelque, verb: str) -> None:
    lost, live = await lost_claim(queue)
    method = getattr(queue, verb)
    before = await queue.get_task_state(live.id)
    async with client.pipeline(transaction=True) as pipeline:
        pipeline.set('other', 1)
        await method(lost.id, pipeline=pipeline)
        assert (await pipeline.execute())[1] == 0, 'given an id: 0, and nothing can be logged'
    async with client.pipeline(transaction=True) as pipeline:
        pipeline.set('other', 2)
        await method(lost, pipeline=pipeline)
        with pytest.raises(redis.ResponseError, match='no longer live'):
            await pipeline.execute()
    assert await client.get('other') == b'2', 'their other writes stand'
    assert await queue.get_task_state(live.id) == before
    async with client.pipeline(transaction=True) as pipeline:
        await method('nobody', pipeline=pipeline)
        assert await pipeline.execute() == [0]


async def test_nothing_is_half_queued(client: redis.asyncio.Redis, queue: Torrelque) -> None:
    """Row 10: half the commands stayed in the pipeline, and the task was lost."""
    await queue.enqueue('a')
    task = await queue.dequeue(ENOUGH)
    async with client.pipeline(transaction=True) as pipeline:
        for attempt in (
            queue.release(task, result=object(), pipeline=pipeline),
            queue.release(task, result=1, result_ttl=float('inf'), pipeline=pipeline),
            queue.requeue(task, float('nan'), pipeline=pipeline),
            queue.enqueue(object(), pipeline=pipeline),
            queue.enqueue('a', delay=float('nan'), pipeline=pipeline),
        ):
            with pytest.raises((TypeError, ValueError)):
                await attempt
            assert len(pipeline) == 0
    await queue.release(task)


async def test_other_pipelines_are_refused(client: redis.asyncio.Redis, queue: Torrelque) -> None:
    with pytest.raises(TorrelqueTypeError, match='pipeline'):
        await queue.enqueue('a', pipeline=redis.Redis().pipeline())
    with pytest.raises(TorrelqueTypeError, match='pipeline'):
        await queue.enqueue('a', pipeline=client)
    async with client.pipeline() as pipeline:
        await pipeline.watch('order')
        with pytest.raises(TorrelqueUsageError, match='multi'):
            await queue.enqueue('a', pipeline=pipeline)
    assert (await queue.get_queue_stats()).tasks == 0

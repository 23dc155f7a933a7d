"""A producer that wants to know whether there is a task with its id already, or to replace it."""

from __future__ import annotations

from typing import Any

import pytest
import redis.asyncio
from redis.exceptions import ResponseError

from tests import servers
from tests.queue.transports import RecordingTransport
from torrelque import (
    EnqueueItem,
    Torrelque,
    TorrelqueExistsError,
    TorrelqueTaskStatus,
    TorrelqueTypeError,
    TorrelqueUsageError,
    TorrelqueValueError,
)
from torrelque.testing import MemoryTransport

pytestmark = pytest.mark.anyio

PENDING, WORKING, DELAYED, COMPLETED, REJECTED, *_ = TorrelqueTaskStatus


async def test_an_id_that_is_queued() -> None:
    async with Torrelque(MemoryTransport()) as queue:
        assert await queue.enqueue('first', task_id='a', if_exists='raise') == 'a'
        assert await queue.enqueue('second', task_id='a') == 'a'
        with pytest.raises(TorrelqueExistsError, match="a task 'a' already") as raised:
            await queue.enqueue('third', task_id='a', if_exists='raise')
        assert (raised.value.task_id, raised.value.status) == ('a', None)
        items = [EnqueueItem(each, task_id=each) for each in ('a', 'b', 'b')]
        answers = await queue.enqueue_many(items, if_exists='raise')
        assert [getattr(each, 'task_id', each) for each in answers] == ['a', 'b', 'b']
        assert [type(each) for each in answers] == [TorrelqueExistsError, str, TorrelqueExistsError]
        assert await queue.enqueue_many(items) == ['a', 'b', 'b']
        task = await queue.dequeue()
        assert task.data == 'first'
        await queue.release(task)
        assert await queue.enqueue('again', task_id='a', if_exists='raise') == 'a'


@pytest.mark.parametrize(
    ('given', 'error', 'message'),
    [
        ({'if_exists': 'update', 'task_id': 'a'}, TorrelqueValueError, "'raise' or 'replace', got 'update'"),
        ({'if_exists': 'raise', 'replace': True, 'task_id': 'a'}, TorrelqueValueError, "contradicts if_exists='raise'"),
        ({'if_exists': 'ignore', 'replace': True, 'task_id': 'a'}, TorrelqueValueError, "contradicts if_exists='ig"),
        ({'replace': 1, 'task_id': 'a'}, TorrelqueTypeError, 'replace must be True or False, got 1'),
        ({'replace': True}, TorrelqueValueError, "if_exists='replace' needs task_id"),
        ({'if_exists': 'replace'}, TorrelqueValueError, "if_exists='replace' needs task_id"),
    ],
)
async def test_what_makes_no_sense(given: dict[str, Any], error: type[Exception], message: str) -> None:
    transport = RecordingTransport()
    async with Torrelque(transport) as queue:
        with pytest.raises(error, match=message):
            await queue.enqueue(1, **given)
        with pytest.raises(error, match=message):
            await queue.enqueue_many([0, EnqueueItem(1, **given)])
        if 'task_id' in given:
            del given['task_id']
            with pytest.raises(error, match=message):
                await queue.enqueue_many([1], **given)
        assert transport.calls == []


async def test_a_mixture() -> None:
    async with Torrelque(MemoryTransport()) as queue:
        await queue.enqueue_many([EnqueueItem(each, task_id=each) for each in 'abcdef'])
        assert [task.data for task in await queue.dequeue_many(3)] == ['a', 'b', 'c']
        await queue.reject('a', 'why')
        answers = await queue.enqueue_many(
            [
                EnqueueItem('A', task_id='a'),
                EnqueueItem('B', task_id='b', if_exists='ignore'),
                EnqueueItem('C', task_id='c', if_exists='raise'),
                EnqueueItem('D', task_id='d', delay=60),
                EnqueueItem('E', task_id='e'),
                EnqueueItem('F', task_id='f', delay=60),
                EnqueueItem('e', task_id='e', if_exists='ignore'),
                EnqueueItem('FF', task_id='f'),
                EnqueueItem('G', task_id='g'),
                EnqueueItem('GG', task_id='g', delay=60),
            ],
            replace=True,
        )
        assert [getattr(each, 'status', each) for each in answers] == [
            REJECTED, 'b', None, 'd', 'e', 'f', 'e', 'f', 'g', 'g',
        ]  # fmt: skip
        assert [(await queue.get_task(each)).data for each in 'abcdefg'] == ['a', 'b', 'c', 'D', 'E', 'FF', 'GG']
        assert (await queue.get_queue_stats())[:5] == (6, 2, 2, 2, 1)
        assert [task.data for task in await queue.dequeue_nowait(max_tasks=9)] == ['E', 'FF']  # they kept their places
        assert await queue.audit() == []


async def test_one_is_searched_in_pending_at_a_time() -> None:
    """Which takes as long as pending is: others come between."""
    transport = RecordingTransport()
    async with Torrelque(transport) as queue:
        await queue.enqueue_many([EnqueueItem(each, task_id=each) for each in 'abc'])
        transport.calls.clear()
        items = [EnqueueItem(each + each, task_id=each, delay=60) for each in 'abcabc']
        assert await queue.enqueue_many(items, replace=True) == [*'abcabc']
        assert len(transport.calls) == 3
        assert (await queue.get_queue_stats())[:4] == (3, 0, 0, 3)


async def test_who_watches_sees_it() -> None:
    async with Torrelque(MemoryTransport()) as queue:
        await queue.enqueue(1, task_id='a')
        states = queue.watch('a')
        seen = [await anext(states)]
        for delay in (None, 60, None):
            await queue.enqueue(2, task_id='a', replace=True, delay=delay)
            seen.append(await anext(states))
        assert [(state.status, state.revision) for state in seen] == [
            (PENDING, 1), (PENDING, 2), (DELAYED, 3), (PENDING, 4),
        ]  # fmt: skip
        await states.aclose()  # type: ignore[attr-defined]


@pytest.mark.parametrize('anyio_backend', ['asyncio'])
async def test_a_pipeline_fails_where_nothing_can_be_replaced() -> None:
    server = servers.shared('valkey-9.1')
    server.flush()
    async with redis.asyncio.Redis.from_url(server.unix_url) as client:
        queue = Torrelque(client)
        with pytest.raises(TorrelqueUsageError, match='pipeline'):
            await queue.enqueue(1, if_exists='raise', pipeline=client.pipeline())
        await queue.enqueue(1, task_id='a')
        for error in (None, ResponseError):
            async with client.pipeline() as pipeline:
                await queue.enqueue(2, task_id='a', replace=True, pipeline=pipeline)
                if error is None:
                    assert await pipeline.execute() == [1]
                    task = await queue.dequeue(20)
                    assert task.data == 2
                else:
                    with pytest.raises(error, match='EXISTS the task is worked on'):
                        await pipeline.execute()
        await queue.release(task)
        await queue.aclose()

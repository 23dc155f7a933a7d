"""A producer that wants to know whether there is a task with its id already."""

from __future__ import annotations

import pytest

from torrelque import EnqueueItem, Torrelque, TorrelqueExistsError, TorrelqueUsageError, TorrelqueValueError
from torrelque.testing import MemoryTransport

pytestmark = pytest.mark.anyio


async def test_an_id_that_is_queued() -> None:
    async with Torrelque(MemoryTransport()) as queue:
        assert await queue.enqueue('first', task_id='a', if_exists='raise') == 'a'
        assert await queue.enqueue('second', task_id='a') == 'a'
        with pytest.raises(TorrelqueExistsError, match="a task 'a' already") as raised:
            await queue.enqueue('third', task_id='a', if_exists='raise')
        assert raised.value.task_id == 'a'
        items = [EnqueueItem(each, task_id=each) for each in ('a', 'b', 'b')]
        answers = await queue.enqueue_many(items, if_exists='raise')
        assert [getattr(each, 'task_id', each) for each in answers] == ['a', 'b', 'b']
        assert [type(each) for each in answers] == [TorrelqueExistsError, str, TorrelqueExistsError]
        assert await queue.enqueue_many(items) == ['a', 'b', 'b']
        task = await queue.dequeue()
        assert task.data == 'first'
        await queue.release(task)
        assert await queue.enqueue('again', task_id='a', if_exists='raise') == 'a'


async def test_where_it_cannot_be_known() -> None:
    async with Torrelque(MemoryTransport()) as queue:
        with pytest.raises(TorrelqueUsageError, match='pipeline'):
            await queue.enqueue(1, if_exists='raise', pipeline=object())
        with pytest.raises(TorrelqueValueError, match="'replace'"):
            await queue.enqueue(1, if_exists='replace')  # type: ignore[arg-type]
        with pytest.raises(TorrelqueValueError, match="'replace'"):
            await queue.enqueue_many([1], if_exists='replace')  # type: ignore[arg-type]
        assert (await queue.get_queue_stats()).tasks == 0

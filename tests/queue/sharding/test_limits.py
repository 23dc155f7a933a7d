"""Limits of a queue with shards are those of all of them together: each has its share."""

from __future__ import annotations

from typing import Any

import anyio
import pytest

from tests.queue.sharding.support import SOON, Place, in_memory
from torrelque import EnqueueItem, Limits, Torrelque
from torrelque.core import flow

pytestmark = pytest.mark.anyio


async def fill(queue: Torrelque) -> None:
    """Several tasks on every shard."""
    await queue.enqueue_many([EnqueueItem(number, task_id=str(number)) for number in range(100)])


async def take(queue: Torrelque) -> list[Any]:
    return list(await queue.dequeue_nowait(max_tasks=100))


@in_memory
@pytest.mark.parametrize(('limit', 'claimed'), [(3, 3), (7, 7), (2, 3)])
async def test_each_shard_has_its_share(place: Place, limit: int, claimed: int) -> None:
    async with place.queue(3) as queue:
        await fill(queue)
        await queue.limit(concurrency=limit)
        assert await queue.limits() == (await queue.get_queue_stats()).limits == Limits(limit)
        assert len(await take(queue)) == claimed
        assert await take(queue) == []
        assert await queue.audit() == []


@in_memory
async def test_so_has_its_rate(place: Place) -> None:
    async with place.queue(3) as queue:
        await fill(queue)
        await queue.limit(rate=(9, 1000), burst=7)
        assert len(await take(queue)) == 7


async def test_the_next_task_starts_at_once(place: Place) -> None:
    got: list[Any] = []

    async def consume(queue: Torrelque) -> None:
        got.append(await queue.dequeue())

    async with place.queue(3) as queue, place.queue(3) as other:
        await fill(queue)
        await queue.limit(concurrency=3)
        held = await take(queue)
        assert len(held) == 3
        for limit in (None, 6):
            async with anyio.create_task_group() as group:
                group.start_soon(consume, other)
                await anyio.sleep(0.1)
                assert got == []
                with anyio.fail_after(SOON):
                    if limit:
                        await queue.limit(concurrency=limit)
                    else:
                        await queue.release(held[0])
                    begun = anyio.current_time()
                    while not got:  # noqa: ASYNC110 - it is another object's
                        await anyio.sleep(0.001)
                assert anyio.current_time() - begun < 4, 'not only with the next slice'
            got.clear()


@in_memory
async def test_the_shares_follow_the_number_of_shards(place: Place) -> None:
    async with place.queue(2) as queue:
        await queue.limit(concurrency=10)
        for shards in (5, 3, 10):
            await queue.reshard(shards)
            await fill(queue)
            held = await take(queue)
            assert len(held) >= 5
            assert len(held) <= 10
            while held:
                await queue.release_many(held)
                held = await take(queue)
            assert await queue.reshard(shards)
            await fill(queue)
            held = await take(queue)
            assert len(held) == 10
            while held:
                await queue.release_many(held)
                held = await take(queue)
        assert await queue.audit() == []


@in_memory
async def test_an_audit_finds_shards_that_know_no_limits(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    async with place.queue(3) as queue:
        await fill(queue)
        with monkeypatch.context() as patch:
            patch.setattr(flow, 'copy', lambda *_, **__: iter(()))
            await queue.limit(concurrency=3)
        assert [each.kind for each in await queue.audit(repair=True)] == ['record', 'record']
        assert await queue.audit() == []
        assert len(await take(queue)) == 3

"""A pause of a queue with shards is one of all of them, also of those that are added meanwhile."""

from __future__ import annotations

import anyio
import pytest

from tests.queue.sharding.support import SOON, Place, in_memory
from torrelque import EnqueueItem, Torrelque
from torrelque.core import flow

pytestmark = pytest.mark.anyio


async def test_nothing_is_taken_from_any_shard(place: Place) -> None:
    got: list[object] = []

    async def consume(queue: Torrelque) -> None:
        for _ in range(12):
            task = await queue.dequeue()
            got.append(task.data)
            await queue.release(task)

    async with place.queue(3) as queue, place.queue(3) as other:
        await other.get_queue_stats()
        with anyio.fail_after(SOON):
            async with anyio.create_task_group() as group:
                group.start_soon(consume, other)
                await anyio.sleep(0.1)
                await queue.pause('why')
                for number in range(12):
                    await queue.enqueue(number)
                await anyio.sleep(0.3)
                assert got == []
                assert await queue.dequeue_nowait(max_tasks=5) == []
                stats = await queue.get_queue_stats()
                assert (stats.pending, stats.paused and stats.paused.reason) == (12, 'why')
                resumed = anyio.current_time()
                await queue.resume()
                while len(got) < 12:  # noqa: ASYNC110 - it is another object's
                    await anyio.sleep(0.005)
                assert anyio.current_time() - resumed < 4, 'not only with the next slice'
        assert (await queue.get_queue_stats()).paused is None
        await queue.pause(until=await queue.get_server_time() + 0.5, wait=True)
        await queue.enqueue('later')
        with anyio.fail_after(4):
            assert (await other.dequeue()).data == 'later'


async def fill(queue: Torrelque) -> None:
    """Tasks on every shard."""
    await queue.enqueue_many([EnqueueItem(number, task_id=str(number)) for number in range(20)])


@in_memory
async def test_new_shards_are_paused(place: Place) -> None:
    async with place.queue(2) as queue:
        await queue.pause()
        await queue.reshard(5)
        await fill(queue)
        assert await queue.dequeue_nowait(max_tasks=100) == []
        await queue.resume()
        assert len(await queue.dequeue_nowait(max_tasks=100)) == 20
        assert await queue.audit() == []


@in_memory
async def test_not_so_without_a_copy_of_the_record(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    async with place.queue(2) as queue:
        await queue.pause()
        with monkeypatch.context() as patch:
            patch.setattr(flow, 'copy', lambda *_: iter(()))
            await queue.reshard(5)
        await fill(queue)
        assert await queue.dequeue_nowait(max_tasks=100) != []


@in_memory
async def test_an_audit_finds_shards_that_know_no_pause(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    async with place.queue(3) as queue:
        await queue.enqueue('a')
        with monkeypatch.context() as patch:
            patch.setattr(flow, 'copy', lambda *_: iter(()))
            await queue.pause()
        found = await queue.audit()
        assert [(each.kind, each.key) for each in found] == [
            ('record', f'{{email:{shard}}}:counters') for shard in (1, 2)
        ]
        assert all(each.repaired for each in await queue.audit(repair=True))
        assert await queue.audit() == []
        await fill(queue)
        assert await queue.dequeue_nowait() == []

"""Tests with many concurrent callers, and with callers cancelled at any moment."""

from __future__ import annotations

from collections import Counter
from contextlib import suppress

import anyio

from torrelque import Client
from torrelque.core.models import Task
from torrelque.errors import TorrelqueTimeoutError
from torrelque.queue import Torrelque
from torrelque.testing.conformance.support import PATIENCE, ClientFactory, OnQueue, eventually, unique

__all__ = ('CrowdConformance',)


class CrowdConformance(OnQueue):
    async def test_each_task_goes_to_one_consumer(self, client_factory: ClientFactory, queue: Torrelque) -> None:
        seen: Counter[int] = Counter()
        done = anyio.Event()

        async def consume(own: Torrelque) -> None:
            while True:
                task = await own.dequeue()
                seen[task.data] += 1
                await own.release(task)
                if len(seen) == 120:
                    done.set()

        async def produce(part: int) -> None:
            for number in range(part * 30, part * 30 + 30):
                await queue.enqueue(number)

        async with client_factory() as client, self.make_queue(client, queue.queue) as other:
            with anyio.fail_after(PATIENCE):
                async with anyio.create_task_group() as tasks:
                    for own in (queue, other) * 5:
                        tasks.start_soon(consume, own)
                    for part in range(4):
                        tasks.start_soon(produce, part)
                    await done.wait()
                    while (await queue.get_queue_stats()).tasks:  # noqa: ASYNC110 - the last release is on its way
                        await anyio.sleep(0.005)
                    tasks.cancel_scope.cancel()
        assert seen == Counter(range(120))

    async def test_waiting_consumers_are_served_in_turn(self, queue: Torrelque) -> None:
        served: list[int] = []

        async def consume(number: int) -> None:
            task = await queue.dequeue()
            served.append(number)
            await queue.release(task)

        with anyio.fail_after(PATIENCE):
            async with anyio.create_task_group() as tasks:
                for number in range(5):
                    tasks.start_soon(consume, number)
                    await anyio.sleep(0.002)
                for count in range(5):
                    await queue.enqueue('a')
                    while len(served) <= count:  # noqa: ASYNC110 - a few milliseconds
                        await anyio.sleep(0.001)
        assert served == list(range(5))

    async def test_verbs_of_many_callers(self, queue: Torrelque) -> None:
        await queue.enqueue_many(range(60))
        tasks_there = await queue.dequeue_nowait(max_tasks=60)
        async with anyio.create_task_group() as tasks:
            for task in tasks_there[:20]:
                tasks.start_soon(queue.release, task)
            for task in tasks_there[20:40]:
                tasks.start_soon(queue.requeue, task)
            for task in tasks_there[40:]:
                tasks.start_soon(queue.reject, task, 'why')
            for number in range(20):
                tasks.start_soon(queue.enqueue, number)
        assert (await queue.get_queue_stats())[:5] == (40, 40, 0, 0, 20)

    async def test_a_cancelled_consumer_takes_nothing(self, queue: Torrelque) -> None:
        with anyio.move_on_after(0.02) as scope:
            await queue.dequeue()
        assert scope.cancelled_caught
        task_id = await queue.enqueue('a')
        with anyio.fail_after(PATIENCE):
            task = await queue.dequeue()
        assert (task.id, task.dequeue_count) == (task_id, 1)

    async def test_consumers_cancelled_as_a_task_arrives(self, client: Client, queue: Torrelque) -> None:
        taken: list[Task] = []

        async def consume(patience: float) -> None:
            with anyio.move_on_after(patience):
                taken.append(await queue.dequeue())

        ids: list[str] = []
        async with self.make_queue(client, queue.queue) as producer:
            for round_ in range(10):
                async with anyio.create_task_group() as tasks:
                    for number in range(3):
                        tasks.start_soon(consume, 0.001 * number)
                    await anyio.sleep(0.0003 * round_)
                    ids.append(await producer.enqueue(round_))
            await self._all_accounted_for(producer, ids, taken)

    async def test_consumers_whose_time_ends_as_a_task_arrives(self, client: Client, queue: Torrelque) -> None:
        taken: list[Task] = []

        async def consume(patience: float) -> None:
            with suppress(TorrelqueTimeoutError):
                taken.append(await queue.dequeue(patience))

        ids: list[str] = []
        async with self.make_queue(client, queue.queue) as producer:
            for round_ in range(10):
                async with anyio.create_task_group() as tasks:
                    tasks.start_soon(consume, 0.003)
                    await anyio.sleep(0.0005 * round_)
                    ids.append(await producer.enqueue(round_))
            await self._all_accounted_for(producer, ids, taken)

    async def _all_accounted_for(self, queue: Torrelque, ids: list[str], taken: list[Task]) -> None:
        """Check that untaken tasks are available and uncounted, at once or a round trip later."""
        got = list(taken)

        async def complete() -> bool:
            got.extend(await queue.dequeue_nowait(max_tasks=100))
            return len(got) >= len(ids)

        await eventually(complete)
        assert sorted(task.id for task in got) == sorted(ids)
        assert {task.dequeue_count for task in got} == {1}

    async def test_producers_cancelled_at_any_moment(self, queue: Torrelque) -> None:
        added: list[str] = []

        async def produce(patience: float) -> None:
            with anyio.move_on_after(patience):
                for number in range(5):
                    task_id = await queue.enqueue(number)
                    added.append(task_id)

        async with anyio.create_task_group() as tasks:
            for number in range(20):
                tasks.start_soon(produce, number * 0.0005)
        got: list[Task] = []

        async def complete() -> bool:
            got.extend(await queue.dequeue_nowait(max_tasks=200))
            return len(got) >= len(added)

        await eventually(complete)
        ids = [task.id for task in got]
        assert len(set(ids)) == len(ids)
        assert set(ids) >= set(added)
        assert await queue.release_many(got) == [None] * len(got)

    async def test_releases_cancelled_at_any_moment(self, queue: Torrelque) -> None:
        await queue.enqueue_many(range(30))
        claimed = await queue.dequeue_nowait(max_tasks=30)
        released: list[str] = []

        async def release(task: Task, patience: float) -> None:
            with anyio.move_on_after(patience):
                await queue.release(task)
                released.append(task.id)

        async with anyio.create_task_group() as tasks:
            for number, task in enumerate(claimed):
                tasks.start_soon(release, task, number * 0.0002)
        await queue.enqueue('on the same lanes, after them')
        await queue.release(await queue.dequeue(20))
        left = {task_id async for task_id, _ in queue.tasks()}
        assert left.isdisjoint(released)
        stats = await queue.get_queue_stats()
        assert stats.tasks == stats.working == len(left)

    async def test_leaving_gives_back_what_nobody_took(self, client: Client, queue: Torrelque) -> None:
        taken: list[Task] = []

        async def consume(own: Torrelque) -> None:
            taken.append(await own.dequeue())

        async with self.make_queue(client, queue.queue) as other, anyio.create_task_group() as tasks:
            for _ in range(10):
                tasks.start_soon(consume, other)
            await anyio.sleep(0.01)
            await queue.enqueue_many(range(5))
            tasks.cancel_scope.cancel()
        left = await queue.dequeue_nowait(max_tasks=10)
        assert sorted(task.data for task in taken + left) == list(range(5))
        assert {task.dequeue_count for task in left} <= {1}

    async def test_leaving_and_entering_again(self, client: Client) -> None:
        queue = self.make_queue(client, unique())
        for number in range(3):
            async with queue:
                await queue.enqueue(number)
                assert (await queue.dequeue(20)).data == number

"""Calls that are cancelled, lost, or sent twice (rows 1 and 2 of the defects of 0.9)."""

from __future__ import annotations

import random
from contextlib import suppress

import anyio
import pytest

from tests.queue.transports import LosingTransport, RepeatingTransport
from tests.servers import Server
from torrelque import (
    Task,
    Torrelque,
    TorrelqueConnectionError,
    TorrelqueLookupError,
    TorrelqueTaskStatus,
    TorrelqueTimeoutError,
    connect,
)
from torrelque.transports.native import NativeTransport

pytestmark = pytest.mark.anyio

ENOUGH = 20  # seconds, for a machine under load


async def test_500_dequeues_cancelled_as_a_task_arrives(server: Server, client: NativeTransport) -> None:
    """Row 1: of 500, 0.9 left 90 tasks in dequeueing and 12 in working, with nobody doing them."""
    draw, taken, ids = random.Random(1), list[Task](), list[str]()
    async with connect(server.url) as other, Torrelque(other, queue='q') as producer:

        async def dequeue_impatiently(consumer: Torrelque, patience: float) -> None:
            with anyio.move_on_after(patience):
                task = await consumer.dequeue()
                taken.append(task)

        async with Torrelque(client, queue='q') as consumer:
            for _ in range(500):
                async with anyio.create_task_group() as tasks:
                    tasks.start_soon(dequeue_impatiently, consumer, draw.uniform(0.0005, 0.0025))
                    await anyio.sleep(draw.uniform(0, 0.002))
                    ids.append(await producer.enqueue('a'))
                if draw.random() < 0.5:  # so that many an attempt finds an empty queue, and waits
                    taken.extend(await producer.dequeue_nowait(max_tasks=100))
            # A round trip or two later:
            await consumer.get_queue_stats()
            await consumer.get_queue_stats()
            stats = await consumer.get_queue_stats()
            assert (stats.tasks, stats.working, stats.pending) == (500, len(taken), 500 - len(taken))
            taken.extend(await consumer.dequeue_nowait(max_tasks=500))
            assert sorted(task.id for task in taken) == sorted(ids)
            assert {task.dequeue_count for task in taken} == {1}
            assert server.command('EXISTS', 'q:dequeueing') == 0


async def test_a_scope_cancelled_over_everything_strands_nothing(server: Server, client: NativeTransport) -> None:
    """The engine itself is cancelled with its context."""
    ids: list[str] = []
    async with connect(server.url) as other, Torrelque(other, queue='q') as producer:
        for round_ in range(30):
            with anyio.move_on_after(0.002 * round_ / 10):
                async with Torrelque(client, queue='q') as consumer, anyio.create_task_group() as tasks:
                    for _ in range(5):
                        tasks.start_soon(consumer.dequeue)
                    await anyio.sleep(0.0005)
                    with anyio.CancelScope(shield=True):
                        ids.append(await producer.enqueue('a'))
        stats = await producer.get_queue_stats()
        got = await producer.dequeue_nowait(max_tasks=100)
        assert stats.tasks == len(ids)
        # What is not there was handed to a consumer before the cancellation.
        assert stats.pending + stats.working == len(ids)
        assert len(got) == stats.pending


@pytest.mark.parametrize('before', [False, True], ids=['reply', 'request'])
async def test_a_lost_claim_takes_nothing(before: bool) -> None:
    """Row 1: a lost reply leaves the task in working until its time-out."""
    transport = LosingTransport()
    transport.lose, transport.before = 'claim', before
    async with Torrelque(transport, queue='q') as queue, Torrelque(transport, queue='q') as other:
        task_id = await queue.enqueue('a')
        with pytest.raises(TorrelqueConnectionError, match='was lost'):
            await queue.dequeue(ENOUGH)
        assert transport.lost == 1
        transport.lose = ''
        with anyio.fail_after(ENOUGH):
            task = await other.dequeue()
        assert (task.id, task.dequeue_count) == (task_id, 1)
        await other.release(task)


async def test_the_lost_answer_of_a_release_is_asked_for() -> None:
    transport = LosingTransport()
    async with Torrelque(transport, queue='q') as queue:
        await queue.enqueue('a')
        task = await queue.dequeue(ENOUGH)
        transport.lose = 'release'
        await queue.release(task, result='r')
        assert transport.lost == 1
        assert (await queue.get_task_state(task.id)).result == 'r'


async def test_a_lost_release_is_told_and_not_done() -> None:
    transport = LosingTransport()
    async with Torrelque(transport, queue='q') as queue:
        await queue.enqueue('a')
        task = await queue.dequeue(ENOUGH)
        transport.lose, transport.before = 'release', True
        with pytest.raises(TorrelqueConnectionError, match='was lost'):
            await queue.release(task)
        transport.lose = ''
        assert (await queue.get_queue_stats()).working == 1
        await queue.release(task)
        assert (await queue.get_queue_stats()).tasks == 0


async def test_part_of_a_bulk_is_lost() -> None:
    transport = LosingTransport()
    transport.before = True
    async with Torrelque(transport, queue='q') as queue:
        seen: list[int] = []

        def progress(done: int, _: int) -> None:
            seen.append(done)
            transport.lose = 'enqueue' if done == 250 else ''

        outcomes = await queue.enqueue_many(range(625), on_progress=progress)
        assert seen == [250, 500, 625]
        assert [isinstance(outcome, TorrelqueConnectionError) for outcome in outcomes] == (
            [False] * 250 + [True] * 250 + [False] * 125
        )
        errors = [outcome for outcome in outcomes if isinstance(outcome, Exception)]
        assert len({id(error) for error in errors}) == len(errors), 'one instance each'


@pytest.mark.parametrize('times', [2, 3])
async def test_everything_is_sent_again(times: int) -> None:
    """Row 2: the re-sent push lists an id twice, the re-sent claim answers nothing."""
    transport = RepeatingTransport(times)
    async with Torrelque(transport, queue='q') as queue:
        ids = [await queue.enqueue(number) for number in range(5)]
        assert (await queue.get_queue_stats())[:4] == (5, 5, 0, 0)
        tasks = await queue.dequeue(ENOUGH, max_tasks=5)
        assert [task.id for task in tasks] == ids
        assert {task.dequeue_count for task in tasks} == {1}
        await queue.release(tasks[0])
        await queue.release(tasks[1], result='r')
        await queue.requeue(tasks[2])
        await queue.reject(tasks[3], 'why')
        await queue.giveback(tasks[4])
        stats = await queue.get_queue_stats()
        assert (*stats[:5], *stats[6:11]) == (2, 2, 0, 0, 1, 5, 5, 2, 1, 1)
        assert [task.id for task in await queue.dequeue_nowait(max_tasks=9)] == [ids[4], ids[2]]
        later = await queue.enqueue('later', delay=60)
        await queue.cancel(later)
        with pytest.raises(TorrelqueLookupError):
            await queue.get_task_state(later)
        assert await queue.dequeue_nowait() == []
        assert (await queue.get_task_state(ids[1])).status is TorrelqueTaskStatus.COMPLETED


async def test_a_connection_that_is_cut_all_the_time(server: Server, queue: Torrelque) -> None:
    """Row 1: cut. Nothing is lost, nothing is there twice, and who waits goes on waiting."""
    done: set[int] = set()
    finished = anyio.Event()

    async def consume() -> None:
        while True:
            with suppress(TorrelqueConnectionError):
                task = await queue.dequeue()
                await queue.release(task)
                done.add(task.data)
            if len(done) == 60:
                finished.set()

    async def produce() -> None:
        for number in range(60):
            while True:
                with suppress(TorrelqueConnectionError):
                    await queue.enqueue(number, task_timeout=1, task_id=f'task {number}')
                    break
            await anyio.sleep(0.001)

    async def cut() -> None:
        with server.client() as killer:
            while True:
                await anyio.sleep(0.01)
                killer.command('CLIENT', 'KILL', 'TYPE', 'normal', 'SKIPME', 'yes')

    with anyio.fail_after(ENOUGH):
        async with anyio.create_task_group() as tasks:
            for _ in range(3):
                tasks.start_soon(consume)
            tasks.start_soon(cut)
            await produce()
            await finished.wait()
            tasks.cancel_scope.cancel()
    assert done == set(range(60))
    stats = await queue.get_queue_stats()
    assert stats.total_enqueued == 60


async def test_the_time_of_a_dequeue_is_kept(queue: Torrelque) -> None:
    for timeout in (0.001, 0.05, 0.2):
        begun = anyio.current_time()
        with anyio.fail_after(ENOUGH), pytest.raises(TorrelqueTimeoutError):
            await queue.dequeue(timeout)
        assert timeout - 0.002 <= anyio.current_time() - begun < timeout + 5

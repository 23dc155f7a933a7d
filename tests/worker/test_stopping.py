"""Stopped, a worker lets handlers finish and gives the rest back; cancelled, it gives back at once."""

from __future__ import annotations

import logging
import signal
import threading
from typing import Any

import anyio
import anyio.from_thread
import pytest
from anyio.lowlevel import checkpoint

from tests.worker.support import SOON, Bench, LiveBench
from torrelque import Task, Torrelque, TorrelqueConnectionError, TorrelqueTaskStatus, events
from torrelque.testing import MemoryServer, MemoryTransport

pytestmark = pytest.mark.anyio


async def test_stop_claims_nothing_more_and_lets_the_handler_finish(bench: Bench) -> None:
    async def handler(task: Task) -> str:
        await bench.clock.sleep(10)
        return 'done'

    first = await bench.queue.enqueue(1)
    worker = bench.worker(handler, grace=20)
    async with anyio.create_task_group() as group:
        group.start_soon(worker.run)
        await bench.settle()
        worker.stop()
        await bench.queue.enqueue(2)
        await bench.clock.advance(11)
        assert await bench.peek() == (1, 0, 0, 0)
    # run() has returned
    assert (await bench.queue.get_task_state(first)).result == 'done'
    assert [event.task.data for event in bench.told(events.Started)] == [1]


async def test_after_the_grace_time_claims_are_given_back_uncounted(bench: Bench) -> None:
    async def handler(task: Task) -> None:
        await bench.clock.sleep(5 if task.data == 0 else 1000)

    ids = [await bench.queue.enqueue(number) for number in range(4)]
    worker = bench.worker(handler, concurrency=3, grace=20)
    async with anyio.create_task_group() as group:
        group.start_soon(worker.run)
        await bench.settle()
        worker.stop()
        await bench.clock.advance(19.9)
        assert await bench.peek() == (1, 2, 0, 0)
        await bench.clock.advance(0.2)
        assert await bench.peek() == (3, 0, 0, 0)
    assert {event.task.data for event in bench.told(events.GivenBack)} == {1, 2}
    again = await bench.queue.dequeue_nowait(max_tasks=10)
    assert {task.id for task in again[:2]} == set(ids[1:3])  # at the front
    assert again[2].id == ids[3]
    assert [task.dequeue_count for task in again] == [1, 1, 1]


async def test_waiting_claims_end_at_once_and_strand_nothing(bench: Bench) -> None:
    async def handler(task: Task) -> None: ...

    worker = bench.worker(handler, concurrency=10)
    with anyio.fail_after(SOON):  # of real time; none of the virtual passes
        async with anyio.create_task_group() as group:
            group.start_soon(worker.run)
            await bench.settle()
            worker.stop()
    task_id = await bench.queue.enqueue(1)
    assert (await bench.queue.dequeue(1)).id == task_id


@pytest.mark.parametrize('rounds', range(12))
async def test_a_claim_that_arrives_while_stopping_is_given_back(bench: Bench, rounds: int) -> None:
    async def handler(task: Task) -> None: ...

    worker = bench.worker(handler, concurrency=3)
    async with anyio.create_task_group() as group:
        group.start_soon(worker.run)
        await bench.settle()
        for number in range(3):
            await bench.queue.enqueue(number)
        for _ in range(rounds):
            await checkpoint()
        worker.stop()
    done = len(bench.told(events.Finished))
    assert await bench.peek() == (3 - done, 0, 0, 0)
    for task in await bench.queue.dequeue_nowait(max_tasks=3):
        assert task.dequeue_count == 1


async def test_a_claim_that_arrived_just_before_is_given_back(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    async def handler(task: Task) -> None: ...

    dequeue = bench.queue.dequeue_many

    async def dequeue_and_stop(max_tasks: int) -> list[Task]:
        tasks = await dequeue(max_tasks)
        worker.stop()
        return tasks

    monkeypatch.setattr(bench.queue, 'dequeue_many', dequeue_and_stop)
    await bench.queue.enqueue(1)
    worker = bench.worker(handler)
    await worker.run()
    assert [type(event) for event in bench.events] == [events.GivenBack]
    assert await bench.peek() == (1, 0, 0, 0)


async def test_a_handler_stops_its_worker(bench: Bench) -> None:
    async def handler(task: Task) -> None:
        worker.stop()

    for number in range(3):
        await bench.queue.enqueue(number)
    worker = bench.worker(handler)
    with anyio.fail_after(SOON):
        await worker.run()
    assert await bench.peek() == (2, 0, 0, 0)


async def test_a_worker_that_was_stopped_before_does_not_begin(bench: Bench) -> None:
    async def handler(task: Task) -> None: ...

    await bench.queue.enqueue(1)
    worker = bench.worker(handler)
    worker.stop()
    with anyio.fail_after(SOON):
        await worker.run()
    worker.stop()
    assert await bench.peek() == (1, 0, 0, 0)


async def test_stop_again_shortens_the_grace_time_but_cannot_lengthen_it(bench: Bench) -> None:
    async def handler(task: Task) -> None:
        await bench.clock.sleep(1000)

    await bench.queue.enqueue(1)
    worker = bench.worker(handler, grace=100)
    async with anyio.create_task_group() as group:
        group.start_soon(worker.run)
        await bench.settle()
        worker.stop()
        await bench.clock.advance(10)
        worker.stop(5)
        worker.stop()
        worker.stop(500)
        await bench.clock.advance(4)
        assert await bench.peek() == (0, 1, 0, 0)
        await bench.clock.advance(1.1)
        assert await bench.peek() == (1, 0, 0, 0)


async def test_leases_are_renewed_during_the_grace_time(bench: Bench) -> None:
    async def handler(task: Task) -> str:
        await bench.clock.sleep(50)
        return 'done'

    task_id = await bench.queue.enqueue(1, task_timeout=10)
    worker = bench.worker(handler, grace=100)
    async with Torrelque(bench.transport, queue='q') as other, anyio.create_task_group() as group:
        group.start_soon(worker.run)
        await bench.settle()
        worker.stop()
        await bench.clock.advance(40)
        assert await other.dequeue_nowait() == []
        await bench.clock.advance(11)
    assert (await bench.queue.get_task_state(task_id)).result == 'done'


async def test_cancelled_it_gives_back_at_once(bench: Bench) -> None:
    ended: list[int] = []

    async def handler(task: Task) -> None:
        try:
            await bench.clock.sleep(1000)
        finally:
            ended.append(task.data)

    ids = [await bench.queue.enqueue(number) for number in range(5)]
    worker = bench.worker(handler, concurrency=3, grace=100)
    async with anyio.create_task_group() as group:
        group.start_soon(worker.run)
        await bench.settle()
        assert await bench.peek() == (2, 3, 0, 0)
        group.cancel_scope.cancel()
    assert sorted(ended) == [0, 1, 2]
    assert await bench.peek() == (5, 0, 0, 0)
    assert len(bench.told(events.GivenBack)) == 3
    again = await bench.queue.dequeue_nowait(max_tasks=10)
    assert {task.id for task in again[:3]} == set(ids[:3])  # at the front
    assert [task.id for task in again[3:]] == ids[3:]
    assert {task.dequeue_count for task in again} == {1}


async def test_cancelled_while_it_waits_it_strands_nothing(bench: Bench) -> None:
    async def handler(task: Task) -> None: ...

    async with bench.working(handler, concurrency=20):
        pass
    task_id = await bench.queue.enqueue(1)
    assert (await bench.queue.dequeue(1)).id == task_id


@pytest.mark.parametrize('rounds', range(12))
async def test_cancelled_at_any_moment_each_task_is_done_or_given_back(bench: Bench, rounds: int) -> None:
    done: list[int] = []

    async def handler(task: Task) -> None:
        await checkpoint()
        done.append(task.data)

    worker = bench.worker(handler, concurrency=3)
    async with anyio.create_task_group() as group:
        group.start_soon(worker.run)
        await bench.settle()
        for number in range(10):
            await bench.queue.enqueue(number)
        for _ in range(rounds):
            await checkpoint()
        group.cancel_scope.cancel()
    assert await bench.peek() == (10 - len(done), 0, 0, 0)
    left = await bench.queue.dequeue_nowait(max_tasks=10)
    assert {task.data for task in left} | set(done) == set(range(10))
    assert {task.dequeue_count for task in left} <= {1}


async def test_a_result_on_its_way_is_written_though_the_worker_is_cancelled(bench: Bench) -> None:
    async def handler(task: Task) -> str:
        group.cancel_scope.cancel()
        return 'done'

    task_id = await bench.queue.enqueue(1)
    async with anyio.create_task_group() as group:
        group.start_soon(bench.worker(handler).run)
    assert (await bench.queue.get_task_state(task_id)).result == 'done'


async def test_a_handler_that_fails_of_being_cancelled_gives_back(bench: Bench) -> None:
    async def handler(task: Task) -> None:
        try:
            await bench.clock.sleep(1000)
        except anyio.get_cancelled_exc_class():
            raise RuntimeError('cancelled in the midst of it') from None

    await bench.queue.enqueue(1)
    async with bench.working(handler):
        pass
    assert await bench.peek() == (1, 0, 0, 0)
    worker = bench.worker(handler)
    async with anyio.create_task_group() as group:
        group.start_soon(worker.run)
        await bench.settle()
        worker.stop(0)
    assert await bench.peek() == (1, 0, 0, 0)
    assert bench.told(events.Retried) == []


async def test_what_cannot_be_given_back_is_told(
    bench: Bench, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def handler(task: Task) -> None:
        await bench.clock.sleep(1000)

    monkeypatch.setattr('torrelque.worker.worker.CLOSING_TIME', 0.05)
    await bench.queue.enqueue(1)
    async with bench.working(handler):
        bench.transport.away = TorrelqueConnectionError('cut off')
    (event,) = bench.told(events.Unsettled)
    assert isinstance(event.outcome, events.GivenBack)
    assert isinstance(event.error, TorrelqueConnectionError)
    assert 'stays claimed until its lease ends' in caplog.text
    bench.transport.away = None


async def test_a_thread_is_left_behind_and_its_claim_given_back() -> None:
    begun, go, ended = anyio.Event(), threading.Event(), threading.Event()

    def handler(task: Task) -> str:
        anyio.from_thread.run_sync(begun.set)
        go.wait(SOON)
        ended.set()
        return 'too late'

    async with Torrelque(MemoryTransport(), queue='q') as queue:
        bench = LiveBench(queue)
        task_id = await queue.enqueue(1)
        worker = bench.worker(handler)
        try:
            with anyio.fail_after(SOON):
                async with anyio.create_task_group() as group:
                    group.start_soon(worker.run)
                    await begun.wait()
                    worker.stop(0)
            assert await bench.peek() == (1, 0, 0, 0)
        finally:
            go.set()
        assert ended.wait(SOON)
        state = await queue.get_task_state(task_id)
        assert (state.status, state.result, state.dequeue_count) == (TorrelqueTaskStatus.PENDING, None, 0)


async def test_stopping_is_one_line(bench: Bench, caplog: pytest.LogCaptureFixture) -> None:
    async def handler(task: Task) -> None:
        await bench.clock.sleep(1000)

    caplog.set_level(logging.INFO, 'torrelque')
    await bench.queue.enqueue(1)
    worker = bench.worker(handler, concurrency=5, grace=7)
    async with anyio.create_task_group() as group:
        group.start_soon(worker.run)
        await bench.settle()
        worker.stop()
        worker.stop()
        await bench.clock.advance(8)
    assert [record.message for record in caplog.records] == ['Stopping: waiting up to 7 s for 1 handler']


async def test_the_queue_need_not_be_entered_on_asyncio(anyio_backend_name: str) -> None:
    if anyio_backend_name == 'trio':
        return  # there it is an error, which tests/queue has
    queue = Torrelque(MemoryTransport(server=MemoryServer()), queue='q')
    bench = LiveBench(queue)
    task_id = await queue.enqueue(1)

    async def handler(task: Task) -> str:
        return 'done'

    with anyio.fail_after(SOON):
        async with bench.working(handler, concurrency=2):
            assert (await queue.wait(task_id)).result == 'done'
    await queue.aclose()


async def test_signals_are_heeded_until_the_last_outcome_is_written(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def write_late(*arguments: Any, **options: Any) -> None:  # noqa: ANN401 - the queue's
        await anyio.sleep(0.05)
        heeded.append(signal.getsignal(signal.SIGTERM) is not before)
        await release(*arguments, **options)

    heeded: list[bool] = []
    before, release = signal.getsignal(signal.SIGTERM), bench.queue.release
    monkeypatch.setattr(bench.queue, 'release', write_late)
    await bench.queue.enqueue('a')

    async def handler(_task: Task) -> None:
        worker.stop()

    worker = bench.worker(handler, handle_signals=True)
    await worker.run()
    assert heeded == [True]
    assert signal.getsignal(signal.SIGTERM) is before
    assert await bench.peek() == (0, 0, 0, 0)

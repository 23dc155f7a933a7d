"""What a worker sends: what belongs to one moment travels together."""

from __future__ import annotations

import anyio
import pytest

from tests.worker.support import Bench
from torrelque import Task, events

pytestmark = pytest.mark.anyio


async def test_an_idle_worker_costs_one_claim_and_one_wait(bench: Bench) -> None:
    async def handler(task: Task) -> None: ...

    async with bench.working(handler, concurrency=100):
        before, announced = bench.transport.count('claim'), bench.transport.count('announce')
        await bench.clock.advance(60)
        assert 7 <= bench.transport.count('claim') - before <= 10  # a slice lasts from 6.8 to 8 s
        assert 5 <= bench.transport.count('announce') - announced <= 8
        assert bench.transport.count('release') == 0


async def test_a_full_slate_is_claimed_by_one_call(bench: Bench) -> None:
    async def handler(task: Task) -> None:
        await bench.clock.sleep(10)

    for number in range(50):
        await bench.queue.enqueue(number)
    async with bench.working(handler, concurrency=50):
        assert len(bench.told(events.Started)) == 50
        assert bench.transport.count('claim') <= 3  # the first may find its script and lane unknown


async def test_releases_and_the_next_claims_travel_in_one_batch(bench: Bench) -> None:
    async def handler(task: Task) -> None:
        await bench.clock.sleep(1)

    for number in range(400):
        await bench.queue.enqueue(number)
    async with bench.working(handler, concurrency=40):
        await bench.clock.advance(1)  # scripts and lanes are known now
        bench.transport.batches.clear()
        await bench.clock.advance(8)
    assert len(bench.told(events.Finished)) == 360
    batches = [sorted(batch) for batch in bench.transport.batches if batch != ['announce']]
    assert batches[:8] == [['claim', 'release']] * 8


async def test_renewals_travel_with_what_else_is_sent_at_the_moment(bench: Bench) -> None:
    async def handler(task: Task) -> None:
        await bench.clock.sleep(1000 if task.data == 'long' else 5)

    for number in range(20):
        await bench.queue.enqueue('long' if number % 2 else 'short', task_timeout=10)
    for _ in range(20):
        await bench.queue.enqueue('short', task_timeout=100)
    async with bench.working(handler, concurrency=20):
        await bench.clock.advance(4.9)
        bench.transport.batches.clear()
        await bench.clock.advance(0.2)  # ten releases, ten claims, ten renewals
        assert [sorted(batch) for batch in bench.transport.batches] == [['claim', 'extend', 'release']]


async def test_all_that_is_given_back_goes_in_one_call(bench: Bench) -> None:
    async def handler(task: Task) -> None:
        await bench.clock.sleep(1000)

    for number in range(50):
        await bench.queue.enqueue(number)
    worker = bench.worker(handler, concurrency=50)
    async with anyio.create_task_group() as group:
        group.start_soon(worker.run)
        await bench.settle()
        bench.transport.batches.clear()
        worker.stop(0)
    assert len(bench.told(events.GivenBack)) == 50
    assert bench.transport.count('giveback') <= 2  # one, and its repeat where the server did not know the script


async def test_a_thousand_tasks(bench: Bench) -> None:
    running = most = 0

    async def handler(task: Task) -> int:
        nonlocal running, most
        running += 1
        most = max(most, running)
        await bench.clock.sleep(task.data % 7 / 10)
        running -= 1
        return task.data  # type: ignore[no-any-return]  # it is what was enqueued

    ids = [str(each) for each in await bench.queue.enqueue_many(range(1000))]
    async with bench.working(handler, concurrency=50):
        await bench.clock.advance(30)
    assert most == 50
    assert [event.task.dequeue_count for event in bench.told(events.Finished)] == [1] * 1000
    results = [(await bench.queue.get_task_state(task_id)).result for task_id in ids]
    assert results == list(range(1000))
    assert await bench.peek() == (0, 0, 0, 0)

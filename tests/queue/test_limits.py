"""Limits of the whole queue: how many tasks run at once, and how many start in a time."""

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable, Mapping
from itertools import pairwise
from typing import Any, TypeAlias

import anyio
import pytest

from tests.servers import Server
from torrelque import (
    Limits,
    Pause,
    Task,
    Torrelque,
    TorrelqueTypeError,
    TorrelqueValueError,
    Worker,
    queues,
)
from torrelque.testing import MemoryTransport, VirtualClock
from torrelque.transports.native import NativeTransport

pytestmark = pytest.mark.anyio

ENOUGH = 20  # seconds, on a machine under load
SOON = 4  # seconds, half a slice: nobody found it by looking again


async def fill(queue: Torrelque, count: int) -> None:
    await queue.enqueue_many(range(count))


async def take(queue: Torrelque, most: int = 100) -> list[Any]:
    return list(await queue.dequeue_nowait(max_tasks=most))


# How many at once -----------------------------------------------------------------------------------------------------


async def test_no_more_are_claimed_at_once(queue: Torrelque) -> None:
    await fill(queue, 8)
    await queue.limit(concurrency=3)
    assert await queue.limits() == (await queue.get_queue_stats()).limits == Limits(concurrency=3)
    held = await take(queue)
    assert len(held) == 3
    assert await take(queue) == []
    await queue.release(held[0])
    await queue.requeue(held[1])
    assert [task.data for task in await take(queue)] == [3, 4]
    await queue.limit()
    assert await queue.limits() == Limits()
    assert len(await take(queue)) == 4
    assert await queue.audit() == []


async def give_back_cancelled(queue: Torrelque, task: Task) -> None:
    assert await queue.cancel(task.id, running='ask')
    await queue.giveback(task)


End: TypeAlias = Callable[[Torrelque, Task], Awaitable[object]]

END: dict[str, End] = {
    'release': lambda queue, task: queue.release(task),
    'release with a result': lambda queue, task: queue.release(task, result=1),
    'requeue': lambda queue, task: queue.requeue(task),
    'requeue with a delay': lambda queue, task: queue.requeue(task, delay=100),
    'reject': lambda queue, task: queue.reject(task, 'no'),
    'giveback': lambda queue, task: queue.giveback(task),
    'cancel': lambda queue, task: queue.cancel(task.id, running='end'),
    'giveback, asked to end': give_back_cancelled,
    'a raised limit': lambda queue, _: queue.limit(concurrency=2),
    'no limit': lambda queue, _: queue.limit(),
}


async def check_that_the_next_starts(queue: Torrelque, client: NativeTransport, end: End) -> None:
    """The end of the one claim that is permitted wakes a consumer that waits."""
    held = await queue.dequeue(ENOUGH)
    got: list[Any] = []

    async def consume(other: Torrelque) -> None:
        got.append(await other.dequeue(ENOUGH))

    async with Torrelque(client, queue='q') as other, anyio.create_task_group() as group:
        group.start_soon(consume, other)
        await anyio.sleep(0.05)  # it blocks on the server
        assert got == []
        await end(queue, held)
        with anyio.fail_after(SOON):
            while not got:  # noqa: ASYNC110 - it is another object's
                await anyio.sleep(0.001)
    assert await queue.audit() == []


@pytest.mark.parametrize('how', END)
async def test_the_next_task_starts_at_once(queue: Torrelque, client: NativeTransport, how: str) -> None:
    await fill(queue, 2)
    await queue.limit(concurrency=1)
    await check_that_the_next_starts(queue, client, END[how])


async def test_a_stale_claim_counts_until_another_takes_its_place() -> None:
    clock = VirtualClock()
    async with Torrelque(MemoryTransport(clock=clock)) as queue:
        await queue.limit(concurrency=2)
        for _ in range(4):
            await queue.enqueue('a', task_timeout=10)
        assert len(await take(queue)) == 2
        await clock.advance(11)
        assert len(await take(queue)) == 2
        stats = await queue.get_queue_stats()
        assert (stats.working, stats.pending) == (2, 2)


async def test_a_lower_limit_stops_no_running_task(queue: Torrelque) -> None:
    await fill(queue, 6)
    held = await take(queue, 4)
    await queue.limit(concurrency=2)
    assert await take(queue) == []
    await queue.release_many(held[:2])
    assert await take(queue) == []
    await queue.release_many(held[2:])
    assert len(await take(queue)) == 2


# How many in a time ---------------------------------------------------------------------------------------------------


async def test_a_rate_with_its_burst() -> None:
    clock = VirtualClock()
    async with Torrelque(MemoryTransport(clock=clock)) as queue:
        await fill(queue, 100)
        await queue.limit(rate=(5, 10))
        assert await queue.limits() == Limits(rate=(5, 10.0), burst=5)
        assert len(await take(queue)) == 5
        await clock.advance(1.999)
        assert await take(queue) == []
        await clock.advance(0.001)
        assert len(await take(queue)) == 1
        await clock.advance(7)
        assert len(await take(queue)) == 3
        await clock.advance(1000)
        assert len(await take(queue)) == 5


@pytest.mark.parametrize(('count', 'seconds'), [(7, 60), (100, 60), (3, 1), (1, 0.001)])
async def test_a_rate_is_exact(count: int, seconds: float) -> None:
    """Each delivery on its own, and within a microsecond."""
    clock = VirtualClock()
    async with Torrelque(MemoryTransport(clock=clock)) as queue:
        await fill(queue, 3 * count)
        await queue.limit(rate=(count, seconds))
        for _ in range(count):
            assert len(await take(queue, 1)) == 1
        for _ in range(count):
            assert await take(queue, 1) == []
            await clock.advance(seconds / count + 1e-6)
            assert len(await take(queue, 1)) == 1


async def test_a_burst_of_one_spaces_them_evenly() -> None:
    clock = VirtualClock()
    async with Torrelque(MemoryTransport(clock=clock)) as queue, anyio.create_task_group() as group:
        await fill(queue, 5)
        await queue.limit(rate=(60, 60), burst=1)
        times: list[float] = []

        async def consume() -> None:
            while True:
                task = await queue.dequeue()
                times.append(clock.now())
                await queue.release(task)

        group.start_soon(consume)
        await clock.advance(20)
        assert [later - earlier for earlier, later in pairwise(times)] == pytest.approx([1] * 4, abs=1e-3)
        group.cancel_scope.cancel()


async def test_the_next_task_starts_when_it_is_due(queue: Torrelque) -> None:
    await fill(queue, 4)
    await queue.limit(rate=(2, 1))
    states = []
    with anyio.fail_after(ENOUGH):
        for _ in range(4):
            task = await queue.dequeue()
            states.append(await queue.get_task_state(task.id))
    times = [state.last_dequeue_time or 0 for state in states]
    assert times[2] >= times[0] + 0.499
    assert times[3] >= times[0] + 0.999
    assert times[3] < times[0] + SOON, 'not only with the next slice'


async def test_each_redelivery_counts(queue: Torrelque) -> None:
    await queue.enqueue('a')
    await queue.limit(rate=(2, 1000))
    for _ in range(2):
        (task,) = await take(queue)
        await queue.requeue(task)
    assert await take(queue) == []


async def test_what_is_given_back_does_not_count(queue: Torrelque) -> None:
    await queue.enqueue('a')
    await queue.limit(rate=(1, 1000))
    for _ in range(5):
        (task,) = await take(queue)
        await queue.giveback(task)
    (task,) = await take(queue)
    await queue.release(task)
    await queue.enqueue('b')
    assert await take(queue) == []


@pytest.mark.parametrize('how', ['cancel', 'giveback, asked to end'])
async def test_a_delivery_that_is_cancelled_counts(queue: Torrelque, how: str) -> None:
    await fill(queue, 2)
    await queue.limit(rate=(1, 1000))
    (task,) = await take(queue)
    await END[how](queue, task)
    assert await take(queue) == []
    assert (await queue.get_queue_stats()).pending == 1


async def test_a_refund_leaves_out_the_time_that_has_passed() -> None:
    clock = VirtualClock()
    async with Torrelque(MemoryTransport(clock=clock)) as queue:
        await fill(queue, 10)
        await queue.limit(rate=(1, 10))
        await clock.advance(0.001)
        (task,) = await take(queue)
        await clock.advance(9)
        await queue.giveback(task)
        assert len(await take(queue)) == 1
        assert await take(queue) == []


async def test_a_changed_rate_holds_at_once() -> None:
    clock = VirtualClock()
    async with Torrelque(MemoryTransport(clock=clock)) as queue:
        await fill(queue, 100)
        await queue.limit(rate=(1, 1000))
        assert len(await take(queue)) == 1
        await queue.limit(rate=(1, 1000))  # as every worker declares it when it starts
        assert await take(queue) == []
        await queue.limit(rate=(10, 1))
        await clock.advance(1)
        assert len(await take(queue)) == 10
        await queue.limit()
        assert len(await take(queue)) == 89


# Together, and with the rest ------------------------------------------------------------------------------------------


async def test_both_limits_hold() -> None:
    clock = VirtualClock()
    async with Torrelque(MemoryTransport(clock=clock)) as queue:
        await fill(queue, 100)
        await queue.limit(concurrency=3, rate=(4, 4))
        held = await take(queue)
        assert len(held) == 3
        await queue.release_many(held)
        held = await take(queue)
        assert len(held) == 1
        await clock.advance(3)
        assert len(await take(queue)) == 2


async def test_after_a_release_the_rate_decides() -> None:
    clock = VirtualClock()
    async with Torrelque(MemoryTransport(clock=clock)) as queue, anyio.create_task_group() as group:
        await fill(queue, 3)
        await queue.limit(concurrency=1, rate=(1, 2))
        times: list[float] = []

        async def consume() -> None:
            while True:
                task = await queue.dequeue()
                times.append(clock.now())
                await anyio.lowlevel.checkpoint()
                group.start_soon(release_later, task)

        async def release_later(task: Any) -> None:  # noqa: ANN401 - whatever it is
            await clock.sleep(0.5)
            await queue.release(task)

        group.start_soon(consume)
        await clock.advance(5)
        assert [time - times[0] for time in times] == pytest.approx([0, 2, 4], abs=1e-3)
        group.cancel_scope.cancel()


async def test_a_pause_keeps_the_limits_and_the_other_way_round(queue: Torrelque) -> None:
    await fill(queue, 5)
    await queue.limit(concurrency=2)
    await queue.pause('why')
    await queue.limit(concurrency=3)
    stats = await queue.get_queue_stats()
    assert isinstance(stats.paused, Pause)
    assert (stats.paused.reason, stats.limits) == ('why', Limits(concurrency=3))
    assert await take(queue) == []
    await queue.resume()
    assert len(await take(queue)) == 3
    assert await queue.limits() == Limits(concurrency=3)


async def test_a_worker_keeps_to_them(queue: Torrelque) -> None:
    running, most, done = 0, 0, 0
    over = anyio.Event()

    async def handle(_task: object) -> None:
        nonlocal running, most, done
        running += 1
        most = max(most, running)
        await anyio.sleep(0.005)
        running -= 1
        done += 1
        if done == 20:
            over.set()

    await queue.limit(concurrency=3)
    await fill(queue, 20)
    async with anyio.create_task_group() as group:
        worker = Worker(queue, handle, concurrency=10)
        await group.start(worker.run)
        with anyio.fail_after(ENOUGH):
            await over.wait()
        worker.stop()
    assert most == 3


async def test_a_queue_without_tasks_is_listed_while_it_has_limits(queue: Torrelque, client: NativeTransport) -> None:
    await queue.limit(concurrency=2)
    assert [name async for name in queues(client)] == ['q']
    await queue.delete()
    assert await queue.limits() == Limits()


BAD: list[tuple[dict[str, Any], type[Exception], str]] = [
    ({'concurrency': 0}, TorrelqueValueError, r'concurrency must be at least 1, got 0: .* use pause\(\)'),
    ({'concurrency': -1}, TorrelqueValueError, 'concurrency must be at least 1, got -1'),
    ({'concurrency': 10**7}, TorrelqueValueError, 'concurrency must be at most 1000000, got 10000000'),
    ({'concurrency': 1.5}, TorrelqueTypeError, r'concurrency must be a whole number, got 1\.5'),
    ({'concurrency': True}, TorrelqueTypeError, 'concurrency must be a whole number, got True'),
    ({'rate': 100}, TorrelqueTypeError, r'rate must be a number of deliveries and of seconds, .* got 100'),
    ({'rate': (1, 2, 3)}, TorrelqueTypeError, r'rate must be .* got \(1, 2, 3\)'),
    ({'rate': (0, 60)}, TorrelqueValueError, 'the deliveries of rate must be at least 1, got 0'),
    ({'rate': (1.5, 60)}, TorrelqueTypeError, r'the deliveries of rate must be a whole number, got 1\.5'),
    ({'rate': (1, 0)}, TorrelqueValueError, 'the seconds of rate must be a finite number above 0, got 0'),
    ({'rate': (1, -1)}, TorrelqueValueError, 'the seconds of rate must be .* got -1'),
    ({'rate': (1, math.inf)}, TorrelqueValueError, 'the seconds of rate must be .* got inf'),
    ({'rate': (1, '60')}, TorrelqueTypeError, "the seconds of rate must be a number, got '60'"),
    ({'rate': (1, 1e7)}, TorrelqueValueError, 'the seconds of rate must be at most 2678400, 31 days, got 10000000'),
    ({'rate': (10**6, 0.5)}, TorrelqueValueError, 'at most a million deliveries per second'),
    ({'rate': (1, 1), 'burst': 0}, TorrelqueValueError, 'burst must be at least 1, got 0'),
    ({'rate': (1, 86400), 'burst': 100}, TorrelqueValueError, 'burst must be less than 31 days of deliveries'),
    ({'burst': 5}, TorrelqueTypeError, 'burst needs a rate, got burst=5 and rate=None'),
]


@pytest.mark.parametrize(('arguments', 'kind', 'message'), BAD)
async def test_bad_arguments(arguments: Mapping[str, Any], kind: type[Exception], message: str) -> None:
    async with Torrelque(MemoryTransport()) as queue:
        with pytest.raises(kind, match=message):
            await queue.limit(**arguments)
        assert await queue.limits() == Limits()


@pytest.mark.parametrize(
    ('fields', 'kept'),
    [
        ({'limits': '2 - - -', 'uses': ''}, Limits(2)),
        ({'limits': '', 'uses': 'l'}, Limits()),
        ({'limits': 'many', 'uses': 'l'}, Limits()),
        ({'limits': '2 - - -', 'uses': '', 'paused': 'inf'}, Limits(2)),
    ],
)
async def test_an_audit_repairs_the_record(
    server: Server, queue: Torrelque, fields: Mapping[str, str], kept: Limits
) -> None:
    await queue.enqueue('a')
    for name, value in fields.items():
        server.command('HSET', 'q:counters', name, value)
    (found,) = await queue.audit()
    assert (found.kind, found.key, found.repaired) == ('flow', 'q:counters', False)
    (found,) = await queue.audit(repair=True)
    assert found.repaired
    assert await queue.audit() == []
    stats = await queue.get_queue_stats()
    assert (stats.limits or Limits(), stats.paused is not None) == (kept, 'paused' in fields)

"""A paused queue: nobody is given a task, until it is resumed or the pause ends."""

from __future__ import annotations

import math
from collections.abc import Mapping
from datetime import UTC, datetime
from functools import partial

import anyio
import pytest

from tests.servers import Server
from torrelque import (
    EnqueueItem,
    Pause,
    Torrelque,
    TorrelqueTimeoutError,
    TorrelqueTypeError,
    TorrelqueUsageError,
    TorrelqueValueError,
    Worker,
    queues,
)
from torrelque.testing import MemoryTransport, VirtualClock
from torrelque.transports.native import NativeTransport

pytestmark = pytest.mark.anyio

ENOUGH = 20  # seconds, on a machine under load


async def test_nobody_is_given_a_task(queue: Torrelque, client: NativeTransport) -> None:
    await queue.enqueue('running')
    running = await queue.dequeue(ENOUGH)
    got: list[object] = []

    async def consume(other: Torrelque) -> None:
        got.append((await other.dequeue(ENOUGH)).data)

    async with Torrelque(client, queue='q') as other, anyio.create_task_group() as group:
        group.start_soon(consume, other)
        await anyio.sleep(0.05)  # it blocks on the server
        await queue.pause('migration 114')
        await queue.enqueue('a')
        assert await queue.dequeue_nowait() == []
        with pytest.raises(TorrelqueTimeoutError):
            await queue.dequeue(0.2)
        assert got == []
        paused = (await other.get_queue_stats()).paused
        assert paused is not None
        assert paused == Pause(paused.since, None, 'migration 114')
        assert await queue.extend(running) > 0
        await queue.release(running)
        await queue.resume()
        with anyio.fail_after(1):  # not after a slice
            while not got:  # noqa: ASYNC110 - it is another object's
                await anyio.sleep(0.001)
    assert (await queue.get_queue_stats()).paused is None
    assert await queue.audit() == []


@pytest.mark.parametrize('as_datetime', [False, True])
async def test_a_pause_ends(queue: Torrelque, as_datetime: bool) -> None:
    await queue.enqueue('a')
    end = await queue.get_server_time() + 0.3
    await queue.pause(until=datetime.fromtimestamp(end, UTC) if as_datetime else end)
    assert (await queue.get_queue_stats()).paused is not None
    with anyio.fail_after(3):
        task = await queue.dequeue()
    state = await queue.get_task_state(task.id)
    assert state.last_dequeue_time is not None
    assert state.last_dequeue_time >= end - 1e-5
    assert (await queue.get_queue_stats()).paused is None


async def test_later_calls_replace_the_end_and_keep_the_reason(queue: Torrelque) -> None:
    now = await queue.get_server_time()
    await queue.pause('why', until=now + 100)
    first = (await queue.get_queue_stats()).paused
    assert first is not None
    assert first.until == pytest.approx(now + 100)
    assert first.reason == 'why'
    await queue.pause()
    assert (await queue.get_queue_stats()).paused == (first.since, None, 'why')
    await queue.pause('other')
    assert (await queue.get_queue_stats()).paused == (first.since, None, 'other')
    await queue.resume()
    await queue.resume()
    await queue.pause()
    again = (await queue.get_queue_stats()).paused
    assert again is not None
    assert (again.until, again.reason) == (None, None)


async def test_an_end_in_the_past_changes_nothing(queue: Torrelque) -> None:
    await queue.enqueue('a')
    with pytest.raises(TorrelqueValueError, match=r'until must be in the future .* got 12\.5'):
        await queue.pause(until=12.5)
    assert (await queue.get_queue_stats()).paused is None
    assert len(await queue.dequeue_nowait()) == 1


async def test_bad_arguments(queue: Torrelque) -> None:
    with pytest.raises(TorrelqueTypeError, match="until must be a datetime or a Unix time, got 'soon'"):
        await queue.pause(until='soon')  # type: ignore[arg-type]  # on purpose
    with pytest.raises(TorrelqueValueError, match='with a time zone'):
        await queue.pause(until=datetime(2099, 1, 1))  # noqa: DTZ001 - on purpose
    for bad in (math.nan, math.inf, -1, 1e12):
        with pytest.raises(TorrelqueValueError, match='until must be a Unix time in seconds'):
            await queue.pause(until=bad)
    with pytest.raises(TorrelqueValueError, match='reason must not be empty'):
        await queue.pause('')
    with pytest.raises(TorrelqueTypeError, match='timeout needs wait=True, got timeout=5'):
        await queue.pause(timeout=5)
    with pytest.raises(TorrelqueTypeError, match="wait must be True or False, got 'yes'"):
        await queue.pause(wait='yes')  # type: ignore[arg-type]  # on purpose
    assert (await queue.get_queue_stats()).paused is None


async def test_stale_and_due_tasks_go_back_and_are_not_taken() -> None:
    clock = VirtualClock()
    async with Torrelque(MemoryTransport(clock=clock)) as queue, anyio.create_task_group() as group:
        await queue.enqueue('stale', task_timeout=10)
        await queue.dequeue_nowait()
        await queue.enqueue_many([EnqueueItem(f'due {number}', delay=5) for number in range(30)])
        await queue.pause(until=await queue.get_server_time() + 60)
        got: list[object] = []

        async def consume() -> None:
            while True:
                task = await queue.dequeue()
                got.append(task.data)
                await queue.release(task)

        group.start_soon(consume)
        await clock.advance(40)
        stats = await queue.get_queue_stats()
        assert (stats.pending, stats.delayed, stats.working, got) == (31, 0, 0, [])
        await clock.advance(20)
        assert sorted(map(str, got)) == sorted(['stale', *(f'due {number}' for number in range(30))])
        group.cancel_scope.cancel()


async def test_waits_on_the_clock_of_the_transport(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr('torrelque.engine.engine.FIRST_LOOK', 0.0)
    clock = VirtualClock()
    async with Torrelque(MemoryTransport(clock=clock)) as queue, anyio.create_task_group() as group:
        await queue.enqueue('a')
        (held,) = await queue.dequeue_nowait()
        group.start_soon(partial(queue.pause, wait=True, timeout=0.2))
        await anyio.sleep(0.3)  # but the clock stands still
        await queue.release(held)
        await clock.advance(0.1)


async def test_waits_until_nothing_is_running(queue: Torrelque) -> None:
    for timeout in (300, 300, 0.3):
        await queue.enqueue('a', task_timeout=timeout)
    held = await queue.dequeue(ENOUGH, max_tasks=3)
    with pytest.raises(TorrelqueTimeoutError, match=r'still claimed after 0\.05 s; the queue stays paused'):
        await queue.pause('deploy', wait=True, timeout=0.05)
    await queue.release_many(held[:2])
    with anyio.fail_after(ENOUGH):
        await queue.pause(wait=True)
    stats = await queue.get_queue_stats()
    assert (stats.working, stats.pending, stats.paused and stats.paused.reason) == (0, 1, 'deploy')


async def test_a_wait_ends_if_the_queue_is_resumed(queue: Torrelque) -> None:
    await queue.enqueue('a')
    await queue.dequeue(ENOUGH)
    failed: list[Exception] = []

    async def pause() -> None:
        try:
            await queue.pause(wait=True)
        except TorrelqueUsageError as error:
            failed.append(error)

    with anyio.fail_after(ENOUGH):
        async with anyio.create_task_group() as group:
            group.start_soon(pause)
            while (await queue.get_queue_stats()).paused is None:  # noqa: ASYNC110 - it is the server's
                await anyio.sleep(0.005)
            await queue.resume()
    assert 'resumed, with 1 task still claimed' in str(failed[0])


async def test_a_worker_goes_on_afterwards(queue: Torrelque) -> None:
    done = anyio.Event()

    async def handle(_task: object) -> None:
        done.set()

    await queue.pause()
    async with anyio.create_task_group() as group:
        worker = Worker(queue, handle, concurrency=1)
        await group.start(worker.run)
        await queue.enqueue('a')
        await anyio.sleep(0.1)
        assert not done.is_set()
        await queue.resume()
        with anyio.fail_after(ENOUGH):
            await done.wait()
        worker.stop()


async def test_a_queue_without_tasks_is_listed_while_it_is_paused(queue: Torrelque, client: NativeTransport) -> None:
    await queue.pause()
    assert [name async for name in queues(client)] == ['q']
    await queue.resume()
    assert [name async for name in queues(client)] == []
    await queue.pause()
    await queue.delete()
    assert (await queue.get_queue_stats()).paused is None


@pytest.mark.parametrize(
    ('fields', 'kept'),
    [
        ({'paused': 'inf', 'uses': ''}, True),
        ({'paused': '', 'uses': 'p'}, False),
        ({'paused': 'x', 'uses': 'p'}, False),
    ],
)
async def test_an_audit_repairs_the_record(
    server: Server, queue: Torrelque, fields: Mapping[str, str], kept: bool
) -> None:
    await queue.enqueue('a')
    for name, value in fields.items():
        server.command('HSET', 'q:counters', name, value)
    (found,) = await queue.audit()
    assert (found.kind, found.key, found.repaired) == ('flow', 'q:counters', False)
    (found,) = await queue.audit(repair=True)
    assert found.repaired
    assert await queue.audit() == []
    assert ((await queue.get_queue_stats()).paused is not None) == kept

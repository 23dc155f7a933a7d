"""Consumers that wait: what they cost, and how soon they get what they wait for."""

from __future__ import annotations

import anyio
import pytest

from tests.servers import Server
from torrelque import Task, Torrelque, connect
from torrelque.transports.native import NativeTransport

pytestmark = pytest.mark.anyio

SOON = 5  # seconds; milliseconds are usual, 30 s is what 0.9's sweep took


def calls(server: Server, command: str) -> int:
    said = server.info('commandstats').get(f'cmdstat_{command}', 'calls=0,')
    return int(said.partition('=')[2].partition(',')[0])


async def test_an_idle_queue_costs_two_calls_a_slice(server: Server, client: NativeTransport) -> None:
    client.block_limit = 0.3
    async with Torrelque(client, queue='q') as queue, anyio.create_task_group() as tasks:
        for _ in range(100):
            tasks.start_soon(queue.dequeue)
        await anyio.sleep(0.1)
        server.command('CONFIG', 'RESETSTAT')
        await anyio.sleep(1.3)
        # A slice lasts from 85% to all of 0.3 s, and up to 0.1 s more until the server notices.
        assert 1 <= calls(server, 'bzpopmin') <= 6
        assert 1 <= calls(server, 'evalsha') <= 6
        tasks.cancel_scope.cancel()


async def test_consumers_of_delayed_tasks_do_not_poll(server: Server, client: NativeTransport) -> None:
    async with Torrelque(client, queue='q') as queue, anyio.create_task_group() as tasks:
        await queue.enqueue('later', delay=9)
        await queue.enqueue('much later', delay=3600)
        for _ in range(20):
            tasks.start_soon(queue.dequeue)
        await anyio.sleep(0.1)
        server.command('CONFIG', 'RESETSTAT')
        await anyio.sleep(0.5)
        assert calls(server, 'bzpopmin') + calls(server, 'evalsha') <= 2
        tasks.cancel_scope.cancel()


async def test_a_delayed_task_starts_in_time_with_no_sweep(queue: Torrelque) -> None:
    """Row 17: as precise as the sweep interval, and only where a sweep is scheduled."""
    got: list[Task] = []

    async def consume() -> None:
        got.append(await queue.dequeue())

    async with anyio.create_task_group() as tasks:
        for _ in range(5):
            tasks.start_soon(consume)
        await anyio.sleep(0.02)
        for delay in (0.1, 0.2, 0.3, 0.15, 0.25):
            await queue.enqueue(delay, delay=delay)
    due: list[float] = []
    for task in got:
        state = await queue.get_task_state(task.id)
        assert state.last_dequeue_time is not None
        assert state.enqueue_time is not None
        due.append(state.enqueue_time + task.data)
        assert 0 <= state.last_dequeue_time - due[-1] < SOON
    assert due == sorted(due)
    assert sorted(task.data for task in got) == [0.1, 0.15, 0.2, 0.25, 0.3]


async def test_two_waiting_processes_share_the_timer(server: Server, queue: Torrelque) -> None:
    got: list[str] = []

    async def consume(own: Torrelque) -> None:
        got.append((await own.dequeue()).data)

    async with connect(server.url) as client, Torrelque(client, queue='q') as other:
        with anyio.fail_after(SOON):
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(consume, queue)
                tasks.start_soon(consume, other)
                await anyio.sleep(0.02)
                for number in range(2):
                    await queue.enqueue(f'a {number}', delay=0.1 + number / 2)
    assert got == ['a 0', 'a 1']


async def test_whoever_minds_the_timer_may_leave(server: Server, queue: Torrelque) -> None:
    async with connect(server.url) as client, Torrelque(client, queue='q') as other:
        await queue.enqueue('a', delay=0.3)
        with anyio.fail_after(SOON):
            async with anyio.create_task_group() as tasks:
                with anyio.move_on_after(0.1):
                    await queue.dequeue()  # is told to mind the task
                tasks.start_soon(other.dequeue)
    assert (await queue.get_queue_stats()).working == 1


async def test_a_stale_task_goes_to_a_waiting_consumer(queue: Torrelque) -> None:
    await queue.enqueue('a', task_timeout=0.15)
    lost = await queue.dequeue(SOON)
    begun = anyio.current_time()
    with anyio.fail_after(SOON):
        task = await queue.dequeue()
    assert (task.id, task.dequeue_count) == (lost.id, 2)
    assert anyio.current_time() - begun > 0.1


async def test_a_wait_longer_than_a_slice(client: NativeTransport) -> None:
    client.block_limit = 0.05
    async with Torrelque(client, queue='q') as queue:
        with anyio.move_on_after(0.3) as scope:
            await queue.dequeue()
        assert scope.cancelled_caught
        task_id = await queue.enqueue('a')
        assert (await queue.dequeue(SOON)).id == task_id


async def test_a_wrong_key_fails_those_who_wait(server: Server, queue: Torrelque) -> None:
    server.command('SET', 'q:wake', 'not a sorted set')
    with anyio.fail_after(SOON), pytest.raises(Exception, match='WRONGTYPE'):
        await queue.dequeue()
    server.command('DEL', 'q:wake')
    await queue.enqueue('a')
    assert (await queue.dequeue(SOON)).data == 'a'

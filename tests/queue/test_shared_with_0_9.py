"""One queue used by 0.9 and 1.0 at once, as during a migration."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import suppress

import anyio
import pytest

import torrelque.engine.watch
from tests.queue.legacy import Legacy
from tests.servers import Server
from torrelque import Task, Torrelque, TorrelqueLeaseLostError, TorrelqueLookupError, TorrelqueTaskStatus
from torrelque.transports.native import NativeTransport

pytestmark = pytest.mark.anyio

ENOUGH = 20  # seconds, for a machine under load


@pytest.fixture
def legacy(server: Server) -> Iterator[Legacy]:
    with server.client() as client:
        yield Legacy(client, 'q')


async def test_a_task_of_0_9_is_worked_off_by_1_0(legacy: Legacy, queue: Torrelque) -> None:
    task_id = legacy.enqueue({'a': 1}, timeout=7)
    state = await queue.get_task_state(task_id)
    assert (state.status, state.timeout, state.dequeue_count) == (TorrelqueTaskStatus.PENDING, 7, 0)
    task = await queue.dequeue(ENOUGH)
    assert (task.id, task.data, task.dequeue_count, task.headers) == (task_id, {'a': 1}, 1, {})
    await queue.requeue(task)
    await queue.release(await queue.dequeue(ENOUGH), result='r')
    state = await queue.get_task_state(task_id)
    assert (state.result, state.dequeue_count, state.requeue_count) == ('r', 2, 1)


async def test_a_delayed_task_of_0_9_is_due_in_time(legacy: Legacy, queue: Torrelque) -> None:
    task_id = legacy.enqueue('a', delay=0.05)
    with anyio.fail_after(ENOUGH):
        assert (await queue.dequeue()).id == task_id


async def test_a_task_of_0_9_reaches_an_idle_consumer_within_a_slice(legacy: Legacy, client: NativeTransport) -> None:
    """It gives no hint."""
    client.block_limit = 0.1
    got: list[Task] = []

    async def consume(queue: Torrelque) -> None:
        got.append(await queue.dequeue())

    async with Torrelque(client, queue='q') as queue:
        with anyio.fail_after(ENOUGH):
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(consume, queue)
                await anyio.sleep(0.03)
                legacy.enqueue('a')
    assert [task.data for task in got] == ['a']


async def test_a_task_of_1_0_is_worked_off_by_0_9(legacy: Legacy, queue: Torrelque) -> None:
    one = await queue.enqueue('one', headers={'a': 'b'}, max_dequeues=5)
    other = await queue.enqueue('other')
    assert legacy.dequeue() == (one, 'one')
    assert (await queue.get_task_state(one)).status is TorrelqueTaskStatus.WORKING
    assert legacy.dequeue() == (other, 'other')
    legacy.requeue(one)
    legacy.release(other, result='r')
    state = await queue.get_task_state(other)
    assert (state.status, state.result) == (TorrelqueTaskStatus.COMPLETED, 'r')
    assert legacy.dequeue() == (one, 'one')
    legacy.release(one)
    with pytest.raises(TorrelqueLookupError):
        await queue.get_task_state(one)
    assert (await queue.get_queue_stats())[:4] == (0, 0, 0, 0)


async def test_a_claim_of_0_9_fences(legacy: Legacy, queue: Torrelque) -> None:
    await queue.enqueue('a', task_timeout=0.001)
    lost = await queue.dequeue(ENOUGH)
    await anyio.sleep(0.002)
    assert legacy.sweep() == (1, 0, 0)
    assert legacy.dequeue() == (lost.id, 'a')
    for attempt in (queue.release(lost), queue.requeue(lost), queue.extend(lost), queue.giveback(lost)):
        with pytest.raises(TorrelqueLeaseLostError):
            await attempt
    assert (await queue.get_task_state(lost.id)).status is TorrelqueTaskStatus.WORKING
    await queue.release(str(lost.id))  # a plain id means the live claim, also one of 0.9


async def test_a_given_back_claim_is_not_revived_by_0_9(legacy: Legacy, queue: Torrelque) -> None:
    await queue.enqueue('a')
    task = await queue.dequeue(ENOUGH)
    await queue.giveback(task)
    assert legacy.dequeue() == (task.id, 'a')
    with pytest.raises(TorrelqueLeaseLostError):
        await queue.release(task)


async def test_a_task_that_0_9_works_on_is_ended(legacy: Legacy, queue: Torrelque) -> None:
    """What 0.9 does to it later does not bring it back."""
    released, requeued = legacy.enqueue('a'), legacy.enqueue('b')
    for task_id in (released, requeued):
        assert legacy.dequeue() is not None
        assert await queue.cancel(task_id, running='end')
    assert (await queue.get_queue_stats())[:4] == (0, 0, 0, 0)
    legacy.release(released, result='late')
    legacy.requeue(requeued)
    assert await queue.dequeue_nowait(max_tasks=9) == []
    assert (await queue.get_task_state(released)).result == 'late'
    assert (await queue.get_queue_stats())[:4] == (0, 0, 0, 0)


async def test_a_task_that_0_9_returns_is_still_asked_for(legacy: Legacy, queue: Torrelque) -> None:
    task_id = legacy.enqueue('a')
    assert legacy.dequeue() is not None
    assert await queue.cancel(task_id, running='ask')
    legacy.requeue(task_id)
    task = await queue.dequeue(ENOUGH)
    assert (await queue.extend(task)).cancel_asked
    await queue.giveback(task)
    assert (await queue.get_queue_stats())[:4] == (0, 0, 0, 0)
    assert await queue.audit() == []


async def test_1_0_takes_back_what_0_9_left(legacy: Legacy, queue: Torrelque) -> None:
    """A consumer that died while working, one that died between its two steps."""
    legacy.enqueue('working', timeout=0.001)
    assert legacy.dequeue() is not None
    await anyio.sleep(0.002)
    with anyio.fail_after(ENOUGH):
        task = await queue.dequeue()
    assert (task.data, task.dequeue_count) == ('working', 2)
    await queue.release(task)
    between = legacy.enqueue('between')
    assert legacy.take() == between
    assert await queue.sweep() == (0, 0, 0)
    assert await queue.sweep() == (0, 0, 1)
    assert (await queue.dequeue(ENOUGH)).id == between


async def test_0_9_takes_back_what_1_0_left(legacy: Legacy, queue: Torrelque) -> None:
    await queue.enqueue('a', task_timeout=0.001)
    task = await queue.dequeue(ENOUGH)
    await queue.enqueue('b', delay=0.001)
    await anyio.sleep(0.003)
    assert legacy.sweep() == (1, 1, 0)
    state = await queue.get_task_state(task.id)
    assert (state.status, state.requeue_count) == (TorrelqueTaskStatus.PENDING, 1)
    assert sorted(each.data for each in await queue.dequeue(ENOUGH, max_tasks=2)) == ['a', 'b']


async def test_watching_what_0_9_does(legacy: Legacy, queue: Torrelque, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torrelque.engine.watch, 'REREAD', 0.02)
    task_id = legacy.enqueue('a')
    statuses: list[TorrelqueTaskStatus] = []
    with anyio.fail_after(ENOUGH):
        async for state in queue.watch(task_id):
            statuses.append(state.status)
            if len(statuses) == 1:
                legacy.dequeue()
            elif len(statuses) == 2:
                legacy.release(task_id, result='r')
    assert [status.name for status in statuses] == ['PENDING', 'WORKING', 'COMPLETED']


class Crowd:
    """Producers, consumers and sweeps of both kinds; the consumers die here and there."""

    COUNT = 60

    def __init__(self, queue: Torrelque, old: Legacy, seed: int) -> None:
        self.queue = queue
        self.old = old
        self.draw = random.Random(seed)
        self.done: set[object] = set()
        self.finished = anyio.Event()

    def finish(self, data: object) -> None:
        self.done.add(data)
        if len(self.done) == 2 * self.COUNT:
            self.finished.set()

    def delay(self) -> float | None:
        return self.draw.choice([None, 0.01])

    async def produce(self) -> None:
        for number in range(self.COUNT):
            await self.queue.enqueue(f'new {number}', task_timeout=0.2, delay=self.delay())

    async def produce_old(self) -> None:
        for number in range(self.COUNT):
            self.old.enqueue(f'old {number}', timeout=0.2, delay=self.delay())
            await anyio.sleep(0.001)

    async def consume(self) -> None:
        while True:
            task = await self.queue.dequeue()
            fate = self.draw.random()
            if fate < 0.1:
                continue  # it died
            if fate < 0.2:
                with suppress(TorrelqueLeaseLostError):  # a slow machine's claim can outlast its lease
                    await self.queue.requeue(task, self.delay())
            else:
                await self.queue.release(task.id)
                self.finish(task.data)

    async def consume_old(self) -> None:
        while True:
            await anyio.sleep(0.002)
            task_id = self.old.take()
            if task_id is None or self.draw.random() < 0.1:
                continue  # nothing there, or it died between the two steps
            data = self.old.claim(task_id)
            if data is None:
                continue  # it waited between the two steps for longer than the task's timeout
            if self.draw.random() < 0.8:
                self.old.release(task_id)
                self.finish(data)

    async def sweep(self) -> None:
        while True:
            await anyio.sleep(0.02)
            if self.draw.random() < 0.5:
                await self.queue.sweep()
            else:
                self.old.sweep()

    async def run(self) -> None:
        async with anyio.create_task_group() as tasks:
            for part in (self.consume, self.consume_old) * 2:
                tasks.start_soon(part)
            for part in (self.sweep, self.produce, self.produce_old):
                tasks.start_soon(part)
            await self.finished.wait()
            while (await self.queue.get_queue_stats()).tasks:  # noqa: ASYNC110 - a release may be on its way
                await anyio.sleep(0.01)
            tasks.cancel_scope.cancel()


@pytest.mark.parametrize('seed', range(3))
async def test_all_at_once(legacy: Legacy, client: NativeTransport, seed: int) -> None:
    """Every task is done."""
    client.block_limit = 0.02
    async with Torrelque(client, queue='q') as queue:
        crowd = Crowd(queue, legacy, seed)
        with anyio.fail_after(ENOUGH):
            await crowd.run()
    assert crowd.done == {f'{kind} {number}' for kind in ('old', 'new') for number in range(Crowd.COUNT)}

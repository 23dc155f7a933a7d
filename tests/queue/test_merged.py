"""Calls made at once are one call to the server, and are answered like calls made one after the other."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import anyio
import pytest

from tests.queue.transports import RecordingTransport
from torrelque import Task, Torrelque, TorrelqueError

pytestmark = pytest.mark.anyio

Make = Callable[[Torrelque], Awaitable[str | Task]]
Act = Callable[[Torrelque, str | Task], Awaitable[object]]


async def pending(queue: Torrelque) -> str:
    return await queue.enqueue('a')


async def claimed(queue: Torrelque) -> Task:
    await queue.enqueue('a')
    return await queue.dequeue()


async def claimed_by_id(queue: Torrelque) -> str:
    return str((await claimed(queue)).id)


async def a_dead_letter(queue: Torrelque) -> str:
    task = await claimed(queue)
    await queue.reject(task, 'no')
    return str(task.id)


async def stale(queue: Torrelque) -> Task:
    task = await claimed(queue)
    await queue.giveback(task)
    await queue.dequeue()
    return task


VERBS: dict[str, tuple[Make, Act]] = {
    'enqueue': (claimed_by_id, lambda queue, task: queue.enqueue('b', task_id=str(task))),
    'cancel': (pending, lambda queue, task: queue.cancel(str(task))),
}
TARGETS: dict[str, Make] = {'a claim': claimed, 'an id': claimed_by_id, 'a stale claim': stale}
for how, make in TARGETS.items():
    VERBS |= {
        f'release {how}': (make, lambda queue, task: queue.release(task)),
        f'release {how} with a result': (make, lambda queue, task: queue.release(task, result=1)),
        f'requeue {how}': (make, lambda queue, task: queue.requeue(task)),
        f'requeue {how} for later': (make, lambda queue, task: queue.requeue(task, 60)),
        f'reject {how}': (make, lambda queue, task: queue.reject(task, 'no')),
        f'giveback {how}': (make, lambda queue, task: queue.giveback(task)),
        f'extend {how}': (make, lambda queue, task: queue.extend(task, 60)),
    }


async def outcome(act: Act, queue: Torrelque, task: str | Task) -> str:
    try:
        await act(queue, task)
    except TorrelqueError as error:
        return type(error).__name__
    return 'done'


@pytest.mark.parametrize('verb', VERBS)
async def test_two_calls_for_one_task_at_once(verb: str, caplog: pytest.LogCaptureFixture) -> None:
    make, act = VERBS[verb]
    transport = RecordingTransport()
    async with Torrelque(transport, queue='q') as queue:
        task = await make(queue)
        one_after_the_other = [await outcome(act, queue, task) for _ in range(2)]
        warnings = len(caplog.records)
        task = await make(queue)
        at_once: list[str] = []

        async def run() -> None:
            at_once.append(await outcome(act, queue, task))

        async with anyio.create_task_group() as group:
            group.start_soon(run)
            group.start_soon(run)
        assert sorted(at_once) == sorted(one_after_the_other)
        assert len(caplog.records) == 2 * warnings


@pytest.mark.parametrize('verb', ['redrive', 'purge'])
async def test_a_dead_letter_is_counted_once(verb: str) -> None:
    async with Torrelque(RecordingTransport(), queue='q') as queue:
        task = await a_dead_letter(queue)
        counts: list[int] = []

        async def run() -> None:
            counts.append(await getattr(queue, verb)(task))

        async with anyio.create_task_group() as group:
            group.start_soon(run)
            group.start_soon(run)
        assert sorted(counts) == [0, 1]

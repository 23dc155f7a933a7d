"""What can be done to a task in `torrelque top`, and what cannot."""

from __future__ import annotations

import pytest

from torrelque import Torrelque, TorrelqueError, TorrelqueTaskStatus
from torrelque.cli.top.actions import ACTIONS, ALL_ACTIONS
from torrelque.testing import MemoryTransport

pytestmark = pytest.mark.anyio

PENDING, WORKING, DELAYED, COMPLETED, REJECTED, *_ = TorrelqueTaskStatus


@pytest.mark.parametrize(
    ('status', 'names'),
    [
        (PENDING, {'cancel'}),
        (DELAYED, {'cancel'}),
        (WORKING, {'requeue', 'reject', 'cancel'}),
        (REJECTED, {'redrive', 'purge'}),
        (COMPLETED, set[str]()),
    ],
)
async def test_what_fits(status: TorrelqueTaskStatus, names: set[str]) -> None:
    async with Torrelque(MemoryTransport(), queue='q') as queue:
        await queue.enqueue(1, task_id='one')
        task = await queue.get_task('one')
    task = task._replace(state=task.state._replace(status=status))
    assert {name for name, action in ACTIONS.items() if action.fits(task)} == names
    assert not any(action.fits(task._replace(data=None)) for action in ACTIONS.values())


def test_each_has_its_key() -> None:
    keys = [action.key for action in ACTIONS.values()] + [action.key for action in ALL_ACTIONS.values()]
    assert len(set(keys)) == len(keys)


async def test_what_they_do() -> None:
    async with Torrelque(MemoryTransport(), queue='q') as queue:
        for name in ('a', 'b', 'c', 'e', 'd'):
            await queue.enqueue(name, task_id=name)
        await queue.dequeue(max_tasks=4)
        await ACTIONS['requeue'].do(queue, 'a')
        await ACTIONS['reject'].do(queue, 'b')
        await ACTIONS['reject'].do(queue, 'c')
        await ACTIONS['cancel'].do(queue, 'd')
        await ACTIONS['cancel'].do(queue, 'e')
        assert (await queue.get_task_state('b')).reason == 'rejected by hand'
        await ACTIONS['redrive'].do(queue, 'b')
        await ACTIONS['purge'].do(queue, 'c')
        assert {task_id: state.status async for task_id, state in queue.tasks()} == {'a': PENDING, 'b': PENDING}
        with pytest.raises(TorrelqueError):
            await ACTIONS['requeue'].do(queue, 'gone')


async def test_to_all_dead_letters() -> None:
    async with Torrelque(MemoryTransport(), queue='q') as queue:
        for action, pending in (('redrive', 3), ('purge', 0)):
            await queue.enqueue_many(range(3))
            for task in await queue.dequeue(max_tasks=10):
                await queue.reject(task, 'no good')
            await ALL_ACTIONS[action].do(queue)
            stats = await queue.get_queue_stats()
            assert (stats.pending, stats.rejected) == (pending, 0)
            for task in await queue.dequeue_nowait(max_tasks=10):
                await queue.release(task)

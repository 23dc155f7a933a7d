"""The screen of the tasks of a queue."""

from __future__ import annotations

import pytest

from tests import servers
from tests.cli.top.support import reject, staged
from torrelque.cli.top.screens.dialogs import Confirm
from torrelque.cli.top.screens.queues import QueuesScreen
from torrelque.cli.top.screens.tasks import TasksScreen

pytestmark = pytest.mark.anyio


async def test_tasks_by_status(server: servers.Server) -> None:
    async with staged(server.url, size=(120, 30)) as stage:
        queue = stage.queue('mail')
        await queue.enqueue({'to': 'joe'}, task_id='working', max_dequeues=3)
        await (await queue.dequeue()).progress(1, 4, 'first')
        await reject(queue, 'rejected', 'no such address')
        await queue.enqueue('done', task_id='done')
        await queue.release(await queue.dequeue(), result={'sent': True})
        await queue.enqueue('later', task_id='delayed', delay=7200)
        await queue.enqueue({'to': 'zoe'}, task_id='pending')
        await stage.until(lambda: stage.names() == ['mail'])
        await stage.open_tasks()
        expected = [
            ['pending', '0', '{"to": "zoe"}'],
            ['working', '1', '1/4 (25%) first  {"to": "joe"}'],
            ['delayed', '0', '"later"'],
            ['rejected', '1', 'no such address'],
            ['done', '1', '{"sent": true}'],
        ]
        for number, (task_id, tries, what) in enumerate(expected, 1):
            await stage.press(str(number))
            await stage.until_named(task_id)
            (row,) = stage.rows()
            assert (row[2], row[4]) == (tries, what)
        await stage.press('right')  # around to the first
        await stage.until(lambda: stage.names() == ['pending'])
        await stage.press('left', 'left')
        await stage.until(lambda: stage.names() == ['rejected'])
        assert '4 rejected 1' in stage.text('#tabs')
        await stage.press('escape')
        await stage.until_on(QueuesScreen)


async def test_pages(server: servers.Server) -> None:
    async with staged(server.url) as stage:
        ids = {str(each) for each in await stage.queue('mail').enqueue_many(range(40))}
        await stage.until(lambda: stage.names() == ['mail'])
        await stage.open_tasks()
        seen: list[set[str]] = []
        for keys in ([], ['n'], ['n']):
            await stage.press(*keys)
            await stage.until(lambda: f'page {len(seen) + 1}' in stage.text('#note'))
            seen.append(set(stage.names()))
        assert set.union(*seen) == ids
        assert sum(map(len, seen)) == 40
        assert 'the last' in stage.text('#note')
        assert 'n' not in stage.offered()
        await stage.press('b')
        await stage.until(lambda: set(stage.names()) == seen[1])


async def test_tasks_can_be_filtered_by_id_and_reason(server: servers.Server) -> None:
    async with staged(server.url) as stage:
        for number in range(30):
            await reject(stage.queue('mail'), f'task-{number}', 'Timed out' if number == 17 else 'broken')
        await stage.until(lambda: stage.names() == ['mail'])
        await stage.open_tasks(4)
        await stage.filter('timed')
        await stage.until(lambda: stage.names() == ['task-17'])
        await stage.press('escape')
        await stage.until(lambda: len(stage.rows()) > 1)
        await stage.filter('task-29')
        await stage.press('enter')
        await stage.until(lambda: stage.names() == ['task-29'])


@pytest.mark.parametrize(('key', 'pending'), [('D', 3), ('P', 0)])
async def test_all_dead_letters(server: servers.Server, key: str, pending: int) -> None:
    async with staged(server.url) as stage:
        queue = stage.queue('mail')
        for number in range(3):
            await reject(queue, f'task-{number}')
        await stage.until(lambda: [row[4] for row in stage.rows()] == ['3'])
        await stage.open_tasks()
        await stage.until(lambda: len(stage.rows()) == 3)
        await stage.press(key)
        await stage.until_on(Confirm)
        await stage.press('n')
        await stage.until_on(TasksScreen)
        assert (await queue.get_queue_stats()).rejected == 3
        await stage.press(key)
        await stage.until_on(Confirm)
        await stage.press('y')
        await stage.until(lambda: [each.rpartition(': ')[2] for each in stage.said()] == ['3'])
        assert (await queue.get_queue_stats())[:5] == (pending, pending, 0, 0, 0)

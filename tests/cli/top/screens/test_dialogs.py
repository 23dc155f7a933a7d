"""Questions before what cannot be undone, and the help."""

from __future__ import annotations

import pytest

from tests import servers
from tests.cli.top.support import PATIENCE, STATUS, reject, staged
from torrelque import TorrelqueTaskStatus
from torrelque.cli.top.screens.dialogs import Confirm, Help
from torrelque.cli.top.screens.queues import QueuesScreen
from torrelque.cli.top.screens.task import TaskScreen
from torrelque.cli.top.screens.tasks import TasksScreen

pytestmark = pytest.mark.anyio


@pytest.mark.parametrize('key', ['q', 'ctrl+c'])
async def test_it_helps_and_quits(server: servers.Server, key: str) -> None:
    async with staged(server.url) as stage:
        await stage.until_on(QueuesScreen)
        await stage.press('question_mark')
        await stage.until_on(Help)
        await stage.press('escape')
        await stage.until_on(QueuesScreen)
        await stage.press('escape')  # there is nowhere to go back to
        await stage.press(key)
        await stage.until(lambda: stage.app._exit)


async def test_a_dead_letter_is_redriven_with_a_key(server: servers.Server) -> None:
    """From the list of all queues to the task in a worker's hands."""
    async with staged(server.url) as stage:
        queue = stage.queue('mail')
        await queue.enqueue({'to': 'joe'}, task_id='poison', max_dequeues=1)
        await queue.requeue(await queue.dequeue())
        assert await queue.dequeue_nowait() == []
        await stage.until(lambda: [row[4] for row in stage.rows()] == ['1'])
        await stage.open_tasks()  # where there is something to see
        await stage.until(lambda: stage.names() == ['poison'])
        await stage.until(lambda: {'d', 'p', 'D'} <= stage.offered())
        assert not {'c', 'r', 'x'} & stage.offered()
        await stage.press('d')
        await stage.until(lambda: stage.said() == ['redriven: poison'])
        await stage.until(
            lambda: (
                'No tasks are rejected' in stage.text('#nothing')
                or not stage.rows()
                or stage.rows()[0][4] == 'now pending'
            )
        )
        task = await queue.dequeue(timeout=PATIENCE)
        assert (task.id, task.data, task.attempt) == ('poison', {'to': 'joe'}, 1)
        await stage.press('escape')
        await stage.until(lambda: [row[1:5] for row in stage.rows()] == [['0', '1', '0', '0']])


@pytest.mark.parametrize(
    ('key', 'tab', 'becomes'),
    [
        ('r', 2, STATUS.PENDING),
        ('x', 2, STATUS.REJECTED),
        ('c', 1, None),
        ('c', 3, None),
        ('p', 4, None),
    ],
)
async def test_what_cannot_be_undone_is_asked_first(
    server: servers.Server, key: str, tab: int, becomes: TorrelqueTaskStatus | None
) -> None:
    async with staged(server.url) as stage:
        queue = stage.queue('mail')
        if tab == 4:
            await reject(queue, 'one')
        else:
            await queue.enqueue(1, task_id='one', delay=1000 if tab == 3 else None)
        if tab == 2:
            await queue.dequeue()
        before = await queue.get_task_state('one')
        await stage.until(lambda: stage.names() == ['mail'])
        await stage.open_tasks(tab)
        await stage.until(lambda: stage.names() == ['one'])
        for no in ('n', 'escape', 'enter') if key == 'p' else ('n',):
            await stage.press(key)
            await stage.until_on(Confirm)
            await stage.press(no)
            await stage.until_on(TasksScreen)
        assert await queue.get_task_state('one') == before
        await stage.press('enter')
        await stage.until_on(TaskScreen)
        await stage.until(lambda: key in stage.offered())  # the same key there
        await stage.press(key)
        await stage.until_on(Confirm)
        await stage.press('y')
        await stage.until(lambda: len(stage.said()) == 1)
        assert stage.said()[0].endswith(': one')
        if becomes is None:
            assert [task_id async for task_id, _ in queue.tasks()] == []
            await stage.until(lambda: 'gone' in stage.text('#state'))
        else:
            assert (await queue.get_task_state('one')).status is becomes
            await stage.until(lambda: becomes.name.lower() in stage.text('#state'))

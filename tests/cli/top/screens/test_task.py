"""The screen of one task."""

from __future__ import annotations

import json
import pickle
import re
from typing import Any

import anyio
import pytest

from tests import servers
from tests.cli.top.support import staged
from torrelque import Torrelque, TorrelqueTaskSerialiser
from torrelque.cli.states import read_task
from torrelque.cli.top.paging import read_rows
from torrelque.cli.top.screens.task import TaskScreen
from torrelque.cli.top.screens.tasks import TasksScreen

pytestmark = pytest.mark.anyio


async def test_what_becomes_of_a_task_is_shown(server: servers.Server) -> None:
    async with staged(server.url) as stage:
        queue = stage.queue('mail')
        for task_id in ('a', 'b', 'c'):
            await queue.enqueue(task_id, task_id=task_id)
        await stage.until(lambda: stage.names() == ['mail'])
        await stage.open_tasks()
        await stage.until(lambda: sorted(stage.names()) == ['a', 'b', 'c'])
        task = await queue.dequeue()
        await stage.until(lambda: [row[0] for row in stage.rows() if row[4] == 'now working'] == ['a'])
        await queue.release(task)
        await stage.until(lambda: [row[0] for row in stage.rows() if row[4] == 'gone'] == ['a'])
        await queue.release_many(await queue.dequeue_nowait(max_tasks=2))
        await queue.enqueue('d', task_id='d')
        await stage.until(lambda: stage.names() == ['d'])  # nothing was left to show


async def test_reads_may_take_longer_than_the_time_between_samples(
    server: servers.Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def slowly(queue: Torrelque, found: Any) -> Any:  # noqa: ANN401 - an id or several
        await anyio.sleep(0.4)  # four samples
        return await (read_task(queue, found) if isinstance(found, str) else read_rows(queue, found))

    async with staged(server.url, size=(120, 40)) as stage:
        queue = stage.queue('mail')
        await queue.enqueue_many(range(2))
        await stage.until(lambda: stage.names() == ['mail'])
        await stage.open_tasks()
        await stage.until(lambda: len(stage.names()) == 2)
        monkeypatch.setattr('torrelque.cli.top.screens.tasks.read_rows', slowly)
        monkeypatch.setattr('torrelque.cli.top.screens.task.read_task', slowly)
        task = await queue.dequeue()
        await stage.until(lambda: 'now working' in [row[4] for row in stage.rows()])
        await stage.press('enter')
        await stage.until_on(TaskScreen)
        await stage.until(lambda: 'working' in stage.text('#state'))
        await queue.release(task, result='sent')
        await stage.until(lambda: 'completed' in stage.text('#state'))


@pytest.mark.parametrize(
    ('serialiser', 'shown', 'title'),
    [
        (json, '"to": "joe"', 'payload: json'),
        (pickle, '80 04 95', 'payload: hex'),
        (TorrelqueTaskSerialiser(repr, eval), "{'to': 'joe'}", 'payload: text'),
    ],
)
async def test_a_task_its_state_and_payload(server: servers.Server, serialiser: Any, shown: str, title: str) -> None:  # noqa: ANN401 - a module or a pair
    async with staged(server.url, size=(120, 40)) as stage:
        queue = Torrelque(stage.queue('mail')._client, queue='mail', serialiser=serialiser)
        await queue.enqueue({'to': 'joe'}, task_id='one', max_dequeues=4, headers={'tenant': 'shop'})
        task = await queue.dequeue()
        await stage.until(lambda: stage.names() == ['mail'])
        await stage.open_tasks(2)
        await stage.until(lambda: stage.names() == ['one'])
        await stage.press('enter')
        await stage.until_on(TaskScreen)
        await stage.until(lambda: 'working' in stage.text('#state'))
        assert re.search(r'deliveries +1\b(?s:.*)at most +4\b', stage.text('#state'))
        await queue.announce('1', name='web-1', concurrency=1)
        await stage.until(lambda: re.search(r'held by +web-1', stage.text('#state')))
        assert 'in 4m' in stage.text('#state') or 'in 5m' in stage.text('#state')
        assert shown in stage.text('#data')
        assert 'tenant: shop' in stage.text('#data')
        assert title in str(stage.app.screen.query_one('#body').border_title)
        await queue.release(task, result='sent')
        await stage.until(lambda: 'completed' in stage.text('#state'))
        await stage.until(lambda: 'result' in stage.text('#data'))
        assert shown in stage.text('#data')  # though it is no longer on the server
        server.flush()
        await stage.until(lambda: 'gone' in stage.text('#state'))
        assert shown in stage.text('#data')
        await stage.press('escape')
        await stage.until_on(TasksScreen)

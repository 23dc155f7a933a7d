"""The screen of all queues."""

from __future__ import annotations

import re

import pytest
from textual.widgets import Input

from tests import servers
from tests.cli.top.support import reject, staged, text_of
from torrelque.cli.top.widgets import Charts

pytestmark = pytest.mark.anyio


async def test_queues_are_found_as_they_come(server: servers.Server) -> None:
    async with staged(server.url) as stage:
        await stage.until(lambda: 'No queues on this server yet' in stage.text('#nothing'))
        await stage.queue('mail').enqueue_many([1, 2, 3])
        await stage.queue('mail').dequeue()
        await stage.until(lambda: [row[:5] for row in stage.rows()] == [['mail', '2', '1', '0', '0']])
        await stage.queue('backup').enqueue(1, delay=1000)
        await reject(stage.queue('backup'), 'bad')
        await stage.until(lambda: ['backup', '0', '0', '1', '1'] in [row[:5] for row in stage.rows()])
        assert stage.names() == ['backup', 'mail']
        server.flush()
        await stage.until(lambda: 'No queues on this server yet' in stage.text('#nothing'))


async def test_rates_oldest_and_drain(server: servers.Server) -> None:
    async with staged(server.url, queue='mail') as stage:
        await stage.until(lambda: stage.names() == ['mail'])
        await stage.queue('mail').enqueue_many(range(500))
        await stage.until(lambda: stage.rows()[0][5] not in ('0', '–'))  # noqa: RUF001 - the dash for nothing
        assert stage.rows()[0][8] == '∞'
        await stage.queue('mail').release_many(await stage.queue('mail').dequeue_nowait(max_tasks=400))
        await stage.until(lambda: stage.rows()[0][6] not in ('0', '–'))  # noqa: RUF001
        assert stage.rows()[0][1] == '100'
        await stage.until(lambda: stage.rows()[0][7] in {'1s', '2s', '3s'})
        charts = text_of(stage.app.screen.query_one(Charts))
        peaks = [int(peak) for peak in re.findall(r'peak (\d+)', charts)]
        assert max(peaks) > 100  # 500 within the time between two looks, which a slow machine stretches
        assert '█' in charts


async def test_the_workers_of_a_queue(server: servers.Server) -> None:
    async with staged(server.url, queue='mail') as stage:

        def title() -> str:
            return str(stage.app.screen.query_one(Charts).border_title)

        await stage.until(lambda: 'no workers' in title())
        await stage.queue('mail').announce('1', name='a', concurrency=10, running=4)
        await stage.until(lambda: '1 worker, 4 of 10 slots busy' in title())
        await stage.queue('mail').announce('2', name='b', concurrency=5)
        await stage.until(lambda: '2 workers, 4 of 15 slots busy' in title())


async def test_sorting(server: servers.Server) -> None:
    async with staged(server.url) as stage:
        for name, count in (('a', 2), ('b', 3), ('c', 1)):
            await stage.queue(name).enqueue_many(range(count))
        await stage.until(lambda: [row[1] for row in stage.rows()] == ['2', '3', '1'])
        await stage.press('down', 'down')
        await stage.until(lambda: stage.table.selected == 'c')
        await stage.press('s')
        await stage.until(lambda: stage.names() == ['b', 'a', 'c'])
        assert stage.table.selected == 'c'  # the cursor goes with its row
        await stage.press('r')
        await stage.until(lambda: stage.names() == ['c', 'a', 'b'])
        await stage.press(*'ssssssss', 'r')  # around to the name
        await stage.until(lambda: stage.names() == ['c', 'b', 'a'])


async def test_filtering(server: servers.Server) -> None:
    async with staged(server.url) as stage:
        for name in ('mail-in', 'mail-out', 'backup'):
            await stage.queue(name).enqueue(1)
        await stage.until(lambda: len(stage.rows()) == 3)
        await stage.filter('MAIL')
        await stage.until(lambda: stage.names() == ['mail-in', 'mail-out'])
        await stage.press('enter')
        await stage.until(lambda: stage.table.has_focus)
        await stage.press('down')
        await stage.until(lambda: stage.table.selected == 'mail-out')
        await stage.filter('-q')  # also with keys that mean something elsewhere
        await stage.until(lambda: "'MAIL-q'" in stage.text('#nothing'))
        await stage.press('escape')
        await stage.until(lambda: len(stage.rows()) == 3)
        assert not stage.app.screen.query_one('#filter', Input).value


async def test_a_queue_that_cannot_be_read_leaves_others_alone(server: servers.Server) -> None:
    async with staged(server.url) as stage:
        await stage.queue('good').enqueue(1)
        await stage.queue('odd').enqueue(1)
        server.command('DEL', 'odd:pending')
        server.command('SET', 'odd:pending', 'a string')
        await stage.until(lambda: [row[:2] for row in stage.rows()] == [['good', '1'], ['odd', 'error']])

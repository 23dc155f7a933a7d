"""`torrelque top` over real servers, driven by keys."""

from __future__ import annotations

import json
import pickle
import re
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import anyio
import pytest
from rich.console import Console
from textual.pilot import Pilot
from textual.widgets import Input, Static

from tests import servers
from tests.cli.support import Command
from torrelque import Torrelque, TorrelqueTaskSerialiser, TorrelqueTaskStatus, connect
from torrelque.cli.exit_codes import Exit
from torrelque.cli.top.app import TopApp
from torrelque.cli.top.screens.dialogs import Confirm, Help
from torrelque.cli.top.screens.queues import QueuesScreen
from torrelque.cli.top.screens.task import TaskScreen
from torrelque.cli.top.screens.tasks import TasksScreen
from torrelque.cli.top.widgets import Charts, RowTable, StatusLine

pytestmark = pytest.mark.anyio

PATIENCE = 30.0
STATUS = TorrelqueTaskStatus


@pytest.fixture(scope='module')
def anyio_backend() -> str:
    """Textual runs on asyncio only."""
    return 'asyncio'


@pytest.fixture(autouse=True)
def _quickly(monkeypatch: pytest.MonkeyPatch) -> None:
    """New queues are found soon, and a key does not wait until the process idles: what comes of it is waited for."""
    monkeypatch.setattr('torrelque.cli.top.monitor.SEARCH_PAUSE', 0.05)
    monkeypatch.setattr('textual.app.wait_for_idle', anyio.sleep)


class Stage:
    """The application before a server, and a way to the queues beside it."""

    def __init__(self, app: TopApp, pilot: Pilot[None], open_queue: Callable[[str], Torrelque]) -> None:
        self.app = app
        self.press = pilot.press
        self.queue = open_queue
        self._pilot = pilot

    async def until(self, condition: Callable[[], object]) -> None:
        """Wait until it is so. Every turn lets the application handle what has come in."""
        with anyio.fail_after(PATIENCE):
            while not condition():
                await self._pilot.pause(0.01)

    async def until_on(self, screen: type[object]) -> None:
        await self.until(lambda: isinstance(self.app.screen, screen) and self.app.screen.is_mounted)

    async def until_named(self, *names: str) -> None:
        """Wait until these are the rows."""
        await self.until(lambda: self.names() == list(names))

    @property
    def table(self) -> RowTable:
        return self.app.screen.query_one(RowTable)

    def rows(self) -> list[list[str]]:
        return [[each.plain.strip() for each in self.table.get_row_at(row)] for row in range(self.table.row_count)]

    def names(self) -> list[str]:
        return [row[0] for row in self.rows()]

    def text(self, selector: str) -> str:
        return text_of(self.app.screen.query_one(selector, Static))

    def offered(self) -> set[str]:
        """The keys that the foot of the screen offers."""
        return {each.binding.key for each in self.app.screen.active_bindings.values() if each.binding.show}

    def said(self) -> list[str]:
        """What the application told, the latest last."""
        return [each.message for each in self.app._notifications]

    async def filter(self, text: str) -> None:
        """Type into the line that the key for it opens."""
        await self.press('slash')
        await self.until(lambda: self.app.screen.query_one('#filter', Input).has_focus)
        await self.press(*text)

    async def open_tasks(self, number: int | None = None) -> None:
        """The tasks of the selected queue, with the status of that number."""
        await self.press('enter')
        await self.until_on(TasksScreen)
        if number is not None:
            await self.press(str(number))


def text_of(widget: Static) -> str:
    console = Console(width=200, color_system=None)
    with console.capture() as capture:
        console.print(widget.visual if isinstance(widget.content, str) else widget.content)
    return capture.get()


@asynccontextmanager
async def staged(url: str, *, size: tuple[int, int] = (80, 24), queue: str | None = None) -> AsyncIterator[Stage]:
    async with connect(url) as client:
        app = TopApp(url, queue=queue, interval=0.1)
        async with app.run_test(size=size, notifications=True) as pilot:
            yield Stage(app, pilot, lambda name: Torrelque(client, queue=name))


@pytest.fixture
def server() -> servers.Server:
    """One kind of server is enough: what differs between them is below what is used here."""
    shared = servers.shared('valkey-9.1')
    shared.start()
    shared.flush()
    return shared


async def reject(queue: Torrelque, task_id: str, reason: str = 'broken') -> str:
    await queue.enqueue({'number': 1}, task_id=task_id)
    (task,) = await queue.dequeue_nowait()
    await queue.reject(task, reason)
    return task_id


# All queues ----------------------------------------------------------------------------------------------------------


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
        await stage.until(lambda: stage.rows()[0][6] not in ('0', '–'))  # noqa: RUF001 - as above
        assert stage.rows()[0][1] == '100'
        await stage.until(lambda: stage.rows()[0][7] in {'1s', '2s', '3s'})
        charts = text_of(stage.app.screen.query_one(Charts))
        assert 'peak 500' in charts
        assert '█' in charts


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


@pytest.mark.parametrize('size', [(80, 24), (120, 40), (40, 10), (200, 60)])
async def test_it_fits_the_terminal(server: servers.Server, size: tuple[int, int]) -> None:
    async with staged(server.url, size=size) as stage:
        await stage.queue('a' * 100).enqueue_many(range(3))
        await stage.until(lambda: [row[1] for row in stage.rows()] == ['3'])
        assert stage.table.virtual_size.width <= max(size[0], 72)
        assert (len(stage.rows()[0]) == 10) is (size[0] >= 110)  # with a chart in each row
        await stage.open_tasks(1)
        await stage.until(lambda: len(stage.rows()) == 3)


async def test_a_queue_that_cannot_be_read_leaves_others_alone(server: servers.Server) -> None:
    async with staged(server.url) as stage:
        await stage.queue('good').enqueue(1)
        await stage.queue('odd').enqueue(1)
        server.command('DEL', 'odd:pending')
        server.command('SET', 'odd:pending', 'a string')
        await stage.until(lambda: [row[:2] for row in stage.rows()] == [['good', '1'], ['odd', 'error']])


# The server goes away ------------------------------------------------------------------------------------------------


async def test_the_last_figures_stay_while_the_server_is_away(
    fresh_server: Callable[..., servers.Server], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr('torrelque.cli.top.monitor.RETRY_TIMEOUT', 0.1)
    server = fresh_server('--appendonly', 'yes', '--appendfsync', 'always')
    async with staged(server.url) as stage:
        await stage.queue('mail').enqueue_many([1, 2])
        await stage.until(lambda: [row[:2] for row in stage.rows()] == [['mail', '2']])
        server.kill()
        await stage.until(lambda: 'away' in text_of(stage.app.screen.query_one(StatusLine)))
        assert [row[:2] for row in stage.rows()] == [['mail', '2']]
        await stage.open_tasks()
        await stage.until(lambda: str(server.port) in stage.text('#nothing'))
        server.start()
        await stage.until(lambda: 'away' not in text_of(stage.app.screen.query_one(StatusLine)))
        await stage.until(lambda: len(stage.rows()) == 2)


def test_a_server_that_is_not_there_is_an_error_of_one_line(command: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr('torrelque.cli.top.monitor.RETRY_TIMEOUT', 0.0)
    monkeypatch.setattr('torrelque.cli.top.has_terminal', lambda: True)
    monkeypatch.setattr(TopApp, 'run', lambda app: anyio.run(run_headless, app))
    ended = command('top', '--url', 'unix:///nowhere/at-all')
    assert ended.status == Exit.SERVER
    assert ended.err.startswith('torrelque: ')
    assert ended.err.count('\n') == 1


async def run_headless(app: TopApp) -> None:
    async with app.run_test() as pilot:
        while not app._exit:
            await pilot.pause(0.01)


def test_it_needs_a_terminal(command: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr('torrelque.cli.top.has_terminal', lambda: False)
    ended = command('top')
    assert (ended.status, ended.err.count('\n')) == (Exit.USAGE, 1)
    assert 'terminal' in ended.err


@pytest.mark.parametrize('arguments', [('--url', 'http://nowhere'), ('--interval', '0')])
def test_bad_options(command: Command, monkeypatch: pytest.MonkeyPatch, arguments: tuple[str, str]) -> None:
    monkeypatch.setattr('torrelque.cli.top.has_terminal', lambda: True)
    ended = command('top', *arguments)
    assert (ended.status, ended.err.count('\n')) == (Exit.USAGE, 1)


async def test_a_password_is_not_shown(server: servers.Server) -> None:
    app = TopApp('redis://user:secret%2F@localhost:1/2')
    assert app.server == 'redis://localhost:1/2'
    assert TopApp('unix://user:secret@/path?db=1').server == 'unix:///path?db=1'


# Tasks ---------------------------------------------------------------------------------------------------------------


async def test_tasks_by_status(server: servers.Server) -> None:
    async with staged(server.url, size=(120, 30)) as stage:
        queue = stage.queue('mail')
        await queue.enqueue({'to': 'joe'}, task_id='working', max_dequeues=3)
        await queue.dequeue()
        await reject(queue, 'rejected', 'no such address')
        await queue.enqueue('done', task_id='done')
        await queue.release(await queue.dequeue(), result={'sent': True})
        await queue.enqueue('later', task_id='delayed', delay=7200)
        await queue.enqueue({'to': 'zoe'}, task_id='pending')
        await stage.until(lambda: stage.names() == ['mail'])
        await stage.open_tasks()
        expected = [
            ['pending', '0', '{"to": "zoe"}'],
            ['working', '1', '{"to": "joe"}'],
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


# A task --------------------------------------------------------------------------------------------------------------


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


async def test_the_foot_of_the_screen_does_not_flicker(server: servers.Server, monkeypatch: pytest.MonkeyPatch) -> None:
    async with staged(server.url) as stage:
        await reject(stage.queue('mail'), 'one')
        await stage.until(lambda: stage.names() == ['mail'])
        await stage.open_tasks(4)
        await stage.until(lambda: stage.names() == ['one'])
        await stage.press('enter')
        await stage.until_on(TaskScreen)
        await stage.until(lambda: 'd' in stage.offered() and 'rejected' in stage.text('#state'))
        redrawn: list[None] = []
        monkeypatch.setattr(stage.app.screen, 'refresh_bindings', lambda: redrawn.append(None))
        first = stage.app.monitor.server_time or 0
        await stage.until(lambda: (stage.app.monitor.server_time or 0) > first + 0.5)  # some looks later
        assert redrawn == []


# Verbs ---------------------------------------------------------------------------------------------------------------


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


async def test_what_cannot_be_done_is_told(server: servers.Server) -> None:
    async with staged(server.url) as stage:
        queue = stage.queue('mail')
        await queue.enqueue(1, task_id='one')
        task = await queue.dequeue()
        await stage.until(lambda: stage.names() == ['mail'])
        await stage.open_tasks(2)
        await stage.until(lambda: stage.names() == ['one'])
        await stage.press('r')
        await stage.until_on(Confirm)
        await queue.release(task)  # just before the answer
        await stage.press('y')
        await stage.until(lambda: len(stage.said()) == 1)
        assert stage.said() != ['requeued: one']
        assert 'one' in stage.said()[0]

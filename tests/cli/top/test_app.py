"""`torrelque top` over real servers, driven by keys."""

from __future__ import annotations

from collections.abc import Callable

import anyio
import pytest

from tests import servers
from tests.cli.support import Command
from tests.cli.top.support import staged, text_of
from torrelque.cli.exit_codes import Exit
from torrelque.cli.top.app import TopApp
from torrelque.cli.top.widgets import StatusLine

pytestmark = pytest.mark.anyio


@pytest.mark.parametrize('size', [(80, 24), (120, 40), (40, 10), (200, 60)])
async def test_it_fits_the_terminal(server: servers.Server, size: tuple[int, int]) -> None:
    async with staged(server.url, size=size) as stage:
        await stage.queue('a' * 100).enqueue_many(range(3))
        await stage.until(lambda: [row[1] for row in stage.rows()] == ['3'])
        assert stage.table.virtual_size.width <= max(size[0], 72)
        assert (len(stage.rows()[0]) == 10) is (size[0] >= 110)  # with a chart in each row
        await stage.open_tasks(1)
        await stage.until(lambda: len(stage.rows()) == 3)


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


# A task --------------------------------------------------------------------------------------------------------------

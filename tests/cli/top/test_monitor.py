"""What is read of a server's queues, without a screen."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import anyio
import pytest

from tests import servers
from torrelque import Torrelque, TorrelqueConnectionError, connect
from torrelque.cli.top import monitor as monitoring
from torrelque.cli.top.monitor import Monitor

pytestmark = pytest.mark.anyio

ENOUGH = 30


@pytest.fixture(scope='module', params=['asyncio', 'trio'])
def anyio_backend(request: pytest.FixtureRequest) -> object:
    return request.param


@pytest.fixture(autouse=True)
def _soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(monitoring, 'SEARCH_PAUSE', 0.02)


@pytest.fixture
def server() -> servers.Server:
    shared = servers.shared('valkey-9.1')
    shared.start()
    shared.flush()
    return shared


class News:
    def __init__(self) -> None:
        self._event = anyio.Event()

    def __call__(self) -> None:
        self._event.set()

    async def until(self, condition: Callable[[], object]) -> None:
        with anyio.fail_after(ENOUGH):
            while not condition():
                self._event = anyio.Event()
                await self._event.wait()


@asynccontextmanager
async def monitored(url: str, queue: str | None = None, interval: float = 0.02) -> AsyncIterator[tuple[Monitor, News]]:
    news = News()
    monitor = Monitor(url, queue=queue, interval=interval, on_change=news)
    async with anyio.create_task_group() as group:
        group.start_soon(monitor.run)
        yield monitor, news
        group.cancel_scope.cancel()


async def test_queues_are_found_sampled_and_forgotten(server: servers.Server) -> None:
    async with connect(server.url) as client, Torrelque(client, queue='mail') as queue:
        await queue.enqueue(1)
        async with monitored(server.url) as (monitor, news):
            await news.until(lambda: (found := monitor.get('mail')) and found.stats)
            assert (monitor.connected, monitor.searched, monitor.away) == (True, True, '')
            assert [(each.name, each.stats and each.stats.pending) for each in monitor] == [('mail', 1)]
            assert monitor.server_time is not None
            await queue.enqueue(2)
            await news.until(lambda: (stats := monitor['mail'].stats) and stats.pending == 2)
            server.flush()
            await news.until(lambda: monitor.get('mail') is None)


async def test_schedules_are_read(server: servers.Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(monitoring, 'SCHEDULES_PAUSE', 0)
    async with connect(server.url) as client, Torrelque(client, queue='mail') as queue:
        await queue.enqueue(1)  # a queue that has neither tasks nor schedules is no longer found
        await queue.schedule('report', 1, every=3600)
        async with monitored(server.url) as (monitor, news):
            await news.until(lambda: (found := monitor.get('mail')) and found.schedules)
            assert [each.id for each in monitor['mail'].schedules] == ['report']
            await queue.unschedule('report')
            await news.until(lambda: not monitor['mail'].schedules)


async def test_the_queue_that_is_named_is_watched_though_it_is_not_there(server: servers.Server) -> None:
    async with monitored(server.url, 'none') as (monitor, news):
        await news.until(lambda: (found := monitor.get('none')) and found.stats)
        assert monitor.searched
        assert [each.name for each in monitor] == ['none']


async def test_a_damaged_queue_says_so_and_others_go_on(server: servers.Server) -> None:
    server.command('HSET', 'bad:counters', 'enqueued', '1')
    server.command('SET', 'bad:pending', 'no list')
    async with connect(server.url) as client, Torrelque(client, queue='mail') as queue:
        await queue.enqueue(1)
        async with monitored(server.url, 'bad') as (monitor, news):
            await news.until(lambda: (bad := monitor.get('bad')) and bad.trouble)
            assert (monitor['bad'].stats, monitor.away) == (None, '')


async def test_samples_can_be_asked_for(server: servers.Server) -> None:
    async with monitored(server.url, 'mail', interval=3600) as (monitor, news):
        await news.until(lambda: monitor.server_time)
        first = monitor.server_time
        monitor.look_again()
        await news.until(lambda: monitor.server_time != first)


async def test_a_server_that_is_not_there_at_the_start_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(monitoring, 'RETRY_TIMEOUT', 0)
    with pytest.raises(TorrelqueConnectionError):
        await Monitor('redis://127.0.0.1:1', queue=None, interval=1).run()


async def test_one_that_goes_away_keeps_its_figures(
    fresh_server: Callable[..., servers.Server], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(monitoring, 'RETRY_TIMEOUT', 0.01)
    server = fresh_server()
    async with monitored(server.url, 'mail') as (monitor, news):
        await news.until(lambda: (found := monitor.get('mail')) and found.stats)
        assert monitor.away_for == 0
        server.kill()
        await news.until(lambda: monitor.away)
        assert monitor['mail'].stats is not None
        assert monitor.away_for > 0
        server.start()
        await news.until(lambda: not monitor.away)

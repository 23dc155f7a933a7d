"""`torrelque exporter`: what it serves, and that it outlives the server it reads."""

from __future__ import annotations

import socket
import threading
import urllib.error
import urllib.request
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from contextlib import asynccontextmanager
from typing import NamedTuple

import anyio
import anyio.to_thread
import pytest
from prometheus_client.parser import text_string_to_metric_families

from tests import servers
from tests.cli.support import Command, put_foreign_keys
from tests.servers import Server
from torrelque import Torrelque, acl, connect
from torrelque.cli.exporter.metrics import Source
from torrelque.cli.exporter.web import serve
from torrelque.engine import discovery

pytestmark = pytest.mark.anyio

ENOUGH = 20  # seconds, for a machine under load


@pytest.fixture(scope='module', params=[('asyncio', {})], ids=['asyncio'])
def anyio_backend(request: pytest.FixtureRequest) -> object:
    """The command's own loop."""
    return request.param


class Answer(NamedTuple):
    """An HTTP response."""

    status: int
    kind: str
    text: str


def fetch(url: str, **headers: str) -> Answer:
    request = urllib.request.Request(url, headers=headers)  # noqa: S310 - http, of the loopback interface
    try:
        with urllib.request.urlopen(request, timeout=ENOUGH) as response:  # noqa: S310
            return Answer(response.status, response.headers['Content-Type'], response.read().decode())
    except urllib.error.HTTPError as error:
        with error:
            return Answer(error.code, error.headers['Content-Type'], error.read().decode())


Samples = dict[tuple[str, ...], float]


def samples(text: str) -> Samples:
    """Values by the metric's name and its labels'."""
    return {
        (sample.name.removeprefix('torrelque_'), *sample.labels.values()): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


class Exporter:
    """An exporter in this process."""

    def __init__(self, url: str) -> None:
        self.url = url

    async def get(self, path: str, **headers: str) -> Answer:
        return await anyio.to_thread.run_sync(lambda: fetch(self.url + path, **headers))

    async def scrape(self) -> Samples:
        answer = await self.get('/metrics')
        assert answer.status == 200
        return samples(answer.text)

    async def until(self, right: Callable[[Samples], bool]) -> Samples:
        with anyio.fail_after(ENOUGH):
            while not right(found := await self.scrape()):  # noqa: ASYNC110 - nothing tells but another scrape
                await anyio.sleep(0.02)
            return found


@asynccontextmanager
async def exporting(
    url: str, names: Iterable[str] | None = None, timeout: float = ENOUGH, rescan: float = 30.0, host: str = '127.0.0.1'
) -> AsyncIterator[Exporter]:
    source = Source(lambda: connect(url, retry_timeout=0), names, timeout, rescan)
    async with anyio.create_task_group() as group:
        ready = anyio.Event()
        told = list[str]()

        def hear(address: str) -> None:
            told.append(address)
            ready.set()

        group.start_soon(serve, source, host, 0, hear)
        await ready.wait()
        yield Exporter(told[0])
        group.cancel_scope.cancel()
    for thread in threading.enumerate():
        if thread.name == 'exporter':
            thread.join(ENOUGH)
            assert not thread.is_alive()


async def on(url: str, name: str, function: Callable[[Torrelque], Awaitable[object]]) -> None:
    async with connect(url) as client, Torrelque(client, queue=name) as queue:
        await function(queue)


async def fill(queue: Torrelque) -> None:
    """One pending, one working, one delayed, one rejected, one completed; one was requeued."""
    await queue.enqueue_many(range(4))
    done, rejected, requeued, _ = await queue.dequeue(max_tasks=4)
    await queue.release(done)
    await queue.reject(rejected, 'no good')
    await queue.requeue(requeued)
    await queue.enqueue(4, delay=3600)
    await queue.announce('1', name='a', concurrency=10, running=4)
    await queue.announce('2', name='b', concurrency=5)


async def test_a_pause_is_told_with_its_reason(command: Command) -> None:
    await on(command.url, 'mail', lambda queue: queue.pause('migration 114'))
    async with exporting(command.url) as exporter:
        assert (await exporter.scrape())['paused', 'mail', 'migration 114'] == 1


async def test_limits(command: Command) -> None:
    await on(command.url, 'mail', lambda queue: queue.limit(concurrency=50, rate=(100, 60)))
    async with exporting(command.url) as exporter:
        found = await exporter.scrape()
        assert found['concurrency_limit', 'mail'] == 50
        assert found['rate_limit', 'mail'] == pytest.approx(100 / 60)


async def test_priorities_and_groups(command: Command) -> None:
    async def prepare(queue: Torrelque) -> None:
        await queue.limit(group='b', concurrency=0)
        await queue.enqueue_many([1, 2], group='a')
        await queue.enqueue(1, group='b')
        await queue.enqueue(1, priority='high')

    await on(command.url, 'mail', prepare)
    async with exporting(command.url) as exporter:
        found = await exporter.scrape()
        assert [found['pending', priority, 'mail'] for priority in ('high', 'normal', 'low')] == [1, 3, 0]
        assert [found['groups', 'mail', state] for state in ('ready', 'blocked', 'held')] == [1, 1, 0]


async def test_what_is_told_of_a_queue(command: Command) -> None:
    await on(command.url, 'mail', fill)
    async with exporting(command.url) as exporter:
        found = await exporter.scrape()
    assert 0 < found.pop(('scrape_duration_seconds',)) < ENOUGH
    assert 0 < found.pop(('oldest_pending_age_seconds', 'mail')) < ENOUGH
    assert found == {
        ('up',): 1,
        ('queue_up', 'mail'): 1,
        ('workers', 'mail'): 2,
        ('worker_slots', 'mail'): 15,
        ('worker_running', 'mail'): 4,
        ('tasks', 'mail', 'pending'): 1,
        ('tasks', 'mail', 'working'): 1,
        ('tasks', 'mail', 'delayed'): 1,
        ('tasks', 'mail', 'rejected'): 1,
        ('enqueued_total', 'mail'): 5,
        ('claimed_total', 'mail'): 4,
        ('completed_total', 'mail'): 1,
        ('requeued_total', 'mail'): 1,
        ('rejected_total', 'mail'): 1,
        ('expired_total', 'mail'): 0,
        ('paused', 'mail', ''): 0,
        ('pending', 'high', 'mail'): 0,
        ('pending', 'normal', 'mail'): 1,
        ('pending', 'low', 'mail'): 0,
        ('groups', 'mail', 'ready'): 0,
        ('groups', 'mail', 'blocked'): 0,
        ('groups', 'mail', 'held'): 0,
        ('schedules', 'mail'): 0,
    }


async def test_each_scrape_reads_anew(command: Command) -> None:
    async with exporting(command.url, ['mail']) as exporter:
        found = await exporter.scrape()
        assert (found['tasks', 'mail', 'pending'], found['oldest_pending_age_seconds', 'mail']) == (0, 0)
        await on(command.url, 'mail', lambda queue: queue.enqueue(1))
        found = await exporter.scrape()
        assert (found['tasks', 'mail', 'pending'], found['enqueued_total', 'mail']) == (1, 1)


async def test_queues_are_found_and_forgotten(command: Command) -> None:
    strange = 'a "strange"\nname\\'
    await on(command.url, strange, lambda queue: queue.enqueue(1))
    async with exporting(command.url, rescan=0.02) as exporter:
        assert (await exporter.scrape())['tasks', strange, 'pending'] == 1, 'the first scrape waits until it is found'
        await on(command.url, 'mail', lambda queue: queue.enqueue(1))
        await exporter.until(lambda found: ('queue_up', 'mail') in found)
        servers.shared('valkey-9.1').flush()
        await exporter.until(lambda found: ('queue_up', 'mail') not in found)


async def test_only_the_queues_that_are_named(command: Command) -> None:
    for name in ('mail', 'other'):
        await on(command.url, name, lambda queue: queue.enqueue(1))
    async with exporting(command.url, ['mail', 'new']) as exporter:
        found = await exporter.scrape()
    assert [key[1] for key in found if key[0] == 'queue_up'] == ['mail', 'new']
    assert found['tasks', 'new', 'pending'] == 0


@pytest.mark.parametrize('name', ['valkey-9.1', 'redis-6.2'])  # the latter gives no code to errors of scripts
async def test_a_damaged_queue_does_not_hide_the_others(name: str) -> None:
    try:
        server = servers.shared(name)
    except servers.MissingServerError as error:
        pytest.skip(str(error))
    server.start()
    server.flush()
    await on(server.url, 'mail', lambda queue: queue.enqueue(1))
    server.command('SET', 'broken:pending', 'no list')
    async with exporting(server.url, ['mail', 'broken']) as exporter:
        found = await exporter.scrape()
    assert (found['up',], found['queue_up', 'mail'], found['queue_up', 'broken']) == (1, 1, 0)
    assert [key for key in found if key[1:2] == ('broken',)] == [('queue_up', 'broken')]


async def test_keys_of_other_programs_are_no_queues(
    command: Command,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(discovery, '_foreign', set())
    await on(command.url, 'mail', lambda queue: queue.enqueue(1))
    put_foreign_keys(servers.shared('valkey-9.1'))
    with servers.shared('valkey-9.1').client() as client:
        client.command('HSET', 'broken:counters', 'enqueued', '1')
        client.command('SET', 'broken:pending', 'no list')
    async with exporting(command.url) as exporter:
        for _ in range(3):
            found = await exporter.scrape()
            assert found['up',] == 1
            assert {key[1]: value for key, value in found.items() if key[0] == 'queue_up'} == {'mail': 1, 'broken': 0}
    assert capfd.readouterr().err.count("Left out queue 'broken'") == 1
    assert [record.args for record in caplog.records].count((b'visits:counters',)) == 1


async def test_the_rights_it_needs(fresh_server: Callable[..., Server], capfd: pytest.CaptureFixture[str]) -> None:
    server = fresh_server()
    words = ('ACL', 'SETUSER', 'eye', 'reset', 'resetchannels', 'on', '>secret', *acl.rules('observer', 'mail'))
    server.command(*words)
    url = server.url.replace('redis://', 'redis://eye:secret@')
    async with exporting(url, ['mail']) as exporter:
        assert (await exporter.scrape())['queue_up', 'mail'] == 1
    await on(server.url, 'mail', lambda queue: queue.enqueue(1))
    async with exporting(url) as exporter:
        assert (await exporter.scrape())['up',] == 0
        assert 'scan' in capfd.readouterr().err.lower()
        server.command('ACL', 'SETUSER', 'eye', '+scan')
        found = await exporter.until(lambda found: found['up',] == 1)
        assert (found['tasks', 'mail', 'pending'], found['workers', 'mail']) == (1, 0)
        server.command('ACL', 'SETUSER', 'eye', 'clearselectors')
        less = [word for word in acl.rules('observer', 'mail') if 'hscan' not in word]
        server.command('ACL', 'SETUSER', 'eye', *less, '(~mail:tasks +hget +hlen)')
        found = await exporter.scrape()
        assert found['queue_up', 'mail'] == 1, 'the rest can be read'
        assert ('workers', 'mail') not in found


@pytest.mark.parametrize('names', [None, ['mail']], ids=['found', 'named'])
async def test_it_outlives_the_server(
    fresh_server: Callable[..., Server], names: list[str] | None, capfd: pytest.CaptureFixture[str]
) -> None:
    server = fresh_server()
    server.kill()
    async with exporting(server.url, names) as exporter:
        found = await exporter.scrape()
        assert found.pop(('scrape_duration_seconds',)) >= 0
        assert found == {('up',): 0}
        assert (await exporter.scrape())['up',] == 0
        assert (await exporter.get('/healthz')).status == 200
        server.start()
        await on(server.url, 'mail', lambda queue: queue.enqueue(1))
        found = await exporter.until(lambda found: found['up',] == 1)
        assert found['tasks', 'mail', 'pending'] == 1
        server.kill()
        assert (await exporter.until(lambda found: found['up',] == 0)).keys() == {('up',), ('scrape_duration_seconds',)}
    lines = capfd.readouterr().err.splitlines()
    assert [line.split(':')[0] for line in lines] == [
        'The queues cannot be read', 'The queues can be read again', 'The queues cannot be read',
    ]  # fmt: skip


async def test_a_server_that_does_not_answer_is_given_up(capfd: pytest.CaptureFixture[str]) -> None:
    with socket.create_server(('127.0.0.1', 0)) as mute:
        async with exporting(f'redis://127.0.0.1:{mute.getsockname()[1]}', timeout=0.2) as exporter:
            found = await exporter.scrape()
    assert found['up',] == 0
    assert 0.2 <= found['scrape_duration_seconds',] < ENOUGH
    assert 'did not answer within 0.2 s' in capfd.readouterr().err


async def test_scrapes_at_once(command: Command) -> None:
    await on(command.url, 'mail', fill)
    answers = list[Samples]()
    async with exporting(command.url) as exporter, anyio.create_task_group() as group:

        async def scrape() -> None:
            answers.append(await exporter.scrape())

        for _ in range(10):
            group.start_soon(scrape)
    assert [found['completed_total', 'mail'] for found in answers] == [1] * 10


# As a process --------------------------------------------------------------------------------------------------------

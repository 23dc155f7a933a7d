"""The how-to guides: what they show works."""

from __future__ import annotations

import os
import re
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import AsyncExitStack, nullcontext
from pathlib import Path
from typing import Any

import anyio
import pytest
import typer.main

from tests.cli.support import started
from tests.pasted import run_pytest
from tests.servers import Server
from tests.test_docs import DOCS, blocks
from tests.transports.settings import CLIENTS
from torrelque import Limits, Torrelque, TorrelqueLookupError, TorrelqueReplyError, Worker, shards_of
from torrelque.cli.app import app
from torrelque.testing import MemoryServer, MemoryTransport, VirtualClock

PATIENCE = 50

# Test without a server ------------------------------------------------------------------------------------------------


def test_the_tests_that_are_shown_pass(tmp_path: Path) -> None:
    pieces = blocks('testing', 'python')
    (fixture,) = (piece for piece in pieces if 'def anyio_backend' in piece)
    shown = ''.join(piece for piece in pieces if piece is not fixture)
    written = shown.count('async def test_')
    assert written > 4

    def run() -> str:
        return run_pytest(tmp_path, '-p', 'no:asyncio', seconds=PATIENCE)

    (tmp_path / 'test_mail.py').write_text(shown, encoding='utf-8')
    passed = re.search(r'(\d+) passed', run())
    assert passed
    assert int(passed[1]) >= 2 * written  # on asyncio and on Trio
    (tmp_path / 'conftest.py').write_text(f'import pytest\n{fixture}', encoding='utf-8')
    assert f'{written} passed' in run()


# Typed tasks ----------------------------------------------------------------------------------------------------------


@pytest.mark.anyio
async def test_typed_tasks() -> None:
    pytest.importorskip('msgspec')
    names = await run_shown('typed-tasks', client=MemoryTransport())
    async with names['queue'] as queue, anyio.create_task_group() as group:
        task_id = await queue.enqueue(names['Email']('joe@example.org', 'hello'))
        await group.start(names['worker'].run)
        await queue.wait(task_id)
        group.cancel_scope.cancel()
    async with Torrelque(MemoryTransport()) as queue, anyio.create_task_group() as group:
        group.start_soon(names['consume'], queue)
        assert await names['produce'](queue) == 'sent to joe@example.org'
        async for task_id, _ in queue.tasks():
            await queue.wait(task_id)
        group.cancel_scope.cancel()


USES_FIXTURES = """
{marks}
async def test_ready(queue, clock):
    await queue.enqueue('later', delay=60)
    await clock.advance(60)
    [task] = await queue.dequeue_nowait()
    await queue.release(task)
"""


@pytest.mark.parametrize(
    ('options', 'marks', 'passed'),
    [
        (['-o', 'asyncio_mode=auto', '-o', 'asyncio_default_fixture_loop_scope=function', '-p', 'no:anyio'], '', 1),
        (['-p', 'no:asyncio'], 'import pytest\npytestmark = pytest.mark.anyio', 2),
    ],
    ids=['pytest-asyncio', 'anyio'],
)
def test_the_ready_fixtures(tmp_path: Path, options: list[str], marks: str, passed: int) -> None:
    (line,) = (block for block in blocks('testing', 'text') if 'conftest.py' in block)
    (tmp_path / 'conftest.py').write_text(line, encoding='utf-8')
    (tmp_path / 'test_ready.py').write_text(USES_FIXTURES.format(marks=marks), encoding='utf-8')
    assert f'{passed} passed' in run_pytest(tmp_path, *options, seconds=PATIENCE)


# Retries and dead letters ---------------------------------------------------------------------------------------------


@pytest.mark.anyio
async def test_retries_and_dead_letters() -> None:
    clock = VirtualClock()
    async with Torrelque(MemoryTransport(clock=clock), queue='mail') as queue:
        names = await run_shown('retries', queue=queue, client=MemoryTransport())
        async with anyio.create_task_group() as group:
            await group.start(Worker(queue, names['send'], concurrency=1, retry=names['policy'], clock=clock).run)
            busy = await queue.enqueue({'to': 'a@b', 'busy': True})
            await queue.enqueue({'to': 'joe'}, task_id='bad-1')
            await queue.enqueue({}, task_id='bad-2')
            await clock.advance(119)
            assert (await queue.get_task_state(busy)).status.name == 'DELAYED'
            await clock.advance(1)
            assert (await queue.get_task_state(busy)).result == 'sent'
            group.cancel_scope.cancel()
        assert sorted(await names['report']()) == [
            "bad-1: joe is no address, after 1 deliveries: {'to': 'joe'}",
            "bad-2: KeyError: 'to', after 1 deliveries: {}",
        ]
        await names['send_back']('bad-1')
        assert (await queue.get_queue_stats()).pending == 2
        for task in await queue.dequeue(max_tasks=2):
            await queue.reject(task, 'again')
        await clock.advance(6 * 86400)
        await names['remove']('bad-1')
        await clock.advance(86400)
        with pytest.raises(TorrelqueLookupError):
            await names['remove']('bad-1')
        assert (await queue.get_queue_stats()).rejected == 1
        await queue.purge(older_than=7 * 86400)
        assert (await queue.get_queue_stats()).rejected == 0
        await names['capped'].aclose()


@pytest.mark.anyio
async def test_policies_do_as_their_comments_say() -> None:
    async with Torrelque(MemoryTransport(), queue='mail') as queue:
        names = await run_shown('retries', queue=queue, client=MemoryTransport())
        assert await queue.dequeue_nowait() != []
    for attempt, most in enumerate((10, 20, 40), 1):
        assert 0.8 * most <= names['gentle'](attempt, OSError()) <= most
    assert names['gentle'](8, OSError()) is None
    assert names['policy'](1, KeyError()) is None
    assert [names['steady'](attempt, OSError()) for attempt in (1, 4, 5)] == [30, 30, None]
    assert [names['at_once'](attempt, OSError()) for attempt in (1, 3)] == [0, None]
    assert names['one_try'](1, OSError()) is None


async def run_shown(page: str, **given: Any) -> dict[str, Any]:  # noqa: ANN401 - whatever the page takes for granted
    """The names that the page's blocks define, carried out one after the other."""
    names: dict[str, Any] = dict(given)
    for block in blocks(page, 'python'):
        if re.search(r'^await ', block, re.MULTILINE):
            indented = ''.join(f'    {line}\n' for line in block.splitlines())
            exec(f'async def block():\n{indented}', names)  # noqa: S102 - the documentation's own code
            await names['block']()
        else:
            exec(block, names)  # noqa: S102 - as above
    return names


# Periodic tasks -------------------------------------------------------------------------------------------------------


@pytest.mark.anyio
async def test_periodic_tasks() -> None:
    names = await run_shown('schedules')
    await names['check']()
    async with Torrelque(MemoryTransport()) as queue, anyio.create_task_group() as group:
        await names['follow'](queue, 1)
        await names['remind_daily'](queue)
        fired = await queue.fire('remind:17')
        assert (await queue.get_task(fired)).headers == {'torrelque.kind': 'remind'}
        await queue.unschedule('remind:17')
        task, _ = await queue.dequeue_nowait(max_tasks=9)
        assert task.data == {'user': 1}
        group.start_soon(names['main'], queue)
        with anyio.fail_after(10):
            while {each.id async for each in queue.schedules()} != {'report', 'ping'}:  # noqa: ASYNC110 - the queue's
                await anyio.sleep(0.005)
        group.cancel_scope.cancel()


# A queue over several shards ------------------------------------------------------------------------------------------


@pytest.mark.anyio
async def test_shards() -> None:
    server = MemoryServer()
    names = await run_shown('sharding')
    names['connect'] = lambda _: nullcontext(MemoryTransport(server=server))
    await names['main']()
    async with Torrelque(MemoryTransport(server=server), queue='email', shards=16) as queue:
        stats = await queue.get_queue_stats()
        assert (stats.total_completed, stats.tasks) == (1000, 0)
        await names['grow'](queue)
    assert await shards_of(MemoryTransport(server=server), 'email') == 32


# The command line -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize('page', ['retries'])
def test_commands_have_the_options_that_are_shown(page: str) -> None:
    verbs: dict[str, Any] = typer.main.get_command(app).commands  # type: ignore[attr-defined]  # of a group
    lines = [line for block in blocks(page, 'shell') for line in block.splitlines()]
    assert lines
    for line in lines:
        program, verb, *words = shlex.split(line)
        assert program == 'torrelque'
        verbs[verb].make_context(verb, words)  # raises what is wrong, and calls nothing


# Run on a managed server ----------------------------------------------------------------------------------------------

FORBIDDING = [
    word for command in ('CONFIG', 'ACL', 'INFO', 'KEYS', 'DEBUG') for word in ('--rename-command', command, '')
]
"""Options of a server that has none of these commands, for anybody."""


@pytest.mark.parametrize('name', ['valkey-9.1', 'redis-6.2'])
def test_the_probe_where_administration_is_forbidden(
    fresh_server: Callable[..., Server], name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    server = fresh_server(*FORBIDDING, name=name)
    probe = next(block for block in blocks('managed-redis', 'python') if 'probe' in block)
    names: dict[str, Any] = {'__name__': 'probe'}
    exec(probe, names)  # noqa: S102 - the documentation's own code
    anyio.run(names['main'], server.url)
    assert capsys.readouterr().out == 'done\n'
    with server.client() as client, pytest.raises(TorrelqueReplyError, match='unknown command'):
        client.command('CONFIG', 'GET', 'maxmemory')


def test_the_words_for_users_are_accepted(
    fresh_server: Callable[..., Server], capsys: pytest.CaptureFixture[str]
) -> None:
    (block,) = (block for block in blocks('managed-redis', 'python') if 'acl' in block)
    exec(block, {})  # noqa: S102 - the documentation's own code
    consumer, producer = capsys.readouterr().out.splitlines()
    for name, line in (('valkey-9.1', consumer), ('redis-6.2', producer)):
        words = re.findall(r'\(.*?\)|\S+', line)
        assert fresh_server(name=name).command('ACL', 'SETUSER', 'one', *words) == b'OK'


def test_the_context_that_is_shown_knows_an_authority(tmp_path: Path) -> None:
    names: dict[str, Any] = {}
    (block,) = (block for block in blocks('managed-redis', 'python') if 'ssl' in block)
    exec(block, names)  # noqa: S102 - the documentation's own code
    with pytest.raises(FileNotFoundError):
        names['connect_to']('rediss://localhost', str(tmp_path / 'none.pem'))


@pytest.mark.anyio
@pytest.mark.parametrize(
    ('anyio_backend', 'kind'),
    [('asyncio', 'native'), ('asyncio', 'redis_py'), ('asyncio', 'coredis'), ('trio', 'native'), ('trio', 'coredis')],
)
async def test_as_many_connections_as_the_page_says(fresh_server: Callable[..., Server], kind: str) -> None:
    """Of two queue objects with ten consumers and ten watchers each."""
    server = fresh_server()

    def listed() -> list[str]:
        text: bytes = client.command('CLIENT', 'LIST')
        return text.decode().splitlines()

    def watched() -> int:
        counts: list[int] = client.command('PUBSUB', 'NUMSUB', *channels(ids))[1::2]
        return sum(counts)

    async with AsyncExitStack() as stack:
        client = stack.enter_context(server.client())
        connected = await stack.enter_async_context(CLIENTS[kind].make(server))
        queues = [await stack.enter_async_context(Torrelque(connected, queue=name)) for name in 'ab']
        tasks = await stack.enter_async_context(anyio.create_task_group())
        ids = [[await queue.enqueue(each, delay=600) for each in range(10)] for queue in queues]
        for queue, some in zip(queues, ids, strict=True):
            for task_id in some:
                tasks.start_soon(queue.dequeue)
                tasks.start_soon(queue.wait, task_id)
        with anyio.fail_after(PATIENCE):
            while watched() < 20 or sum('cmd=bzpopmin' in line for line in listed()) < 2:  # noqa: ASYNC110 - only the server knows
                await anyio.sleep(0.01)
        there = listed()
        assert sum('cmd=bzpopmin' in line for line in there) == 2
        assert sum(' sub=0 ' not in line for line in there) == 2
        if kind == 'native':
            assert len(there) == 1 + 2 + 2 + 1  # the last one is the test's own
        tasks.cancel_scope.cancel()


def channels(ids: list[list[str]]) -> list[str]:
    return [f'{queue}:task:{task_id}' for queue, some in zip('ab', ids, strict=True) for task_id in some]


# Security and deployment ----------------------------------------------------------------------------------------------


class Backwards:
    """A cipher for tests."""

    def encrypt(self, data: bytes) -> bytes:
        return data[::-1]

    decrypt = encrypt


@pytest.mark.anyio
async def test_payloads_can_be_encrypted() -> None:
    (block,) = blocks('security', 'python')
    names: dict[str, Any] = {}
    exec(block, names)  # noqa: S102 - what the page shows
    server = MemoryServer()
    async with Torrelque(MemoryTransport(server=server), serialiser=names['Encrypted'](Backwards())) as queue:
        await queue.enqueue({'secret': 1})
        assert (await queue.dequeue(timeout=PATIENCE)).data == {'secret': 1}
    async with Torrelque(MemoryTransport(server=server)) as queue:
        await queue.enqueue({'secret': 2})
    async with Torrelque(MemoryTransport(server=server), serialiser=names['Encrypted'](Backwards())) as queue:
        assert await queue.dequeue_nowait() == []


def test_platforms_wait_until_a_worker_has_shut_down() -> None:
    text = (DOCS / 'deployment.md').read_text(encoding='utf-8')
    (command,) = (command for command in typer.main.get_command(app).commands.values() if command.name == 'worker')  # type: ignore[attr-defined]  # it is a group
    (grace,) = (option.default for option in command.params if option.name == 'grace')
    waits = re.findall(r'(?:TimeoutStopSec=|--time |grace_period: |GracePeriodSeconds: )(\d+)', text)
    assert len(waits) == 4
    assert all(int(seconds) >= grace + 15 for seconds in waits)


def test_supervisors_do_not_give_up() -> None:
    (unit,) = blocks('deployment', 'ini')
    assert {'StartLimitIntervalSec=0', 'Restart=always'} <= set(unit.splitlines())


def test_the_image_uses_the_probe() -> None:
    (image,) = blocks('deployment', 'dockerfile')
    (probe,) = re.findall(r'(?s)HEALTHCHECK .*CMD (\[.*?\])\n', image.partition('\nCMD')[0] + '\n')
    assert probe == '["torrelque", "worker", "--probe"]'


def test_memory_of_a_task() -> None:
    """What the text says agrees with the table, and the other page with both."""
    text = (DOCS / 'sizing.md').read_text(encoding='utf-8')
    waiting, claimed = map(int, re.findall(r'about (\d+) bytes while', text))
    for status, said in (('pending', waiting), ('claimed', claimed)):
        (row,) = re.findall(rf'\| {status} \|(.*)\|', text)
        low, high = map(int, re.findall(r'\d+', row.replace(',', ''))[2:4])
        assert low - 1000 <= said * 1.05
        assert said <= (high - 1000) * 1.05
    assert f'[about {waiting} bytes](sizing.md)' in (DOCS / 'faq.md').read_text(encoding='utf-8')


def test_the_probe_for_kubernetes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As the page has it; the worker has no server."""
    text = (DOCS / 'deployment.md').read_text(encoding='utf-8')
    (work,) = re.findall(r'  args: \[torrelque, (.*)\]', text)
    (probe,) = re.findall(r'  command: \[torrelque, (.*)\]', text)
    (tmp_path / 'mail.py').write_text('async def send(task): ...\n')
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv('TMPDIR', str(tmp_path))

    def check() -> tuple[int, str]:
        program = Path(sys.executable).with_name('torrelque')
        done = subprocess.run([program, *probe.split(', ')], capture_output=True, text=True, check=False)
        return done.returncode, done.stderr

    with started(*work.split(', '), url='unix:///not/there', folder=tmp_path) as process:
        deadline = time.monotonic() + PATIENCE
        while not (files := [*tmp_path.glob('torrelque-workers-*/[!.]*')]):
            assert time.monotonic() < deadline
            time.sleep(0.01)
        assert check() == (0, '')
        process.send_signal(signal.SIGSTOP)
        then = time.time() - 60
        os.utime(files[0], (then, then))
        status, said = check()
        assert status == 1
        assert re.fullmatch(r'torrelque: process \d+ is stuck: its event loop has not run for 1m\w*\n', said)
    assert check() == (1, 'torrelque: no worker runs here\n')


# Groups and priorities ------------------------------------------------------------------------------------------------


@pytest.mark.anyio
async def test_groups_and_priorities(capsys: pytest.CaptureFixture[str]) -> None:
    names = await run_shown('groups')
    async with Torrelque(MemoryTransport(), queue='q') as queue:
        for number in range(3):
            await names['order_came'](queue, 'acme', {'number': number})
        await names['weigh'](queue)
        await names['set_limits'](queue)
        assert await queue.limits('acme') == Limits(5, (100, 60.0), 100)
        await names['set_order'](queue)
        await queue.limit(group='acme')
        await names['changed'](queue, 17, {'account': 17})
        tasks = await queue.dequeue_nowait(max_tasks=9)
        assert {task.group for task in tasks} == {'acme', 'account:17'}
        await names['show'](queue)
        assert capsys.readouterr().out.startswith('acme blocked 2 1 ')
        for mail in (False, True):
            await names['send'](queue, {'mail': mail}, mail)
        assert [task.data for task in await queue.dequeue_nowait(max_tasks=2)] == [{'mail': True}, {'mail': False}]


# Recipes --------------------------------------------------------------------------------------------------------------


@pytest.mark.anyio
async def test_recipes() -> None:
    names: dict[str, Any] = {}
    for block in blocks('recipes', 'python'):
        exec(block, names)  # noqa: S102 - what the page shows
    transport = MemoryTransport()
    async with Torrelque(transport, queue='urgent') as urgent, Torrelque(transport, queue='bulk') as bulk:
        for _ in range(2):
            await names['index'](urgent, 1)
        assert (await urgent.get_queue_stats()).pending == 1
        task = await urgent.dequeue()
        for _ in range(2):
            await names['resize'](task, urgent)
        assert (await urgent.get_queue_stats()).pending == 1
        page = await urgent.dequeue()
        await names['encode'](page)
        await urgent.release(page)
        for text in 'ab':
            await names['changed'](bulk, 1, text)
            await names['refresh'](bulk, 1)
        assert ((await bulk.get_task('index:1')).data, (await bulk.get_queue_stats()).delayed) == ({'text': 'b'}, 2)
        await bulk.enqueue({'text': 'c'}, task_id='index:1', replace=True)
        (held,) = await bulk.dequeue_nowait()
        await names['changed_at_any_time'](bulk, 1, 'd')
        assert (await bulk.get_task('index:1:next')).data == {'text': 'd'}
        await bulk.release(held)
        known = [await queue.enqueue({'name': 'Ann'}, headers={'kind': 'welcome'}) for queue in (urgent, bulk)]
        unknown = await bulk.enqueue({}, headers={'kind': 'other'})
        async with anyio.create_task_group() as group, Torrelque(transport, queue='low') as low:
            group.start_soon(names['work'], urgent, bulk, low)
            for queue, task_id in zip((urgent, bulk), known, strict=True):
                assert (await queue.wait(task_id, timeout=PATIENCE)).result == 'Welcome, Ann'
            assert (await bulk.wait(unknown, timeout=PATIENCE)).reason == "unknown kind 'other'"
            group.cancel_scope.cancel()
        for work in ('work_strictly', 'work_with_reserve'):
            async with anyio.create_task_group() as group:
                group.start_soon(names[work], urgent, bulk)
                for queue in (urgent, bulk):
                    task_id = await queue.enqueue({'name': 'Bob'}, headers={'kind': 'welcome'})
                    assert (await queue.wait(task_id, timeout=PATIENCE)).result == 'Welcome, Bob'
                group.cancel_scope.cancel()

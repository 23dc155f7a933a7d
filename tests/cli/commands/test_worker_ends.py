"""`worker` when handlers do not behave: what ends the process, how soon, and with which status."""

from __future__ import annotations

import re
import signal
import subprocess
import time
from pathlib import Path

import pytest

from tests import servers
from tests.cli.support import Command, started

HANDLERS = """
import asyncio, sys, threading, time
import anyio
import torrelque.worker.worker
import torrelque.cli.commands.worker as command

torrelque.worker.worker.CLOSING_TIME = 0.3
command.ENDING_TIME = 0.5
command.BLOCKED_TIME = 1.5

async def leave(task):
    if task.data == 'bad':
        await anyio.sleep(0.1)
        sys.exit(3)
    await anyio.sleep(0.5)
    return 'done'

def leave_plainly(task):
    if task.data == 'bad':
        time.sleep(0.1)
        sys.exit('a message')
    time.sleep(0.5)
    return 'done'

async def _leave():
    sys.exit(3)

async def leave_group(task):
    async with anyio.create_task_group() as group:
        group.start_soon(_leave)

async def cancelled(task):
    if task.data == 'bad':
        raise asyncio.CancelledError
    return 'done'

async def shields(task):
    print('started', flush=True)
    with anyio.CancelScope(shield=True):
        await anyio.sleep(600)

async def swallows(task):
    print('started', flush=True)
    while True:
        try:
            await anyio.sleep(0.01)
        except anyio.get_cancelled_exc_class():
            with anyio.CancelScope(shield=True):
                await anyio.sleep(0.01)

def sleeps(task):
    print('started', flush=True)
    time.sleep(600)

async def blocks(task):
    print('started', flush=True)
    time.sleep(600)

async def spins(task):
    print('started', flush=True)
    while True:
        pass

async def leaves_thread(task):
    threading.Thread(target=time.sleep, args=(600,)).start()
    print('started', flush=True)
"""

LOOPS = ['asyncio', 'uvloop', 'trio']
PATIENCE = 60


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / 'users_handlers.py').write_text(HANDLERS)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def run(command: Command, folder: Path, *arguments: str) -> tuple[int, str]:
    """Exit status and log of a worker that ends by itself."""
    with started('worker', *arguments, url=command.url, folder=folder) as process:
        _, log = process.communicate(timeout=PATIENCE)
        return process.returncode, log


def state(command: Command, task_id: str) -> tuple[str, int]:
    (fields,) = command('show', task_id, '--json').lines
    return fields['status'], fields['dequeue_count']


# Exits ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize('loop', LOOPS)
@pytest.mark.parametrize(('handler', 'status'), [('leave', 3), ('leave_plainly', 1)])
def test_sys_exit_in_a_handler(command: Command, folder: Path, loop: str, handler: str, status: int) -> None:
    command.do(lambda queue: queue.enqueue('good', task_id='good'))
    command.do(lambda queue: queue.enqueue('bad', task_id='bad'))
    arguments = ['--loop', loop, '--retry', 'constant', '--retry-delay', '1h', '-c', '2']
    ended, log = run(command, folder, f'users_handlers:{handler}', *arguments)
    assert ended == status
    assert 'Traceback' not in log
    assert log.count('ends the worker: SystemExit') == 1
    assert ('a message' in log.splitlines()) == (handler == 'leave_plainly')
    assert state(command, 'bad') == ('delayed', 1)
    assert state(command, 'good') == ('completed', 1), 'it had its grace time'


@pytest.mark.parametrize('loop', LOOPS)
def test_sys_exit_in_a_task_group_of_a_handler(command: Command, folder: Path, loop: str) -> None:
    command.do(lambda queue: queue.enqueue('x', task_id='x'))
    arguments = ['--loop', loop, '--retry', 'constant', '--retry-delay', '1h']
    ended, log = run(command, folder, 'users_handlers:leave_group', *arguments)
    assert ended == 3, log
    assert state(command, 'x') == ('delayed', 1), 'or it would end each worker that is started again'


def test_a_cancellation_of_the_handlers_own_does_not_end_it(command: Command, folder: Path) -> None:
    command.do(lambda queue: queue.enqueue('bad', task_id='bad'))
    command.do(lambda queue: queue.enqueue('good', task_id='good'))
    arguments = ('worker', 'users_handlers:cancelled', '-c', '1', '--retry', 'never')
    with started(*arguments, url=command.url, folder=folder) as process:
        assert 'completed' in command('watch', 'good', '--json', '--timeout', '30s').out
        assert state(command, 'bad') == ('rejected', 1)
        process.send_signal(signal.SIGTERM)
        assert process.wait(PATIENCE) == 0


# What does not end ----------------------------------------------------------------------------------------------------


def stop(process: subprocess.Popen[str], number: signal.Signals = signal.SIGTERM) -> tuple[int, str]:
    assert process.stdout is not None
    assert process.stdout.readline() == 'started\n'
    time.sleep(0.2)
    process.send_signal(number)
    _, log = process.communicate(timeout=PATIENCE)
    return process.returncode, log


@pytest.mark.parametrize('loop', LOOPS)
@pytest.mark.parametrize('handler', ['shields', 'swallows', 'sleeps'])
def test_a_handler_that_does_not_end(command: Command, folder: Path, loop: str, handler: str) -> None:
    command.do(lambda queue: queue.enqueue(1, task_id='x'))
    arguments = ('worker', f'users_handlers:{handler}', '--loop', loop, '--grace', '0.2s')
    with started(*arguments, url=command.url, folder=folder) as process:
        status, log = stop(process)
    assert status == 0
    assert 'task:x' in log
    assert 'stopped: 0 finished, 0 retried, 0 rejected, 1 given back' in log
    assert 'Traceback' not in log
    assert state(command, 'x') == ('pending', 0)


@pytest.mark.parametrize('loop', LOOPS)
@pytest.mark.parametrize('handler', ['blocks', 'spins'])
def test_a_handler_that_holds_up_the_event_loop(command: Command, folder: Path, loop: str, handler: str) -> None:
    command.do(lambda queue: queue.enqueue(1, task_id='x'))
    arguments = ('worker', f'users_handlers:{handler}', '--loop', loop, '--grace', '0.2s')
    with started(*arguments, url=command.url, folder=folder) as process:
        status, log = stop(process)
    assert status == 70
    assert 'The process does not exit, so it is ended: the handlers of task:x do not end' in log


def test_a_thread_that_a_handler_left(command: Command, folder: Path) -> None:
    command.do(lambda queue: queue.enqueue(1))
    with started('worker', 'users_handlers:leaves_thread', url=command.url, folder=folder) as process:
        status, log = stop(process)
    assert status == 0
    assert 'so it is ended: a thread is still running' in log


@pytest.mark.parametrize('number', [signal.SIGHUP, signal.SIGQUIT], ids=lambda number: number.name)
def test_other_signals_strand_no_claims(command: Command, folder: Path, number: signal.Signals) -> None:
    command.do(lambda queue: queue.enqueue(1, task_id='x'))
    arguments = ('worker', 'users_handlers:shields', '--grace', '0s')
    with started(*arguments, url=command.url, folder=folder) as process:
        assert stop(process, number)[0] == 0
    assert state(command, 'x') == ('pending', 0)


# What is refused ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize('arguments', [['tasks', '-q', 'a', '-q', 'b'], ['-q', 'a', '-q', 'b', 'stats']])
def test_several_queues_are_refused(command: Command, arguments: list[str]) -> None:
    command.assert_refused(arguments, 2, 'only one --queue at a time, got a, b')


@pytest.mark.parametrize(
    ('name', 'source', 'said'),
    [
        (
            'exits',
            'import sys\nsys.exit(0)',
            r"cannot import 'exits': it called sys\.exit\(0\) \(.*exits\.py, line 2\).*",
        ),
        ('exits', 'raise SystemExit', r"cannot import 'exits': it called sys\.exit\(\) .*"),
        ('odd', 'class Odd(BaseException): pass\nraise Odd(1)', r"cannot import 'odd': Odd: 1 .*"),
    ],
)
def test_a_module_that_ends_when_imported(command: Command, folder: Path, name: str, source: str, said: str) -> None:
    (folder / f'{name}.py').write_text(source)
    status, log = run(command, folder, f'{name}:handle')
    assert status == 2
    assert log.count('\n') == 1
    assert re.fullmatch(f'torrelque: {said}\n', log), log


def test_a_file_that_the_standard_library_hides(command: Command, folder: Path) -> None:
    (folder / 'queue.py').write_text('async def handle(task): ...')
    status, log = run(command, folder, 'queue:handle')
    assert status == 2
    assert "the standard library's queue hides" in log
    assert str(folder / 'queue.py') in log


@pytest.mark.parametrize('loop', LOOPS)
def test_files_that_hide_the_standard_library(command: Command, folder: Path, loop: str) -> None:
    for name in ('queue', 'email', 'selectors', 'socket', 'signal', 'contextvars', 'concurrent', 'subprocess', 'token'):
        (folder / f'{name}.py').write_text('')
    (folder / 'mine.py').write_text(
        'import sys\nsys.modules.pop("token", None)\nimport token\nfrom users_handlers import leave\n'
    )
    command.do(lambda queue: queue.enqueue('bad'))
    status, log = run(command, folder, 'mine:leave', '--loop', loop)
    assert status == 3, log
    assert f"warning: {folder / 'token.py'} hides the standard library's token: rename it" in log


def test_the_file_is_named_where_an_import_fails_of_it(command: Command, folder: Path) -> None:
    (folder / 'mailbox.py').write_text('')
    (folder / 'mine.py').write_text('from mailbox import Mailbox\n')
    status, log = run(command, folder, 'mine:handle')
    assert status == 2
    assert f"{folder / 'mailbox.py'} hides the standard library's mailbox: rename it" in log


def test_an_error_is_reported_although_a_thread_goes_on(command: Command, folder: Path) -> None:
    command.do(lambda queue: queue.enqueue(1))
    arguments = ('worker', 'users_handlers:leaves_thread', '-c', '1')
    with started(*arguments, url=command.url, folder=folder) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == 'started\n'
        server = servers.shared('valkey-9.1')
        time.sleep(0.2)
        server.command('SET', 'trq:pending', 'not a list')
        server.command('ZADD', 'trq:wake', '1', 'x')
        _, log = process.communicate(timeout=PATIENCE)
    assert process.returncode == 3
    assert 'torrelque: the server refuses: WRONGTYPE' in log
    assert 'so it is ended: a thread is still running' in log

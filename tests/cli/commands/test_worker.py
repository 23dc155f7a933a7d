"""`worker`: a handler of the user's own, policies, loops, and how it ends."""

from __future__ import annotations

import os
import pickle
import re
import signal
import socket
import sys
from pathlib import Path

import pytest

from tests.cli.support import Command, started
from torrelque import Torrelque
from torrelque.cli.commands.worker import _policy, without_options
from torrelque.embedded import EmbeddedServer

HANDLERS = """
import os, signal

async def handle(task):
    if task.data == 'stop':
        os.kill(os.getpid(), signal.SIGTERM)
    elif task.data == 'bad':
        raise ValueError('bad')
    return {'got': task.data}

async def drop(task):
    await handle(task)
    return object()

class Plain:
    @staticmethod
    def handle(task):
        if task.data == 'stop':
            os.kill(os.getpid(), signal.SIGTERM)

given_up = 0

def policy(attempt, error):
    global given_up
    if attempt == 1:
        return 0
    given_up += 1
    if given_up == 2:
        os.kill(os.getpid(), signal.SIGTERM)

async def endless(task):
    import anyio
    os.write(1, b'started\\n')  # at once: other processes write as well
    await anyio.sleep(600)

def mortal(task):
    print('delivery', task.dequeue_count, flush=True)
    if task.dequeue_count == 1:
        os._exit(9)

number = 5
"""


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working folder, with the user's modules."""
    (tmp_path / 'users_handlers.py').write_text(HANDLERS)
    (tmp_path / 'users_mistake.py').write_text('a = 1\nb = a + None\n')
    (tmp_path / 'users_typo.py').write_text('def f(:\n')
    (tmp_path / 'users_import.py').write_text('import not_there\n')
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, 'path', [*sys.path])
    monkeypatch.delitem(sys.modules, 'users_handlers', raising=False)
    return tmp_path


async def fill(queue: Torrelque) -> None:
    for data in ('good', 'bad', 'stop'):
        await queue.enqueue(data, task_id=data)


# Working -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize('loop', ['asyncio', 'uvloop', 'trio'])
def test_it_works_until_sigterm(command: Command, loop: str) -> None:
    command.do(fill)
    ended = command('worker', 'users_handlers:handle', '--loop', loop, '--retry', 'never', '--result-ttl', '90')
    assert (ended.status, ended.out) == (0, '')
    assert f'working on queue trq, on {loop}; Ctrl-C stops\n' in ended.err
    assert 'stopped: 2 finished, 0 retried, 1 rejected, 0 given back\n' in ended.err
    (fields,) = command('show', 'bad', '--json').lines
    assert (fields['status'], fields['reason'], fields['dequeue_count']) == ('rejected', 'ValueError: bad', 1)
    assert command('show', 'stop', '--json').lines[0]['result'] == {'got': 'stop'}, 'it finished what it had begun'


def test_events_for_programs(command: Command) -> None:
    command.do(fill)
    lines = command('worker', 'users_handlers:handle', '-c', '1', '--retry', 'constant', '--json').lines
    told = {(line['event'], line['id']) for line in lines}
    ended = {('finished', 'good'), ('retried', 'bad'), ('finished', 'stop')}
    assert told == ended | {('started', task_id) for task_id in ('good', 'bad', 'stop')}
    fields = {'event', 'time', 'queue', 'id', 'dequeue_count', 'delay', 'reason', 'error'}
    assert all(set(line) == fields for line in lines)
    (retried,) = [line for line in lines if line['event'] == 'retried']
    assert (retried['dequeue_count'], retried['delay'], retried['error']) == (1, 1.0, 'ValueError: bad')


def test_a_policy_of_ones_own_and_a_cap_on_dead_letters(command: Command) -> None:
    command.do(lambda queue: queue.enqueue_many(['bad', 'bad']))
    arguments = ['--concurrency', '1', '--retry', 'users_handlers:policy', '--max-rejected', '1']
    assert 'stopped: 0 finished, 2 retried, 2 rejected' in command('worker', 'users_handlers:handle', *arguments).err
    (left,) = command('tasks', '-s', 'rejected', '--json').lines
    assert left['dequeue_count'] == 2


def test_a_plain_function(command: Command) -> None:
    command.do(lambda queue: queue.enqueue('stop'))
    assert 'stopped: 1 finished' in command('worker', 'users_handlers:Plain.handle').err


def test_a_serialiser_of_ones_own(command: Command) -> None:
    command.do(lambda queue: queue.enqueue('stop', task_id='x'), serialiser=pickle)
    assert command('worker', 'users_handlers:handle', '--serialiser', 'pickle').status == 0
    (fields,) = command('show', 'x', '--json').lines
    assert fields['result'] == pickle.dumps({'got': 'stop'}).hex(' ')


@pytest.mark.parametrize('loop', ['asyncio', 'trio'])
def test_it_can_be_seen_at_work(command: Command, folder: Path, loop: str) -> None:
    name = f'night-{os.getpid()}-{loop}'
    command.do(lambda queue: queue.enqueue('task'))
    arguments = ('--loop', loop, '--name', name, '--concurrency', '3')
    with started('worker', 'users_handlers:endless', *arguments, url=command.url, folder=folder) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == 'started\n'
        (worker,) = command('workers', '--json').lines
        assert (worker['name'], worker['pid'], worker['concurrency']) == (name, process.pid, 3)
        assert [task['held_by'] for task in command('tasks', '-s', 'working', '--json').lines] == [name]
        assert command('worker', '--probe', '--name', name) == (0, '', '')
        for number in (signal.SIGINT, signal.SIGTERM):  # two of one kind may come as one
            process.send_signal(number)
        assert process.wait(20) == 0
    assert command('workers').err.startswith('no workers of queue ')
    command.assert_refused(['worker', '--probe', '--name', name], 1, f"no worker named '{name}' runs here")


def test_a_handler_is_needed(command: Command) -> None:
    command.assert_refused(['worker'], 2, r'give the function that handles tasks, as MODULE:HANDLER \(see .*')


@pytest.mark.parametrize('loop', ['asyncio', 'trio'])
def test_the_second_signal_is_obeyed_at_once(command: Command, folder: Path, loop: str) -> None:
    command.do(lambda queue: queue.enqueue('task', task_id='x'))
    with started('worker', 'users_handlers:endless', '--loop', loop, url=command.url, folder=folder) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        assert process.stdout.readline() == 'started\n'
        process.send_signal(signal.SIGINT)
        said = ''
        while 'Stopping: waiting up to 20 s for 1 handler' not in said:
            said = process.stderr.readline()
            assert said
        process.send_signal(signal.SIGTERM)
        assert process.wait(20) == 0
        assert process.stderr.read() == 'stopped: 0 finished, 0 retried, 0 rejected, 1 given back\n'
    (fields,) = command('show', 'x', '--json').lines
    assert (fields['status'], fields['dequeue_count']) == ('pending', 0)


def test_events_that_nobody_reads_any_more(command: Command, folder: Path) -> None:
    command.do(lambda queue: queue.enqueue_many(['good'] * 200))
    with started('worker', 'users_handlers:handle', '--json', url=command.url, folder=folder) as process:
        assert process.stdout is not None
        process.stdout.readline()
        process.stdout.close()
        assert process.wait(20) == 141
    (stats,) = command('stats', '--json').lines
    assert (stats['working'], stats['rejected']) == (0, 0)


# What is refused -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ('arguments', 'said'),
    [
        (['nowhere:handle'], "cannot import 'nowhere': ModuleNotFoundError: No module named 'nowhere' .*"),
        (['users_handlers:handel'], "cannot find the handler: .* has no attribute 'handel'.*"),
        (['users_handlers:'], "the handler must be given as module:object, got 'users_handlers:'"),
        (['users_handlers'], 'handler must be a function, got .*'),
        (['users_handlers:number'], 'handler must be a function, got 5'),
        (['users_mistake:f'], r"cannot import 'users_mistake': TypeError: .*users_mistake\.py, line 2\) .*"),
        (['users_typo:f'], r"cannot import 'users_typo': SyntaxError: .*users_typo\.py, line 1.*"),
        (['users_import:f'], r"cannot import .*No module named 'not_there' .*users_import\.py, line 1\) .*"),
        (['users_handlers:handle', '--retry', 'often'], "no retry policy 'often': see torrelque worker --help"),
        (['users_handlers:handle', '--retry', 'users_handlers:number'], 'retry must be a function, got 5'),
        (['users_handlers:handle', '--serialiser', 'math'], 'serialiser must have dumps and loads, got .*'),
        (['users_handlers:handle', '-c', '0'], 'Invalid value for .*'),
        (['users_handlers:handle', '--loop', 'twisted'], 'Invalid value for .*'),
        (['users_handlers:handle', '-q', 'a', '--weight', 'a'], "--weight expects QUEUE=N, got 'a'"),
        (['users_handlers:handle', '-q', 'a', '--weight', 'a=much'], "--weight expects QUEUE=N, got 'a=much'"),
        (['users_handlers:handle', '-q', 'a', '--weight', '=1'], "--weight expects QUEUE=N, got '=1'"),
        (
            ['users_handlers:handle', '-q', 'a', '--weight', 'a=0'],
            "the weight of queue 'a' must be .* above 0, got 0.0",
        ),
        (['users_handlers:handle', '-q', 'a', '--reserve', 'b=1'], "--reserve names queue 'b', which no --queue names"),
        (['users_handlers:handle', '-q', 'a', '--reserve', 'a=1.5'], "--reserve expects QUEUE=N, got 'a=1.5'"),
        (
            ['users_handlers:handle', '-q', 'a', '--reserve', 'a=11'],
            'reserve must be at most the concurrency, 10, got 11',
        ),
        (['users_handlers:handle', '--strict', '--weight', 'trq=1'], '--strict and --weight exclude each other'),
    ],
)
def test_what_is_refused(command: Command, arguments: list[str], said: str) -> None:
    command.assert_refused(['worker', *arguments], 2, said)


def test_it_waits_for_a_server_that_is_not_there_yet(folder: Path) -> None:
    with socket.socket() as taken:
        taken.bind(('127.0.0.1', 0))
        port = taken.getsockname()[1]
    with started('worker', 'users_handlers:handle', url=f'redis://127.0.0.1:{port}', folder=folder) as process:
        assert process.stderr is not None
        assert 'The server cannot be used yet, trying again' in process.stderr.readline()
        with EmbeddedServer(port=port):
            assert process.stderr.readline().startswith('working on queue trq')
            process.send_signal(signal.SIGTERM)
            assert process.wait(30) == 0


def test_a_package_that_is_missing(command: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, 'uvloop', None)
    said = 'not installed: uvloop. Install with: pip install uvloop'
    command.assert_refused(['worker', 'users_handlers:handle', '--loop', 'uvloop'], 2, said)


@pytest.mark.parametrize(
    ('name', 'delays'),
    [
        ('exponential', [2, 4, 5, None]),
        ('linear', [2, 4, 5, None]),
        ('constant', [2, 2, 2, None]),
        ('immediately', [0, 0, 0, None]),
        ('never', [None, None, None, None]),
    ],
)
def test_policies(name: str, delays: list[float | None]) -> None:
    policy = _policy(name, 4, 2.0, 5.0)
    for attempt, delay in enumerate(delays, 1):
        given = policy(attempt, ValueError())
        assert given == delay or (name == 'exponential' and given and delay and 0.8 * delay <= given <= delay)


# Several queues and processes ----------------------------------------------------------------------------------------


def test_several_queues(command: Command) -> None:
    command.do(lambda queue: queue.enqueue('one', task_id='one'), queue='a')
    command.do(lambda queue: queue.enqueue('stop', task_id='two', delay=0.2), queue='b')
    ended = command(
        'worker', 'users_handlers:handle', '-q', 'a', '-q', 'b', '--log-level', 'info', '--result-ttl', '90'
    )
    assert 'working on queues a, b, on asyncio; Ctrl-C stops\n' in ended.err
    assert 'stopped: 2 finished' in ended.err
    for queue, task_id in (('a', 'one'), ('b', 'two')):
        assert command('show', task_id, '-q', queue, '--json').lines[0]['status'] == 'completed'


@pytest.mark.parametrize(
    ('options', 'order'),
    [
        (['--strict'], 'aaaabbbb'),
        (['--weight', 'a=3', '--weight', 'b=1'], 'abaaabbb'),
    ],
)
def test_how_queues_share_the_handlers(command: Command, options: list[str], order: str) -> None:
    for queue in 'ba':
        command.do(lambda queue: queue.enqueue_many(['task'] * 4), queue=queue)
    arguments = ['-q', 'a', '-q', 'b', '-c', '1', '--burst', '--json', *options]
    events = command('worker', 'users_handlers:handle', *arguments).lines
    assert ''.join(event['queue'] for event in events if event['event'] == 'started') == order


def test_handlers_are_kept_free_for_a_queue(command: Command) -> None:
    for queue in 'ba':
        command.do(lambda queue: queue.enqueue_many(['task'] * 4), queue=queue)
    arguments = ['-q', 'a', '-q', 'b', '-c', '2', '--burst', '--json', '--strict', '--reserve', 'b=1']
    events = command('worker', 'users_handlers:handle', *arguments).lines
    assert {event['queue'] for event in events[:4] if event['event'] == 'started'} == {'a', 'b'}


def test_tasks_are_logged_when_asked_for(command: Command, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level('INFO', 'torrelque.worker')
    for options, count in ((['--log-level', 'info'], 1), ([], 0)):
        caplog.clear()
        command.do(lambda queue: queue.enqueue('stop', task_id='stop'))
        assert command('worker', 'users_handlers:handle', *options).status == 0
        assert [record.msg for record in caplog.records].count('Finished task:%s of queue %s in %.3f s') == count


def test_the_log_times_a_task_whose_result_was_dropped(command: Command, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level('INFO', 'torrelque.worker')
    command.do(lambda queue: queue.enqueue('stop', task_id='stop'))
    assert command('worker', 'users_handlers:drop', '--log-level', 'info').status == 0
    assert re.search(r'Finished task:stop of queue \S+ in \d+\.\d+ s', caplog.text)


def test_several_processes_stop_together(command: Command, folder: Path) -> None:
    command.do(lambda queue: queue.enqueue_many(['task'] * 3))
    arguments = ['worker', 'users_handlers:endless', '-c', '1', '--processes', '3', '--grace', '0']
    with started(*arguments, url=command.url, folder=folder) as process:
        assert process.stdout is not None
        assert [process.stdout.readline() for _ in range(3)] == ['started\n'] * 3
        process.send_signal(signal.SIGTERM)
        assert process.wait(30) == 0
    assert command('stats', '--json').lines[0]['pending'] == 3


def test_a_process_that_dies_is_started_again(command: Command, folder: Path) -> None:
    command.do(lambda queue: queue.enqueue('die', task_id='die', task_timeout=0.5))
    with started(
        'worker', 'users_handlers:mortal', '--processes', '1', '--reload', url=command.url, folder=folder
    ) as process:
        assert process.stdout is not None
        assert [process.stdout.readline() for _ in range(2)] == ['delivery 1\n', 'delivery 2\n']
        (folder / 'users_new.py').write_text('a = 1\n')
        assert process.stderr is not None
        assert any('because of changes in users_new.py' in line for line in process.stderr)
        process.send_signal(signal.SIGINT)
        said = process.stderr.read()
        assert process.wait(30) == 0, said


def test_processes_that_cannot_start_end(command: Command, folder: Path) -> None:
    with started('worker', 'users_nowhere:handle', '--processes', '2', url=command.url, folder=folder) as process:
        assert process.wait(30) == 2


def test_processes_end_with_their_parent(command: Command, folder: Path) -> None:
    command.do(lambda queue: queue.enqueue('task'))
    arguments = ['worker', 'users_handlers:endless', '-c', '1', '--processes', '2', '--grace', '0']
    with started(*arguments, url=command.url, folder=folder) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == 'started\n'
        process.kill()
        assert process.stdout.read() == '', 'nobody has the output open any more'


def test_options_of_the_supervisor_are_not_passed_on() -> None:
    words = ['worker', 'a:b', '--processes', '3', '-q', 'x', '--reload', '--processes=2', '--', '--reload']
    assert without_options(words, {'--processes': 1, '--reload': 0}) == ['worker', 'a:b', '-q', 'x', '--', '--reload']

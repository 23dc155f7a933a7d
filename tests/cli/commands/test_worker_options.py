"""`worker`: the options of `Worker`, a burst, a router, a lifespan, OpenTelemetry, and starting again after changes."""

from __future__ import annotations

import inspect
import pickle
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.cli.support import Command, started
from torrelque import Torrelque, Worker
from torrelque.cli.commands.worker import worker

HANDLERS = """
import contextlib, sys
import torrelque

router = torrelque.Router()
url = __import__('os').environ['TORRELQUE_URL']

@router.task('double')
def double(number: int) -> int:
    return 2 * number

async def handle(task):
    return task.data

async def loiter(task):
    import anyio
    await anyio.sleep(60)

@contextlib.asynccontextmanager
async def lifespan():
    print('opened', flush=True)
    yield {'client': 'a client'}
    print('closed', flush=True)

async def depend(task, *, client):
    return client

async def pass_on(task):
    name, steps = task.data
    if steps:
        other = 'b' if name == 'a' else 'a'
        async with torrelque.connect(url) as client, torrelque.Torrelque(client, queue=other) as queue:
            await queue.enqueue([other, steps - 1])

def hear(event):
    print(type(event).__name__, flush=True)

async def tell_imported(task):
    print(*sorted({'opentelemetry', 'torrelque.otel'} & set(sys.modules)), flush=True)

number = 5
"""

OF_COMMAND_ONLY = {
    'settings', 'loop', 'attempts', 'retry_delay', 'retry_max', 'serialiser', 'result_serialiser', 'max_rejected',
    'log_level', 'processes', 'reload', 'otel', 'probe',
    'weight',
}  # fmt: skip
OF_WORKER_ONLY = {
    'context': '--lifespan gives it, and a module can import what need not be opened',
    'clock': 'for tests',
    'handle_signals': 'the command always does',
}

TRACING = """
import contextlib, sys
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor, SpanExporter

class Printing(SpanExporter):
    def export(self, spans):
        for span in spans:
            print(span.name, flush=True)

def provide():
    trace.set_tracer_provider(TracerProvider())
    trace.get_tracer_provider().add_span_processor(SimpleSpanProcessor(Printing()))

if __name__ == 'own_tracing':
    provide()

async def handle(task):
    print('torrelque.otel' in sys.modules, flush=True)

@contextlib.asynccontextmanager
async def lifespan():
    provide()
    yield
"""


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / 'own_handlers.py').write_text(HANDLERS)
    (tmp_path / 'own_tracing.py').write_text(TRACING)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, 'path', [*sys.path])
    monkeypatch.delitem(sys.modules, 'own_handlers', raising=False)
    return tmp_path


def run(command: Command, folder: Path, *arguments: str) -> tuple[int, str, str]:
    with started('worker', *arguments, url=command.url, folder=folder) as process:
        out, err = process.communicate(timeout=50)
        return process.returncode, out, err


def test_the_options_are_those_of_a_worker() -> None:
    of_worker = set(inspect.signature(Worker).parameters)
    assert of_worker >= OF_WORKER_ONLY.keys()
    assert set(inspect.signature(worker).parameters) - OF_COMMAND_ONLY == of_worker - OF_WORKER_ONLY.keys()


# Burst ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize('loop', ['asyncio', 'uvloop', 'trio'])
def test_a_burst_ends_when_the_queue_is_empty(command: Command, loop: str) -> None:
    command.do(lambda queue: queue.enqueue_many(range(30)))
    command.do(lambda queue: queue.enqueue('later', delay=60))
    ended = command('worker', 'own_handlers:handle', '--burst', '--loop', loop)
    assert (ended.status, ended.out) == (0, '')
    assert 'stopped: 30 finished, 0 retried, 0 rejected, 0 given back\n' in ended.err
    assert command.do(Torrelque.get_queue_stats)[:4] == (1, 0, 0, 1)


def test_a_burst_over_queues_whose_handlers_add_to_each_other(command: Command) -> None:
    command.do(lambda queue: queue.enqueue(['a', 9]), queue='a')
    ended = command('worker', 'own_handlers:pass_on', '--burst', '-q', 'a', '-q', 'b')
    assert ended.status == 0
    assert 'stopped: 10 finished' in ended.err


def test_a_burst_of_several_processes_over_shards(command: Command, folder: Path) -> None:
    command.do(lambda queue: queue.enqueue_many(range(50)), shards=3)
    status, _, err = run(command, folder, 'own_handlers:handle', '--burst', '--processes', '2', '--json', '-c', '5')
    assert status == 0, err
    assert len(set(re.findall(r'INFO torrelque\.worker\[(\d+)\]: The queue is empty', err))) == 2
    assert command.do(Torrelque.get_queue_stats, shards=3)[:4] == (0, 0, 0, 0)


def test_a_burst_has_no_end_to_start_again_after(command: Command) -> None:
    said = '--burst and --reload exclude each other'
    command.assert_refused(['worker', 'own_handlers:handle', '--burst', '--reload'], 2, said)


# Other options -------------------------------------------------------------------------------------------------------


def test_a_router(command: Command) -> None:
    command.do(lambda queue: queue.enqueue(21, task_id='x', headers={'torrelque.kind': 'double'}))
    assert command('worker', 'own_handlers:router', '--burst').status == 0
    assert command('show', 'x', '--json').lines[0]['result'] == 42


def test_a_lifespan_is_entered_once_for_all_queues(command: Command) -> None:
    for queue in 'ab':
        command.do(lambda queue: queue.enqueue(1, task_id='x'), queue=queue)
    arguments = ['--lifespan', 'own_handlers:lifespan', '-q', 'a', '-q', 'b', '--burst']
    assert command('worker', 'own_handlers:depend', *arguments).out == 'opened\nclosed\n'
    for queue in 'ab':
        assert command('show', 'x', '--json', '-q', queue).lines[0]['result'] == 'a client'


def test_a_time_limit(command: Command) -> None:
    command.do(lambda queue: queue.enqueue(1, task_id='x'))
    assert command('worker', 'own_handlers:loiter', '--time-limit', '50ms', '--retry', 'never', '--burst').status == 0
    reason = 'TorrelqueTimeLimitError: the handler took longer than 0.05 s'
    assert command('show', 'x', '--json').lines[0]['reason'] == reason


@pytest.mark.parametrize('ttl', ['0', '90'])
def test_how_long_final_states_are_kept(command: Command, ttl: str) -> None:
    command.do(lambda queue: queue.enqueue(None, task_id='x'))
    assert command('worker', 'own_handlers:handle', '--finished-ttl', ttl, '--burst').status == 0
    assert command('watch', 'x').status == int(ttl == '0')


def test_a_function_for_events(command: Command) -> None:
    command.do(lambda queue: queue.enqueue(1))
    assert command('worker', 'own_handlers:handle', '--on-event', 'own_handlers:hear', '--burst').out == (
        'Started\nFinished\n'
    )


def test_a_serialiser_of_results(command: Command) -> None:
    command.do(lambda queue: queue.enqueue(1, task_id='x'))
    assert command('worker', 'own_handlers:handle', '--result-serialiser', 'pickle', '--burst').status == 0
    assert command('show', 'x', '--json').lines[0]['result'] == pickle.dumps(1).hex(' ')


@pytest.mark.parametrize(
    ('arguments', 'said'),
    [
        (['own_handlers:number'], 'handler must be a function, got 5'),
        (['own_handlers:handle', '--lifespan', 'own_handlers:number'], 'lifespan must be a function, got 5'),
        (['own_handlers:handle', '--lifespan', 'own_handlers:nothing'], 'cannot find the lifespan: .*'),
        (['own_handlers:handle', '--on-event', 'own_handlers:handle'], 'on_event must be a plain function, got .*'),
        (['own_handlers:handle', '--time-limit', '0'], r'time_limit must be above 0, got 0\.0'),
        (['own_handlers:handle', '--result-serialiser', 'math'], 'result_serialiser must have dumps and loads, .*'),
        (['own_handlers:handle', '--retry', 'often', '--reload'], "no retry policy 'often': .*"),
    ],
)
def test_what_is_refused_though_the_server_is_away(command: Command, arguments: list[str], said: str) -> None:
    command.assert_refused(['--url', 'redis://127.0.0.1:1', 'worker', *arguments], 2, said)


# OpenTelemetry -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ('arguments', 'printed'),
    [
        (['own_tracing:handle'], 'True\nprocess trq\nrelease trq\n'),
        (['late_tracing:handle', '--lifespan', 'late_tracing:lifespan'], 'True\nprocess trq\nrelease trq\n'),
        (['late_tracing:handle'], 'False\n'),
        (['late_tracing:handle', '--otel'], 'True\n'),
        (['own_tracing:handle', '--no-otel'], 'False\n'),
        (['own_handlers:tell_imported'], '\n'),
    ],
)
def test_it_reports_to_the_global_provider(command: Command, folder: Path, arguments: list[str], printed: str) -> None:
    command.do(lambda queue: queue.enqueue(1))
    (folder / 'late_tracing.py').write_text(TRACING)
    assert run(command, folder, *arguments, '--burst')[1] == printed


def test_it_does_without_opentelemetry(command: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    command.do(lambda queue: queue.enqueue(1))
    monkeypatch.setitem(sys.modules, 'opentelemetry', None)
    assert command('worker', 'own_handlers:handle', '--burst').status == 0
    said = r'not installed: opentelemetry\. Install with: pip install "torrelque\[otel\]"'
    command.assert_refused(['worker', 'own_handlers:handle', '--otel'], 2, said)


# Reload --------------------------------------------------------------------------------------------------------------


def await_line(process: subprocess.Popen[str], said: str) -> None:
    assert process.stderr is not None
    assert any(said in line for line in process.stderr), said


def test_mistakes_in_a_file_are_waited_out(command: Command, folder: Path) -> None:
    module = folder / 'own_changing.py'
    module.write_text('async def handle(task:\n')
    with started('worker', 'own_changing:handle', '--reload', url=command.url, folder=folder) as process:
        await_line(process, 'SyntaxError')
        await_line(process, 'A worker process cannot start, waiting for a change')
        module.write_text('async def handle(task): ...\n')
        await_line(process, 'working on queue trq')
        module.write_text('import not_there\n')
        await_line(process, "No module named 'not_there'")
        await_line(process, 'waiting for a change')
        process.send_signal(signal.SIGINT)
        assert process.wait(30) == 0

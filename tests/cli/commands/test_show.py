"""`show` and `watch`."""

from __future__ import annotations

import itertools
import pickle
import re
import signal
import threading
import time
from collections.abc import Awaitable, Callable, Iterable

import anyio
import pytest

from tests import servers
from tests.cli.commands.test_inspect import STATE_FIELDS, fill
from tests.cli.support import Command, started
from torrelque import Torrelque, TorrelqueTaskSerialiser

BYTES = TorrelqueTaskSerialiser(dumps=bytes, loads=bytes)
PATIENCE = 20.0


def without_blanks(text: str) -> list[str]:
    return [' '.join(line.split()) for line in text.splitlines()]


# show ----------------------------------------------------------------------------------------------------------------


def test_a_dead_letter(command: Command) -> None:
    command.do(fill)
    status, out, err = command('show', 'rejected')
    assert (status, err) == (0, '')
    lines = without_blanks(out)
    assert lines[:4] == ['task rejected', 'queue trq', 'status rejected', 'reason no such\\naddress']
    assert lines[4:7] == ['tries 1/5', 'timeout 5m', 'history']
    assert [line.partition('ago ')[2] for line in lines[7:10]] == ['enqueued', 'delivered, once in all', 'rejected']
    assert lines[10:] == ['payload (json)', '{', '"n": 1', '}']


def test_what_is_to_come(command: Command) -> None:
    command.do(fill)
    assert re.search(r' in +(59m\S*|1h)  due', command('show', 'delayed').out)
    assert 'the claim ends unless it is renewed' in command('show', 'working').out


def test_a_result(command: Command) -> None:
    command.do(fill)
    lines = without_blanks(command('show', 'done').out)
    assert lines[-4:] == ['result (json)', '[', '"done"', ']']
    assert command('show', 'done', '--raw') == (1, '', "torrelque: task 'done' has ended, so its payload is gone\n")


def test_headers(command: Command) -> None:
    command.do(lambda queue: queue.enqueue('x', task_id='x', headers={'trace': '7f\x1b[0m'}))
    assert 'header trace=7f\\x1b[0m' in without_blanks(command('show', 'x').out)
    assert command('show', 'x', '--json').lines[0]['headers'] == {'trace': '7f\x1b[0m'}


def test_the_fields_for_programs(command: Command) -> None:
    command.do(fill)
    more = {'queue', 'deadline', 'due', 'consumer', 'held_by', 'headers', 'payload', 'payload_encoding'}
    for task_id in ('pending', 'working', 'delayed', 'rejected', 'done'):
        (fields,) = command('show', task_id, '--json').lines
        assert set(fields) == STATE_FIELDS | more
    (fields,) = command('show', 'working', '--json').lines
    assert (fields['payload'], fields['payload_encoding'], fields['due']) == ({'n': 1}, 'json', None)
    assert fields['deadline'] == pytest.approx(fields['last_dequeue_time'] + 300)


def test_a_payload_that_is_not_json(command: Command) -> None:
    data = pickle.dumps({'a': 1})
    server = servers.shared('valkey-9.1')
    command.do(lambda queue: queue.enqueue('', task_id='pickled'))
    server.command('HSET', 'trq:tasks', 'pickled', data)
    (fields,) = command('show', 'pickled', '--json').lines
    assert (fields['payload'], fields['payload_encoding']) == (data.hex(' '), 'hex')
    assert f'payload (hex)\n  000000  {data[:16].hex(" ")}  ' in command('show', 'pickled').out


def test_the_payload_alone(command: Command) -> None:
    command.do(lambda queue: queue.enqueue({'a': 'ü'}, task_id='x'))
    assert command('show', 'x', '--raw').out == '{"a": "\\u00fc"}'


def test_an_unknown_task(command: Command) -> None:
    command.do(lambda queue: queue.enqueue('task'))
    for verb in ('show', 'watch'):
        assert command(verb, 'x') == (1, '', "torrelque: no task 'x' in queue 'trq'\n")


# watch ---------------------------------------------------------------------------------------------------------------


def act_once_watched(command: Command, act: Callable[[Torrelque], Awaitable[object]]) -> threading.Thread:
    """Do something to the queue as soon as somebody watches the task x."""

    def wait_and_act() -> None:
        deadline = time.monotonic() + PATIENCE
        with servers.shared('valkey-9.1').client() as client:
            while client.command('PUBSUB', 'NUMSUB', 'trq:task:x')[1] == 0 and time.monotonic() < deadline:
                time.sleep(0.01)
        command.do(act)

    thread = threading.Thread(target=wait_and_act)
    thread.start()
    return thread


async def complete(queue: Torrelque) -> None:
    await queue.release(await queue.dequeue())


async def complete_slowly(queue: Torrelque) -> None:
    task = await queue.dequeue()
    await task.progress(1, 2, 'half')
    await anyio.sleep(0.3)
    await queue.release(task)


async def complete_with_result(queue: Torrelque) -> None:
    await queue.requeue(await queue.dequeue())
    await queue.release(await queue.dequeue(), result={'sent': True})


async def reject(queue: Torrelque) -> None:
    await queue.reject(await queue.dequeue(), 'no such address')


def _changes(statuses: Iterable[str]) -> list[str]:
    """Without repeats: progress may be seen with the change before it, or alone."""
    return [status for status, _ in itertools.groupby(statuses)]


@pytest.mark.parametrize(
    ('act', 'status', 'last', 'seen'),
    [
        (complete, 0, 'completed', ['pending', 'working', 'completed']),
        (complete_slowly, 0, 'completed', ['pending', 'working', 'completed']),
        (complete_with_result, 0, 'completed', ['pending', 'working', 'pending', 'working', 'completed']),
        (reject, 1, 'rejected tries: 1, no such address', ['pending', 'working', 'rejected']),
    ],
)
def test_a_task_is_watched_to_its_end(
    command: Command, act: Callable[[Torrelque], Awaitable[object]], status: int, last: str, seen: list[str]
) -> None:
    for arguments in ([], ['--json']):
        command.do(lambda queue: queue.enqueue('task', task_id='x'))
        thread = act_once_watched(command, act)
        ended = command('watch', 'x', *arguments)
        thread.join()
        assert (ended.status, ended.err) == (status, '')
        if arguments:
            assert _changes(line['status'] for line in ended.lines) == seen
            assert all(set(line) == STATE_FIELDS for line in ended.lines)
        else:
            lines = without_blanks(ended.out)
            assert _changes(line.split()[2] for line in lines) == seen
            assert last in lines[-1]
        assert ('half' in ended.out) == (act is complete_slowly)
        servers.shared('valkey-9.1').flush()


def test_a_task_that_is_cancelled(command: Command) -> None:
    command.do(lambda queue: queue.enqueue('task', task_id='x'))
    thread = act_once_watched(command, lambda queue: queue.cancel('x'))
    status, _, err = command('watch', 'x')
    thread.join()
    assert (status, err) == (1, "torrelque: task 'x' was cancelled\n")


def test_waiting_no_longer_than_wanted(command: Command) -> None:
    command.do(lambda queue: queue.enqueue('task', task_id='x'))
    status, out, err = command('watch', 'x', '--timeout', '50ms')
    assert (status, err) == (4, "torrelque: task 'x' did not end in time\n")
    assert 'pending' in out


def test_ctrl_c(command: Command) -> None:
    command.do(lambda queue: queue.enqueue('task', task_id='x'))
    with started('watch', 'x', url=command.url) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        assert 'pending' in process.stdout.readline()
        process.send_signal(signal.SIGINT)
        assert process.wait(PATIENCE) == 130
        assert process.stderr.read() == 'torrelque: interrupted\n'

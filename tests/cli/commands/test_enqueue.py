"""`enqueue`: from an argument, a file, and standard input."""

from __future__ import annotations

import json
import re
import signal
from pathlib import Path

import pytest

from tests import servers
from tests.cli.support import Command, started
from torrelque import Torrelque, TorrelqueConnectionError, TorrelqueTask


def take_all(command: Command) -> list[object]:
    """The payloads, in the order in which consumers get them."""

    async def take(queue: Torrelque) -> list[object]:
        return [task.data for task in await queue.dequeue_nowait(max_tasks=5000)]

    return list(command.do(take))


# One -----------------------------------------------------------------------------------------------------------------


def test_a_payload(command: Command) -> None:
    status, out, err = command('enqueue', '{"a": "ü"}')
    assert (status, err) == (0, '')
    (fields,) = command('show', out.strip(), '--json').lines
    assert fields['payload'] == {'a': 'ü'}
    (answer,) = command('enqueue', '-q', 'mail', '1', '--json').lines
    assert command('show', answer['id'], '-q', 'mail', '--raw').out == '1'


def test_the_payload_is_sent_as_it_is_given(command: Command) -> None:
    command('enqueue', '{"a":  12345678901234567890.10}', '--task-id', 'x')
    assert command('show', 'x', '--raw').out == '{"a":  12345678901234567890.10}'


def test_options(command: Command) -> None:
    ended = command(
        'enqueue', '"x"', '--task-id', 'x', '--delay', '2h', '--task-timeout', '90s', '--max-dequeues', '3',
        '-H', 'trace=7f', '--header', 'b=c=d', '--expires-in', '1d', '--on-expiry', 'reject',
    )  # fmt: skip
    assert ended == (0, 'x\n', '')
    task: TorrelqueTask = command.do(lambda queue: queue.get_task('x'))
    assert (task.data, dict(task.headers)) == ('x', {'trace': '7f', 'b': 'c=d'})
    assert (task.state.timeout, task.state.max_dequeues) == (90, 3)
    assert task.state.enqueue_time is not None
    assert task.due == pytest.approx(task.state.enqueue_time + 7200)
    assert task.state.expires == pytest.approx(task.state.enqueue_time + 86_400)
    assert task.state.on_expiry == 'reject'


def test_a_group_and_a_priority(command: Command) -> None:
    (line,) = command('enqueue', '"x"', '--group', 'acme', '--json').lines
    assert command('enqueue', '"y"', '--priority', 'high', '--task-id', 'y') == (0, 'y\n', '')
    assert command.do(lambda queue: queue.get_task_state(line['id'])).group == 'acme'
    assert command.do(lambda queue: queue.get_task_state('y')).priority == 'high'
    assert re.search(r'^group +acme', command('show', line['id']).out, re.MULTILINE)
    assert re.search(r'^priority +high', command('show', 'y').out, re.MULTILINE)
    command.assert_refused(['enqueue', '1', '--group', 'a', '--priority', 'low'], 2, 'a task has either a group or .*')


def test_if_it_exists(command: Command, tmp_path: Path) -> None:
    for number, mode in enumerate((None, 'raise', 'ignore', 'replace')):
        ended = command('enqueue', str(number), '--task-id', 'x', *(('--if-exists', mode) if mode else ()))
        if mode == 'raise':
            assert ended == (1, '', "torrelque: there is a task 'x' already, nothing was changed\n")
        else:
            assert ended == (0, 'x\n', '')
    assert command('show', 'x', '--raw').out == '3'
    lines = tmp_path / 'lines'
    lines.write_text('1\n2\n')
    for _ in range(2):
        command('enqueue', '-f', str(lines), '--task-id', 'y', '--if-exists', 'replace')
        lines.write_text('3\n4\n')
    assert take_all(command) == [3, 3, 4]


@pytest.mark.parametrize(
    ('arguments', 'said'),
    [
        (['1', '--if-exists', 'replace'], '--if-exists replace needs --task-id'),
        (['{bad'], 'the payload is not JSON: Expecting property name .*'),
        (['1', '--file', 'x'], 'enqueue takes either a payload or --file, not both'),
        (['1', '-H', 'x'], "--header expects NAME=VALUE, got 'x'"),
        (['1', '--max-dequeues', '0'], r"Invalid value for '--max-dequeues': .* \(see torrelque enqueue --help\)"),
        (['1', '--delay', 'soon'], r".*'soon' is not a time such as .* \(see torrelque enqueue --help\)"),
        (['1', '--task-id', ''], 'task_id must not be empty'),
        (['1', '--queue', ''], 'queue must not be empty'),
        (['--file', 'nowhere/x.jsonl'], 'nowhere/x.jsonl: No such file or directory'),
    ],
)
def test_what_is_refused(command: Command, arguments: list[str], said: str) -> None:
    command.assert_refused(['enqueue', *arguments], 2, said)
    assert servers.shared('valkey-9.1').command('DBSIZE') == 0


def test_without_a_payload_on_a_terminal(command: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    command.on_terminal = True
    command.assert_refused(['enqueue'], 2, 'nothing to enqueue: give a payload as JSON, --file, or - for .*')


# Many ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize('arguments', [[], ['-'], ['--file', '-']])
def test_standard_input(command: Command, arguments: list[str]) -> None:
    lines = '1\n\n  {"a": "b"}\r\n"last"'
    assert command('enqueue', *arguments, stdin=lines) == (0, 'enqueued 3 tasks\n', '')
    assert take_all(command) == [1, {'a': 'b'}, 'last']


def test_a_file_in_its_order(command: Command, tmp_path: Path) -> None:
    file = tmp_path / 'tasks.jsonl'
    payloads = [{'n': number, 'padding': 'x' * 500} for number in range(1100)]  # more than is read or sent at once
    file.write_text(''.join(f'{json.dumps(each)}\n' for each in payloads))
    assert command('enqueue', '--file', str(file)) == (0, 'enqueued 1,100 tasks\n', '')
    assert take_all(command) == payloads


def test_each_line_for_programs(command: Command) -> None:
    lines = command('enqueue', '--json', '--task-id', 'load', stdin='"a"\n\n"b"\n').lines
    assert lines == [{'line': 1, 'id': 'load-1'}, {'line': 3, 'id': 'load-3'}]


def test_with_an_id_it_may_be_repeated(command: Command) -> None:
    for _ in range(2):
        assert command('enqueue', '--task-id', 'load', stdin='"a"\n"b"\n').status == 0
    assert take_all(command) == ['a', 'b']


def test_nothing_to_enqueue(command: Command) -> None:
    assert command('enqueue', stdin='\n') == (0, 'enqueued 0 tasks\n', '')


def test_a_file_is_checked_before_anything_is_sent(command: Command, tmp_path: Path) -> None:
    file = tmp_path / 'tasks.jsonl'
    file.write_text('1\n' * 300 + '{\n')
    command.assert_refused(['enqueue', '-f', str(file)], 2, r'.*/tasks.jsonl, line 301 is not JSON: Expecting .*')
    assert servers.shared('valkey-9.1').command('DBSIZE') == 0


def test_a_bad_line_on_standard_input(command: Command) -> None:
    said = 'standard input, line 3 is not JSON: .*; 2 tasks were enqueued, up to line 2 of standard input'
    command.assert_refused(['enqueue'], 2, said, stdin='1\n2\n{\n4\n')
    assert take_all(command) == [1, 2]
    command.assert_refused(['enqueue'], 2, 'standard input, line 1 is not JSON: .*; nothing was enqueued', stdin='{')


def test_the_server_refuses_half_way(command: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    """Enqueueing fails once the second round trip is due."""
    server = servers.shared('valkey-9.1')
    real = Torrelque.enqueue_many
    rounds = 0

    async def counted(self: Torrelque, items: list[object]) -> list[str | Exception]:
        nonlocal rounds
        rounds += 1
        if rounds == 2:
            server.config(maxmemory=1)
        return await real(self, items)

    monkeypatch.setattr(Torrelque, 'enqueue_many', counted)
    try:
        said = r'the server refuses: OOM .* \(the server is full\); 250 tasks were enqueued, up to line 250 of .*'
        command.assert_refused(['enqueue'], 3, said, stdin='1\n' * 600)
    finally:
        server.config(maxmemory=0)
    assert len(take_all(command)) == 250


def test_what_is_piped_in_is_sent_as_it_comes(command: Command) -> None:
    with started('enqueue', '--json', url=command.url) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        for number in (1, 2):
            process.stdin.write('"x"\n')
            process.stdin.flush()
            assert json.loads(process.stdout.readline())['line'] == number
        process.send_signal(signal.SIGINT)
        assert process.wait(20) == 130  # before its input is closed, which ends it, too
        assert process.stderr is not None
        assert (
            process.stderr.read() == '2 tasks were enqueued, up to line 2 of standard input\ntorrelque: interrupted\n'
        )
    assert take_all(command) == ['x', 'x']


def test_a_connection_that_breaks_half_way(command: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    """What became of a round trip that was not answered is not known, and not claimed to be."""
    real, rounds = Torrelque.enqueue_many, 0

    async def cut_off(self: Torrelque, items: list[object]) -> list[str | Exception]:
        nonlocal rounds
        rounds += 1
        return [TorrelqueConnectionError('gone') for _ in items] if rounds == 2 else await real(self, items)

    monkeypatch.setattr(Torrelque, 'enqueue_many', cut_off)
    said = r'gone\. Is .*; 250 tasks were enqueued, up to line 250 of standard input, and perhaps 250 more'
    command.assert_refused(['enqueue'], 3, said, stdin='1\n' * 600)


def test_ids_that_nobody_reads_any_more(command: Command) -> None:
    with started('enqueue', '--json', url=command.url) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdout.close()
        process.stdin.write('1\n' * 1000)
        process.stdin.close()
        assert process.wait(20) == 141

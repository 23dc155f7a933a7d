"""What all verbs have in common: where options stand, what is said of errors, and the exit status."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import typer.main

from tests import servers
from tests.cli.support import Command, Ended
from torrelque import acl
from torrelque.cli.app import app
from torrelque.cli.exit_codes import Exit
from torrelque.cli.settings import Settings

VERBS = [str(verb.name) for verb in app.registered_commands]
MINIMAL = {'show': ['x'], 'watch': ['x'], 'requeue': ['x'], 'reject': ['x'], 'cancel': ['x'], 'redrive': ['--all']}
"""Arguments with which verbs that only look and move use a queue."""

# Help and options ----------------------------------------------------------------------------------------------------


def test_without_arguments_it_helps(command: Command) -> None:
    helped = command()
    assert (helped.status, helped.err) == (0, '')
    for verb in VERBS:
        assert f'\n  {verb} ' in helped.out


@pytest.mark.parametrize('verb', VERBS)
def test_each_verb_helps(command: Command, verb: str) -> None:
    status, out, err = command(verb, '-h')
    assert (status, err) == (0, '')
    assert out.startswith(f'Usage: torrelque {verb} ')
    assert max(map(len, out.splitlines())) <= 80


def test_the_list_of_commands_has_whole_sentences(command: Command) -> None:
    helped = command().out
    assert '...\n' not in helped.replace('[ARGS]...', '')
    assert '\\' not in helped


@pytest.mark.parametrize('verb', VERBS)
def test_each_verb_has_an_example(command: Command, verb: str) -> None:
    helped = command(verb, '--help').out
    assert '\\' not in helped
    assert not re.search(r'\.\.\.[]}]', helped), 'no {ID...}...'
    examples = helped.split('Example:\n')[1].splitlines()
    for line in filter(None, examples):
        program, name, *words = shlex.split(line)
        assert (program, name) == ('torrelque', verb)
        click: Any = typer.main.get_command(app).commands[verb]  # type: ignore[attr-defined]  # of a group
        click.make_context(verb, words)  # or its options would be wrong


def test_an_option_may_stand_before_and_after_the_verb(command: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    for queue in 'abc':
        command.do(lambda each: each.enqueue('task'), queue)
    monkeypatch.setenv('TORRELQUE_QUEUE', 'a')
    assert command('stats', '--json').lines[0]['queue'] == 'a'
    assert command('--queue', 'b', '--json', 'stats').lines[0]['queue'] == 'b'
    assert command('-q', 'b', 'stats', '-q', 'c', '--json').lines[0]['queue'] == 'c'


def test_the_shell_completes_verbs_and_statuses(command: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv('_TORRELQUE_COMPLETE', 'complete_bash')
    for words, completed in (('torrelque st', 'stats'), ('torrelque tasks --status rej', 'rejected')):
        monkeypatch.setenv('COMP_WORDS', words)
        monkeypatch.setenv('COMP_CWORD', str(len(words.split()) - 1))
        assert command() == (0, f'{completed}\n', '')


@pytest.mark.parametrize(
    ('arguments', 'said'),
    [
        (['stat'], r"No such command 'stat'.*\(see torrelque --help\)"),
        (['stats', '--jsn'], r'No such option: --jsn.* \(see torrelque stats --help\)'),
        (['show'], r"Missing argument 'ID'\. \(see torrelque show --help\)"),
        (['tasks', '-s', 'lost'], r"Invalid value for '--status' / '-s': .*lost.* \(see torrelque tasks --help\)"),
        (['--url', 'localhost', 'stats'], "url 'localhost': unknown scheme, expected one of redis://.*"),
        (['--url', 'redis://:pass/word@localhost', 'stats'], "url 'redis://.*percent-encoded"),
    ],
)
def test_usage(command: Command, arguments: list[str], said: str) -> None:
    command.assert_refused(arguments, Exit.USAGE, said)


# Servers -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize('verb', ['stats', 'queues', 'tasks', 'enqueue', 'sweep', 'audit', *MINIMAL])
def test_a_server_that_is_not_there(command: Command, verb: str) -> None:
    said = r'127\.0\.0\.1:1: cannot connect: .*\. Is the server running, and is --url or TORRELQUE_URL right\?'
    command.assert_refused([verb, *MINIMAL.get(verb, []), '--url', 'redis://127.0.0.1:1'], Exit.SERVER, said)


def test_a_socket_that_is_not_there(command: Command, tmp_path: Path) -> None:
    said = r'.*/x\.sock: cannot connect: .*No such file or directory\. Is the server running, .*'
    command.assert_refused(['--url', f'unix://{tmp_path}/x.sock', 'stats'], Exit.SERVER, said)


def test_passwords(command: Command, fresh_server: Callable[..., servers.Server]) -> None:
    server = fresh_server('--requirepass', 'secret')
    bare = server.url.replace(':secret@', '')
    said = r'the server refuses: .* NOAUTH .* \(it needs a password: redis://\[user\]:password@host .*\)'
    command.assert_refused(['stats', '--url', bare], Exit.SERVER, said)
    wrong = server.url.replace('secret', 'wr0ng')
    said = r'the server refuses: .* WRONGPASS .* \(check the user and password in --url or TORRELQUE_URL\)'
    command.assert_refused(['stats', '--url', wrong], Exit.SERVER, said)
    assert 'wr0ng' not in command('stats', '--url', wrong).err
    command.assert_refused(['stats', '--url', f'{server.url}/99'], Exit.SERVER, 'the server refuses: .*out of range')
    server.command('SET', 'x:counters', 'no hash')
    command.assert_refused(['stats', '-q', 'x', '--url', server.url], Exit.SERVER, 'the server refuses: .*WRONGTYPE.*')


def test_rights(command: Command, fresh_server: Callable[..., servers.Server]) -> None:
    server = fresh_server()
    command.do(lambda queue: queue.enqueue('task'))
    for role in ('producer', 'operator'):
        server.command('ACL', 'SETUSER', role, 'reset', 'resetchannels', 'on', f'>{role}', *acl.rules(role, 'trq'))
    urls = {role: server.url.replace('://', f'://{role}:{role}@') for role in ('producer', 'operator')}
    assert command('enqueue', '1', '--url', urls['producer']).status == 0
    said = r'the server refuses: .*\(this user lacks a permission; torrelque\.acl\.rules\(\) lists those of each role\)'
    command.assert_refused(['audit', '--url', urls['producer']], Exit.SERVER, said)
    for verb in (['sweep'], ['audit'], ['redrive', '--all']):
        assert command(*verb, '--url', urls['operator']).status == 0, 'though it may not look at statistics'


@pytest.mark.parametrize('verb', ['stats', 'tasks', 'sweep', 'audit', *MINIMAL])
def test_an_unknown_queue(command: Command, verb: str) -> None:
    command.do(lambda queue: queue.enqueue('task'))
    said = "there is no queue 'mial' on this server; torrelque queues lists all"
    command.assert_refused([verb, *MINIMAL.get(verb, []), '-q', 'mial'], Exit.NEGATIVE, said)


# The rest ------------------------------------------------------------------------------------------------------------


def test_what_should_not_happen_is_one_line_too(command: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(_: Settings) -> None:
        raise ZeroDivisionError('by\nzero')

    monkeypatch.setattr(Settings, 'open_queue', fail)
    said = r'unexpected ZeroDivisionError: by zero \(set TORRELQUE_DEBUG=1 to see where\)'
    command.assert_refused(['stats'], Exit.BUG, said)
    monkeypatch.setenv('TORRELQUE_DEBUG', '1')
    with pytest.raises(ZeroDivisionError):
        command('stats')


def test_an_output_that_nobody_reads_any_more(command: Command) -> None:
    """As in ``torrelque tasks | head -1``."""
    command.do(lambda queue: queue.enqueue_many(range(500)))
    torrelque = Path(sys.executable).with_name('torrelque')
    with subprocess.Popen([torrelque, 'tasks', '--json'], stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.readline()
        process.stdout.close()
        assert process.stderr.read() == b''
        assert process.wait(20) == Exit.BROKEN_PIPE


# Encodings -----------------------------------------------------------------------------------------------------------


def run_apart(command: Command, encoding: str, *arguments: str, stdin: bytes = b'') -> Ended:
    """In a process of its own, as only there standard output has an encoding of its own."""
    ended = subprocess.run(
        [sys.executable, '-m', 'torrelque', *arguments],
        input=stdin,
        env={**os.environ, 'PYTHONIOENCODING': encoding, 'TORRELQUE_URL': command.url},
        capture_output=True,
        check=False,
    )
    return Ended(ended.returncode, ended.stdout.decode(encoding), ended.stderr.decode(encoding))


@pytest.mark.parametrize(
    ('encoding', 'verbs'),
    [
        ('ascii', [['tasks'], ['show', 'żółw'], ['queues'], ['tasks', '--json'], ['audit']]),
        ('latin-1', [['tasks', '--ids'], ['stats']]),
    ],
)
def test_what_the_terminal_cannot_show_is_escaped(command: Command, encoding: str, verbs: list[list[str]]) -> None:
    enqueued = run_apart(
        command, encoding, 'enqueue', '"Łódź"', '--task-id', 'żółw', '-H', 'kraj=Österreich', '-q', 'pół'
    )
    assert (enqueued.status, enqueued.err) == (0, '')
    assert r'\u0142w' in enqueued.out
    for verb in verbs:
        found = run_apart(command, encoding, *verb, *(() if verb == ['queues'] else ('-q', 'pół')))
        assert (found.status, found.err) == (0, ''), verb
        assert found.out
    missing = run_apart(command, encoding, 'show', 'łoś', '-q', 'pół')
    assert (missing.status, missing.out) == (Exit.NEGATIVE, '')
    assert missing.err.startswith('torrelque: ')
    cancelled = run_apart(command, encoding, 'cancel', '-', '-q', 'pół', stdin='żółw\n'.encode())
    assert (cancelled.status, cancelled.out, cancelled.err) == (0, 'cancelled 1 task\n', '')


def test_ids_on_standard_input_that_are_no_text(command: Command) -> None:
    command.do(lambda queue: queue.enqueue('task'))
    refused = run_apart(command, 'utf-8', 'cancel', '-', stdin=b'\xff\n')
    assert (refused.status, refused.out) == (Exit.USAGE, '')
    assert 'must be text that UTF-8 can encode' in refused.err


def test_the_package_is_the_command(command: Command) -> None:
    ended = run_apart(command, 'utf-8', '--help')
    assert ended == (0, command('--help').out, '')

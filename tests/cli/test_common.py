"""What all verbs have in common: where options stand, what is said of errors, and the exit status."""

from __future__ import annotations

import pytest

from tests.cli.support import Command
from torrelque.cli.app import app


def test_without_arguments_it_helps(command: Command) -> None:
    helped = command()
    assert (helped.status, helped.err) == (0, '')
    for verb in app.registered_commands:
        assert f'\n  {verb.name} ' in helped.out


@pytest.mark.parametrize('verb', [str(verb.name) for verb in app.registered_commands])
def test_each_verb_helps(command: Command, verb: str) -> None:
    status, out, err = command(verb, '-h')
    assert (status, err) == (0, '')
    assert out.startswith(f'Usage: torrelque {verb} ')
    assert max(map(len, out.splitlines())) <= 80


def test_an_option_may_stand_before_and_after_the_verb(command: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    for queue in 'abc':
        command.do(lambda each: each.enqueue('task'), queue)
    monkeypatch.setenv('TORRELQUE_QUEUE', 'a')
    assert command('stats', '--json').lines[0]['queue'] == 'a'
    assert command('--queue', 'b', '--json', 'stats').lines[0]['queue'] == 'b'
    assert command('-q', 'b', 'stats', '-q', 'c', '--json').lines[0]['queue'] == 'c'

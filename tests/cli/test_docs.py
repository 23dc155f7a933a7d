"""The page about the command line: it has all verbs, options and exit statuses, and what it shows is what happens."""

from __future__ import annotations

import re
import shlex
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
import typer.main

from tests.cli.commands.test_inspect import STATE_FIELDS
from tests.cli.support import Command
from torrelque import WorkerInfo
from torrelque.cli.app import app
from torrelque.cli.exit_codes import Exit

PAGE = (Path(__file__).parents[2] / 'docs' / 'command-line.md').read_text(encoding='utf-8')
SHARED = {'--url', '--queue', '--shards', '--json', '--help', '-q', '-h'}
VERBS: dict[str, Any] = typer.main.get_command(app).commands  # type: ignore[attr-defined]  # of a group

STOPPING = """
import os, signal
import mail

async def send(task):
    if task.data['addr'] == 'the last':
        os.kill(os.getpid(), signal.SIGTERM)
    return await mail.send(task)
"""
"""The handler that is shown, in a worker that ends."""


def first_column(heading: str) -> list[str]:
    section = PAGE.split(f'\n### {heading}\n')[1].split('\n## ')[0].split('\n### ')[0]
    return [line.split('|')[1].strip() for line in section.splitlines() if line.startswith('|')][2:]


def test_every_verb_has_its_section() -> None:
    assert sorted(re.findall(r'^### `(\w+)`$', PAGE, re.MULTILINE)) == sorted(VERBS)


@pytest.mark.parametrize('verb', VERBS)
def test_every_option_is_explained(verb: str) -> None:
    section = PAGE.split(f'\n### `{verb}`\n')[1].split('\n## ')[0].split('\n### ')[0]
    terms = [line.partition(':')[0] for line in section.splitlines() if line.startswith('- ')]
    explained = set(re.findall(r'`(-[\w-]+)`', ' '.join(terms)))
    options = [name for parameter in VERBS[verb].params for name in (*parameter.opts, *parameter.secondary_opts)]
    there = {name for name in options if name.startswith('-')}
    assert explained - SHARED == there - SHARED


def test_every_exit_status_is_explained() -> None:
    assert first_column('Exit status') == [str(int(status)) for status in Exit]


def test_every_field_of_a_task_is_explained() -> None:
    explained = set(re.findall(r'`(\w+)`', ' '.join(first_column('Fields of a task'))))
    more = {'queue', 'deadline', 'due', 'consumer', 'held_by', 'headers', 'payload', 'payload_encoding'}
    assert explained == STATE_FIELDS | more


def test_every_field_of_a_worker_is_explained() -> None:
    section = PAGE.split('\n### `workers`\n')[1].split('\n### ')[0]
    assert {field.name for field in fields(WorkerInfo)} <= set(re.findall(r'`(\w+)`', section))


def test_the_first_session(command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (code,) = re.findall(r'^```python\n((?s:.*?))^```$', PAGE, re.MULTILINE)
    (tmp_path / 'mail.py').write_text(code)
    (tmp_path / 'stopping.py').write_text(STOPPING)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    sessions = ''.join(re.findall(r'^```console\n((?s:.*?))^```$', PAGE, re.MULTILINE))
    shown = re.findall(r'^\$ torrelque (.*)\n((?s:.*?))(?=^\$ |\Z)', sessions, re.MULTILINE)
    assert [line.split()[0] for line, _ in shown] == ['serve', 'enqueue', 'tasks', 'show']
    _, (enqueue, answer), *after = shown
    assert command(*shlex.split(enqueue)) == (0, answer, '')
    assert '`torrelque worker mail:send`' in PAGE
    command.do(lambda queue: queue.enqueue({'addr': 'the last'}))
    assert '1 finished, 0 retried, 1 rejected' in command('worker', 'stopping:send').err
    for line, output in after:
        assert command(*shlex.split(line)).out.rstrip('\n') == output.rstrip('\n'), line
    assert '`torrelque redrive mail-1`' in PAGE
    assert command('redrive', 'mail-1').status == 0

"""What the documentation shows is what happens, and what it lists is all there is."""

from __future__ import annotations

import doctest
import importlib
import pkgutil
import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import anyio
import pytest

import torrelque
import torrelque.core
import torrelque.errors
from docs.transitions import render
from tests import servers
from torrelque import Torrelque, connect
from torrelque.core.keys import LOGICAL_NAMES, SHARD_NAMES, Keys
from torrelque.core.models import STATE_FIELDS
from torrelque.core.protocol import blocking_drive
from torrelque.core.scripts import SHARD_VERBS, VERBS

DOCS = Path(__file__).parent.parent / 'docs'


def read(page: str) -> str:
    return (DOCS / f'{page}.md').read_text(encoding='utf-8')


def blocks(page: str, language: str) -> list[str]:
    return re.findall(rf'^```{language}\n((?s:.*?))^```$', read(page), re.MULTILINE)


def first_column(page: str, heading: str) -> list[str]:
    """The names in the first column of the table below a heading."""
    section = read(page).split(f'\n## {heading}\n')[1].split('\n## ')[0]
    rows = re.findall(r'^\| (`.*?) \|', section, re.MULTILINE)
    return re.findall(r'`(.*?)`', ' '.join(rows))


# Messages ------------------------------------------------------------------------------------------------------------

FROM_SERVERS = re.compile(r'[A-Z]{3,}|certificate verify failed|max number of clients reached')
"""Messages, or the beginnings of them, that servers and OpenSSL write."""


def test_messages_to_look_up_exist() -> None:
    source = ''.join(path.read_text(encoding='utf-8') for path in Path(torrelque.__file__).parent.rglob('*.py'))
    own = [message for message in first_column('troubleshooting', 'Errors by message') if ' ' in message]
    own = [message for message in own if not FROM_SERVERS.match(message)]
    assert len(own) > 5
    for message in own:
        pattern = '.*'.join(re.escape(part) for part in re.split(r"'?\.\.\.'?", message))
        assert re.search(pattern, source), message
    for name in re.findall(r'~torrelque\.errors\.(\w+)', read('troubleshooting')):
        assert hasattr(torrelque.errors, name)


# Code blocks ---------------------------------------------------------------------------------------------------------

WIDEST = 88
"""Columns of code that the pages and GitHub show without a scroll bar."""


def code_lines(path: Path) -> Iterator[tuple[int, str]]:
    """The lines in fenced blocks with their numbers; directives, such as ``{eval-rst}``, are prose or Sphinx's."""
    fence = ''
    for number, line in enumerate(path.read_text(encoding='utf-8').splitlines(), 1):
        mark = re.match(r'\s*(`{3,}|~{3,})(.*)', line)
        if mark and not fence:
            fence, is_code = mark[1], not mark[2].startswith('{')
        elif mark and mark[1] == fence:
            fence = ''
        elif fence and is_code:
            yield number, line


@pytest.mark.parametrize('path', [*sorted(DOCS.glob('*.md')), DOCS.parent / 'README.md'], ids=lambda path: path.name)
def test_code_is_no_wider_than_a_page(path: Path) -> None:
    wide = [f'{path.name}:{number}: {line}' for number, line in code_lines(path) if len(line) > WIDEST]
    assert wide == []


# Guarantees ----------------------------------------------------------------------------------------------------------


def test_the_tests_that_keep_the_guarantees_exist() -> None:
    sections = re.split(r'^## ', read('guarantees'), flags=re.MULTILINE)[1:]
    for section in sections:
        named = re.findall(r'`((?:tests|torrelque)/[\w/]+\.py)(?:::(\w+))?`', section)
        assert named, f'nothing keeps: {section.splitlines()[0]}'
        for path, name in named:
            source = (DOCS.parent / path).read_text(encoding='utf-8')
            assert f'def {name}(' in source if name else 'def test_' in source, f'{path}::{name}'


# The data model ------------------------------------------------------------------------------------------------------


def as_redis_cli(reply: Any) -> str:  # noqa: ANN401 - whatever a server answers
    """A reply the way redis-cli prints it."""
    if isinstance(reply, list):
        width = len(str(len(reply)))
        return ''.join(f'{number:>{width}}) {as_redis_cli(each)}' for number, each in enumerate(reply, 1))
    if isinstance(reply, bytes):
        escaped = reply.decode().replace('\\', '\\\\').replace('"', '\\"')
        return f'"{escaped}"\n'
    return f'(integer) {reply}\n' if isinstance(reply, int) else '(nil)\n'


def without_chance(text: str) -> str:
    """Without the times, and what a client drew at random."""
    return re.sub(r'\d{10,}(\.\d+|:[0-9a-f]{16}\.[0-9a-f]+:\d+)', 'T', text)


async def prepare(url: str, code: str) -> None:
    async with connect(url) as client, Torrelque(client, queue='email') as queue:
        program = 'async def main(queue):\n' + ''.join(f'    {line}\n' for line in code.splitlines())
        names: dict[str, Any] = {}
        exec(program, names)  # noqa: S102 - the documentation's own code
        await names['main'](queue)


def test_the_session_with_redis_cli_is_real() -> None:
    server = servers.shared('valkey-9.1')
    server.flush()
    (code,) = blocks('data-model', 'python')
    anyio.run(prepare, server.url, code)
    sessions = ''.join(blocks('data-model', 'console'))
    commands = re.findall(r'^> (.*)\n((?s:.*?))(?=^> |\Z)', sessions, re.MULTILINE)
    assert len(commands) > 5
    with server.client() as client:
        for command, shown in commands:
            reply = as_redis_cli(client.command(*shlex.split(command)))
            assert without_chance(reply) == without_chance(shown), command


def test_every_key_is_documented() -> None:
    keys = {key.removeprefix('q:') for key in first_column('data-model', 'Keys of a queue named `q`')}
    shards = {f'{{q:0}}:{name}' for name in SHARD_NAMES}
    levels = {'pending:high', 'pending:low'}
    of_groups = {f'groups:{what}' for what in ('blocked', 'held', 'idle', 'limits', 'arrivals')}
    of_each = {f'groups:{what}:<group>' for what in ('pending', 'working', 'rejected')}
    derived = {'task:<id>', 'lane:<number>', 'schedule:<id>'} | levels | of_groups | of_each
    assert keys == (set(LOGICAL_NAMES) - {'task', 'lane', 'schedule', 'cancel'}) | derived | shards


def test_every_field_of_a_state_is_documented() -> None:
    written = {field for path in Path(torrelque.core.__file__).parent.glob('scripts/*.lua') for field in fields(path)}
    only_written = {'fence'}
    assert set(first_column('data-model', "A task's state")) == set(STATE_FIELDS) | written | only_written


def fields(script: Path) -> set[str]:
    """Fields of the state that the prelude reads for the verbs."""
    text = script.read_text(encoding='utf-8')
    read_state = re.search(r"redis\.pcall\('HMGET', key, ((?s:.*?))\)", text)
    return set(re.findall(r"'(\w+)'", read_state[1])) if read_state else set()


def test_the_transitions_are_those_that_happen() -> None:
    assert f'\n{render()}' in read('data-model')


# Protocol and architecture -------------------------------------------------------------------------------------------


def test_every_script_is_explained() -> None:
    section = read('protocol').split('\n## The scripts, step by step\n')[1].split('\n## ')[0]
    terms = re.findall(r'^(`.*)\n: ', section, re.MULTILINE)
    assert sorted(re.findall(r'`(\w+)`', ' '.join(terms))) == sorted(VERBS + SHARD_VERBS)


def test_the_operation_that_is_shown_works() -> None:
    server = servers.shared('valkey-9.1')
    server.flush()
    (code,) = blocks('architecture', 'python')
    names: dict[str, Any] = {}
    exec(code, names)  # noqa: S102 - the documentation's own code
    with server.client() as client:
        client.command('LPUSH', 'q:pending', 'a', 'b')
        assert blocking_drive(names['depth'](Keys.of_queue('q')), client.execute) == 2


def test_modules_that_are_named_exist() -> None:
    package = DOCS.parent / 'torrelque'
    named = set(re.findall(r'[\w/]+\.py\b', read('architecture')))
    assert len(named) > 8
    for name in named:
        assert (package / name).exists() or (DOCS.parent / name).exists(), name


# Docstrings ----------------------------------------------------------------------------------------------------------


def test_the_examples_in_docstrings_work() -> None:
    """Of all modules, whether or not they have any."""
    modules = [found.name for found in pkgutil.walk_packages(torrelque.__path__, 'torrelque.')]
    attempted = {}
    for name in modules:
        results = doctest.testmod(importlib.import_module(name))
        assert results.failed == 0, name
        attempted[name] = results.attempted
    assert {'torrelque.core', 'torrelque.retry', 'torrelque.acl'} <= {name for name in modules if attempted[name]}

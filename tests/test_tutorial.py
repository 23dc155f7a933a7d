"""docs/tutorial.md from its first line to its last, as a reader follows it, on ports that are free."""

from __future__ import annotations

import os
import re
import shlex
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.examples.support import PATIENCE, Program

ROOT = Path(__file__).parent.parent
PAGE = (ROOT / 'docs' / 'tutorial.md').read_text(encoding='utf-8')
ADDRESS = 'redis://localhost:6379'
STARTS = ('torrelque serve', 'torrelque worker', 'python -m examples.webapp')
"""Commands that a terminal of its own is for."""


class Block(NamedTuple):
    """A fenced block, and the paragraph above it."""

    above: str
    language: str
    text: str

    def commands(self) -> Iterator[tuple[str, str]]:
        """Each command of a session, and what it prints."""
        for found in re.finditer(r'^\$ (.*)\n((?s:.*?))(?=^\$ |\Z)', self.text.replace('\\\n', ''), re.MULTILINE):
            yield found[1], found[2]


FENCED = re.compile(r'([^\n]*\n?[^\n]*)\n\n```(\w+)\n((?s:.*?))^```$', re.MULTILINE)
BLOCKS = [Block(*found.groups()) for found in FENCED.finditer(PAGE)]


def without_chance(text: str) -> str:
    """Without times, what is drawn at random, and the blanks that align a column."""
    text = re.sub(r'\d{4}-\d\d-\d\d \d\d:\d\d:\d\d', 'DATE', text)
    text = re.sub(r'\b[\d.]+s\b', 'AGE', text)
    text = re.sub(r'\b[0-9a-f]{32}\b', 'ID', text)
    return '\n'.join(' '.join(line.split()) for line in text.strip().splitlines())


class Reader:
    """Somebody who does what the page says, in a folder of their own."""

    def __init__(self, folder: Path, stack: ExitStack) -> None:
        self._folder = folder
        self._stack = stack
        self._url = ADDRESS
        self.running: dict[str, Program] = {}
        """By how their commands begin."""

    def save(self, block: Block) -> None:
        (name,) = re.findall(r'`(\w+\.py)`', block.above)
        (self._folder / name).write_text(block.text.replace(ADDRESS, self._url), encoding='utf-8')

    def type(self, command: str, shown: str) -> None:
        start = next((start for start in STARTS if command.startswith(start)), None)
        if start is not None:
            self._start(start, command, shown)
            return
        ended = subprocess.run(
            shlex.split(command),
            capture_output=True,
            text=True,
            timeout=PATIENCE,
            check=False,
            cwd=self._folder,
            env=self._environment(),
        )
        printed, shown = without_chance(ended.stdout), without_chance(shown)
        if command.startswith('torrelque watch'):  # it may begin sooner or later than the page's did
            assert printed.splitlines()[-1] == shown.splitlines()[-1], command
        else:
            assert (printed, ended.stderr) == (shown, ''), command

    def _start(self, start: str, command: str, shown: str) -> None:
        words = [*shlex.split(command), *([] if start == 'torrelque worker' else ['--port', '0'])]
        folder = ROOT if 'examples' in start else self._folder
        program = self._stack.enter_context(started(words, folder, self._environment()))
        first = re.escape(shown.splitlines()[0])
        found = program.read_until(re.sub(r'(?<=:)\d+', r'(\\d+)', first))
        if start == 'torrelque serve':
            self._url = f'redis://127.0.0.1:{found[1]}'
        self.running[start] = program

    def audit(self) -> str:
        """What an operator's check says of the queue that the page leaves."""
        return subprocess.run(
            ['torrelque', 'audit', '--queue', 'email'],
            capture_output=True,
            text=True,
            timeout=PATIENCE,
            check=True,
            env=self._environment(),
        ).stdout

    def stop(self, start: str) -> str:
        """Press Ctrl-C; the last line that is printed."""
        program = self.running.pop(start)
        program.process.send_signal(signal.SIGINT)
        return program.read_to_the_end().splitlines()[-1]

    def _environment(self) -> dict[str, str]:
        path = f'{Path(sys.executable).parent}{os.pathsep}{os.environ["PATH"]}'
        return {**os.environ, 'PATH': path, 'TORRELQUE_URL': self._url, 'PYTHONUNBUFFERED': '1'}


@contextmanager
def started(words: list[str], folder: Path, environment: dict[str, str]) -> Iterator[Program]:
    process = subprocess.Popen(
        words, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, cwd=folder, env=environment
    )
    try:
        yield Program(process)
    finally:
        process.kill()
        process.communicate()


@pytest.mark.timeout(180)
def test_the_tutorial(tmp_path: Path) -> None:
    with ExitStack() as stack:
        reader = Reader(tmp_path, stack)
        for block in BLOCKS:
            if block.language == 'python':
                save_and_restart(reader, block)
            elif block.language == 'console':
                for command, shown in block.commands():
                    reader.type(command, shown)
            elif block.language == 'text':
                assert reader.stop('torrelque worker') == block.text.strip()
        assert reader.stop('torrelque worker').startswith('stopped: ')
        assert reader.audit() == '0 violations\n'
        reader.stop('torrelque serve')
        reader.stop('python -m examples.webapp')
        assert not reader.running


def save_and_restart(reader: Reader, block: Block) -> None:
    """Where the page says to change a file, it says to start the worker again."""
    reader.save(block)
    if block.above.strip().startswith('Change '):
        (command,) = (each for other in BLOCKS for each in other.commands() if each[0].startswith('torrelque worker'))
        reader.type(*command)


def test_shell_commands_are_known() -> None:
    """They are for the reader's machine; what they need is there."""
    lines = [line for block in BLOCKS if block.language == 'shell' for line in block.text.splitlines()]
    assert lines[-1] == 'torrelque top'  # its keys are tested with it
    assert lines[:2] == ['python3 -m venv .venv', '. .venv/bin/activate']
    (install,) = lines[2:-1]
    extras = re.fullmatch(r"pip install -c constraints\.txt '\.\[([\w,]+)\]' tornado", install)
    assert extras
    pyproject = (ROOT / 'pyproject.toml').read_text(encoding='utf-8')
    for extra in extras[1].split(','):
        assert re.search(rf'^{extra} = ', pyproject, re.MULTILINE)

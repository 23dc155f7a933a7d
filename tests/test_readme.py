"""Every code block of README.md, run as it is pasted. Only the server's address is replaced."""

from __future__ import annotations

import os
import re
import selectors
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.pasted import run_pytest
from torrelque.embedded import EmbeddedServer

ROOT = Path(__file__).parent.parent
ADDRESS = 'redis://localhost:6379'
PATIENCE = 40.0


class Block(NamedTuple):
    """A fenced block: its language, its text, and the line on which the text begins."""

    language: str
    text: str
    line: int


def read_blocks() -> list[Block]:
    readme = (ROOT / 'README.md').read_text(encoding='utf-8')
    assert readme.count('```') % 2 == 0
    found = re.finditer(r'^```(.*)\n((?s:.*?))^```$', readme, re.MULTILINE)
    return [Block(each[1], each[2], readme.count('\n', 0, each.start(2)) + 1) for each in found]


BLOCKS = read_blocks()
PROGRAMS = [block for block in BLOCKS if block.language == 'python' and 'def test_' not in block.text]
TESTS = [block for block in BLOCKS if block.language == 'python' and 'def test_' in block.text]
CONSUMER, WORKER, *FINITE = sorted(
    PROGRAMS,
    key=lambda block: ('while True' not in block.text or 'trio' in block.text, 'torrelque.Worker(' not in block.text),
)


@pytest.fixture(scope='module')
def address() -> Iterator[str]:
    with EmbeddedServer(port=0) as server:
        yield server.url


@contextmanager
def running(block: Block, address: str, folder: Path) -> Iterator[subprocess.Popen[str]]:
    """The block as a program of its own, in which warnings are errors."""
    file = folder / f'line_{block.line}.py'
    file.write_text(block.text.replace(ADDRESS, address), encoding='utf-8')
    process = subprocess.Popen(
        [sys.executable, '-u', '-W', 'error', str(file)], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def read_until(process: subprocess.Popen[str], word: str) -> str:
    """What the program prints until it has printed the word."""
    assert process.stdout is not None
    read = ''
    deadline = time.monotonic() + PATIENCE
    with selectors.DefaultSelector() as selector:
        selector.register(process.stdout, selectors.EVENT_READ)
        while word not in read:
            assert selector.select(deadline - time.monotonic()), f'no {word!r} in time, but: {read}'
            part = os.read(process.stdout.fileno(), 4096).decode()
            assert part, f'ended without {word!r}: {read}'
            read += part
    return read


def test_the_programs_are_those_that_are_expected() -> None:
    assert 'while True' in CONSUMER.text
    assert 'Worker' in WORKER.text
    assert len(FINITE) == 2
    assert len(TESTS) == 1
    assert {block.language for block in BLOCKS} == {'python', 'shell'}


@pytest.mark.parametrize('block', FINITE, ids=lambda block: f'line {block.line}')
def test_a_program_that_ends(block: Block, address: str, tmp_path: Path) -> None:
    assert ADDRESS in block.text
    with running(block, address, tmp_path) as process:
        output, _ = process.communicate(timeout=PATIENCE)
    assert process.returncode == 0, output
    if 'trio.run' in block.text:
        assert output == 'COMPLETED sent to joe@example.org\n'
    else:
        assert re.fullmatch(r'Enqueued [0-9a-f]{32}\n', output)


def test_the_producer_and_the_consumer(address: str, tmp_path: Path) -> None:
    """The consumer goes on for ever; each run of the producer, before it or while it waits, is for it."""
    (producer,) = [block for block in FINITE if "print('Enqueued'" in block.text]

    def produce() -> str:
        with running(producer, address, tmp_path) as process:
            output, _ = process.communicate(timeout=PATIENCE)
        return output.split()[-1]

    early = produce()
    with running(CONSUMER, address, tmp_path) as consumer:
        assert 'Sent to joe@example.org' in read_until(consumer, f'Released {early}')
        late = produce()
        read_until(consumer, f'Released {late}')
        assert consumer.poll() is None


def test_the_worker(address: str, tmp_path: Path) -> None:
    (producer,) = [block for block in FINITE if "print('Enqueued'" in block.text]
    with running(WORKER, address, tmp_path) as worker:
        with running(producer, address, tmp_path) as process:
            process.communicate(timeout=PATIENCE)
        assert 'Sent to joe@example.org\n' in read_until(worker, 'example.org\n')
        worker.terminate()
        assert worker.wait(PATIENCE) == 0


@pytest.mark.parametrize('block', TESTS, ids=lambda block: f'line {block.line}')
def test_tests(block: Block, tmp_path: Path) -> None:
    file = tmp_path / 'test_pasted.py'
    file.write_text(block.text, encoding='utf-8')
    output = run_pytest(tmp_path, '-p', 'no:asyncio', str(file), seconds=PATIENCE)
    written = block.text.count('async def test_')
    passed = re.search(r'(\d+) passed', output)
    assert passed
    assert int(passed[1]) >= 2 * written  # on asyncio and on Trio


def test_shell_commands() -> None:
    """They are few, and each is known: make's targets exist, and pip installs this package."""
    commands = [line for block in BLOCKS if block.language == 'shell' for line in block.text.splitlines()]
    makefile = (ROOT / 'Makefile').read_text(encoding='utf-8')
    assert {'pip install torrelque', 'make demo', 'make test'} <= set(commands)
    for command in commands:
        program, *words = command.split()
        if program == 'make':
            (target,) = words
            assert re.search(rf'^{target}:', makefile, re.MULTILINE), command
        else:
            assert command == 'pip install torrelque'


def test_extras_that_are_named_exist() -> None:
    readme = (ROOT / 'README.md').read_text(encoding='utf-8')
    named = set(re.findall(r'torrelque\[(\w+)\]', readme))
    assert named
    for extra in named:
        assert re.search(rf'^{extra} = ', (ROOT / 'pyproject.toml').read_text(encoding='utf-8'), re.MULTILINE)
